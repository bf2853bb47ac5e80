/* Whatever call of CUDA fails, whichever operation on the device, whatever allocation: a typed error, never a wrong result, nothing left
 * behind; and VRAM is never more than max_vram says. */
#include "stream_fixture.h"

using namespace air::fake;

static const char MODEL[] = "llama";

/* Single tokens, the last one of a fork, which copies the state it shares. */
enum { STEPS = 3 };
static Logits want[STEPS];

static air_status fault_step(Model &m, int step, Logits *out, air_error *err)
{
    air_status st = step == 2 ? fork_first(m, err) : AIR_OK;
    if (st) return st;
    return call(m, {{step == 2, {step + 7}}}, out, err);
}

static bool is_typed(air_status st) { return st == AIR_E_NOMEM || st == AIR_E_DEVICE || st == AIR_E_UNSUPPORTED; }

static bool says(const air_error &err, const char *what) { return strstr(err.text, what) != nullptr; }

static void check_bits(const Logits &got, int step, const std::string &words)
{
    bool same = same_bits(got, want[step]);
    if (!same) printf("  %s: step %d: other bits\n", words.c_str(), step);
    CHECK(same);
}

static void check_typed(air_status st, const air_error &err, const std::string &words)
{
    if (!is_typed(st)) printf("  %s: %d %s\n", words.c_str(), (int)st, err.text);
    CHECK(is_typed(st) && err.text[0]);
}

/* A step that failed for once succeeds when it is tried again; now and then the rest of them is run too. Returns how many failed. */
static int run_with_retries(Model &m, const std::string &words)
{
    static int runs;
    int failures = 0, brief = runs++ % 4 != 0;
    for (int step = 0; step < STEPS && !(failures && brief); step++) {
        Logits got;
        air_error err = {};
        air_status st = fault_step(m, step, &got, &err);
        if (st) {
            check_typed(st, err, words);
            failures++;
            st = fault_step(m, step, &got, &err);
        }
        if (st) printf("  %s: step %d again: %s\n", words.c_str(), step, err.text);
        CHECK_EQ(st, AIR_OK);
        check_bits(got, step, words);
    }
    return failures;
}

static void make_reference()
{
    emulate("");
    Model m(MODEL, config_for(MODEL, RESIDENT));
    for (int step = 0; step < STEPS; step++) {
        air_error err = {};
        if (!m.status && !fault_step(m, step, &want[step], &err)) continue;
        printf("no reference: %s %s\n", m.error.text, err.text);
        exit(EXIT_FAILURE);
    }
}

/* --- errors that go away --- */

struct Counts {
    long opened, first, second, all; /* after open, after the first steps, after the last */
};

template <class Count>
static Counts count_in_run(const air_engine_config &config, const std::string &words, Count count)
{
    emulate(words);
    Model m(MODEL, config);
    Counts c = {count(), 0, 0, 0};
    for (int step = 0; step < STEPS; step++) {
        Logits got;
        CHECK_EQ(m.status ? m.status : fault_step(m, step, &got, nullptr), AIR_OK);
        if (!step) c.first = count();
        if (step == 1) c.second = count();
    }
    c.all = count();
    return c;
}

static long calls_so_far() { return stats().calls; }
static long ops_so_far() { return stats().ops; }

/* Returns whether anything failed by it. */
static bool check_one_failing_call(const air_engine_config &config, const std::string &words)
{
    emulate(words);
    int64_t live = air_alloc_live();
    int failures = 1;
    {
        Model m(MODEL, config);
        if (m.status) check_typed(m.status, m.error, words);
        else failures = run_with_retries(m, words);
    }
    check_clean(live, true);
    return failures > 0;
}

/* Every call of open and of the first pass, then one in so many. */
static void check_failing_calls(const air_engine_config &config, const std::string &words, long stride)
{
    Counts calls = count_in_run(config, words, calls_so_far);
    long tried = 0, failed = 0;
    stride *= SLOWER;
    for (long n = 1; n <= calls.all && !atomic_load(&check_state.failures); n += n <= calls.first ? stride : 4 * stride + 1) {
        int code = n / stride % 2 ? cudaErrorMemoryAllocation : cudaErrorLaunchFailure;
        failed += check_one_failing_call(config, words + ",fail=*:" + std::to_string(n) + ":" + std::to_string(code));
        tried++;
    }
    printf("  %s: %ld calls, %ld tried, %ld failed by it\n", words.c_str(), calls.all, tried, failed);
    CHECK(failed * 3 > tried);
}

TEST(any_call_that_fails_once_is_a_typed_error_and_can_be_tried_again)
{
    air_engine_config config = config_for(MODEL, Memory());
    check_failing_calls(config, "mode=sched,seed=5", 1);
    check_failing_calls(config, "mode=sched,seed=0,register=0", 7);
}

/* The third step is the second alike, so it is captured. */
TEST(a_graph_that_cannot_be_made_is_walked)
{
    air_engine_config config = config_for(MODEL, RESIDENT);
    Counts calls = count_in_run(config, "mode=sched,seed=6", calls_so_far);
    CHECK_EQ(stats().graph_launches, 1);
    long failed = 0, tried = 0;
    for (long n = calls.second + 1; n <= calls.all; n += 2 * SLOWER, tried++) {
        int code = n / 2 % 2 ? cudaErrorMemoryAllocation : cudaErrorStreamCaptureInvalidated;
        failed += check_one_failing_call(config, "mode=sched,seed=6,fail=*:" + std::to_string(n) + ":" + std::to_string(code));
    }
    printf("  %ld calls, %ld tried, %ld failed by it\n", calls.all - calls.second, tried, failed);
    CHECK(failed > 0 && failed * 2 < tried);
}

/* --- errors that stay --- */

/* From the first error on, all that is asked of the device fails alike. Returns whether there was one. */
static bool check_lost(Model &m, const std::string &words)
{
    bool lost = false;
    for (int step = 0; step < STEPS; step++) {
        Logits got;
        air_error err = {};
        air_status st = fault_step(m, step, &got, &err);
        if (!st) {
            CHECK(!lost);
            check_bits(got, step, words);
            continue;
        }
        bool clear = st == AIR_E_DEVICE && says(err, "lost") && says(err, "open it again");
        if (!clear) printf("  %s: step %d: %d %s\n", words.c_str(), step, (int)st, err.text);
        CHECK(clear);
        lost = true;
    }
    return lost;
}

static bool check_one_failing_op(const air_engine_config &config, const std::string &words)
{
    emulate(words);
    int64_t live = air_alloc_live();
    bool lost = true;
    {
        Model m(MODEL, config);
        if (m.status) check_typed(m.status, m.error, words);
        else lost = check_lost(m, words);
    }
    check_clean(live, true);
    return lost;
}

static void check_failing_ops(const air_engine_config &config, const std::string &words, const std::string &fault, long stride)
{
    Counts ops = count_in_run(config, words, ops_so_far);
    long tried = 0, lost = 0;
    for (long n = 1; n <= ops.all; n += stride * SLOWER, tried++) lost += check_one_failing_op(config, words + fault + std::to_string(n));
    printf("  %s%s: %ld operations, %ld tried, %ld lost the device\n", words.c_str(), fault.c_str(), ops.all, tried, lost);
    CHECK_EQ(lost, tried);
}

TEST(an_operation_that_fails_loses_the_device_and_every_call_says_so)
{
    air_engine_config config = config_for(MODEL, Memory());
    check_failing_ops(config, "mode=sched,seed=0", ",fail_op=", 7);
    check_failing_ops(config, "mode=sched,seed=3", ",lose=0:", 17);
    check_failing_ops(config, "mode=sync", ",lose=0:", 31);
}

TEST(a_lost_device_can_be_opened_again)
{
    air_engine_config config = config_for(MODEL, Memory());
    emulate("mode=sched,seed=2");
    int64_t live = air_alloc_live();
    {
        Model m(MODEL, config);
        Logits got;
        air_error err = {};
        CHECK_EQ(fault_step(m, 0, &got, &err), AIR_OK);
        lose_device(0);
        CHECK_EQ(fault_step(m, 1, &got, &err), AIR_E_DEVICE);
        CHECK_EQ(fault_step(m, 2, &got, &err), AIR_E_DEVICE);
        CHECK_EQ(call(m, {{0, text_of(8, 3)}}, &got, &err), AIR_E_DEVICE); /* more rows than memory is reserved for */
        CHECK(says(err, "lost"));
    }
    emulate("mode=sched,seed=2");
    {
        Model m(MODEL, config);
        CHECK_EQ(run_with_retries(m, "reopened"), 0);
    }
    check_clean(live);
}

/* --- allocations --- */

TEST(any_allocation_that_fails_once_is_a_typed_error_and_can_be_tried_again)
{
    air_engine_config config = config_for(MODEL, Memory());
    int failed = 0;
    uint64_t n = 1;
    for (bool happened = true; happened; n++) {
        emulate("mode=sched,seed=" + std::to_string(n));
        int64_t live = air_alloc_live();
        air_alloc_fail_at(n);
        {
            Model m(MODEL, config);
            if (m.status) CHECK(m.status == AIR_E_NOMEM || m.status == AIR_E_THREAD);
            failed += m.status ? 1 : run_with_retries(m, "allocation " + std::to_string(n));
        }
        happened = air_alloc_failed();
        air_alloc_fail_at(0);
        check_clean(live, true);
    }
    printf("  %llu allocations, %d failed by it\n", (unsigned long long)n - 2, failed);
    CHECK(failed > 20);
}

/* --- the probe --- */

enum { PROBED_TYPE = 12, PROBE_BYTES = 64 << 10 }; /* Q4_K */

static air_status probe(air_device_rates *rates, air_error *err)
{
    return air_backend_plugin()->probe(0, UINT64_C(1) << PROBED_TYPE, PROBE_BYTES, 1e-9, rates, err);
}

TEST(a_probe_gives_every_figure_or_a_typed_error_and_all_memory_back)
{
    air_device_rates rates;
    air_error err = {};
    long n = 0, failed = 0;
    emulate("mode=sched,seed=1,sms=1");
    CHECK_EQ(probe(&rates, &err), AIR_OK);
    CHECK(rates.link > 0 && rates.link_back > 0 && rates.memory > 0 && rates.op_s > 0 && rates.handover_s > 0);
    CHECK(rates.product[PROBED_TYPE] > 0 && rates.product_columns[PROBED_TYPE] > 0 && rates.product[0] == 0);
    CHECK(rates.context > 0 && rates.context < AIR_DEVICE_CONTEXT);
    long calls = check_clean(air_alloc_live()) ? stats().calls : 0;
    for (n = 1; n <= calls; n++) {
        std::string words = "mode=sched,seed=1,sms=1,fail=*:" + std::to_string(n) + (n % 2 ? ":2" : ":719");
        emulate(words);
        air_status st = probe(&rates, &err);
        if (st) check_typed(st, err, words);
        failed += st != AIR_OK;
        if (!check_clean(air_alloc_live(), true)) break;
    }
    printf("  %ld calls, %ld failed by it\n", calls, failed);
    CHECK(failed > 40);
    emulate("vram=1MiB");
    CHECK_EQ(probe(&rates, &err), AIR_E_NOMEM);
    CHECK(says(err, "MiB of VRAM for a measurement: out of memory") && says(err, "1.0 MiB of VRAM are free of 1.0; lower max_vram"));
    emulate("devices=1");
    CHECK_EQ(air_backend_plugin()->probe(1, 0, 0, 0.1, &rates, &err), AIR_E_ARGUMENT);
}

static air_status probe_links(double rates[2], air_error *err)
{
    const int32_t devices[] = {0, 1};
    return air_backend_plugin()->probe_links(devices, 2, 1 << 20, 0.1, rates, err);
}

TEST(links_that_share_a_way_are_measured_as_slow_as_they_are_together)
{
    const struct { const char *words; double first, second; } cases[] = {
        {"devices=2,mode=threads,h2d=0.2", 0.2, 0.2},
        {"devices=2,mode=threads,links=0.2/0.1", 0.2, 0.1},
        {"devices=2,mode=threads,links=0.2/0.2,root=0.2", 0.1, 0.1},
    };
    for (const auto &c : cases) {
        double rates[2];
        air_error err = {};
        emulate(c.words);
        CHECK_EQ(probe_links(rates, &err), AIR_OK);
        printf("  %s: %.3f and %.3f GB/s\n", c.words, rates[0] / 1e9, rates[1] / 1e9);
        CHECK(rates[0] > 0.4e9 * c.first && rates[0] < 1.1e9 * c.first);
        CHECK(rates[1] > 0.4e9 * c.second && rates[1] < 1.1e9 * c.second);
        check_clean(air_alloc_live());
    }
}

TEST(a_probe_of_links_that_fails_is_a_typed_error_and_leaves_nothing)
{
    double rates[2];
    air_error err = {};
    const int32_t three[] = {0, 1, 2};
    emulate("devices=2");
    CHECK_EQ(probe_links(rates, &err), AIR_OK);
    long calls = stats().calls, failed = 0, errors = 0;
    for (long n = 1; n <= 24; n++) { /* the first of either device, in whatever order */
        std::string words = "devices=2,fail=*:" + std::to_string(n) + (n % 2 ? ":2" : ":719");
        emulate(words);
        air_status st = probe_links(rates, &err);
        if (st) check_typed(st, err, words);
        errors += st == AIR_E_NOMEM || st == AIR_E_DEVICE;
        failed += st != AIR_OK;
        if (!check_clean(air_alloc_live(), true)) break;
    }
    printf("  %ld calls, %ld failed by the first ones\n", calls, failed);
    CHECK(calls > 24 && failed > 10 && errors == failed);
    CHECK_EQ(air_backend_plugin()->probe_links(three, 3, 1, 0.1, rates, &err), AIR_E_ARGUMENT);
    CHECK(says(err, "there is no device cuda:2; there are 2"));
    CHECK_EQ(air_backend_plugin()->probe_links(three, 0, 1, 0.1, rates, &err), AIR_E_ARGUMENT);
}

/* --- VRAM --- */

static std::string with_vram(uint64_t bytes) { return "mode=sched,seed=1,vram=" + std::to_string(bytes); }

TEST(vram_is_never_more_than_max_vram_less_the_context)
{
    for (int rows : {1, 7, 33})
        for (int share : {0, 3, 6, 10}) {
            Memory memory;
            memory.kept = share / 10.0;
            memory.max_rows = rows;
            air_engine_config config = config_for(MODEL, memory);
            uint64_t limit = config.max_vram - CONTEXT_BYTES, graph = 0; /* which takes nothing of an emulated device */
            emulate(with_vram(limit));
            {
                Model m(MODEL, config);
                if (m.status) printf("  %s\n", m.error.text);
                REQUIRE(!m.status);
                graph = air_engine_plan(m.engine)->device_graph_bytes;
                CHECK_EQ(graph > 0, share == 10);
                Logits got;
                CHECK_EQ(call(m, {{0, text_of(rows + 1, 0)}}, &got, nullptr), AIR_OK);
                CHECK_EQ(call(m, {{0, {1}}, {1, {2}}}, &got, nullptr), AIR_OK);
                CHECK_EQ(call(m, {{1, text_of(rows, 1), rows}}, &got, nullptr), AIR_OK);
            }
            CHECK(stats().vram_peak <= limit - graph);
            CHECK(stats().vram_peak + graph + 8192 * 5 >= limit); /* what is left is less than a tile, or the rows that were not computed */
        }
}

TEST(max_vram_that_is_not_there_is_refused_before_anything_is_allocated)
{
    air_engine_config config = config_for(MODEL, Memory());
    emulate(with_vram(config.max_vram - CONTEXT_BYTES - 1));
    int64_t live = air_alloc_live();
    {
        Model m(MODEL, config);
        CHECK_EQ(m.status, AIR_E_BUDGET);
        CHECK(says(m.error, "max_vram"));
    }
    check_clean(live);
    CHECK_EQ(stats().vram_peak, 0);
}

/* Sequences of a token, until VRAM has no room for another one. */
static std::vector<air_sequence *> fill_with_sequences(Model &m)
{
    std::vector<air_sequence *> more;
    Logits got;
    int32_t token = 3;
    while (!air_engine_stats_get(m.engine).held_by[AIR_HOLD_STATE] && more.size() < 100) {
        air_batch_item item = {};
        more.push_back(nullptr);
        CHECK_EQ(air_sequence_new(&more.back(), m.engine, nullptr), AIR_OK);
        item.sequence = more.back(), item.tokens = &token, item.n_tokens = 1, item.want = 1;
        CHECK_EQ(run_items(m, &item, 1, &got, nullptr), AIR_OK);
    }
    return more;
}

TEST(passes_are_not_of_a_few_rows_for_want_of_vram)
{
    Memory memory;
    memory.max_rows = 512;
    air_engine_config config = config_for(MODEL, memory);
    emulate(with_vram(config.max_vram - CONTEXT_BYTES));
    Model m(MODEL, config);
    REQUIRE(!m.status);
    Logits got;
    air_error err = {};
    CHECK_EQ(call(m, {{0, {4}}}, &got, &err), AIR_OK);
    std::vector<air_sequence *> more = fill_with_sequences(m);
    CHECK_EQ(call(m, {{0, text_of(48, 1), 48}}, &got, &err), AIR_OK);
    CHECK(air_engine_stats_get(m.engine).last_rows >= 24);
    for (air_sequence *s : more) air_sequence_free(s);
}

/* State that was given back is kept for the next sequence, but not from what needs its room. */
TEST(freed_state_makes_room_for_rows)
{
    Memory memory;
    memory.max_rows = 64;
    air_engine_config config = config_for(MODEL, memory);
    uint64_t limit = config.max_vram - CONTEXT_BYTES;
    emulate(with_vram(limit));
    {
        Model m(MODEL, config);
        REQUIRE(!m.status);
        Logits got;
        air_error err = {};
        std::vector<air_sequence *> more = fill_with_sequences(m);
        CHECK(more.size() > 2);
        for (air_sequence *s : more) air_sequence_free(s);
        for (int64_t wanted = 2; wanted <= 64; wanted += 2) {
            if (call(m, {{0, text_of(64, 1), wanted}}, &got, &err)) printf("  %d: %s\n", static_cast<int>(wanted), err.text);
            CHECK(!err.status);
            CHECK_EQ(air_sequence_truncate(m.sequence(0), 0, nullptr), AIR_OK);
        }
    }
    CHECK(stats().vram_peak <= limit);
}

TEST(memory_of_passes_is_made_once_but_where_more_is_wanted)
{
    enum { AT_OPEN = 2 }; /* pieces for copies, and that of passes */
    air_engine_config config = config_for(MODEL, RESIDENT);
    config.max_vram += 64 << 10;
    emulate("mode=sched,seed=1");
    int64_t live = air_alloc_live();
    {
        Model m(MODEL, config);
        REQUIRE(!m.status);
        fault("cudaHostAlloc", AT_OPEN + 1, cudaErrorMemoryAllocation);
        Logits got;
        for (int n : {3, 1, 8, 13, 1}) CHECK_EQ(call(m, {{0, text_of(n, n), 1}}, &got, nullptr), AIR_OK);
        CHECK_EQ(call(m, {{0, {3}}, {1, {4}}}, &got, nullptr), AIR_E_NOMEM);
        CHECK_EQ(call(m, {{0, {3}}, {1, {4}}}, &got, nullptr), AIR_OK);
        size_t vram = stats().vram_used;
        CHECK_EQ(call(m, {{0, {3}}}, &got, nullptr), AIR_OK);
        CHECK_EQ(stats().vram_used, vram);
    }
    check_clean(live, true);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    make_reference();
    RUN(any_call_that_fails_once_is_a_typed_error_and_can_be_tried_again);
    RUN(a_graph_that_cannot_be_made_is_walked);
    RUN(an_operation_that_fails_loses_the_device_and_every_call_says_so);
    RUN(a_lost_device_can_be_opened_again);
    RUN(any_allocation_that_fails_once_is_a_typed_error_and_can_be_tried_again);
    RUN(a_probe_gives_every_figure_or_a_typed_error_and_all_memory_back);
    RUN(links_that_share_a_way_are_measured_as_slow_as_they_are_together);
    RUN(a_probe_of_links_that_fails_is_a_typed_error_and_leaves_nothing);
    RUN(vram_is_never_more_than_max_vram_less_the_context);
    RUN(max_vram_that_is_not_there_is_refused_before_anything_is_allocated);
    RUN(passes_are_not_of_a_few_rows_for_want_of_vram);
    RUN(freed_state_makes_room_for_rows);
    RUN(memory_of_passes_is_made_once_but_where_more_is_wanted);
    return check_end();
}
