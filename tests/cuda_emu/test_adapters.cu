/* Adapters of whole models on the device: whatever order CUDA allows, wherever weights lie and whoever computes them, the bits are those of a
 * model that lies in VRAM; captured passes follow who has which; memory comes and goes within max_vram. */
#include <algorithm>
#include <cstdlib>

#include "cuda/backend.h"
#include "stream_fixture.h"

using namespace air::fake;

static const char MODEL[] = "llama";
enum { ADAPTERS = 2, STEPS = 4 };

static int schedules(int most)
{
    const char *fewer = getenv("AIR_STREAM_SEEDS");
    int n = fewer ? atoi(fewer) : (most + SLOWER - 1) / SLOWER;
    return n < most ? n : most;
}

/* Of every matrix, or with its number odd of every other one. */
static air_status make_adapter(Model &m, int number, int64_t rank, air_engine_adapter **out, air_error *err)
{
    const air_program *p = air_model_program(air_engine_model(m.engine));
    std::vector<air_adapter_matrix> matrices;
    for (int32_t i = 0; i < p->n_weights; i++) {
        const air_weight *w = &p->weights[i];
        if (w->use != AIR_WEIGHT_MATRIX || !strcmp(w->name, "token_embd.weight") || (number % 2 && i % 2)) continue;
        matrices.push_back({w->name, rank, w->rows, w->cols});
    }
    air_batch_request request = {};
    air_batch *held = nullptr;
    *out = nullptr;
    air_status st = air_engine_adapter_room(m.engine, matrices.data(), (int32_t)matrices.size(), &request.hold, err);
    if (!st) st = air_batch_submit(&held, m.engine, &request, err);
    if (st) return st;
    for (int done = 0; !done;) st = air_batch_wait(held, 50000000, &done, nullptr, err);
    if (!st) st = air_engine_adapter_new(out, m.engine, matrices.data(), (int32_t)matrices.size(), held, err);
    air_batch_free(held);
    for (int32_t i = 0; i < (int32_t)matrices.size() && !st; i++) {
        const air_adapter_matrix *of = &matrices[(size_t)i];
        std::vector<float> a((size_t)(rank * of->cols)), b((size_t)(rank * of->rows));
        for (size_t j = 0; j < a.size(); j++) a[j] = (float)((int)(j * 7 + (size_t)(i + number)) % 11 - 5) / 50;
        for (size_t j = 0; j < b.size(); j++) b[j] = (float)((int)(j * 5 + (size_t)(i + 3 * number)) % 13 - 6) / 40;
        st = air_engine_adapter_fill(*out, i, a.data(), b.data(), err);
    }
    if (st) air_engine_adapter_free(*out);
    if (st) *out = nullptr;
    return st;
}

/* A model with two adapters, whose first two sequences have the first of them and none. */
struct Adapted {
    Model m;
    air_engine_adapter *adapters[ADAPTERS] = {};
    air_status status;
    air_error error = {};

    explicit Adapted(const air_engine_config &config) : m(MODEL, config), status(m.status)
    {
        error = m.error;
        for (int i = 0; i < ADAPTERS && !status; i++) status = make_adapter(m, i, 3 + i, &adapters[i], &error);
        if (!status) status = air_sequence_adapt(sequence(0), adapters[0], 1, &error);
    }
    ~Adapted()
    {
        for (air_sequence *&s : m.sequences) {
            air_sequence_free(s);
            s = nullptr;
        }
        for (air_engine_adapter *a : adapters) air_engine_adapter_free(a);
    }
    air_sequence *sequence(int i) { return m.sequence(i); }

    /* The sequence begins anew, with that adapter or none. */
    void begin(int i, air_engine_adapter *adapter, float scale)
    {
        air_sequence_free(m.sequences[i]);
        m.sequences[i] = nullptr;
        CHECK_EQ(air_sequence_adapt(sequence(i), adapter, scale, nullptr), AIR_OK);
    }
    air_status step(int step, Logits *out, air_error *err)
    {
        switch (step) {
        case 0: return call(m, {{0, text_of(PROMPT, 1), 1, PROMPT}, {1, text_of(5, 2), 3, 5}}, out, err);
        case 1: return call(m, {{0, {7}, 1, PROMPT}, {1, {9}, 1, 5}}, out, err);
        case 2: return call(m, {{0, {8}, 1, PROMPT}, {1, {3}, 1, 5}}, out, err);
        default: return call(m, {{0, {30}, 1, PROMPT}, {1, {31}, 1, 5}}, out, err);
        }
    }
};

/* Adapters have their room of what is there for passes of many rows. */
static air_engine_config config_with_room(Memory memory, const char *model = MODEL)
{
    memory.max_rows = 1024;
    return config_for(model, memory);
}

static std::vector<Logits> script_under(const air_engine_config &config, const std::string &words, int steps = STEPS)
{
    emulate(words);
    int64_t live = air_alloc_live();
    std::vector<Logits> all;
    {
        Adapted a(config);
        if (a.status) printf("  %s\n", a.error.text);
        for (int step = 0; step < steps && !a.status; step++) {
            Logits got;
            air_error err = {};
            if (a.step(step, &got, &err)) printf("  %s: step %d: %s\n", words.c_str(), step, err.text);
            all.push_back(got);
        }
    }
    CHECK(check_clean(live));
    CHECK(stats().device[0].vram_peak <= config.max_vram - AIR_DEVICE_CONTEXT);
    return all;
}

static std::vector<Logits> &resident()
{
    static std::vector<Logits> want;
    if (want.empty()) want = script_under(config_with_room(RESIDENT), "");
    return want;
}

static void check_bits(const std::vector<Logits> &got, const std::vector<Logits> &want, const std::string &words)
{
    bool same = !got.empty() && got.size() <= want.size();
    for (size_t step = 0; same && step < got.size(); step++) same = same_bits(got[step], want[step]);
    if (!same) printf("  %s: other bits\n", words.c_str());
    CHECK(same);
}

static void check_schedules(const air_engine_config &config, const std::string &devices, const std::vector<Logits> &want, int n)
{
    for (int seed = 0; seed < schedules(n); seed++) {
        std::string words = devices + ",mode=sched,seed=" + std::to_string(seed) + (seed % 2 ? ",order=random" : "");
        check_bits(script_under(config, words, seed % 3 ? 2 : STEPS), want, words);
    }
}

static double apart(const Logits &a, const Logits &b)
{
    double off = 0, all = 0;
    for (size_t i = 0; i < a.size() && i < b.size(); i++) {
        off += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        all += (double)b[i] * b[i];
    }
    return all > 0 && a.size() == b.size() ? off / all : 1;
}

TEST(logits_are_those_of_the_cpu)
{
    air_engine_config config = config_with_room(RESIDENT), cpu = config;
    config.state_type = cpu.state_type = AIR_STATE_F32;
    config.max_vram += 1 << 20;
    cpu.backend = nullptr;
    cpu.max_vram = 0;
    std::vector<Logits> got = script_under(config, "");
    emulate("");
    Adapted a(cpu);
    Model plain(MODEL, cpu);
    REQUIRE(!a.status && !plain.status);
    for (int step = 0; step < STEPS; step++) {
        Logits want, without;
        CHECK_EQ(a.step(step, &want, nullptr), AIR_OK);
        if (!step) CHECK_EQ(call(plain, {{0, text_of(PROMPT, 1), 1, PROMPT}, {1, text_of(5, 2), 3, 5}}, &without, nullptr), AIR_OK);
        printf("  NMSE %.2g\n", apart(got[(size_t)step], want));
        CHECK(apart(got[(size_t)step], want) < 1e-10);
        if (!step) CHECK(apart(without, want) > 1e-3);
    }
}

/* So many columns have room before they are what they become. */
static air_status run_in_turns(air_backend *h, const air_pass *pass, const air_feed *feed, air_error *err)
{
    enum { COLUMNS = 3 };
    int64_t widest = 0;
    for (int32_t i = 0; i < h->program->n_weights; i++)
        if (h->program->weights[i].use == AIR_WEIGHT_MATRIX) widest = std::max(widest, h->program->weights[i].rows);
    if (h->adapting.memory) h->adapting.layout.raw_floats = std::min(h->adapting.layout.raw_floats, COLUMNS * widest);
    return run_with_feed(h, pass, feed, err);
}

TEST(columns_go_in_turns_where_there_is_room_for_few)
{
    air_backend_api api = *backend_under_test();
    api.run = run_in_turns;
    air_engine_config config = config_with_room(RESIDENT);
    config.backend = &api;
    check_bits(script_under(config, ""), resident(), "in turns");
}

TEST(bits_do_not_depend_on_where_weights_lie_nor_on_the_order_of_work)
{
    REQUIRE(resident().size() == STEPS);
    check_schedules(config_with_room(RESIDENT), "devices=1", resident(), 6);
    air_engine_config config = config_with_room({0.3, 0.3, AIR_IO_DIRECT, 8, 0, 0, 0});
    config.tile_bytes = TILE / 4; /* of a weight there are several */
    check_schedules(config, "devices=1", resident(), 6);
}

TEST(what_other_devices_and_the_cpu_compute_has_them_too)
{
    air_engine_config two = config_with_room({0.3, 0.3, AIR_IO_DIRECT, 8, 0, 0.2, 0});
    check_schedules(two, "devices=2", resident(), 4);
    air_engine_config cpu = config_with_room({0.3, 1, AIR_IO_DIRECT, 16, 0, 0, 0.5});
    std::vector<Logits> want = script_under(cpu, "");
    REQUIRE(want.size() == STEPS);
    CHECK(same_bits(want[0], resident()[0])); /* a prompt */
    CHECK(!same_bits(want[1], resident()[1]));
    for (size_t step = 1; step < STEPS; step++) {
        CHECK(apart(want[step], resident()[step]) < 1e-8);
    }
    check_schedules(cpu, "devices=1", want, 4);
}

TEST(a_row_has_the_bits_that_it_has_alone)
{
    emulate("");
    Adapted a(config_with_room(RESIDENT));
    Model plain(MODEL, config_with_room(RESIDENT));
    REQUIRE(!a.status && !plain.status);
    Logits got;
    for (int step = 0; step < 2; step++) {
        const Logits &want = resident()[(size_t)step];
        size_t vocab = want.size() / (step ? 2 : 4);
        CHECK_EQ(step ? call(a.m, {{0, {7}, 1, PROMPT}}, &got, nullptr) : call(a.m, {{0, text_of(PROMPT, 1), 1, PROMPT}}, &got, nullptr), AIR_OK);
        CHECK(same_bits(got, Logits(want.begin(), want.begin() + (long)vocab)));
        CHECK_EQ(step ? call(plain, {{1, {9}, 1, 5}}, &got, nullptr) : call(plain, {{1, text_of(5, 2), 3, 5}}, &got, nullptr), AIR_OK);
        CHECK(same_bits(got, Logits(want.begin() + (long)vocab, want.end()))); /* that has none */
    }
}

/* Passes alike are one graph, whoever has which; of what it has captured nothing may be an adapter that is gone. */
TEST(captured_passes_follow_who_has_which)
{
    emulate("");
    air_engine_config config = config_with_room(RESIDENT);
    int64_t live = air_alloc_live();
    {
        Adapted a(config), by_itself(config);
        REQUIRE(!a.status && !by_itself.status);
        auto tokens = [](Adapted &of, air_engine_adapter *adapter, float scale) {
            std::vector<Logits> all;
            of.begin(0, adapter, scale);
            for (int32_t token : {5, 6, 7, 8}) {
                Logits got;
                CHECK_EQ(call(of.m, {{0, {token}, 1, 0}}, &got, nullptr), AIR_OK);
                all.push_back(got);
            }
            return all;
        };
        std::vector<Logits> first = tokens(a, a.adapters[0], 1);
        long launched = stats().graph_launches;
        CHECK(launched >= 2);
        std::vector<Logits> half = tokens(a, a.adapters[0], 0.5f);
        CHECK_EQ(stats().graph_launches - launched, 4); /* the same graph */
        CHECK(!same_bits(half[3], first[3]));
        a.begin(0, nullptr, 1);
        air_engine_adapter_free(a.adapters[0]);
        air_error err = {};
        CHECK_EQ(make_adapter(a.m, 2, 3, &a.adapters[0], &err), AIR_OK); /* of the same shape, other numbers */
        launched = stats().graph_launches;
        check_bits(tokens(a, a.adapters[0], 1), [&] {
            air_engine_adapter *other = nullptr;
            CHECK_EQ(make_adapter(by_itself.m, 2, 3, &other, &err), AIR_OK);
            std::vector<Logits> want = tokens(by_itself, other, 1);
            by_itself.begin(0, nullptr, 1);
            air_engine_adapter_free(other);
            return want;
        }(), "an adapter in the place of another");
        check_bits(tokens(a, nullptr, 1), [&] {
            Model m(MODEL, config);
            std::vector<Logits> want(4);
            for (int i = 0; i < 4; i++) CHECK_EQ(call(m, {{0, {5 + i}, 1, 0}}, &want[(size_t)i], nullptr), AIR_OK);
            return want;
        }(), "none again");
    }
    CHECK(check_clean(live));
}

static long ops_of_a_token(Adapted &a, air_engine_adapter *adapter)
{
    a.begin(0, adapter, 1);
    Logits got;
    long before = 0;
    for (int32_t token : {5, 6, 7}) {
        before = stats().ops;
        CHECK_EQ(call(a.m, {{0, {token}, 1, 0}}, &got, nullptr), AIR_OK);
    }
    return stats().ops - before;
}

TEST(a_product_costs_two_launches_more_and_plans_know_of_them)
{
    emulate("");
    Adapted a(config_with_room(RESIDENT));
    REQUIRE(!a.status);
    const air_program *p = air_model_program(air_engine_model(a.m.engine));
    long products = 0;
    for (int32_t i = 0; i < p->n_ops; i++)
        products += p->ops[i].kind == AIR_OP_PRODUCT;
    long plain = ops_of_a_token(a, nullptr), adapted = ops_of_a_token(a, a.adapters[0]);
    CHECK_EQ(adapted - plain, 2 * products + 1); /* and who has which goes up */
    CHECK((uint64_t)adapted * AIR_DEVICE_GRAPH_NODE <= air_device_graph_bytes(p) + air_device_adapting_graph_bytes(p));
}

TEST(many_columns_go_in_turns_where_their_results_have_no_room)
{
    emulate("");
    air_program program = {};
    air_op op = {};
    air_weight weight = {};
    weight.rows = AIR_DEVICE_RAW_MOST / 4 / 3;
    op.kind = AIR_OP_PRODUCT, op.epilogue = AIR_EPILOGUE_ADD;
    program.ops = &op, program.n_ops = 1, program.weights = &weight, program.n_weights = 1;
    CHECK_EQ(air_device_adapting_of(&program, 2, 8).raw_floats, 2 * weight.rows);
    CHECK_EQ(air_device_adapting_of(&program, 100, 8).raw_floats, (int64_t)(AIR_DEVICE_RAW_MOST / sizeof(float)));
    weight.rows *= 4;
    CHECK_EQ(air_device_adapting_of(&program, 100, 8).raw_floats, weight.rows); /* a column at least */
    CHECK_EQ(air_device_adapting_of(&program, 100, 0).total, 0);
    op.epilogue = AIR_EPILOGUE_SET;
    CHECK_EQ(air_device_adapting_of(&program, 100, 8).raw_floats, 0);
}

TEST(what_there_is_no_room_for_is_refused_and_leaves_all_as_it_was)
{
    emulate("");
    air_engine_config config = config_for(MODEL, RESIDENT);
    int64_t live = air_alloc_live();
    {
        Model m(MODEL, config);
        REQUIRE(!m.status);
        Logits before, after;
        CHECK_EQ(call(m, {{0, text_of(PROMPT, 1), 1, PROMPT}}, &before, nullptr), AIR_OK);
        air_engine_adapter *adapter;
        air_error err = {};
        CHECK_EQ(make_adapter(m, 0, 500, &adapter, &err), AIR_E_BUDGET);
        printf("  %s\n", err.text);
        CHECK(strstr(err.text, "max_vram") && strstr(err.text, "is too small by") && strstr(err.text, "for an adapter of"));
        CHECK(!adapter);
        CHECK_EQ(call(m, {{1, text_of(PROMPT, 1), 1, PROMPT}}, &after, nullptr), AIR_OK);
        CHECK(same_bits(before, after));
        CHECK(stats().vram_peak <= config.max_vram - AIR_DEVICE_CONTEXT);
    }
    CHECK(check_clean(live));
}

static uint64_t state_away(const Model &m) { return air_engine_stats_get(m.engine).held_by[AIR_HOLD_STATE]; }

/* The first adapter for which some of the sequences' state has to go; NULL: there is none. */
static air_engine_adapter *large_adapter(Model &m, int64_t *rank)
{
    air_engine_adapter *adapter = nullptr;
    uint64_t before = state_away(m);
    for (air_error err = {}; *rank < 200; *rank += 1) {
        if (make_adapter(m, 0, *rank, &adapter, &err)) printf("  rank %d: %s\n", (int)*rank, err.text);
        if (!adapter || state_away(m) > before) break;
        air_engine_adapter_free(adapter);
        adapter = nullptr;
    }
    return adapter;
}

/* An adapter takes what state has, which goes to RAM and comes back. */
TEST(state_gives_way_to_an_adapter_and_comes_back)
{
    enum { LONG = 100 };
    static const char GROUPED[] = "llama-gqa";
    std::vector<Logits> found;
    int64_t rank = 40;
    for (int roomy : {0, 1}) {
        air_engine_config config = config_with_room(RESIDENT, GROUPED);
        if (roomy) config.max_vram += 8 << 20;
        emulate("");
        int64_t live = air_alloc_live();
        {
            Model m(GROUPED, config);
            REQUIRE(!m.status);
            Logits got;
            air_error err = {};
            air_engine_adapter *adapter = nullptr;
            for (int i : {0, 1}) CHECK_EQ(call(m, {{i, text_of(LONG, i), 1, LONG}}, &got, nullptr), AIR_OK);
            if (roomy) CHECK_EQ(make_adapter(m, 0, rank, &adapter, &err), AIR_OK);
            else adapter = large_adapter(m, &rank);
            REQUIRE(adapter);
            printf("  rank %d: %.2f MiB, %.2f of state in RAM\n", (int)rank, (double)air_engine_adapter_held(adapter).device / (1 << 20),
                   (double)state_away(m) / (1 << 20));
            CHECK_EQ(state_away(m) != 0, !roomy);
            air_sequence_free(m.sequences[1]);
            m.sequences[1] = nullptr;
            CHECK_EQ(air_sequence_adapt(m.sequence(1), adapter, 1, nullptr), AIR_OK);
            CHECK_EQ(call(m, {{1, text_of(20, 3), 1, 20}}, &got, &err), AIR_OK);
            found.push_back(got);
            CHECK(stats().vram_peak <= config.max_vram - AIR_DEVICE_CONTEXT);
            air_sequence_free(m.sequences[1]);
            m.sequences[1] = nullptr;
            size_t with = stats().vram_used;
            uint64_t bytes = air_engine_adapter_held(adapter).device;
            air_engine_adapter_free(adapter);
            CHECK(with - stats().vram_used > bytes / 2 && with - stats().vram_used <= bytes); /* at once */
            CHECK_EQ(call(m, {{0, {5}, 1, LONG}}, &got, &err), AIR_OK);
            found.push_back(got);
        }
        CHECK(check_clean(live));
    }
    for (size_t i = 0; i < 2; i++) CHECK(same_bits(found[i], found[i + 2]));
}

/* Whichever call of CUDA fails: a typed error or none, the model usable, nothing left behind. */
TEST(any_call_may_fail)
{
    air_engine_config config = config_with_room(RESIDENT);
    for (const char *api : {"cudaMalloc", "cudaMemsetAsync", "cudaMemcpy", "cudaStreamSynchronize"}) {
        emulate("");
        int64_t live = air_alloc_live();
        int failed = 0;
        bool ended = false;
        for (long nth = 1; !ended && nth < 200; nth += 1 + nth / 3) {
            emulate("");
            Model m(MODEL, config);
            Logits got, want;
            REQUIRE(!m.status);
            CHECK_EQ(call(m, {{1, {5}, 1, 0}}, &want, nullptr), AIR_OK);
            reset();
            fault(api, nth, strcmp(api, "cudaMalloc") ? cudaErrorUnknown : cudaErrorMemoryAllocation);
            air_engine_adapter *adapter = nullptr;
            air_error err = {};
            air_status st = make_adapter(m, 0, 2, &adapter, &err);
            failed += st != AIR_OK;
            ended = !st;
            CHECK(!st || ((st == AIR_E_NOMEM || st == AIR_E_DEVICE) && err.text[0] && !adapter));
            air_sequence_free(m.sequences[1]);
            m.sequences[1] = nullptr;
            reset();
            CHECK_EQ(call(m, {{1, {5}, 1, 0}}, &got, &err), AIR_OK);
            CHECK(same_bits(got, want));
            air_engine_adapter_free(adapter);
        }
        printf("  %s: %d failed\n", api, failed);
        CHECK(ended && failed);
        CHECK(check_clean(live, true));
    }
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(logits_are_those_of_the_cpu);
    RUN(columns_go_in_turns_where_there_is_room_for_few);
    RUN(bits_do_not_depend_on_where_weights_lie_nor_on_the_order_of_work);
    RUN(what_other_devices_and_the_cpu_compute_has_them_too);
    RUN(a_row_has_the_bits_that_it_has_alone);
    RUN(captured_passes_follow_who_has_which);
    RUN(a_product_costs_two_launches_more_and_plans_know_of_them);
    RUN(many_columns_go_in_turns_where_their_results_have_no_room);
    RUN(what_there_is_no_room_for_is_refused_and_leaves_all_as_it_was);
    RUN(state_gives_way_to_an_adapter_and_comes_back);
    RUN(any_call_may_fail);
    return check_end();
}
