/* State that VRAM does not hold: whatever lies in RAM, however it comes and when, logits are those of state that lies in VRAM, bit for bit;
 * and budgets hold. tests/mutations/cuda.py plants mistakes in the backend for these tests to find. */
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <unistd.h>

#include "engine/internal.h"
#include "stream_fixture.h"

using namespace air::fake;

enum { N_CTX = 448, ROWS = 8 };

/* A copy of a model of three layers and two K/V heads for four, that says it was trained on 4096 positions. */
static const char *model_path()
{
    static char path[] = "/tmp/air-state-XXXXXX";
    static bool made = false;
    if (made) return path;
    made = true;
    std::vector<char> bytes;
    const std::string key = "llama.context_length", from = path_of("llama-gqa");
    int fd = mkstemp(path), c;
    FILE *in = fopen(from.c_str(), "rb"), *out = fdopen(fd, "wb");
    while (in && (c = getc(in)) != EOF) bytes.push_back(static_cast<char>(c));
    auto at = std::search(bytes.begin(), bytes.end(), key.begin(), key.end());
    uint32_t trained = 4096;
    if (at != bytes.end()) memcpy(&*at + key.size() + sizeof(uint32_t), &trained, sizeof trained); /* behind the value's type */
    if (!in || !out || fwrite(bytes.data(), 1, bytes.size(), out) != bytes.size() || fclose(out)) printf("  no %s\n", path);
    if (in) fclose(in);
    return path;
}

/* --- memory: how many blocks of a context of N_CTX are away --- */

static air_plan *plan_of(air_engine_config c)
{
    air_plan *plan = nullptr;
    emulate("");
    if (!air_gguf_open(const_cast<air_gguf_set **>(&c.set), model_path(), nullptr)) (void)air_engine_plan_only(&plan, &c, nullptr);
    air_gguf_close(const_cast<air_gguf_set *>(c.set));
    return plan;
}

static air_engine_config config_with_away(int64_t away, air_state_type type = AIR_STATE_F16)
{
    Memory memory;
    memory.max_vram = UINT64_C(4) << 30;
    memory.max_rows = ROWS;
    air_engine_config c = config_for(model_path(), memory);
    c.n_ctx = N_CTX;
    c.state_type = type;
    air_plan *plan = plan_of(c);
    c.max_vram = plan->device_fixed + plan->device_state_bytes + plan->device_activation_bytes_full + (32 << 10);
    for (int64_t found = 0; found < away; c.max_vram -= 4096) {
        air_plan_free(plan);
        plan = plan_of(c);
        if (!plan) break;
        found = plan->away_blocks;
    }
    if (away) c.max_vram += 4096;
    if (!plan || plan->away_blocks != away) printf("  %lld blocks cannot be away\n", static_cast<long long>(away));
    CHECK(plan && plan->away_blocks == away);
    air_plan_free(plan);
    return c;
}

/* --- the script: a long context, prompts, tokens, forks, a cut into what is away, sequences beside each other --- */

enum { LONG_SCRIPT = 9, LONG = 320 };

/* A context as if it had been computed: numbers that are sane halves, floats, and bytes with scales. Takes what room there is. */
static air_status fill(air_sequence *s, int64_t length, air_error *err)
{
    air_state_pool *pool = s->pool;
    std::vector<uint16_t> halves(pool->state_bytes[AIR_STATE_PAGED] / sizeof(uint16_t));
    uint32_t random = 1;
    air_status st = air__sequence_extend(s, length, 0, err);
    for (int64_t i = 0; i < s->n_blocks && !st; i++) {
        for (uint16_t &x : halves) random = random * 1664525u + 1013904223u, x = static_cast<uint16_t>((random >> 16 & 0x83ff) | 0x2c00);
        st = pool->api->state_copy(pool->backend, s->blocks[i]->memory, halves.data(), pool->state_bytes[AIR_STATE_PAGED], 1, err);
    }
    if (st) air__sequence_cut(s, 0);
    for (int64_t i = 0; i < length && !st; i++) s->tokens[i] = static_cast<int32_t>(i % 250);
    if (!st) s->length = length;
    return st;
}

static air_status prepare(Model &m, int step, air_error *err)
{
    air_sequence *s = m.sequence(0);
    if (!s) return air_fail(err, AIR_E_NOMEM, "no sequence");
    if (step == 0 && !air_sequence_length(s)) return fill(s, LONG, err);
    if (step == 3) return fork_first(m, err);
    if (step == 6 && air_sequence_length(s) > LONG) return air_sequence_truncate(s, 120, err);
    return AIR_OK;
}

/* Tokens of a prompt, which go to the kernels of prompts. */
static Call prompt(Model &m, int sequence, int n, int64_t want)
{
    return {sequence, text_of(n, n), want, air_sequence_length(m.sequence(sequence)) + n};
}

static air_status long_step(Model &m, int step, Logits *out, air_error *err)
{
    air_status st = prepare(m, step, err);
    if (st) return st;
    switch (step) {
    case 0: return call(m, {{0, {7}}}, out, err);
    case 1: return call(m, {prompt(m, 0, 6, 3)}, out, err);
    case 2: return call(m, {{0, {8}}}, out, err);
    case 3: return call(m, {{1, {30}}}, out, err);
    case 4: return call(m, {{0, {31}}, {1, {32}}}, out, err);
    case 5: return call(m, {prompt(m, 1, 4, 1), {0, {33}}}, out, err);
    case 6: return call(m, {{0, {9}}}, out, err);
    case 7: return call(m, {prompt(m, 0, 10, 1), {1, {34}}}, out, err);
    default: return call(m, {{0, {35}}}, out, err);
    }
}

static air_status script(Model &m, std::vector<Logits> *out, air_error *err)
{
    air_status st = m.status;
    out->assign(LONG_SCRIPT, Logits());
    for (int step = 0; step < LONG_SCRIPT && !st; step++) st = long_step(m, step, &(*out)[static_cast<size_t>(step)], err);
    return st;
}

static int64_t away_now(const Model &m) { return static_cast<int64_t>(air_engine_stats_get(m.engine).held_by[AIR_HOLD_STATE]); }

/* Of state that lies in VRAM. */
static const std::vector<Logits> &reference(air_state_type type = AIR_STATE_F16)
{
    static std::vector<Logits> of_type[AIR_STATE_TYPES];
    std::vector<Logits> &want = of_type[type];
    if (!want.empty()) return want;
    air_engine_config c = config_with_away(0, type);
    c.max_vram += 64 << 20;
    emulate("");
    Model m(model_path(), c);
    air_error err = {};
    if (script(m, &want, &err) || away_now(m)) {
        printf("no reference: %s %s\n", m.error.text, err.text);
        exit(EXIT_FAILURE);
    }
    return want;
}

static bool same(const std::vector<Logits> &got, const std::vector<Logits> &want, const std::string &what)
{
    for (size_t i = 0; i < want.size(); i++) {
        if (same_bits(got[i], want[i])) continue;
        printf("  %s: step %zu: other bits\n", what.c_str(), i);
        return false;
    }
    return true;
}

/* Opens, runs, closes; returns whether all was well. VRAM is no more than it may be. */
static bool check_away(const air_engine_config &config, const std::string &words, const std::vector<Logits> &want)
{
    uint64_t limit = config.max_vram - CONTEXT_BYTES;
    emulate("vram=" + std::to_string(limit) + (words.empty() ? "" : ",") + words);
    int64_t live = air_alloc_live();
    bool well;
    {
        Model m(model_path(), config);
        air_error err = {};
        std::vector<Logits> got;
        air_status st = script(m, &got, &err);
        if (st) printf("  %s: %s %s\n", words.c_str(), m.error.text, err.text);
        well = !st && same(got, want, words) && away_now(m) > 0;
        CHECK(well);
    }
    CHECK(stats().vram_peak <= limit);
    return check_clean(live) && well;
}

static int schedules(int most)
{
    const char *fewer = getenv("AIR_STREAM_SEEDS");
    int n = fewer ? atoi(fewer) : (most + SLOWER - 1) / SLOWER;
    return n < most ? n : most;
}

static void check_schedules(int64_t away, const std::string &words, int n, const std::vector<Logits> &want)
{
    air_engine_config config = config_with_away(away);
    for (int seed = 0; seed < schedules(n); seed++)
        if (!check_away(config, "mode=sched,seed=" + std::to_string(seed) + words, want)) return;
}

TEST(state_in_ram_gives_the_bits_of_state_in_vram)
{
    const std::vector<Logits> &want = reference();
    for (int64_t away : {2, 5}) CHECK(check_away(config_with_away(away), "", want));
    for (air_state_type type : {AIR_STATE_F32, AIR_STATE_Q8_0, AIR_STATE_Q4_0})
        CHECK(check_away(config_with_away(4, type), "", reference(type)));
}

TEST(so_it_does_in_whatever_order_copies_and_kernels_run)
{
    const std::vector<Logits> &want = reference();
    check_schedules(5, "", 4, want);
    check_schedules(3, ",register=0", 2, want);
    check_schedules(4, ",register=48KiB", 1, want); /* of some blocks */
    for (const char *words : {"copy=late", "copy=spread,h2d=0.2"})
        check_away(config_with_away(5), std::string("mode=threads,") + words, want);
}

/* No model that can be opened has layers with a window yet. */
static int32_t window_of_layers;

static air_status open_with_windows(air_backend **out, const air_backend_config *config, air_error *err)
{
    air_attention_shape *shapes = const_cast<air_attention_shape *>(config->program->attention);
    for (int32_t i = 0; i < config->program->n_layers; i++) shapes[i].window = i % 2 ? 0 : window_of_layers;
    return open_noting_program(out, config, err);
}

TEST(layers_that_see_a_window_are_brought_what_they_see)
{
    air_backend_api windowed = *backend_under_test();
    windowed.open = open_with_windows;
    for (int32_t window : {64, 200}) {
        window_of_layers = window;
        air_engine_config near = config_with_away(0), away = config_with_away(5);
        near.backend = away.backend = &windowed;
        std::vector<Logits> want;
        {
            emulate("");
            Model m(model_path(), near);
            CHECK_EQ(script(m, &want, nullptr), AIR_OK);
        }
        CHECK(check_away(away, "mode=sched,seed=" + std::to_string(window), want));
    }
}

/* --- more sequences than VRAM has blocks for, none of which is long --- */

enum { MANY = 12 };

static air_status one_token_each(Model &m, std::vector<air_sequence *> *sequences, int32_t token, Logits *out, air_error *err)
{
    std::vector<air_batch_item> items(MANY);
    std::vector<int32_t> tokens(MANY);
    for (int i = 0; i < MANY; i++) {
        air_sequence *&s = (*sequences)[static_cast<size_t>(i)];
        if (!s && air_sequence_new(&s, m.engine, nullptr)) return AIR_E_NOMEM;
        tokens[i] = token + i;
        items[i] = {};
        items[i].sequence = s, items[i].tokens = &tokens[i], items[i].n_tokens = 1, items[i].want = 1;
    }
    return run_items(m, items.data(), MANY, out, err);
}

static air_status many_sequences(Model &m, Logits out[2], air_error *err)
{
    std::vector<air_sequence *> sequences(MANY);
    air_status st = m.status;
    for (int32_t i = 0; i < 2 && !st; i++) st = one_token_each(m, &sequences, 5 + 90 * i, &out[i], err);
    for (air_sequence *s : sequences) air_sequence_free(s);
    return st;
}

TEST(sequences_beyond_vram_take_turns)
{
    Logits want[2], got[2];
    air_error err = {};
    air_engine_config near = config_with_away(0), away = config_with_away(5);
    near.max_vram += 1 << 20;
    emulate("");
    {
        Model m(model_path(), near);
        REQUIRE(!many_sequences(m, want, &err));
        CHECK_EQ(away_now(m), 0);
    }
    emulate("mode=sched,seed=1,vram=" + std::to_string(away.max_vram - CONTEXT_BYTES));
    int64_t live = air_alloc_live();
    {
        Model m(model_path(), away);
        CHECK_EQ(many_sequences(m, got, &err), AIR_OK);
        CHECK(same_bits(got[0], want[0]) && same_bits(got[1], want[1]));
        CHECK_EQ(away_now(m), 0); /* they are closed */
    }
    check_clean(live);
}

/* RAM has room for the blocks of one context and little more. */
TEST(sequences_beyond_ram_are_refused_and_the_model_goes_on)
{
    air_engine_config c = config_with_away(5);
    air_plan *plan = plan_of(c);
    REQUIRE(plan);
    c.max_ram = plan->fixed + plan->ring_bytes + plan->gather_bytes + plan->staging_bytes + plan->logit_bytes;
    c.max_ram += plan->activation_bytes_full + plan->state_bytes_full;
    c.max_pins = 0; /* the engine has them give way, but not to what is filled here */
    air_plan_free(plan);
    emulate("");
    int64_t live = air_alloc_live();
    {
        Model m(model_path(), c);
        air_error err = {};
        Logits none[2];
        Stats before = stats();
        CHECK_EQ(many_sequences(m, none, &err), AIR_E_BUDGET);
        CHECK(stats().vram_used == before.vram_used && stats().calls == before.calls);
        CHECK(strstr(err.text, "max_ram ") == err.text && strstr(err.text, "KV cache"));
        err = {};
        CHECK_EQ(fill(m.sequence(0), N_CTX - 64, &err), AIR_OK);
        for (int i = 0; i < 2; i++) CHECK_EQ(call(m, {prompt(m, 0, 32, 1)}, &none[0], &err), AIR_OK);
        if (err.status) printf("  %s\n", err.text);
    }
    check_clean(live);
    c.max_ram -= 1;
    plan = plan_of(c);
    CHECK(!plan);
}

/* --- failures --- */

static const std::string FAULTS = "mode=sched,seed=4";
enum { FAULT_STEPS = 6 };

/* The first steps; one that fails is tried again. Returns how many failed. */
static int run_with_retries(Model &m, const std::vector<Logits> &want, const std::string &words)
{
    int failed = 0;
    for (int step = 0; step < FAULT_STEPS; step++) {
        Logits got;
        air_error err = {};
        air_status st = long_step(m, step, &got, &err);
        if (st) {
            bool typed = (st == AIR_E_NOMEM || st == AIR_E_DEVICE) && err.text[0];
            if (!typed) printf("  %s: %d %s\n", words.c_str(), static_cast<int>(st), err.text);
            CHECK(typed);
            failed++;
            st = long_step(m, step, &got, &err);
        }
        bool well = !st && same_bits(got, want[static_cast<size_t>(step)]);
        if (!well) printf("  %s: step %d: %s\n", words.c_str(), step, st ? err.text : "other bits");
        CHECK(well);
    }
    return failed;
}

static long calls_of_run(const air_engine_config &config, const std::vector<Logits> &want, long *opened)
{
    emulate(FAULTS);
    Model m(model_path(), config);
    *opened = stats().calls;
    CHECK_EQ(run_with_retries(m, want, "no fault"), 0);
    return stats().calls;
}

TEST(any_call_that_fails_once_is_a_typed_error_and_can_be_tried_again)
{
    const std::vector<Logits> &want = reference();
    air_engine_config config = config_with_away(5);
    long opened, calls = calls_of_run(config, want, &opened), tried = 0, failed = 0;
    for (long n = opened - 20; n <= calls; n += 151 * SLOWER, tried++) {
        std::string words = FAULTS + ",fail=*:" + std::to_string(n) + ":" + std::to_string(tried % 2 ? 2 : 719);
        emulate(words);
        int64_t live = air_alloc_live();
        {
            Model m(model_path(), config);
            failed += m.status ? 1 : run_with_retries(m, want, words);
        }
        if (!check_clean(live, true)) break;
    }
    printf("  %ld calls, %ld tried, %ld failed by it\n", calls, tried, failed);
    CHECK(failed * 3 > tried);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(state_in_ram_gives_the_bits_of_state_in_vram);
    RUN(so_it_does_in_whatever_order_copies_and_kernels_run);
    RUN(layers_that_see_a_window_are_brought_what_they_see);
    RUN(sequences_beyond_vram_take_turns);
    RUN(sequences_beyond_ram_are_refused_and_the_model_goes_on);
    RUN(any_call_that_fails_once_is_a_typed_error_and_can_be_tried_again);
    (void)unlink(model_path());
    return check_end();
}
