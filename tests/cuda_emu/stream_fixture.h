/* stream_fixture.h: a tiny model on the emulated CUDA backend, in memory that does not hold it: some of its weights stay in VRAM, some in
 * page-locked RAM, the rest comes from disk in every pass; and a script of calls whose logits are known.
 *
 * The backend gets its spans through a feed that is as unkind as its contract allows: what is given back is overwritten at once. */
#ifndef AIR_CUDA_EMU_STREAM_FIXTURE_H
#define AIR_CUDA_EMU_STREAM_FIXTURE_H

#include <atomic>
#include <cstring>
#include <deque>
#include <initializer_list>
#include <map>
#include <string>
#include <vector>

#include "base/alloc.h"
#include "check.h"
#include "engine/engine.h"
#include "runtime.h"

extern "C" const air_backend_api *air_backend_plugin(void);

using Logits = std::vector<float>;

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { SLOWER = 10 }; /* how many times fewer schedules and faults there is time for */
#else
enum { SLOWER = 1 };
#endif

/* --- the feed between pager and backend --- */

/* Spans of VRAM, of page-locked memory that stays and that is used again, and of memory that is not page-locked. */
struct Spans {
    long kept, pinned, streamed, unlocked;
};

/* Experts that came to be computed with: from VRAM, from page-locked memory, from other memory. */
struct Experts {
    long placed, locked, unlocked;
};

/* What a test wants of the feed, and what the engine's thread saw. */
struct FeedTest {
    Spans spans;
    Experts experts;
    long asked, cancel_at; /* tiles, and layers of experts, from reset on; cancels before that one, 0: none */
    std::atomic<air_batch *> batch;
    std::atomic<bool> wrong; /* spans went back in another order, not once, or not all; or too many were held; experts likewise */
};

inline FeedTest &feed_test()
{
    static FeedTest test;
    return test;
}

inline void reset_feed_test(long cancel_at = 0)
{
    FeedTest &t = feed_test();
    t.spans = Spans();
    t.experts = Experts();
    t.asked = 0;
    t.cancel_at = cancel_at;
    t.batch = nullptr;
    t.wrong = false;
}

struct Feed {
    const air_feed *pager;
    std::vector<size_t> row_bytes; /* by weight */
    std::deque<air_span> held;
    int moving; /* of them, those that do not stay */
    std::vector<uint64_t> experts; /* slots of those that are held */
    int copying; /* of them, those that do not lie in VRAM */
};

inline void cancel_if_it_is_time()
{
    FeedTest &t = feed_test();
    if (++t.asked != t.cancel_at) return;
    while (!t.batch) continue;
    air_batch_cancel(t.batch);
}

inline air_status feed_next(void *self, air_span *span, air_error *err)
{
    Feed *feed = static_cast<Feed *>(self);
    FeedTest &t = feed_test();
    cancel_if_it_is_time();
    if (feed->moving > 2) t.wrong = true;
    air_status st = feed->pager->next(feed->pager->self, span, err);
    if (st) return st;
    feed->held.push_back(*span);
    feed->moving += span->data && !span->stays;
    if (span->left_out) return AIR_OK;
    (!span->data ? t.spans.kept : !span->locked ? t.spans.unlocked : span->stays ? t.spans.pinned : t.spans.streamed)++;
    return AIR_OK;
}

inline void give_back(Feed *feed, const air_span *span, void (*how)(void *, const air_span *))
{
    if (feed->held.empty() || feed->held.front().slot != span->slot) feed_test().wrong = true;
    else feed->held.pop_front();
    size_t bytes = static_cast<size_t>(span->rows) * feed->row_bytes[static_cast<size_t>(span->weight)];
    feed->moving -= span->data && !span->stays;
    if (span->data && !span->stays) memset(const_cast<uint8_t *>(span->data), 0xFF, bytes);
    how(feed->pager->self, span);
}

inline void feed_release(void *self, const air_span *span) { give_back(static_cast<Feed *>(self), span, static_cast<Feed *>(self)->pager->release); }
inline void feed_keep(void *self, const air_span *span) { give_back(static_cast<Feed *>(self), span, static_cast<Feed *>(self)->pager->keep); }

inline air_status feed_gather(void *self, int32_t weight, const int32_t *rows, int64_t n, float *out, air_error *err)
{
    const air_feed *pager = static_cast<Feed *>(self)->pager;
    return pager->gather(pager->self, weight, rows, n, out, err);
}

/* --- experts --- */

inline air_status feed_ask(void *self, int32_t layer, const int32_t *experts, const int32_t *rows, int32_t n, air_error *err)
{
    Feed *feed = static_cast<Feed *>(self);
    cancel_if_it_is_time();
    if (!feed->experts.empty()) feed_test().wrong = true;
    return feed->pager->experts.ask(feed->pager->self, layer, experts, rows, n, err);
}

inline air_status feed_take(void *self, air_expert *out, int32_t most, int32_t *n, air_error *err)
{
    Feed *feed = static_cast<Feed *>(self);
    Experts &e = feed_test().experts;
    if (feed->copying > 2) feed_test().wrong = true;
    air_status st = feed->pager->experts.take(feed->pager->self, out, most, n, err);
    for (int32_t i = 0; i < *n && !st; i++) {
        feed->experts.push_back(out[i].slot);
        feed->copying += out[i].down != nullptr;
        (!out[i].down ? e.placed : out[i].locked ? e.locked : e.unlocked)++;
    }
    return st;
}

inline void feed_give(void *self, const air_expert *expert)
{
    Feed *feed = static_cast<Feed *>(self);
    size_t at = 0;
    while (at < feed->experts.size() && feed->experts[at] != expert->slot) at++;
    if (at == feed->experts.size()) feed_test().wrong = true;
    else feed->experts.erase(feed->experts.begin() + static_cast<long>(at));
    feed->copying -= expert->down != nullptr;
    feed->pager->experts.give(feed->pager->self, expert);
}

/* Of the backends that are open; what it has of others is not read. */
inline std::map<const air_backend *, const air_program *> &programs_under_test()
{
    static std::map<const air_backend *, const air_program *> programs;
    return programs;
}

inline air_status open_noting_program(air_backend **out, const air_backend_config *config, air_error *err)
{
    air_status st = air_backend_plugin()->open(out, config, err);
    if (!st) programs_under_test()[*out] = config->program;
    return st;
}

inline air_status run_with_feed(air_backend *backend, const air_pass *pass, const air_feed *pager, air_error *err)
{
    Feed feed = {pager, {}, {}, 0, {}, 0};
    const air_program *p = programs_under_test().at(backend);
    for (int32_t i = 0; i < p->n_weights; i++) feed.row_bytes.push_back(static_cast<size_t>(p->weights[i].row_bytes));
    air_feed unkind = {&feed, feed_next, feed_release, feed_keep, feed_gather, pager->vectors, {}};
    unkind.experts.ask = feed_ask;
    unkind.experts.take = feed_take;
    unkind.experts.give = feed_give;
    air_status st = air_backend_plugin()->run(backend, pass, &unkind, err);
    if (!feed.held.empty() || (!st && !feed.experts.empty())) feed_test().wrong = true;
    return st;
}

/* The plugin, with that feed. */
inline const air_backend_api *backend_under_test()
{
    static air_backend_api api;
    api = *air_backend_plugin();
    api.open = open_noting_program;
    api.run = run_with_feed;
    return &api;
}

/* --- the model --- */

enum : uint64_t { CONTEXT_BYTES = AIR_DEVICE_CONTEXT, TILE = 8192, HOST_RING = 64 << 10 };

/* Shares of the weights that stay in VRAM and in RAM; 1 is all, with no ring. */
struct Memory {
    double kept = 0.3, pinned = 0.3;
    air_io_mode io = AIR_IO_DIRECT;
    int64_t max_rows = 8;
    uint64_t max_vram = 0; /* instead of a share */
    double second = 0;     /* share that stays on a second device, if there is one */
    double cpu = 0;        /* of what no device holds, the CPU's */
    double experts = 1;    /* of a mixture's, what stays in VRAM; in RAM there are as few as can be */
};

static const Memory RESIDENT = {1, 0, AIR_IO_DIRECT, 8, 0, 0, 0, 1};

inline air_engine_config config_of(const air_gguf_set *set, const Memory &memory)
{
    air_engine_config c = {};
    c.set = set;
    c.io = memory.io;
    c.threads = 1;
    c.cpu_tier = AIR_TIER_COUNT;
    c.backend = backend_under_test();
    c.state_type = AIR_STATE_F16;
    c.n_ctx = 128;
    if (memory.io != AIR_IO_MMAP) c.ring_bytes = HOST_RING;
    c.tile_bytes = TILE;
    c.max_rows = memory.max_rows;
    c.max_pins = UINT64_MAX;
    c.max_vram = memory.max_vram;
    c.n_helpers = memory.second > 0;
    c.max_ram = (UINT64_C(64) << 20) + static_cast<uint64_t>(1 + c.n_helpers) * AIR_DEVICE_HOST_CONTEXT;
    c.helpers[0].device = 1;
    c.cpu_share = memory.cpu;
    return c;
}

/* A plan with VRAM for everything says what each part takes. */
inline void choose_memory(air_engine_config *c, const Memory &memory)
{
    air_plan *plan = nullptr;
    air_error err = {};
    c->max_vram = UINT64_C(4) << 30;
    if (air_engine_plan_only(&plan, c, &err)) printf("  %s\n", err.text);
    if (!plan) return;
    uint64_t kept = 0, pinned = 0, largest = 0;
    for (int32_t i = 0; i < plan->n_tiles; i++) {
        uint64_t bytes = air_tile_device_memory(&plan->tiles[i]);
        kept += bytes;
        largest = air_max_u64(largest, bytes);
        pinned += air_tile_memory(&plan->tiles[i], AIR_PLAN_GRANULE);
    }
    uint64_t ring = memory.kept < 1 ? AIR_DEVICE_RING_TILES * largest : 0;
    const air_plan_helper *h = &plan->helpers[0];
    c->helpers[0].max_vram = h->fixed + h->buffer_bytes + plan->part_bytes + ring + static_cast<uint64_t>(memory.second * static_cast<double>(kept));
    uint64_t graph = memory.kept < 1 ? 0 : plan->device_graph_bytes;
    c->max_vram = plan->device_fixed + plan->device_part_bytes + graph + plan->device_state_bytes + plan->device_activation_bytes_full + ring +
                  static_cast<uint64_t>(memory.kept * static_cast<double>(kept)) +
                  static_cast<uint64_t>(memory.experts * static_cast<double>(plan->device_expert_bytes));
    c->max_pins = static_cast<uint64_t>(memory.pinned * static_cast<double>(pinned));
    air_plan_free(plan);
}

enum { SEQUENCES = 2, SCRIPT = 5, PROMPT = 11 };

/* Of a model there, or any other file. */
inline std::string path_of(const char *name) { return *name == '/' ? name : std::string(AIR_TEST_MODELS "/") + name + ".gguf"; }

/* An engine and its sequences. Open or not: status says. */
struct Model {
    air_gguf_set *set = nullptr;
    air_engine *engine = nullptr;
    air_sequence *sequences[SEQUENCES] = {};
    air_status status;
    air_error error = {};

    Model(const char *name, const air_engine_config &config)
    {
        std::string path = path_of(name);
        air_engine_config c = config;
        status = air_gguf_open(&set, path.c_str(), &error);
        c.set = set;
        if (!status) status = air_engine_open(&engine, &c, &error);
    }
    ~Model()
    {
        for (air_sequence *s : sequences) air_sequence_free(s);
        air_engine_close(engine);
        air_gguf_close(set);
    }
    Model(const Model &) = delete;
    Model &operator=(const Model &) = delete;

    air_sequence *sequence(int i)
    {
        if (!sequences[i]) (void)air_sequence_new(&sequences[i], engine, nullptr);
        return sequences[i];
    }
};

inline void emulate(const std::string &words)
{
    std::string wrong = air::fake::configure(words);
    CHECK_STR_EQ(wrong.c_str(), "");
    reset_feed_test();
}

/* Of a usual device, which it leaves as it is. */
inline air_engine_config config_for(const char *name, const Memory &memory)
{
    emulate(memory.second > 0 ? "devices=2" : "");
    std::string path = path_of(name);
    air_gguf_set *set = nullptr;
    if (air_gguf_open(&set, path.c_str(), nullptr)) printf("  no %s\n", path.c_str());
    air_engine_config c = config_of(set, memory);
    if (!c.max_vram) choose_memory(&c, memory);
    air_gguf_close(set);
    c.set = nullptr;
    return c;
}

/* --- calls --- */

struct Call {
    int sequence;
    std::vector<int32_t> tokens;
    int64_t want = 1, prompt = 0; /* of its tokens, those that were not generated */
};

inline std::vector<int32_t> text_of(int n, int seed)
{
    std::vector<int32_t> text;
    for (int i = 0; i < n; i++) text.push_back((i * 37 + seed * 11 + 5) % 250);
    return text;
}

/* One batch; *out: its logits. */
inline air_status run_items(Model &m, const air_batch_item *items, int32_t n_items, Logits *out, air_error *err)
{
    air_batch_request request = {};
    request.items = items;
    request.n_items = n_items;
    air_batch *b;
    out->clear();
    air_status st = air_batch_submit(&b, m.engine, &request, err);
    if (st) return st;
    feed_test().batch = b;
    for (int done = 0; !done;) st = air_batch_wait(b, 50000000, &done, nullptr, err);
    const float *logits = st ? nullptr : air_batch_logits(b);
    int64_t n = air_batch_rows_kept(b) * air_model_program(air_engine_model(m.engine))->n_vocab;
    if (logits) out->assign(logits, logits + n);
    feed_test().batch = nullptr;
    air_batch_free(b);
    return st;
}

inline air_status call(Model &m, const std::vector<Call> &calls, Logits *out, air_error *err)
{
    std::vector<air_batch_item> items;
    for (const Call &c : calls) {
        air_batch_item item = {};
        item.sequence = m.sequence(c.sequence);
        if (!item.sequence) return air_fail(err, AIR_E_NOMEM, "no sequence");
        item.tokens = c.tokens.data();
        item.n_tokens = static_cast<int64_t>(c.tokens.size());
        item.want = c.want;
        item.n_prompt = c.prompt;
        items.push_back(item);
    }
    return run_items(m, items.data(), static_cast<int32_t>(items.size()), out, err);
}

/* The second sequence begins anew, as a fork of the first. */
inline air_status fork_first(Model &m, air_error *err)
{
    air_sequence_free(m.sequences[1]);
    m.sequences[1] = nullptr;
    return air_sequence_fork(&m.sequences[1], m.sequence(0), err);
}

/* Step 0 to SCRIPT - 1, in order; one that failed may be tried again. A prompt of two passes, single tokens, sequences beside each other
 * in a pass, a fork that goes its own way. */
inline air_status script_step(Model &m, int step, Logits *out, air_error *err)
{
    air_status st = step == 3 ? fork_first(m, err) : AIR_OK;
    if (st) return st;
    switch (step) {
    case 0: return call(m, {{0, text_of(PROMPT, 1), 1, PROMPT}}, out, err);
    case 1: return call(m, {{0, {7}, 1, PROMPT}}, out, err);
    case 2: return call(m, {{0, {8}, 1, PROMPT}, {1, text_of(5, 2), 3, 5}}, out, err);
    case 3: return call(m, {{1, {30}, 1, PROMPT}}, out, err);
    default: return call(m, {{0, {31}, 1, PROMPT}, {1, {32}, 1, PROMPT}}, out, err);
    }
}

/* Nothing is left, nothing was done that CUDA forbids or that would be slow. live: air_alloc_live() before. Returns whether that is so. */
inline bool check_clean(int64_t live, bool failed = false)
{
    air::fake::Stats s = air::fake::stats();
    int failures = atomic_load(&check_state.failures);
    CHECK(!s.leaks());
    CHECK_EQ(s.page_locked, 0);
    CHECK_EQ(air_alloc_live(), live);
    CHECK(!feed_test().wrong);
    CHECK_STR_EQ(air::fake::log().c_str(), "");
    if (!failed) {
        CHECK_EQ(s.pageable_async, 0);
        CHECK_EQ(s.null_stream_async, 0);
        CHECK_EQ(s.unrecorded_waits, 0);
        CHECK_STR_EQ(air::emu::last_error().c_str(), "");
    }
    return atomic_load(&check_state.failures) == failures;
}

inline bool same_bits(const Logits &a, const Logits &b)
{
    return a.size() == b.size() && !a.empty() && memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

#endif
