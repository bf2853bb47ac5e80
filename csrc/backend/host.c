/* The CPU as a backend: memory of a pass, and the walk over the program inside one parallel region. */
#include "backend/host.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "platform/clock.h"
#include "platform/pages.h"
#include "quant/format.h"

/* --- memory: one region, cut the same way for its size and for its pointers --- */

typedef struct layout {
    size_t rows, wanted, q8, cos, sin, scratch, totals, turns, mixture, total; /* byte offsets */
} layout;

static size_t cut(size_t *at, uint64_t bytes)
{
    size_t offset = *at;
    *at += (size_t)air_round_up(bytes, AIR_CACHE_LINE);
    return offset;
}

size_t air__host_q8_bytes(const air_program *p, int64_t rows)
{
    size_t most = air_q8_bytes((int64_t)air_round_up((uint64_t)p->max_cols, AIR_Q8_GROUP), rows);
    for (int32_t i = 0; i < p->n_ops; i++) {
        const air_op *op = &p->ops[i];
        if (op->kind != AIR_OP_PRODUCT || !op->heads) continue;
        size_t bytes = air_q8_bytes((int64_t)air_round_up((uint64_t)p->weights[op->weight].cols, AIR_Q8_GROUP), op->heads * rows);
        if (bytes > most) most = bytes;
    }
    return most;
}

static layout lay_out(const air_program *p, int64_t rows, int64_t n_wanted, int threads)
{
    layout l;
    size_t at = 0;
    uint64_t n = (uint64_t)rows, w = (uint64_t)n_wanted;
    uint64_t columns = n > w ? n : w;
    l.rows = cut(&at, n * (uint64_t)p->row_floats * sizeof(float));
    l.wanted = cut(&at, w * (uint64_t)p->wanted_floats * sizeof(float));
    l.q8 = cut(&at, air__host_q8_bytes(p, (int64_t)columns));
    l.cos = cut(&at, n * (uint64_t)p->rope_pairs * sizeof(float));
    l.sin = cut(&at, n * (uint64_t)p->rope_pairs * sizeof(float));
    l.scratch = cut(&at, (uint64_t)threads * air__host_scratch_floats(p) * sizeof(float));
    l.totals = cut(&at, air__attention_totals(p, threads) * sizeof(air_attention_total));
    l.turns = cut(&at, air__attention_turns(threads) * sizeof(int32_t));
    l.mixture = cut(&at, air__mixture_layout_of(p, rows).total);
    l.total = at;
    return l;
}

static uint64_t host_pass_bytes(const air_program *program, int64_t rows, int64_t n_wanted, int threads)
{
    return air_round_up(lay_out(program, rows, n_wanted, threads).total, air_page_bytes());
}

static void place_mixture(air_backend *h, char *memory, int64_t rows)
{
    air__mixture_layout l = air__mixture_layout_of(h->program, rows);
    h->mixture.sent = (int32_t *)(void *)(memory + l.sent);
    h->mixture.place = (int32_t *)(void *)(memory + l.place);
    h->mixture.hidden = (float *)(void *)(memory + l.hidden);
    h->mixture.results = (float *)(void *)(memory + l.results);
    h->mixture.q8 = memory + l.q8;
}

static air_status host_reserve(air_backend *h, int64_t rows, int64_t n_wanted, int64_t rank, air_error *err)
{
    (void)rank; /* adapters have scratch of their own here */
    if (rows == h->rows_cap && n_wanted == h->wanted_cap) return AIR_OK;
    layout l = lay_out(h->program, rows, n_wanted, h->threads);
    char *memory = air_pages_alloc(l.total);
    if (!memory) return air_fail(err, AIR_E_NOMEM, "cpu: %zu bytes for a pass of %lld rows", l.total, (long long)rows);
    air_pages_free(h->memory, h->memory_bytes);
    h->memory = memory;
    h->memory_bytes = l.total;
    h->rows_cap = rows;
    h->wanted_cap = n_wanted;
    h->rows = (float *)(memory + l.rows);
    h->wanted = (float *)(memory + l.wanted);
    h->q8 = memory + l.q8;
    h->cos = (float *)(memory + l.cos);
    h->sin = (float *)(memory + l.sin);
    h->scratch = (float *)(memory + l.scratch);
    h->totals = (air_attention_total *)(void *)(memory + l.totals);
    h->turns = (void *)(memory + l.turns);
    h->scratch_floats = air__host_scratch_floats(h->program);
    place_mixture(h, memory + l.mixture, rows);
    return AIR_OK;
}

float *air__host_buffer(const air_backend *h, int32_t buffer)
{
    const air_buffer_desc *d = &h->program->buffers[buffer];
    if (buffer == h->program->logits) return h->pass->logits;
    return d->rows == AIR_ROWS_ALL ? h->rows + d->offset * h->pass->rows : h->wanted + d->offset * h->pass->n_wanted;
}

int64_t air__host_rows(const air_backend *h, int32_t buffer)
{
    return h->program->buffers[buffer].rows == AIR_ROWS_ALL ? h->pass->rows : h->pass->n_wanted;
}

air__input_parts air__input_parts_of(const air_backend *h, const air_op *op)
{
    int64_t width = h->program->buffers[op->in].width;
    if (op->kind != AIR_OP_PRODUCT || !op->heads) return (air__input_parts){1, width, 0, width};
    return (air__input_parts){op->heads, h->program->weights[op->weight].cols, op->from.first, op->from.step};
}

air_q8 air__q8_of(const air_backend *h, const air_op *op, int64_t part, int64_t row)
{
    air__input_parts p = air__input_parts_of(h, op);
    int64_t rows = air__host_rows(h, op->in);
    return air_q8_at(air_q8_place(h->q8, p.k, p.n * rows), p.k, part * rows + row, 0);
}

/* --- life --- */

static void host_close(air_backend *h)
{
    if (!h) return;
    air_pool_close(h->pool);
    air_pages_free(h->memory, h->memory_bytes);
    air_free(h->stages);
    air_free(h);
}

static air_status host_open(air_backend **out, const air_backend_config *config, air_error *err)
{
    *out = NULL;
    air_backend *h = air_calloc(1, sizeof *h);
    if (!h) return air_fail(err, AIR_E_NOMEM, "cpu: %zu bytes", sizeof *h);
    h->program = config->program;
    h->ops = air_ops_best((air_cpu_tier)config->cpu_tier);
    h->threads = config->threads;
    h->n_ctx = config->n_ctx;
    air_status st = air__stages_make(h, err);
    if (!st) st = air_pool_open(&h->pool, config->threads, err);
    if (st) {
        host_close(h);
        return st;
    }
    *out = h;
    return AIR_OK;
}

static const char *host_kernels(const air_backend *h) { return h->ops->name; }

static air_status host_supports(const air_program *program, air_error *err)
{
    for (int32_t i = 0; i < program->n_weights; i++) {
        const air_format *format = air_format_by_id(program->weights[i].type);
        if (!format || !format->decode)
            return air_fail(err, AIR_E_UNSUPPORTED, "cpu: %s is of type %u, which has no decoder", program->weights[i].name,
                            program->weights[i].type);
    }
    return AIR_OK;
}

/* --- the pass --- */

/* Angles once per pass, in double: all layers with a rope rotate by the same ones. */
static void fill_rope(air_backend *h, const air_rope *rope)
{
    int32_t weight = air_rope_factors(rope, h->n_ctx);
    const float *factors = weight == AIR_NONE ? NULL : h->feed->vectors[weight];
    float *cosines = h->cos + rope->first * h->pass->rows, *sines = h->sin + rope->first * h->pass->rows;
    for (int64_t r = 0; r < h->pass->rows; r++)
        for (int64_t i = 0; i < rope->pairs; i++) {
            double angle = h->pass->positions[r] * rope->frequency[i] / (factors ? (double)factors[i] : 1.0);
            *cosines++ = (float)(cos(angle) * rope->magnitude);
            *sines++ = (float)(sin(angle) * rope->magnitude);
        }
}

/* What is in no layer is the embedding, which begins a pass, or the output. */
static air_status fail_cancelled(air_backend *h, int32_t layer, int begun)
{
    if (layer == AIR_NONE) return air_fail(&h->error, AIR_E_CANCELLED, "cancelled in the %s", begun ? "output" : "embedding");
    return air_fail(&h->error, AIR_E_CANCELLED, "cancelled in layer %d", (int)layer);
}

static void end_layer(air_backend *h, int32_t layer, uint64_t now)
{
    int32_t n_layers = h->program->n_layers;
    if (h->pass->layer_ns) atomic_fetch_add(&h->pass->layer_ns[layer == AIR_NONE ? n_layers : layer], now - h->layer_started_ns);
    air_timeline_add(h->timeline, &(air_event){
        .begin_ns = h->layer_started_ns, .end_ns = now, .kind = AIR_EVENT_LAYER, .lane = AIR_LANE_LAYERS, .layer = layer,
        .weight = AIR_NONE, .number = AIR_NONE,
    });
    h->layer_started_ns = now;
    if (layer != AIR_NONE) atomic_store(h->pass->layers_done, layer + 1);
}

/* The next stage; NULL when the walk ends. Also keeps the clock of layers. now: 0, or the time, where it is known. */
static const air__stage *next_stage(air_backend *h, uint64_t now)
{
    const air__stage *before = h->stage, *stage = before ? before + 1 : h->stages;
    if (h->status || stage == h->stages + h->n_stages) return NULL;
    if (air__host_cancelled(h)) {
        h->status = fail_cancelled(h, stage->layer, before != NULL);
        return NULL;
    }
    if (before && before->layer != stage->layer) end_layer(h, before->layer, now ? now : air_clock_ns());
    return stage;
}

/* A thread of a pass. */
typedef struct walker {
    air_backend *h;
    int index;
    uint64_t done_ns; /* with its part of the last stage that was noted */
} walker;

/* Whether the stage takes threads long enough, some microseconds, that a look at the clock is nothing beside it. */
static int is_worth_noting(const air_backend *h)
{
    enum { BYTES = 256 << 10 }; /* that a thread reads */
    const air__stage *s = h->stage;
    if (!h->timeline || s->kind == AIR__STAGE_EXPERTS) return h->timeline != NULL;
    uint64_t bytes = s->bytes, rows = (uint64_t)h->pass->rows;
    if (s->kind == AIR__STAGE_ATTENTION) {
        const air_attention_shape *a = &h->program->attention[s->layer];
        bytes = (uint64_t)(h->attention.positions * a->kv_heads * (a->key_dim + a->value_dim)) * sizeof(uint16_t);
    }
    if (s->kind == AIR__STAGE_RECURRENT) bytes = (uint64_t)air_recurrent_floats(&h->program->recurrent[s->layer]) * sizeof(float);
    return bytes * rows >= (uint64_t)h->threads * BYTES;
}

/* The last thread at a barrier, alone: goes on to the next stage that is worth all threads. A single row is not: it takes less time than
 * one more barrier. now: as of next_stage. */
static void next_shared(air_backend *h, uint64_t now)
{
    if (h->stage && h->stage->kind == AIR__STAGE_EXPERTS) {
        if (air__experts_next(h)) return;
        now = 0;
    }
    for (; (h->stage = next_stage(h, now)) != NULL; now = 0) {
        switch (h->stage->kind) {
        case AIR__STAGE_ALONE: air__alone(h); break;
        case AIR__STAGE_ROWS:
            air__rows_begin(h);
            if (h->job.chunks > 1) return;
            air__rows_run(h, 0); /* the others wait: any scratch is free */
            break;
        case AIR__STAGE_ATTENTION: air__attention_begin(h); return;
        case AIR__STAGE_RECURRENT: air__recurrent_begin(h); return;
        case AIR__STAGE_PRODUCTS: air__products_begin(h); return;
        case AIR__STAGE_EXPERTS:
            if (air__experts_begin(h)) return;
            break;
        }
    }
}

static void advance(void *context)
{
    const walker *w = context;
    air_backend *h = w->h;
    if (h->noted) h->noted_ns = w->done_ns;
    next_shared(h, h->noted ? w->done_ns : 0);
    h->noted = h->stage && is_worth_noting(h);
}

/* One look at the clock: a part begins where the last thread was done with the stage that was noted before, so that it has what has not
 * been noted since: short stages, and what one thread did alone at a barrier. */
static void note_part(walker *w)
{
    static const air_event_kind kinds[] = {
        [AIR__STAGE_ALONE] = AIR_EVENT_ROWS, [AIR__STAGE_ROWS] = AIR_EVENT_ROWS, [AIR__STAGE_ATTENTION] = AIR_EVENT_ATTENTION,
        [AIR__STAGE_RECURRENT] = AIR_EVENT_ATTENTION, /* in whose place it is */
        [AIR__STAGE_PRODUCTS] = AIR_EVENT_PRODUCTS, [AIR__STAGE_EXPERTS] = AIR_EVENT_EXPERTS,
    };
    const air_backend *h = w->h;
    const air__stage *s = h->stage;
    uint64_t begin = h->noted_ns > w->done_ns ? h->noted_ns : w->done_ns;
    w->done_ns = air_clock_ns();
    air_timeline_add(h->timeline, &(air_event){
        .begin_ns = begin, .end_ns = w->done_ns, .kind = (uint16_t)kinds[s->kind], .lane = (uint16_t)(AIR_LANE_PASS + w->index),
        .layer = s->layer, .weight = s->n_ops ? h->program->ops[s->first].weight : AIR_NONE, .number = s->n_ops,
    });
}

static void walk(void *context, int index)
{
    air_backend *h = context;
    walker w = {.h = h, .index = index, .done_ns = h->noted_ns};
    for (;;) {
        air_pool_barrier_then(h->pool, advance, &w);
        if (!h->stage) return;
        switch (h->stage->kind) {
        case AIR__STAGE_ALONE: break; /* has been run */
        case AIR__STAGE_ROWS: air__rows_run(h, index); break;
        case AIR__STAGE_ATTENTION: air__attention_run(h, index); break;
        case AIR__STAGE_RECURRENT: air__recurrent_run(h, index); break;
        case AIR__STAGE_PRODUCTS: air__products_run(h, index); break;
        case AIR__STAGE_EXPERTS: air__experts_run(h, index); break;
        }
        if (h->noted) note_part(&w);
    }
}

static air_status host_run(air_backend *h, const air_pass *pass, const air_feed *feed, air_error *err)
{
    if (pass->rows > h->rows_cap || pass->n_wanted > h->wanted_cap)
        return air_fail(err, AIR_E_ARGUMENT, "cpu: a pass of %lld rows, reserved for %lld", (long long)pass->rows,
                        (long long)h->rows_cap);
    h->pass = pass;
    h->feed = feed;
    h->stage = NULL;
    h->status = AIR_OK;
    h->timeline = air_timeline_on(pass->timeline) ? pass->timeline : NULL;
    h->noted = 0;
    h->noted_ns = h->layer_started_ns = air_clock_ns();
    for (int32_t i = 0; i < h->program->n_ropes; i++) fill_rope(h, &h->program->ropes[i]);
    air_pool_run(h->pool, walk, h);
    air__belt_clear(h);
    air__experts_clear(h);
    if (!h->status) end_layer(h, AIR_NONE, air_clock_ns());
    if (h->status) return air_error_copy(err, &h->error);
    /* Threads leave work undone once this is set, and no stage comes after the last one to notice. */
    if (atomic_load(pass->cancel)) return air_fail(err, AIR_E_CANCELLED, "cancelled in the output");
    if (pass->hidden)
        memcpy(pass->hidden, air__host_buffer(h, h->program->hidden),
               (size_t)(pass->n_wanted * h->program->n_embd) * sizeof(float));
    return AIR_OK;
}

/* --- state --- */

enum { HUGE_PAGE = 2 << 20 };

static air_status host_state_alloc(air_backend *h, void **out, size_t bytes, air_error *err)
{
    (void)h;
    *out = air_pages_alloc(bytes);
    if (!*out) return air_fail(err, AIR_E_NOMEM, "state: %zu bytes for 64 more positions", bytes);
    if (bytes >= HUGE_PAGE) air_pages_huge(*out, bytes); /* a smaller region may share one with another's memory */
    return AIR_OK;
}

static void host_state_free(air_backend *h, void *p, size_t bytes)
{
    (void)h;
    air_pages_free(p, bytes);
}

static air_status host_state_copy(air_backend *h, void *to, const void *from, size_t bytes, int pageable, air_error *err)
{
    (void)h, (void)pageable, (void)err;
    memcpy(to, from, bytes);
    return AIR_OK;
}

const air_backend_api air_backend_host = {
    .version = AIR_BACKEND_VERSION,
    .name = "cpu",
    .open = host_open,
    .close = host_close,
    .kernels = host_kernels,
    .supports = host_supports,
    .pass_bytes = host_pass_bytes,
    .reserve = host_reserve,
    .state_alloc = host_state_alloc,
    .state_free = host_state_free,
    .state_copy = host_state_copy,
    .run = host_run,
};
