/* The order of copies and kernels in whole models whose weights stream: whatever order CUDA allows, the bits are those of a model that
 * lies in VRAM. tests/mutations/cuda.py plants mistakes in the backend for these tests to find. */
#include <cstdlib>

#include "engine/sample.h"
#include "golden_logits.h"
#include "stream_fixture.h"

using namespace air::fake;

static const char MODEL[] = "llama";
static std::vector<Logits> want; /* of the script's steps */

/* How many of `most` schedules to try: the runner of mutations asks for fewer. */
static int schedules(int most)
{
    const char *fewer = getenv("AIR_STREAM_SEEDS");
    int n = fewer ? atoi(fewer) : (most + SLOWER - 1) / SLOWER;
    return n < most ? n : most;
}

static bool script_gives(Model &m, int steps, const char *what)
{
    for (int step = 0; step < steps; step++) {
        Logits got;
        air_error err = {};
        air_status st = script_step(m, step, &got, &err);
        if (st) printf("  %s: step %d: %s\n", what, step, err.text);
        else if (!same_bits(got, want[static_cast<size_t>(step)])) printf("  %s: step %d: other bits\n", what, step);
        else continue;
        return false;
    }
    return true;
}

/* Opens, runs the script's first steps, closes. Returns whether all was well. */
static bool check_script(const air_engine_config &config, const std::string &words, int steps = SCRIPT)
{
    emulate(words);
    int64_t live = air_alloc_live();
    bool well;
    {
        Model m(MODEL, config);
        if (m.status) printf("  %s\n", m.error.text);
        well = !m.status && script_gives(m, steps, words.c_str());
        CHECK(well);
    }
    return check_clean(live) && well;
}

/* The whole script now and then, else a prompt and a token. */
static void check_schedules(const Memory &memory, const std::string &words, int n)
{
    const int each = 8, few = 2, all = SCRIPT;
    air_engine_config config = config_for(MODEL, memory);
    for (int seed = 0; seed < schedules(n); seed++)
        if (!check_script(config, "mode=sched,seed=" + std::to_string(seed) + words, seed % each < 2 ? all : few)) return;
}

static void make_reference()
{
    emulate("");
    air_engine_config config = config_for(MODEL, RESIDENT);
    Model m(MODEL, config);
    for (int step = 0; step < SCRIPT; step++) {
        Logits logits;
        air_error err = {};
        if (m.status || script_step(m, step, &logits, &err)) {
            printf("no reference: %s %s\n", m.error.text, err.text);
            exit(EXIT_FAILURE);
        }
        want.push_back(logits);
    }
}

/* Of a model, once it has had its first passes, one generated token costs. */
struct PassCost {
    long ops, waits, layers, streamed, graphs;
    long ops_most; /* as plans count a graph's */
};

static PassCost cost_of_a_pass(const air_engine_config &config, const std::string &words)
{
    emulate(words);
    Model m(MODEL, config);
    Logits got;
    PassCost cost = {};
    if (m.status || script_step(m, 0, &got, nullptr) || script_step(m, 1, &got, nullptr)) return cost;
    Stats before = stats();
    feed_test().spans = Spans();
    CHECK_EQ(call(m, {{0, {8}}}, &got, nullptr), AIR_OK);
    cost.ops = stats().ops - before.ops;
    cost.waits = stats().host_waits - before.host_waits;
    cost.layers = air_model_program(air_engine_model(m.engine))->n_layers;
    cost.streamed = feed_test().spans.streamed;
    cost.graphs = stats().graph_launches - before.graph_launches;
    cost.ops_most = (long)(air_device_graph_bytes(air_model_program(air_engine_model(m.engine))) / AIR_DEVICE_GRAPH_NODE);
    return cost;
}

/* So that the bits which the other tests compare with are not wrong all the same. */
TEST(logits_are_those_of_transformers)
{
    for (const auto &golden : golden_logits) {
        if (strcmp(golden.name, MODEL)) continue;
        air_engine_config config = config_for(MODEL, Memory());
        config.state_type = AIR_STATE_F32;
        config.max_vram += 64 << 10;
        Model m(MODEL, config);
        Logits got;
        REQUIRE(!m.status);
        CHECK_EQ(call(m, {{0, {golden.prompt, golden.prompt + GOLDEN_PROMPT}, 1, GOLDEN_PROMPT}}, &got, nullptr), AIR_OK);
        REQUIRE(got.size() >= GOLDEN_KEPT);
        double off = 0, all = 0;
        for (int i = 0; i < GOLDEN_KEPT; i++) {
            off += (got[i] - golden.logits[i]) * (got[i] - golden.logits[i]);
            all += golden.logits[i] * golden.logits[i];
        }
        printf("  NMSE %.2g\n", off / all);
        CHECK(off / all <= 1e-6);
        return;
    }
    CHECK(!"no golden logits");
}

TEST(the_model_is_in_all_its_places_at_once)
{
    CHECK(check_script(config_for(MODEL, Memory()), ""));
    Spans s = feed_test().spans;
    printf("  spans: %ld of VRAM, %ld pinned, %ld streamed, %ld not page-locked\n", s.kept, s.pinned, s.streamed, s.unlocked);
    CHECK(s.kept > 30 && s.pinned > 30 && s.streamed > 30 && s.unlocked == 0);
    air_engine_config config = config_for(MODEL, Memory());
    config.tile_bytes = TILE / 4; /* so that of a weight several are in each place */
    CHECK(check_script(config, ""));
}

TEST(what_stays_of_a_weight_is_computed_at_once_whatever_its_tiles)
{
    air_engine_config config = config_for(MODEL, RESIDENT);
    PassCost small = cost_of_a_pass(config, "mode=sched,seed=4");
    config.tile_bytes = TILE / 4;
    config.max_vram += 64 << 10; /* smaller tiles are rounded up to more */
    PassCost smaller = cost_of_a_pass(config, "mode=sched,seed=4");
    printf("  %ld operations\n", small.ops);
    CHECK(small.ops > 0);
    CHECK_EQ(small.ops, smaller.ops);
}

/* When its weights have come, a device needs no way for them to come by. */
TEST(what_weights_came_by_is_given_back)
{
    enum { ALL_KEPT, REST_PINNED, SOME_STREAM, KINDS };
    for (int kind = 0; kind < KINDS; kind++) {
        Memory memory = {kind == ALL_KEPT ? 1 : 0.4, kind == SOME_STREAM ? 0.1 : 1, AIR_IO_DIRECT, 8, 0};
        air_engine_config config = config_for(MODEL, memory);
        emulate("mode=sched,seed=2");
        int64_t live = air_alloc_live();
        {
            Model m(MODEL, config);
            REQUIRE(!m.status);
            uint64_t ring = air_engine_stats_get(m.engine).pager.ring_held, locked = stats().page_locked;
            CHECK(ring > 0);
            CHECK(script_gives(m, 1, "first"));
            air_engine_stats s = air_engine_stats_get(m.engine);
            CHECK_EQ(s.pager.ring_held, kind == SOME_STREAM ? ring : 0);
            CHECK_EQ(s.pager.ring_bytes, kind == ALL_KEPT ? 0 : ring);
            CHECK(kind != ALL_KEPT || stats().page_locked <= locked - ring);
            CHECK_EQ(air_sequence_truncate(m.sequences[0], 0, nullptr), AIR_OK);
            CHECK(script_gives(m, SCRIPT, "more"));
        }
        check_clean(live);
    }
}

/* But where it is as far ahead as it may be, for the last layer, and for the result; a graph is one thing. */
TEST(the_host_waits_for_no_weights_that_stay_in_locked_memory)
{
    enum { AHEAD = 2, LAST = 1, AT_THE_END = 3 };
    for (double kept : {0.0, 0.4, 1.0}) {
        PassCost cost = cost_of_a_pass(config_for(MODEL, {kept, 1, AIR_IO_DIRECT, 8, 0}), "mode=sched,seed=0");
        CHECK(cost.ops > 0);
        CHECK_EQ(cost.streamed, 0);
        CHECK_EQ(cost.graphs, kept == 1);
        if (kept == 1) CHECK(cost.ops > cost.ops_most / 3 && cost.ops <= cost.ops_most);
        CHECK_EQ(cost.waits, (kept < 1 ? cost.layers - AHEAD + LAST : 0) + AT_THE_END);
    }
    PassCost streamed = cost_of_a_pass(config_for(MODEL, {0.4, 0.1, AIR_IO_DIRECT, 8, 0}), "mode=sched,seed=0");
    CHECK(streamed.waits > streamed.layers - AHEAD + LAST + AT_THE_END);
}

/* Single tokens across the end of a block, two sequences beside each other, each alone, then again when memory has moved. */
static std::vector<Logits> conversation(const air_engine_config &config, const std::string &words, long *graphs)
{
    emulate(words);
    int64_t live = air_alloc_live();
    std::vector<Logits> all;
    {
        Model m(MODEL, config);
        auto say = [&](const std::vector<Call> &calls) {
            Logits got;
            air_error err = {};
            if (!m.status && call(m, calls, &got, &err)) printf("  %s: call %zu: %s\n", words.c_str(), all.size(), err.text);
            all.push_back(got);
        };
        say({{0, text_of(61, 1), 1, 61}});
        say({{1, text_of(9, 2), 1, 9}});
        for (int i = 0; i < 5; i++) say({{0, {i + 3}}});
        for (int i = 0; i < 4; i++) say({{0, {i + 9}}, {1, {2 * i}}});
        for (int i = 0; i < 3; i++) say({{1, {i + 70}}});
        for (int i = 0; i < 3; i++) say({{0, {i + 90}}}); /* as those before */
        say({{1, {4, 5, 6}, 3}});
        for (int i = 0; i < 4; i++) say({{1, {i + 50}}});
        *graphs = stats().graph_launches;
    }
    check_clean(live);
    return all;
}

TEST(passes_alike_are_one_launch_with_the_bits_of_the_walk)
{
    enum { OF_ONE = 4 + 2 + 3, OF_TWO = 3, MOVED = 3 };
    air_engine_config config = config_for(MODEL, {1, 0, AIR_IO_DIRECT, 16, 0});
    config.max_vram += 1 << 20; /* for both sequences */
    long graphs;
    std::vector<Logits> expected = conversation(config, "fail=cudaStreamBeginCapture:1", &graphs); /* is not asked again */
    CHECK_EQ(graphs, 0);
    CHECK(conversation(config, "fail=cudaGraphLaunch:1", &graphs) == expected && graphs == 0); /* nor is the launch */
    for (int seed = 0; seed < schedules(3); seed++) {
        std::vector<Logits> got = conversation(config, "mode=sched,seed=" + std::to_string(seed), &graphs);
        CHECK_EQ(graphs, OF_ONE + OF_TWO + MOVED);
        for (size_t i = 0; i < expected.size(); i++) {
            if (!same_bits(got[i], expected[i])) printf("  seed %d: call %zu: other bits\n", seed, i);
            CHECK(same_bits(got[i], expected[i]));
        }
    }
}

/* A row of a batch to be sampled: which sequence's, and what of it. */
struct Sampled {
    int sequence;
    std::vector<int32_t> tokens;
    const air_sampling *sampling; /* NULL: its logits are wanted, or nothing */
    int64_t want = 1;
};

struct Drawn {
    std::vector<int32_t> tokens;
    std::vector<float> logprobs;
    Logits logits; /* where they are kept */
    long bytes;    /* that came down */
};

static Drawn draw(Model &m, const std::vector<Sampled> &rows, bool sampled_only)
{
    std::vector<air_batch_item> items;
    for (const Sampled &row : rows) {
        air_batch_item item = {};
        item.sequence = m.sequence(row.sequence), item.tokens = row.tokens.data(), item.n_tokens = static_cast<int64_t>(row.tokens.size());
        item.want = row.want, item.sampling = row.sampling, item.n_prompt = PROMPT;
        items.push_back(item);
    }
    air_batch_request request = {};
    request.items = items.data(), request.n_items = static_cast<int32_t>(items.size()), request.sampled_only = sampled_only;
    air_batch *b;
    air_error err = {};
    Drawn drawn = {std::vector<int32_t>(rows.size(), -2), std::vector<float>(rows.size()), {}, 0};
    long before = stats().downloaded;
    air_status st = air_batch_submit(&b, m.engine, &request, &err);
    if (!st) {
        for (int done = 0; !done;) st = air_batch_wait(b, 50000000, &done, nullptr, &err);
        drawn.tokens.assign(air_batch_sampled(b), air_batch_sampled(b) + items.size());
        drawn.logprobs.assign(air_batch_logprobs(b), air_batch_logprobs(b) + items.size());
        size_t floats = static_cast<size_t>(air_batch_rows_kept(b) * air_model_program(air_engine_model(m.engine))->n_vocab);
        if (!sampled_only) drawn.logits.assign(air_batch_logits(b), air_batch_logits(b) + floats);
        air_batch_free(b);
    }
    if (st) printf("  %s\n", err.text);
    CHECK_EQ(st, AIR_OK);
    drawn.bytes = stats().downloaded - before;
    return drawn;
}

/* What the CPU draws from the whole row. */
static int32_t drawn_by_cpu(const air_sampling *s, const float *logits, int64_t n_vocab, const std::vector<int32_t> &text, float *logprob)
{
    void *scratch = air_malloc(air_sample_scratch(n_vocab));
    air_sample_args args = {};
    args.sampling = s, args.ops = air_ops_best(AIR_TIER_COUNT), args.logits = logits, args.n_vocab = n_vocab;
    args.history = text.data(), args.n = static_cast<int64_t>(text.size()), args.n_prompt = PROMPT, args.scratch = scratch;
    int32_t token = -1;
    CHECK_EQ(air_sample(&args, &token, logprob, nullptr), AIR_OK);
    air_free(scratch);
    return token;
}

/* By the largest logit, by few of them, and in ways that none of them decide. */
enum { GREEDY, FEW, ALL_BUT, NUCLEUS, PENALTY, WAYS };

static air_sampling way_of(int way)
{
    air_sampling s = air_sampling_greedy();
    if (way != GREEDY) s.temperature = 2, s.seed = 11;
    if (way == FEW || way == PENALTY) s.top_k = 50, s.top_p = 0.95f, s.min_p = 0.001f;
    if (way == ALL_BUT) s.top_k = 128;
    if (way == NUCLEUS) s.top_p = 0.9f;
    if (way == PENALTY) s.repetition_penalty = 1.2f;
    return s;
}

/* Tokens that follow a prompt: drawn where their logits are brought to the host too, or not. *bytes of a token came down. */
static std::vector<int32_t> drawn_text(const air_engine_config &config, const air_sampling *s, bool sampled_only,
                                       std::vector<float> *logprobs, long *bytes)
{
    emulate("mode=sched,seed=5");
    Model m(MODEL, config);
    std::vector<int32_t> text = text_of(PROMPT, 1), next = text;
    for (int i = 0; i < 6 && !m.status; i++) {
        Drawn drawn = draw(m, {{0, next, s}}, sampled_only);
        if (!sampled_only) {
            float logprob;
            CHECK_EQ(drawn.tokens[0], drawn_by_cpu(s, drawn.logits.data(), static_cast<int64_t>(drawn.logits.size()), text, &logprob));
            CHECK(fabsf(drawn.logprobs[0] - logprob) < 1e-4f);
        }
        next.assign(1, drawn.tokens[0]);
        text.push_back(drawn.tokens[0]);
        logprobs->push_back(drawn.logprobs[0]);
        *bytes = drawn.bytes;
    }
    return text;
}

TEST(tokens_that_few_logits_decide_bring_no_others_down)
{
    static const long few[WAYS] = {12, 128 * 8 + 4, 128 * 8 + 4, 0, 0};
    for (const Memory &memory : {Memory(), RESIDENT})
        for (int way = 0; way < WAYS; way++) {
            air_engine_config config = config_for(MODEL, memory);
            air_sampling s = way_of(way);
            std::vector<float> expected, got;
            long whole = 0, chosen = 0;
            std::vector<int32_t> text = drawn_text(config, &s, false, &expected, &whole);
            CHECK(drawn_text(config, &s, true, &got, &chosen) == text && text.size() == PROMPT + 6);
            CHECK(same_bits(got, expected));
            CHECK_EQ(whole - few[way], 272 * 4);
            CHECK_EQ(chosen, few[way] ? few[way] : 272 * 4);
        }
}

/* Every two ways beside each other, three times, so that passes alike are a graph; then the others way round. */
static std::vector<Drawn> pairs_of_ways(Model &m, bool together)
{
    std::vector<Drawn> all;
    air_sampling ways[WAYS];
    std::vector<std::pair<int, int>> pairs;
    for (int way = 0; way < WAYS; way++) ways[way] = way_of(way);
    for (int a = 0; a < WAYS; a++)
        for (int b = 0; b < WAYS; b++) pairs.emplace_back(a, b);
    for (int sequence = 0; sequence < 2; sequence++) all.push_back(draw(m, {{sequence, text_of(PROMPT, sequence), &ways[FEW]}}, true));
    for (const std::pair<int, int> &pair : pairs) {
        for (air_sequence *s : {m.sequence(0), m.sequence(1)}) CHECK_EQ(air_sequence_truncate(s, PROMPT, nullptr), AIR_OK);
        for (int32_t i = 0; i < 3; i++) {
            const std::vector<Sampled> rows = {{0, {i + pair.first}, &ways[pair.first]},
                                               {1, {i, 2 * i + pair.second}, &ways[pair.second], 2}};
            Drawn drawn = together ? draw(m, rows, true) : draw(m, {rows[0]}, true);
            if (!together) {
                Drawn other = draw(m, {rows[1]}, true);
                drawn.tokens.push_back(other.tokens[0]), drawn.logprobs.push_back(other.logprobs[0]);
            }
            all.push_back(drawn);
        }
    }
    return all;
}

TEST(each_row_of_a_batch_is_sampled_in_its_own_way)
{
    air_engine_config config = config_for(MODEL, RESIDENT);
    config.max_vram += 1 << 20; /* for both sequences */
    emulate("");
    std::vector<Drawn> want_of_each;
    {
        Model m(MODEL, config);
        want_of_each = pairs_of_ways(m, false);
    }
    for (int seed = 0; seed < schedules(2); seed++) {
        emulate("mode=sched,seed=" + std::to_string(seed));
        Model m(MODEL, config);
        std::vector<Drawn> got = pairs_of_ways(m, true);
        CHECK(stats().graph_launches >= WAYS * WAYS);
        for (size_t i = 0; i < got.size(); i++)
            CHECK(got[i].tokens == want_of_each[i].tokens && same_bits(got[i].logprobs, want_of_each[i].logprobs));
        /* Greedy, with a row of logits that nobody reads; with two rows of the vocabulary, of which one is read. */
        const long row = 272 * 4, one = 12, few = 128 * 8 + 4;
        auto bytes = [&](int a, int b) { return got[2 + static_cast<size_t>(3 * (WAYS * a + b))].bytes; };
        CHECK_EQ(bytes(GREEDY, GREEDY), 3 * one);
        CHECK_EQ(bytes(GREEDY, FEW), 3 * few);
        CHECK_EQ(bytes(NUCLEUS, GREEDY), 3 * one + row);
        CHECK_EQ(bytes(FEW, PENALTY), 3 * few + row);
        CHECK_EQ(bytes(PENALTY, NUCLEUS), 2 * row);
    }
}

TEST(rows_that_nobody_samples_or_reads_bring_nothing_down)
{
    air_engine_config config = config_for(MODEL, Memory());
    emulate("mode=sched,seed=2");
    Model m(MODEL, config);
    CHECK_EQ(draw(m, {{0, text_of(PROMPT, 1), nullptr, 3}}, true).bytes, 0);
    Drawn kept = draw(m, {{0, {5}, nullptr}}, false);
    CHECK(kept.bytes == 272 * 4 && kept.logits.size() == 272 && kept.tokens[0] == -1);
}

/* Page-locked memory is refused: copies go through pieces of the backend's own. Then only the ring and a few pins may have it. */
static const char UNLOCKED[] = ",register=0", PARTLY_LOCKED[] = ",register=96KiB";

TEST(no_schedule_of_copies_and_kernels_changes_a_bit) { check_schedules(Memory(), "", 100); }

TEST(nor_of_copies_from_pageable_memory)
{
    check_schedules(Memory(), UNLOCKED, 12);
    check_schedules(Memory(), PARTLY_LOCKED, 12);
    CHECK(feed_test().spans.unlocked > 0 && feed_test().spans.streamed > 0);
}

TEST(nor_of_copies_from_a_mapped_file)
{
    Memory mapped;
    mapped.io = AIR_IO_MMAP;
    check_schedules(mapped, "", 6);
    CHECK(feed_test().spans.unlocked > 0);
}

TEST(nor_where_all_or_nothing_stays)
{
    check_schedules(RESIDENT, "", 8);
    check_schedules({0, 0, AIR_IO_DIRECT, 8, 0}, "", 8);
    check_schedules({0, 1, AIR_IO_DIRECT, 8, 0}, "", 4);
    CHECK(feed_test().spans.streamed == 0 && feed_test().spans.kept == 0);
}

TEST(nor_of_streams_that_run_at_the_same_time)
{
    air_engine_config config = config_for(MODEL, Memory());
    for (const char *words : {"copy=late", "copy=early", "copy=spread,h2d=0.2", "h2d=2,kernel_us=20", "register=0,h2d=0.2,kernel_us=1"})
        for (int i = 0; i < schedules(2); i++) check_script(config, std::string("mode=threads,") + words);
}

TEST(nor_of_threads_in_a_kernel)
{
    check_schedules(Memory(), ",order=reverse", 1);
    for (int seed = 1; seed <= schedules(3); seed++) check_schedules(Memory(), ",order=random,order_seed=" + std::to_string(seed), 1);
}

/* The pass after a cancelled one: what was on its way when that ended has come, or comes again. */
TEST(a_cancelled_pass_leaves_nothing_behind)
{
    air_engine_config config = config_for(MODEL, Memory());
    for (int i = 0; i < schedules(16); i++) {
        std::string words = "mode=sched,seed=" + std::to_string(i / 4) + (i % 3 ? "" : UNLOCKED);
        emulate(words);
        int64_t live = air_alloc_live();
        {
            Model m(MODEL, config);
            Logits got;
            air_error err = {};
            REQUIRE(!m.status);
            reset_feed_test(1 + i * 5 % 40);
            CHECK_EQ(script_step(m, 0, &got, &err), AIR_E_CANCELLED);
            CHECK_EQ(air_sequence_length(m.sequences[0]), 0);
            CHECK(script_gives(m, 2, words.c_str()));
        }
        check_clean(live);
    }
}

/* More sequences than rows of a pass. */
TEST(a_batch_of_many_sequences_takes_several_passes)
{
    enum { N = 72, PASS = 8 }; /* the blocks of 64 sequences have room */
    emulate("mode=sched,seed=3");
    air_engine_config config = config_for(MODEL, RESIDENT);
    config.max_vram += UINT64_C(4) << 20; /* for their state */
    {
        Model m(MODEL, config);
        REQUIRE(!m.status);
        std::vector<air_sequence *> sequences(N);
        std::vector<air_batch_item> items(N);
        std::vector<int32_t> tokens(N);
        Logits alone, got;
        for (int i = 0; i < N; i++) {
            REQUIRE(!air_sequence_new(&sequences[i], m.engine, nullptr));
            tokens[i] = i * 3;
            items[i] = {};
            items[i].sequence = sequences[i], items[i].tokens = &tokens[i], items[i].n_tokens = 1, items[i].want = 1;
        }
        for (int i = 0; i < N; i += PASS) {
            Logits some;
            CHECK_EQ(run_items(m, &items[i], PASS, &some, nullptr), AIR_OK);
            alone.insert(alone.end(), some.begin(), some.end());
        }
        for (air_sequence *s : sequences) CHECK_EQ(air_sequence_truncate(s, 0, nullptr), AIR_OK);
        air_error err = {};
        CHECK_EQ(run_items(m, items.data(), N, &got, &err), AIR_OK);
        if (err.status) printf("  %s\n", err.text);
        CHECK(same_bits(got, alone));
        for (air_sequence *s : sequences) air_sequence_free(s);
    }
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    make_reference();
    RUN(logits_are_those_of_transformers);
    RUN(the_model_is_in_all_its_places_at_once);
    RUN(what_stays_of_a_weight_is_computed_at_once_whatever_its_tiles);
    RUN(what_weights_came_by_is_given_back);
    RUN(the_host_waits_for_no_weights_that_stay_in_locked_memory);
    RUN(passes_alike_are_one_launch_with_the_bits_of_the_walk);
    RUN(tokens_that_few_logits_decide_bring_no_others_down);
    RUN(each_row_of_a_batch_is_sampled_in_its_own_way);
    RUN(rows_that_nobody_samples_or_reads_bring_nothing_down);
    RUN(no_schedule_of_copies_and_kernels_changes_a_bit);
    RUN(nor_of_copies_from_pageable_memory);
    RUN(nor_of_copies_from_a_mapped_file);
    RUN(nor_where_all_or_nothing_stays);
    RUN(nor_of_streams_that_run_at_the_same_time);
    RUN(nor_of_threads_in_a_kernel);
    RUN(a_cancelled_pass_leaves_nothing_behind);
    RUN(a_batch_of_many_sequences_takes_several_passes);
    return check_end();
}
