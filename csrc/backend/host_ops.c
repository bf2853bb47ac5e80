/* Ops of a pass on the CPU, but for products: those of one thread, those by rows, attention. */
#include "backend/host.h"

#include <stdatomic.h>
#include <string.h>

static int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

int air__host_cancelled(const air_backend *h) { return atomic_load_explicit(h->pass->cancel, memory_order_relaxed) != 0; }

float *air__host_scratch(const air_backend *h, int index) { return h->scratch + (size_t)index * h->scratch_floats; }

size_t air__host_scratch_floats(const air_program *p)
{
    int64_t attention = 0;
    for (int32_t i = 0; i < p->n_layers; i++) {
        const air_attention_shape *a = &p->attention[i];
        int64_t heads = max64(a->heads / a->kv_heads, AIR__ATTENTION_HEADS);
        attention = max64(attention, (int64_t)air_attention_scratch(heads, a->key_dim, a->value_dim));
    }
    int64_t product = p->max_cols + (int64_t)AIR__CHUNK_ROWS * AIR__CHUNK_COLUMNS; /* a decoded row, and a chunk of results */
    return (size_t)((max64(attention, product) + 31) & ~(int64_t)15);
}

/* --- one thread --- */

static void embed(air_backend *h, const air_op *op)
{
    float *out = air__host_buffer(h, op->out);
    int64_t n = h->pass->rows * h->program->buffers[op->out].width;
    h->status = h->feed->gather(h->feed->self, op->weight, h->pass->tokens, h->pass->rows, out, &h->error);
    if (!h->status && op->scale != 1.0f)
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
    if (op->kind == AIR_OP_EMBED) embed(h, op);
    else select_rows(h, op);
}

/* --- by rows --- */

static void rms_norm(const air_backend *h, const air_op *op, int64_t row)
{
    int64_t width = h->program->buffers[op->in].width, group = op->head_dim ? op->head_dim : width;
    const float *in = air__host_buffer(h, op->in) + row * width;
    float *out = air__host_buffer(h, op->out) + row * width;
    for (int64_t at = 0; at < width; at += group) h->ops->rms_norm(in + at, h->feed->vectors[op->weight], out + at, group, op->eps);
}

static void rotate(const air_backend *h, const air_op *op, int64_t row)
{
    const air_rope *rope = &h->program->rope;
    float *x = air__host_buffer(h, op->in) + row * h->program->buffers[op->in].width;
    h->ops->rope(x, op->heads, op->head_dim, rope->pairs, rope->kind, h->cos + row * rope->pairs, h->sin + row * rope->pairs);
}

static void store_part(const air_backend *h, void *block, int64_t position, const float *x, int64_t width)
{
    int64_t at = position % AIR_BLOCK_POSITIONS * width;
    if (h->pass->state_type == AIR_STATE_F16) h->ops->f32_to_f16(x, (uint16_t *)block + at, width);
    else memcpy((float *)block + at, x, (size_t)width * sizeof *x);
}

static void store(const air_backend *h, const air_op *op, int64_t row)
{
    int64_t k_width = h->program->buffers[op->in].width, v_width = h->program->buffers[op->in2].width;
    const air_state_view *view = &h->pass->states[h->pass->sequences[row]];
    int64_t position = h->pass->positions[row], block = op->layer * view->stride + position / AIR_BLOCK_POSITIONS;
    store_part(h, view->k[block], position, air__host_buffer(h, op->in) + row * k_width, k_width);
    store_part(h, view->v[block], position, air__host_buffer(h, op->in2) + row * v_width, v_width);
}

static void quantize(const air_backend *h, int32_t buffer, int64_t row)
{
    int64_t k = h->program->buffers[buffer].width;
    h->ops->quantize(air__host_buffer(h, buffer) + row * k, k, air_q8_at(air__host_q8(h, buffer), k, row, 0));
}

void air__rows_begin(air_backend *h)
{
    const air__stage *s = h->stage;
    air_pool_job_reset(&h->job, air__host_rows(h, s->n_ops ? h->program->ops[s->first].in : s->quantize));
}

void air__rows_run(air_backend *h)
{
    const air__stage *s = h->stage;
    for (int64_t row; (row = air_pool_job_take(&h->job)) >= 0 && !air__host_cancelled(h);) {
        for (const air_op *op = &h->program->ops[s->first], *end = op + s->n_ops; op < end; op++) {
            if (op->kind == AIR_OP_RMS_NORM) rms_norm(h, op, row);
            if (op->kind == AIR_OP_ROPE) rotate(h, op, row);
            if (op->kind == AIR_OP_STORE) store(h, op, row);
        }
        if (s->quantize != AIR_NONE) quantize(h, s->quantize, row);
    }
}

/* --- attention --- */

/* Rows [row, row + rows) of a sequence, one after the other. */
static void attend(air_backend *h, const air_op *op, int64_t row, int64_t rows, int64_t kv_head, float *scratch)
{
    const air_attention_shape *a = &h->program->attention[op->layer];
    const air_state_view *view = &h->pass->states[h->pass->sequences[row]];
    int64_t group = a->heads / a->kv_heads, head = kv_head * group, q_stride = (int64_t)a->heads * a->key_dim;
    int64_t out_stride = (int64_t)a->heads * a->value_dim;
    h->ops->attention(&(air_attention_args){
        .q = air__host_buffer(h, op->in) + row * q_stride + head * a->key_dim,
        .out = air__host_buffer(h, op->out) + row * out_stride + head * a->value_dim,
        .scratch = scratch,
        .k_blocks = (const void *const *)view->k + op->layer * view->stride,
        .v_blocks = (const void *const *)view->v + op->layer * view->stride,
        .type = h->pass->state_type,
        .rows = rows, .q_stride = q_stride, .out_stride = out_stride,
        .positions = h->pass->positions[row] + 1,
        .window = a->window ? a->window : INT64_MAX,
        .group = group, .head_dim = a->key_dim, .value_dim = a->value_dim,
        .k_stride = (int64_t)a->kv_heads * a->key_dim, .k_offset = kv_head * a->key_dim,
        .v_stride = (int64_t)a->kv_heads * a->value_dim, .v_offset = kv_head * a->value_dim,
        .scale = op->scale, .softcap = a->softcap,
    });
}

/* As many rows in a job as one call may take, but jobs for all threads. */
static int64_t attention_rows(const air_backend *h)
{
    const air_attention_shape *a = &h->program->attention[h->stage->layer];
    int64_t most = max64(1, AIR__ATTENTION_HEADS / (a->heads / a->kv_heads));
    int64_t even = h->pass->rows * a->kv_heads / (h->threads * 4);
    return even < most ? max64(1, even) : most;
}

void air__attention_begin(air_backend *h)
{
    int64_t rows = attention_rows(h);
    air_pool_job_reset(&h->job, (h->pass->rows + rows - 1) / rows * h->program->attention[h->stage->layer].kv_heads);
}

void air__attention_run(air_backend *h, int index)
{
    const air_op *op = &h->program->ops[h->stage->first];
    const air_pass *p = h->pass;
    int64_t kv_heads = h->program->attention[op->layer].kv_heads, rows = attention_rows(h);
    for (int64_t i; (i = air_pool_job_take(&h->job)) >= 0 && !air__host_cancelled(h);) {
        int64_t end = i / kv_heads * rows + rows;
        if (end > p->rows) end = p->rows;
        for (int64_t row = i / kv_heads * rows, next; row < end; row = next) {
            for (next = row + 1; next < end && p->sequences[next] == p->sequences[row] && p->positions[next] == p->positions[next - 1] + 1;)
                next++;
            attend(h, op, row, next - row, i % kv_heads, air__host_scratch(h, index));
        }
    }
}
