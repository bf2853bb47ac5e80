/* Ops of a pass on the CPU that are neither products nor attention: those of one thread, those by rows. */
#include "backend/host.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

static int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

int air__host_cancelled(const air_backend *h) { return atomic_load_explicit(h->pass->cancel, memory_order_relaxed) != 0; }

float *air__host_scratch(const air_backend *h, int index) { return h->scratch + (size_t)index * h->scratch_floats; }

size_t air__host_scratch_floats(const air_program *p)
{
    int64_t attention = 0, store = 0;
    for (int32_t i = 0; i < p->n_layers; i++) {
        const air_attention_shape *a = &p->attention[i];
        if (!a->kv_heads) continue;
        int64_t heads = max64(a->heads / a->kv_heads, AIR__ATTENTION_HEADS);
        attention = max64(attention, (int64_t)air_attention_scratch(heads, a->key_dim, a->value_dim, a->values_in_keys));
        store = max64(store, (int64_t)air_state_scratch(max64(a->key_dim, a->value_dim)));
    }
    int64_t product = p->max_cols + (int64_t)AIR__CHUNK_ROWS * AIR__CHUNK_COLUMNS; /* a decoded row, and a chunk of results */
    product = max64(product, (int64_t)air__mixture_scratch_floats(p));
    product = max64(product, (int64_t)air__recurrent_scratch_floats(p));
    return (size_t)((max64(max64(attention, store), product) + 31) & ~(int64_t)15);
}

/* --- one thread --- */

static void embed(air_backend *h, const air_op *op, const int32_t *which)
{
    float *out = air__host_buffer(h, op->out);
    int64_t n = h->pass->rows * h->program->buffers[op->out].width;
    h->status = h->feed->gather(h->feed->self, op->weight, which, h->pass->rows, out, &h->error);
    if (!h->status && op->kind == AIR_OP_EMBED && op->scale != 1.0f)
        for (int64_t i = 0; i < n; i++) out[i] *= op->scale;
}

static void select_rows(const air_backend *h, const air_op *op)
{
    int64_t width = h->program->buffers[op->in].width;
    const float *in = air__host_buffer(h, op->in);
    float *out = air__host_buffer(h, op->out);
    for (int64_t i = 0; i < h->pass->n_wanted; i++)
        memcpy(out + i * width, in + h->pass->wanted[i] * width, (size_t)width * sizeof *out);
}

void air__alone(air_backend *h)
{
    const air_op *op = &h->program->ops[h->stage->first];
    if (op->kind == AIR_OP_EMBED) embed(h, op, h->pass->tokens);
    if (op->kind == AIR_OP_EMBED_POSITION) embed(h, op, h->pass->positions);
    if (op->kind == AIR_OP_SELECT) select_rows(h, op);
}

/* --- by rows --- */

/* A vector of one group for all, or of all of them, from that of a row's element at on; NULL where there is none. */
static const float *vector_at(const air_backend *h, int32_t weight, int64_t at)
{
    return weight == AIR_NONE ? NULL : h->feed->vectors[weight] + at % h->program->weights[weight].cols;
}

static void norm(const air_backend *h, const air_op *op, int64_t row)
{
    int64_t width = h->program->buffers[op->in].width, group = op->head_dim ? op->head_dim : width;
    int64_t step = op->from.step ? op->from.step : group;
    const float *in = air__host_buffer(h, op->in) + row * width;
    float *out = air__host_buffer(h, op->out) + row * width;
    for (int64_t at = op->from.first; at < width; at += step) {
        const float *weight = vector_at(h, op->weight, at);
        if (op->kind == AIR_OP_RMS_NORM) h->ops->rms_norm(in + at, weight, out + at, group, op->eps);
        else h->ops->layer_norm(in + at, weight, vector_at(h, op->bias, at), out + at, group, op->eps);
    }
}

static void add(const air_backend *h, const air_op *op, int64_t row)
{
    int64_t width = h->program->buffers[op->in].width;
    float *out = air__host_buffer(h, op->out) + row * width;
    const float *in = air__host_buffer(h, op->in) + row * width;
    if (op->in2 == AIR_NONE) {
        h->ops->add(out, in, width);
        return;
    }
    float weight = 1.0f / (1.0f + expf(-air__host_buffer(h, op->in2)[row]));
    for (int64_t i = 0; i < width; i++) out[i] += weight * in[i];
}

static void add_type(const air_backend *h, const air_op *op, int64_t row)
{
    int64_t width = h->program->buffers[op->out].width, type = h->pass->types ? h->pass->types[row] : 0;
    h->ops->add(air__host_buffer(h, op->out) + row * width, h->feed->vectors[op->weight] + type * width, width);
}

static void copy(const air_backend *h, const air_op *op, int64_t row)
{
    const float *in = air__host_buffer(h, op->in) + row * h->program->buffers[op->in].width + op->from.first;
    float *out = air__host_buffer(h, op->out) + row * h->program->buffers[op->out].width + op->to.first;
    for (int64_t i = 0; i < op->heads; i++)
        memcpy(out + i * op->to.step, in + i * op->from.step, (size_t)op->head_dim * sizeof *out);
}

static void temper(const air_backend *h, const air_op *op, int64_t row)
{
    int64_t width = h->program->buffers[op->in].width;
    float *x = air__host_buffer(h, op->in) + row * width;
    double periods = floor(((double)h->pass->positions[row] + op->shift) / op->period);
    float by = (float)(1 + (double)op->scale * log1p(periods));
    for (int64_t i = 0; i < width; i++) x[i] *= by;
}

static void multiply(const air_backend *h, const air_op *op, int64_t row)
{
    int64_t width = h->program->buffers[op->in].width;
    float *out = air__host_buffer(h, op->out) + row * width;
    h->ops->gated[op->activation](air__host_buffer(h, op->in) + row * width, out, out, width);
}

static void rotate(const air_backend *h, const air_op *op, int64_t row)
{
    const air_rope *rope = &h->program->ropes[op->rope];
    float *x = air__host_buffer(h, op->in) + row * h->program->buffers[op->in].width;
    int64_t at = rope->first * h->pass->rows + row * rope->pairs;
    int64_t step = op->from.step ? op->from.step : op->head_dim;
    h->ops->rope(x + op->from.first, op->heads, step, rope->pairs, rope->kind, h->cos + at, h->sin + at);
}

static void store_part(const air_backend *h, air_state_part part, char *block, int64_t position, const float *x, int64_t heads,
                       int64_t dim, float *scratch)
{
    air_state_type type = h->pass->state_type;
    for (int64_t i = 0; i < heads; i++)
        air_state_store(h->ops, type, part, dim, block + (size_t)i * air_state_head_bytes(type, dim), position % AIR_BLOCK_POSITIONS,
                        x + i * dim, scratch);
}

static void store(const air_backend *h, const air_op *op, int64_t row, float *scratch)
{
    const air_attention_shape *a = &h->program->attention[op->layer];
    const air_state_view *view = &h->pass->states[h->pass->sequences[row]];
    int64_t position = h->pass->positions[row], block = op->layer * view->stride + position / AIR_BLOCK_POSITIONS;
    const float *k = air__host_buffer(h, op->in) + row * h->program->buffers[op->in].width;
    store_part(h, AIR_STATE_K, view->k[block], position, k, a->kv_heads, a->key_dim, scratch);
    if (op->in2 == AIR_NONE) return;
    const float *v = air__host_buffer(h, op->in2) + row * h->program->buffers[op->in2].width;
    store_part(h, AIR_STATE_V, view->v[block], position, v, a->kv_heads, a->value_dim, scratch);
}

/* As the op reads it. */
static void quantize(const air_backend *h, const air_op *op, int64_t row)
{
    air__input_parts p = air__input_parts_of(h, op);
    const float *x = air__host_buffer(h, op->in) + row * h->program->buffers[op->in].width + p.first;
    for (int64_t i = 0; i < p.n; i++) h->ops->quantize(x + i * p.step, p.k, air__q8_of(h, op, i, row));
}

/* A job is one row, or of a prompt as many as share lines of a tile of keys, so that threads do not write to the same ones. */
static int64_t rows_of_job(const air_backend *h, int64_t rows) { return rows >= 2 * AIR_STATE_TILE * h->threads ? AIR_STATE_TILE : 1; }

static int64_t rows_of_stage(const air_backend *h)
{
    const air__stage *s = h->stage;
    return air__host_rows(h, h->program->ops[s->n_ops ? s->first : s->quantize].in);
}

void air__rows_begin(air_backend *h)
{
    int64_t rows = rows_of_stage(h), each = rows_of_job(h, rows);
    air_pool_job_reset(&h->job, (rows + each - 1) / each);
}

static void run_row(air_backend *h, int64_t row, float *scratch)
{
    const air__stage *s = h->stage;
    for (const air_op *op = &h->program->ops[s->first], *end = op + s->n_ops; op < end; op++) {
        if (op->kind == AIR_OP_RMS_NORM || op->kind == AIR_OP_LAYER_NORM) norm(h, op, row);
        if (op->kind == AIR_OP_ADD) add(h, op, row);
        if (op->kind == AIR_OP_ADD_TYPE) add_type(h, op, row);
        if (op->kind == AIR_OP_COPY) copy(h, op, row);
        if (op->kind == AIR_OP_MULTIPLY) multiply(h, op, row);
        if (op->kind == AIR_OP_ROPE) rotate(h, op, row);
        if (op->kind == AIR_OP_TEMPER) temper(h, op, row);
        if (op->kind == AIR_OP_STORE) store(h, op, row, scratch);
        if (op->kind == AIR_OP_ROUTE) air__route(h, op, row);
    }
    if (s->quantize != AIR_NONE) quantize(h, &h->program->ops[s->quantize], row);
}

void air__rows_run(air_backend *h, int index)
{
    int64_t rows = rows_of_stage(h), each = rows_of_job(h, rows);
    for (int64_t i; (i = air_pool_job_take(&h->job)) >= 0 && !air__host_cancelled(h);)
        for (int64_t row = i * each; row < rows && row < (i + 1) * each; row++) run_row(h, row, air__host_scratch(h, index));
}
