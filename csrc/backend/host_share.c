#include "backend/host_share.h"

#include <string.h>

#include "backend/host.h"
#include "base/alloc.h"
#include "base/checked.h"
#include "platform/pages.h"

enum {
    LINGER_NS = 1000000,   /* longer than a device takes for a layer's other ops, and links for a ring of tiles */
    COPY_CHUNK = 64 << 10, /* that a thread copies at a time */
};

struct air_host_share {
    const air_program *program;
    const air_ops *ops;
    air_pool *pool;
    int duties, threads;
    void *memory;
    size_t memory_bytes;
    void *q8;                /* of AIR_SHARE_COLUMNS columns */
    float *decoded;          /* [threads][row_floats]: a row each, of formats without a product of their own */
    int64_t row_floats;

    const air_op *op;        /* the product under way */
    const air_span *spans;   /* of it */
    int64_t rows;            /* of all of them */
    const air_weight *weight;
    air_columns x;           /* of the first part of its input, that of all there is or a head's */
    float *out;
    int64_t chunk_rows;

    uint8_t *to;             /* of the copy under way */
    const uint8_t *from;
    size_t bytes;
    air_pool_job job;        /* of either */
};

typedef struct layout { size_t q8, decoded, total; } layout;

static int64_t row_floats(const air_program *p) { return (int64_t)air_round_up((uint64_t)p->max_cols, AIR_CACHE_LINE); }

static layout lay_out(const air_program *p, int threads)
{
    layout l = {.q8 = 0, .decoded = (size_t)air_round_up(air__host_q8_bytes(p, AIR_SHARE_COLUMNS), AIR_CACHE_LINE)};
    l.total = l.decoded + (size_t)threads * (size_t)row_floats(p) * sizeof(float);
    return l;
}

uint64_t air_host_share_bytes(const air_program *program, int threads)
{
    return air_round_up(lay_out(program, threads).total, air_page_bytes());
}

/* Of a product's input, those of heads or all there is. */
static int64_t parts_of(const air_op *op) { return op->heads ? op->heads : 1; }

static air_columns columns_of(const air_host_share *s, int64_t part)
{
    air_columns x = s->x;
    x.f32 += part * s->op->from.step;
    x.q8 = air_q8_at(x.q8, x.k, part * x.n, 0);
    return x;
}

/* How many chunks the rows of a span are: each is of one span. */
static int64_t chunks_of(const air_host_share *s, const air_span *span) { return (span->rows + s->chunk_rows - 1) / s->chunk_rows; }

/* Chunk i of all spans'. */
static void multiply_chunk(const air_host_share *s, int64_t i, float *decoded)
{
    const air_span *span = s->spans;
    for (int64_t n; i >= (n = chunks_of(s, span)); span++) i -= n;
    int64_t from = i * s->chunk_rows, left = span->rows - from, end = from + (left < s->chunk_rows ? left : s->chunk_rows);
    int64_t each = s->weight->rows / parts_of(s->op);
    for (int64_t rows; from < end; from += rows) {
        int64_t row = span->first_row + from, part = row / each;
        rows = end - from < (part + 1) * each - row ? end - from : (part + 1) * each - row;
        air_columns x = columns_of(s, part);
        air__multiply(s->ops, s->weight, span->data + (uint64_t)from * s->weight->row_bytes, rows, &x,
                      s->out + row - s->spans->first_row, (size_t)s->rows, decoded);
    }
}

/* Each thread some columns; then, after a barrier, chunks of rows. */
static void work(void *context, int index)
{
    air_host_share *s = context;
    if (air__reads_q8(s->ops, s->weight)) {
        for (int64_t c = index; c < parts_of(s->op) * s->x.n; c += s->threads) {
            air_columns x = columns_of(s, c / s->x.n);
            s->ops->quantize(x.f32 + (size_t)(c % x.n) * x.f32_stride, x.k, air_q8_at(x.q8, x.k, c % x.n, 0));
        }
        air_pool_barrier(s->pool);
    }
    for (int64_t i; (i = air_pool_job_take(&s->job)) >= 0;) multiply_chunk(s, i, s->decoded + index * s->row_floats);
}

static void product(void *self, const air_op *op, const air_span *spans, int32_t n_spans, const float *x, int64_t n, float *out)
{
    air_host_share *s = self;
    int64_t chunks = 0;
    s->op = op;
    s->spans = spans;
    s->rows = 0;
    s->weight = &s->program->weights[spans->weight];
    s->out = out;
    int64_t stride = op->heads ? s->program->buffers[op->in].width : s->weight->cols;
    s->x = (air_columns){.k = s->weight->cols, .n = n, .f32 = x + (op->heads ? op->from.first : 0), .f32_stride = (size_t)stride};
    s->x.q8 = air_q8_place(s->q8, s->x.k, parts_of(op) * n);
    for (int32_t i = 0; i < n_spans; i++) s->rows += spans[i].rows;
    s->chunk_rows = air__chunk_rows(s->threads, s->rows);
    for (int32_t i = 0; i < n_spans; i++) chunks += chunks_of(s, &spans[i]);
    air_pool_job_reset(&s->job, chunks);
    air_pool_run(s->pool, work, s);
}

static void copy_chunks(void *context, int index)
{
    (void)index;
    air_host_share *s = context;
    for (int64_t i; (i = air_pool_job_take(&s->job)) >= 0;) {
        size_t at = (size_t)i * COPY_CHUNK, left = s->bytes - at;
        memcpy(s->to + at, s->from + at, left < COPY_CHUNK ? left : COPY_CHUNK);
    }
}

/* One thread copies less than any link takes. */
static void copy(void *self, void *to, const void *from, size_t bytes)
{
    air_host_share *s = self;
    s->to = to;
    s->from = from;
    s->bytes = bytes;
    air_pool_job_reset(&s->job, (int64_t)((bytes + COPY_CHUNK - 1) / COPY_CHUNK));
    air_pool_run(s->pool, copy_chunks, s);
}

air_status air_host_share_open(air_host_share **out, const air_program *program, int duties, int threads, int cpu_tier, air_error *err)
{
    *out = NULL;
    layout l = duties & AIR_HOST_PRODUCTS ? lay_out(program, threads) : (layout){0};
    air_host_share *s = air_calloc(1, sizeof *s);
    if (!s) return air_fail(err, AIR_E_NOMEM, "cpu: %zu bytes", sizeof *s);
    s->program = program;
    s->ops = air_ops_best((air_cpu_tier)cpu_tier);
    s->duties = duties;
    /* Copies are of small pieces, for which all wait if one has no CPU: some are left to who else wants one. */
    s->threads = duties & AIR_HOST_PRODUCTS || threads < 2 ? threads : threads / 2;
    s->row_floats = row_floats(program);
    s->memory_bytes = l.total;
    s->memory = l.total ? air_pages_alloc(l.total) : NULL;
    air_status st = s->memory || !l.total ? AIR_OK : air_fail(err, AIR_E_NOMEM, "cpu: %zu bytes for its share of products", l.total);
    if (!st) st = air_pool_open(&s->pool, s->threads, err);
    if (!st && duties & AIR_HOST_PRODUCTS) air_pool_linger(s->pool, LINGER_NS);
    if (st) {
        air_host_share_close(s);
        return st;
    }
    s->q8 = s->memory;
    s->decoded = s->memory ? (float *)(void *)((char *)s->memory + l.decoded) : NULL;
    *out = s;
    return AIR_OK;
}

void air_host_share_close(air_host_share *s)
{
    if (!s) return;
    air_pool_close(s->pool);
    air_pages_free(s->memory, s->memory_bytes);
    air_free(s);
}

air_host_help air_host_share_help(air_host_share *s)
{
    air_host_help help = {.self = s};
    if (s->duties & AIR_HOST_PRODUCTS) help.product = product;
    if (s->duties & AIR_HOST_COPIES) help.copy = copy;
    return help;
}
