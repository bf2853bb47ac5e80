/* memory_fixture.h: random programs over files that lie in memory, and sources that misbehave on request. */
#ifndef AIR_TESTS_MEMORY_FIXTURE_H
#define AIR_TESTS_MEMORY_FIXTURE_H

#include <stdatomic.h>

#include "base/alloc.h"
#include "base/random.h"
#include "check.h"
#include "memory/pager.h"
#include "platform/clock.h"
#include "platform/threads.h"

enum { FIXTURE_PARTS = 2, FIXTURE_WEIGHTS = 40, FIXTURE_LAYERS = 5 };

typedef struct fixture {
    air_program program;
    air_op ops[FIXTURE_WEIGHTS];
    air_weight weights[FIXTURE_WEIGHTS];
    air_buffer_desc buffer;
    air_attention_shape attention[FIXTURE_LAYERS];
    uint8_t *data[FIXTURE_PARTS]; /* the files */
    uint64_t bytes[FIXTURE_PARTS];
    int32_t table; /* number of a weight that is a table */
    uint64_t matrix_bytes;
} fixture;

/* A file in memory. */
typedef struct memory_source {
    air_source base;
    const uint8_t *data;
    uint64_t jitter_us;      /* reads take up to that long */
    atomic_int *hang;        /* reads wait while it is nonzero, and look at their cancel flag */
    atomic_llong *allowed;   /* each read takes one, and waits as of hang while there is none */
    atomic_llong *fail_in;   /* counts down; the read that brings it to 0 fails */
    atomic_int *active;      /* reads under way */
    atomic_int *most_active;
} memory_source;

/* Whether a read must wait. */
static inline int memory_waits(const memory_source *m)
{
    if (m->hang && atomic_load(m->hang)) return 1;
    return m->allowed && atomic_load(m->allowed) <= 0;
}

static inline air_status memory_read(air_source *s, uint64_t offset, void *buffer, size_t bytes, const AIR_ATOMIC(int) *cancel,
                                     air_error *err)
{
    memory_source *m = (memory_source *)s;
    int active = m->active ? atomic_fetch_add(m->active, 1) + 1 : 0, most = m->active ? atomic_load(m->most_active) : 0;
    while (active > most && !atomic_compare_exchange_weak(m->most_active, &most, active)) {}
    if (m->jitter_us) air_sleep_ns(air_random_u64(offset, 7) % (m->jitter_us * 1000));
    int cancelled = 0;
    while (memory_waits(m) && !cancelled) {
        cancelled = cancel && atomic_load(cancel);
        air_sleep_ns(1000000);
    }
    if (m->allowed) atomic_fetch_sub(m->allowed, 1);
    if (m->active) atomic_fetch_sub(m->active, 1);
    if (cancelled) return air_fail(err, AIR_E_CANCELLED, "read cancelled");
    if (m->fail_in && atomic_fetch_sub(m->fail_in, 1) == 1)
        return air_fail(err, AIR_E_IO, "memory file: read at offset %llu failed", (unsigned long long)offset);
    if (offset % s->alignment || bytes % s->alignment || (uintptr_t)buffer % s->alignment)
        return air_fail(err, AIR_E_ARGUMENT, "read of %zu at %llu is not aligned to %zu", bytes, (unsigned long long)offset, s->alignment);
    size_t there = offset >= s->bytes ? 0 : s->bytes - offset < bytes ? (size_t)(s->bytes - offset) : bytes;
    memcpy(buffer, m->data + offset, there);
    memset((char *)buffer + there, 0, bytes - there);
    return AIR_OK;
}

static inline air_status memory_check(air_source *s, air_error *err) { (void)s, (void)err; return AIR_OK; }
static inline void memory_close(air_source *s) { (void)s; }

static inline memory_source memory_source_of(const fixture *f, int part)
{
    return (memory_source){
        .base = {.read = memory_read, .check = memory_check, .close = memory_close, .bytes = f->bytes[part], .alignment = 4096,
                 .direct = 1},
        .data = f->data[part],
    };
}

static inline uint64_t pick(uint64_t n) { return check_random() % n; }

/* Puts weight i at the end of a part, at an offset that is aligned to 32 as GGUF has it. */
static inline void fixture_place(fixture *f, int i, air_weight_use use, uint32_t type, int64_t rows, int64_t cols, uint32_t part)
{
    const air_format *format = air_format_by_id(type);
    uint64_t row_bytes = (uint64_t)cols / format->block * format->bytes;
    f->bytes[part] = (f->bytes[part] + 31) / 32 * 32 + 32 * pick(200);
    f->weights[i] = (air_weight){"w", use, type, part, f->bytes[part], (uint64_t)rows * row_bytes, rows, cols, row_bytes};
    f->bytes[part] += f->weights[i].bytes;
}

/* products matrices of up to most_rows rows in so many files and up to five layers; a table, a vector now and then between them.
 * Each number is picked in a statement of its own, so that a seed means the same with every compiler. */
static inline void fixture_make_in(fixture *f, int products, int64_t most_rows, uint32_t parts)
{
    static const uint32_t types[] = {AIR_TYPE_F32, AIR_TYPE_F16, AIR_TYPE_Q8_0, AIR_TYPE_Q4_K};
    memset(f, 0, sizeof *f);
    int n = 0;
    f->table = n;
    uint32_t type = types[pick(4)];
    fixture_place(f, n++, AIR_WEIGHT_TABLE, type, 50, 256 * (1 + (int64_t)pick(3)), 0);
    for (int i = 0; i < products; i++) {
        uint32_t part = (uint32_t)pick(parts);
        if (pick(4) == 0) fixture_place(f, n++, AIR_WEIGHT_VECTOR, types[i % 3], 1, 32 * (1 + (int64_t)pick(20)), part);
        type = types[pick(4)];
        int64_t rows = 1 + (int64_t)pick((uint64_t)most_rows), cols = 256 * (1 + (int64_t)pick(4));
        f->ops[i] = (air_op){.kind = AIR_OP_PRODUCT, .layer = i * FIXTURE_LAYERS / products, .weight = n, .out = 0, .bias = AIR_NONE};
        fixture_place(f, n++, AIR_WEIGHT_MATRIX, type, rows, cols, part);
        f->matrix_bytes += f->weights[n - 1].bytes;
    }
    for (int part = 0; part < FIXTURE_PARTS; part++) {
        uint64_t words = f->bytes[part] / 8 + 1;
        uint64_t *data = malloc((size_t)words * 8);
        for (uint64_t w = 0; w < words; w++) data[w] = air_random_u64((uint64_t)part, w) & UINT64_C(0x3f3f3f3f3f3f3f3f);
        f->data[part] = (uint8_t *)data;
    }
    for (int i = 0; i < FIXTURE_LAYERS; i++)
        f->attention[i] = (air_attention_shape){.heads = 4, .kv_heads = 2, .key_dim = 16, .value_dim = 16};
    f->buffer = (air_buffer_desc){.name = "out", .width = 1, .rows = AIR_ROWS_ALL};
    f->program = (air_program){.ops = f->ops, .n_ops = products, .weights = f->weights, .n_weights = n, .buffers = &f->buffer,
                               .n_buffers = 1, .row_floats = 64, .max_cols = 1024,
                               .n_layers = FIXTURE_LAYERS, .attention = f->attention, .logits = AIR_NONE, .n_vocab = 100, .n_embd = 64};
}

static inline void fixture_make(fixture *f, int products, int64_t most_rows)
{
    fixture_make_in(f, products, most_rows, FIXTURE_PARTS);
}

static inline void fixture_free(fixture *f)
{
    for (int part = 0; part < FIXTURE_PARTS; part++) free(f->data[part]);
}

static inline uint64_t fixture_pass_bytes(const air_program *program, int64_t rows, int64_t n_wanted, int threads)
{
    (void)n_wanted, (void)threads;
    return (uint64_t)(rows * program->row_floats) * sizeof(float);
}

static inline air_plan_request fixture_request(const fixture *f, uint64_t budget)
{
    return (air_plan_request){
        .program = &f->program, .budget = budget, .fixed = 0, .state_per_block = 1024, .n_ctx = 0, .n_ctx_trained = 256,
        .pass_bytes = fixture_pass_bytes, .threads = 2, .io = AIR_IO_DIRECT, .file_bytes = f->bytes[0] + f->bytes[1],
        .available = UINT64_MAX, .bandwidths = {.disk = 1e9, .memory = 1e10},
    };
}

/* Everything a pager stands on. */
typedef struct bench {
    memory_source memory[FIXTURE_PARTS];
    air_source *sources[FIXTURE_PARTS];
    air_budget budget;
    air_plan *plan;
    air_pager *pager;
    uint64_t device_experts; /* memory of a device for experts, whoever does the copies */
} bench;

static inline air_status bench_open(bench *b, const fixture *f, const air_plan_request *request, air_error *err)
{
    b->pager = NULL;
    b->plan = NULL;
    for (int i = 0; i < FIXTURE_PARTS; i++)
        if (!b->sources[i]) b->sources[i] = &b->memory[i].base;
    air_status st = air_plan_make(&b->plan, request, err);
    if (st) return st;
    if (b->device_experts) b->plan->device_expert_bytes = b->device_experts;
    air_budget_init(&b->budget, "max_ram", request->budget);
    air_pager_config config = {
        .program = &f->program, .plan = b->plan, .sources = b->sources, .parts = FIXTURE_PARTS, .budget = &b->budget,
        .lookahead = 1};
    return air_pager_open(&b->pager, &config, err);
}

static inline bench bench_of(const fixture *f)
{
    bench b = {0};
    for (int i = 0; i < FIXTURE_PARTS; i++) b.memory[i] = memory_source_of(f, i);
    return b;
}

static inline void bench_close(bench *b)
{
    air_pager_close(b->pager);
    air_plan_free(b->plan);
    b->pager = NULL;
    b->plan = NULL;
}

/* One pass that holds up to hold spans at a time; CHECKs that it delivers every product's bytes in order, from the file itself and
 * not from the plan. stop_after spans it gives up, as a failing backend would; -1: never. */
static inline air_status walk_pass(const fixture *f, air_pager *pager, int hold, int64_t stop_after, air_error *err)
{
    const air_feed *feed = air_pager_feed(pager);
    air_span held[8];
    int n_held = 0, wrong = 0;
    air_status st = AIR_OK;
    for (int32_t op = 0; op < f->program.n_ops && !st; op++) {
        const air_weight *w = &f->weights[f->ops[op].weight];
        for (int64_t row = 0; row < w->rows && !st;) {
            if (stop_after-- == 0) {
                st = AIR_E_NUMERIC;
                break;
            }
            if (n_held == hold) {
                feed->release(feed->self, &held[0]);
                memmove(held, held + 1, (size_t)--n_held * sizeof *held);
            }
            air_span span;
            st = feed->next(feed->self, &span, err);
            if (st) break;
            const uint8_t *want = f->data[w->part] + w->offset + (uint64_t)row * w->row_bytes;
            wrong += span.weight != f->ops[op].weight || span.first_row != row || span.rows < 1 || row + span.rows > w->rows ||
                     (span.left_out && f->ops[op].out != f->program.logits);
            wrong += !span.left_out && memcmp(span.data, want, (size_t)((uint64_t)span.rows * w->row_bytes)) != 0;
            row += span.rows > 0 ? span.rows : w->rows;
            held[n_held++] = span;
        }
    }
    for (int i = 0; i < n_held; i++) feed->release(feed->self, &held[i]);
    CHECK_EQ(wrong, 0);
    return st;
}

#endif
