/* Mixtures of experts in whole models, in VRAM that does not hold all experts: whatever order of copies and kernels CUDA allows, the bits
 * are those of a model that lies in VRAM; and whatever call of CUDA fails, a typed error, no wrong result, nothing left behind.
 * tests/mutations/cuda.py plants mistakes in the backend for these tests to find. */
#include <cstdlib>

#include "golden_logits.h"
#include "stream_fixture.h"

using namespace air::fake;

/* Of 16 experts in two layers: shared ones with a gate; groups and a bias. Four places are the least there may be. */
static const char *const MODELS[] = {"qwen2moe", "dots1"};
static const Memory TIGHT = {1, 0, AIR_IO_DIRECT, 8, 0, 0, 0, 0.4};
static const Memory TIGHTEST = {0.3, 0.3, AIR_IO_DIRECT, 8, 0, 0, 0, 0.35};

static int schedules(int most)
{
    const char *fewer = getenv("AIR_STREAM_SEEDS");
    int n = fewer ? atoi(fewer) : (most + SLOWER - 1) / SLOWER;
    return n < most ? n : most;
}

static const std::vector<Logits> &reference(const char *model)
{
    static std::vector<Logits> of[2];
    std::vector<Logits> &want = of[strcmp(model, MODELS[0]) != 0];
    if (!want.empty()) return want;
    Model m(model, config_for(model, RESIDENT));
    for (int step = 0; step < SCRIPT; step++) {
        want.emplace_back();
        air_error err = {};
        if (!m.status && !script_step(m, step, &want.back(), &err)) continue;
        printf("no reference: %s %s\n", m.error.text, err.text);
        exit(EXIT_FAILURE);
    }
    return want;
}

static bool step_gives(Model &m, const char *model, int step, const std::string &words)
{
    Logits got;
    air_error err = {};
    air_status st = script_step(m, step, &got, &err);
    bool same = !st && same_bits(got, reference(model)[static_cast<size_t>(step)]);
    if (!same) printf("  %s %s: step %d: %s\n", model, words.c_str(), step, st ? err.text : "other bits");
    return same;
}

/* Opens, runs the script, closes. Returns whether all was well. */
static bool check_script(const char *model, const air_engine_config &config, const std::string &words)
{
    (void)reference(model);
    emulate(words);
    int64_t live = air_alloc_live();
    bool well;
    {
        Model m(model, config);
        if (m.status) printf("  %s\n", m.error.text);
        well = !m.status;
        for (int step = 0; step < SCRIPT && well; step++) well = step_gives(m, model, step, words);
        CHECK(well);
    }
    return check_clean(live) && well;
}

static void check_schedules(const char *model, const Memory &memory, const std::string &words, int n)
{
    air_engine_config config = config_for(model, memory);
    for (int seed = 0; seed < schedules(n); seed++)
        if (!check_script(model, config, "mode=sched,seed=" + std::to_string(seed) + words)) return;
}

TEST(experts_come_from_vram_and_from_page_locked_memory)
{
    for (const char *model : MODELS)
        for (const Memory &memory : {TIGHT, TIGHTEST}) {
            CHECK(check_script(model, config_for(model, memory), ""));
            Experts e = feed_test().experts;
            printf("  %s: %ld in VRAM, %ld copied from page-locked memory\n", model, e.placed, e.locked);
            CHECK(e.placed > 2 && e.locked > 10 && e.unlocked == 0);
        }
    CHECK(check_script(MODELS[0], config_for(MODELS[0], RESIDENT), ""));
    CHECK_EQ(feed_test().experts.locked, 16); /* each of them once */
}

/* So that the bits which the other tests compare with are not wrong all the same. */
TEST(logits_are_those_of_transformers)
{
    int found = 0;
    for (const auto &golden : golden_logits) {
        if (strcmp(golden.name, MODELS[0]) && strcmp(golden.name, MODELS[1])) continue;
        air_engine_config config = config_for(golden.name, TIGHT);
        config.state_type = AIR_STATE_F32;
        config.max_vram += 64 << 10;
        Model m(golden.name, config);
        Logits got;
        REQUIRE(!m.status);
        CHECK_EQ(call(m, {{0, {golden.prompt, golden.prompt + GOLDEN_PROMPT}, 1, GOLDEN_PROMPT}}, &got, nullptr), AIR_OK);
        REQUIRE(got.size() >= GOLDEN_KEPT);
        double off = 0, all = 0;
        for (int i = 0; i < GOLDEN_KEPT; i++) {
            off += (got[i] - golden.logits[i]) * (got[i] - golden.logits[i]);
            all += golden.logits[i] * golden.logits[i];
        }
        printf("  %s: NMSE %.2g\n", golden.name, off / all);
        CHECK(off / all <= 1e-6);
        found++;
    }
    CHECK_EQ(found, 2);
}

/* Generated rows and those of a prompt are sent to the same experts, and computed apart. */
TEST(a_row_has_the_bits_among_others_that_it_has_alone)
{
    air_engine_config config = config_for(MODELS[0], TIGHT);
    config.max_vram += 1 << 20; /* state of two sequences in a pass */
    Logits alone, together, got;
    Model apart(MODELS[0], config), both(MODELS[0], config);
    REQUIRE(!apart.status && !both.status);
    const Call first = {0, text_of(4, 1), 1, 4}, token = {0, {8}, 1, 0}, prompt = {1, text_of(3, 2), 3, 3};
    CHECK(call(apart, {first}, &got, nullptr) == AIR_OK && call(both, {first}, &got, nullptr) == AIR_OK);
    for (const Call &one : {token, prompt}) {
        CHECK_EQ(call(apart, {one}, &got, nullptr), AIR_OK);
        alone.insert(alone.end(), got.begin(), got.end());
    }
    CHECK_EQ(call(both, {token, prompt}, &together, nullptr), AIR_OK);
    CHECK(same_bits(alone, together));
}

TEST(no_schedule_of_copies_and_kernels_changes_a_bit)
{
    check_schedules(MODELS[0], TIGHT, "", 4);
    check_schedules(MODELS[1], TIGHTEST, "", 4);
    check_schedules(MODELS[0], TIGHT, ",register=0", 2);
    CHECK(feed_test().experts.unlocked > 10 && feed_test().experts.locked == 0);
}

TEST(nor_of_streams_that_run_at_the_same_time)
{
    for (const char *words : {"mode=threads", "mode=threads,copy=spread,h2d=0.05,kernel_us=5"})
        CHECK(check_script(MODELS[0], config_for(MODELS[0], TIGHT), words));
}

TEST(a_pass_that_is_cancelled_among_experts_leaves_nothing_behind)
{
    air_engine_config config = config_for(MODELS[0], TIGHT);
    long cancelled = 0;
    for (long at = 1; at < 40; at += 3 + 2 * (SLOWER - 1)) {
        emulate("mode=sched,seed=" + std::to_string(at));
        int64_t live = air_alloc_live();
        {
            Model m(MODELS[0], config);
            REQUIRE(!m.status);
            Logits got;
            reset_feed_test(at);
            air_status st = script_step(m, 0, &got, nullptr);
            CHECK(!st || st == AIR_E_CANCELLED);
            cancelled += st == AIR_E_CANCELLED;
            reset_feed_test();
            CHECK(step_gives(m, MODELS[0], 0, "again"));
        }
        check_clean(live, true);
    }
    CHECK(cancelled > (SLOWER > 1 ? 0 : 8));
}

/* --- faults --- */

static bool is_typed(air_status st) { return st == AIR_E_NOMEM || st == AIR_E_DEVICE || st == AIR_E_UNSUPPORTED; }

/* Returns whether anything failed by it; a step that did succeeds when it is tried again. */
static bool check_one_failing_call(const air_engine_config &config, const std::string &words)
{
    emulate(words);
    int64_t live = air_alloc_live();
    bool failed;
    {
        Model m(MODELS[0], config);
        air_status st = m.status;
        air_error err = m.error;
        Logits got;
        int step = 0;
        while (!st && step < 2)
            if (!(st = script_step(m, step, &got, &err))) step++;
        failed = st != AIR_OK;
        if (failed && !is_typed(st)) printf("  %s: %d %s\n", words.c_str(), (int)st, err.text);
        CHECK(!failed || is_typed(st));
        if (failed && !m.status) CHECK(step_gives(m, MODELS[0], step, words + ", again"));
    }
    check_clean(live, true);
    return failed;
}

TEST(any_call_that_fails_is_a_typed_error_and_the_next_one_works)
{
    air_engine_config config = config_for(MODELS[0], TIGHT);
    (void)reference(MODELS[0]);
    emulate("mode=sched,seed=5");
    long all;
    {
        Model m(MODELS[0], config);
        Logits got;
        for (int step = 0; step < 2; step++) CHECK_EQ(script_step(m, step, &got, nullptr), AIR_OK);
        all = stats().calls;
    }
    long tried = 0, failed = 0;
    for (long n = 1; n <= all && !atomic_load(&check_state.failures); n += 17 * SLOWER, tried++) {
        int code = n / 17 % 2 ? cudaErrorMemoryAllocation : cudaErrorLaunchFailure;
        failed += check_one_failing_call(config, "mode=sched,seed=5,fail=*:" + std::to_string(n) + ":" + std::to_string(code));
    }
    printf("  %ld calls, %ld tried, %ld failed by it\n", all, tried, failed);
    CHECK(failed * 3 > tried);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(experts_come_from_vram_and_from_page_locked_memory);
    RUN(logits_are_those_of_transformers);
    RUN(a_row_has_the_bits_among_others_that_it_has_alone);
    RUN(no_schedule_of_copies_and_kernels_changes_a_bit);
    RUN(nor_of_streams_that_run_at_the_same_time);
    RUN(a_pass_that_is_cancelled_among_experts_leaves_nothing_behind);
    RUN(any_call_that_fails_is_a_typed_error_and_the_next_one_works);
    return check_end();
}
