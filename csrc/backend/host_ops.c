/* The ops of a pass on the CPU. Each function runs on every thread at once; work is dealt by jobs, and an op that hands its result to
 * the next leaves the barrier to the walk (host.c). The walk's barrier before an op makes its inputs visible. */
#include "backend/host.h"

#include <stdatomic.h>
#include <string.h>

#include "quant/format.h"

static int cancelled(const air_backend *h) { return atomic_load_explicit(h->pass->cancel, memory_order_relaxed) != 0; }

static float *scratch_of(const air_backend *h, int index) { return h->scratch + (size_t)index * h->scratch_floats; }

static int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

size_t air__host_scratch_floats(const air_program *p)
{
    int64_t attention = 0;
    for (int32_t i = 0; i < p->n_layers; i++) {
        const air_attention_shape *a = &p->attention[i];
        attention = max64(attention, (int64_t)air_attention_scratch(a->heads / a->kv_heads, a->value_dim));
    }
    int64_t product = p->max_cols + (int64_t)AIR__CHUNK_ROWS * AIR__CHUNK_COLUMNS; /* a decoded row, and a chunk of results */
    return (size_t)((max64(attention, product) + 31) & ~(int64_t)15);
}

/* --- jobs --- */

/* All threads: the leader sets the job up between two barriers. */
static void deal(air_backend *h, int index, int64_t chunks)
{
    if (index == 0) air_pool_job_reset(&h->job, chunks);
    air_pool_barrier(h->pool);
}

/* --- small ops --- */

static void op_embed(air_backend *h, const air_op *op, int index)
{
    if (index != 0) return;
    float *out = air__host_buffer(h, op->out);
    int64_t n = h->pass->rows * h->program->buffers[op->out].width;
    h->status = h->feed->gather(h->feed->self, op->weight, h->pass->tokens, h->pass->rows, out, &h->error);
    if (!h->status && op->scale != 1.0f)
        for (int64_t i = 0; i < n; i++) out[i] *= op->scale;
}

static void op_rms_norm(air_backend *h, const air_op *op, int index)
{
    const float *weight = h->feed->vectors[op->weight];
    int64_t width = h->program->buffers[op->in].width, group = op->head_dim ? op->head_dim : width;
    const float *in = air__host_buffer(h, op->in);
    float *out = air__host_buffer(h, op->out);
    deal(h, index, air__host_rows(h, op->in));
    for (int64_t r; (r = air_pool_job_take(&h->job)) >= 0;)
        for (int64_t at = r * width; at < (r + 1) * width; at += group) h->ops->rms_norm(in + at, weight, out + at, group, op->eps);
}

static void op_rope(air_backend *h, const air_op *op, int index)
{
    const air_rope *rope = &h->program->rope;
    int64_t width = h->program->buffers[op->in].width;
    float *x = air__host_buffer(h, op->in);
    deal(h, index, h->pass->rows);
    for (int64_t r; (r = air_pool_job_take(&h->job)) >= 0;)
        h->ops->rope(x + r * width, op->heads, op->head_dim, rope->pairs, rope->kind, h->cos + r * rope->pairs,
                     h->sin + r * rope->pairs);
}

static void op_select(air_backend *h, const air_op *op, int index)
{
    if (index != 0) return;
    int64_t width = h->program->buffers[op->in].width;
    const float *in = air__host_buffer(h, op->in);
    float *out = air__host_buffer(h, op->out);
    for (int64_t i = 0; i < h->pass->n_wanted; i++)
        memcpy(out + i * width, in + h->pass->wanted[i] * width, (size_t)width * sizeof *out);
}

/* --- state --- */

static void store_row(const air_backend *h, void *block, int64_t position, const float *x, int64_t width)
{
    int64_t at = position % AIR_BLOCK_POSITIONS * width;
    if (h->pass->state_type == AIR_STATE_F16) h->ops->f32_to_f16(x, (uint16_t *)block + at, width);
    else memcpy((float *)block + at, x, (size_t)width * sizeof *x);
}

static void op_store(air_backend *h, const air_op *op, int index)
{
    int64_t k_width = h->program->buffers[op->in].width, v_width = h->program->buffers[op->in2].width;
    const float *k = air__host_buffer(h, op->in), *v = air__host_buffer(h, op->in2);
    deal(h, index, h->pass->rows);
    for (int64_t r; (r = air_pool_job_take(&h->job)) >= 0;) {
        const air_state_view *view = &h->pass->states[h->pass->sequences[r]];
        int64_t position = h->pass->positions[r], block = op->layer * view->stride + position / AIR_BLOCK_POSITIONS;
        store_row(h, view->k[block], position, k + r * k_width, k_width);
        store_row(h, view->v[block], position, v + r * v_width, v_width);
    }
}

static void attend(air_backend *h, const air_op *op, int64_t row, int64_t kv_head, float *scratch)
{
    const air_attention_shape *a = &h->program->attention[op->layer];
    const air_state_view *view = &h->pass->states[h->pass->sequences[row]];
    int64_t group = a->heads / a->kv_heads, head = kv_head * group, end = h->pass->positions[row] + 1;
    h->ops->attention(&(air_attention_args){
        .q = air__host_buffer(h, op->in) + row * a->heads * a->key_dim + head * a->key_dim,
        .out = air__host_buffer(h, op->out) + row * a->heads * a->value_dim + head * a->value_dim,
        .scratch = scratch,
        .k_blocks = (const void *const *)view->k + op->layer * view->stride,
        .v_blocks = (const void *const *)view->v + op->layer * view->stride,
        .type = h->pass->state_type,
        .first = a->window ? max64(0, end - a->window) : 0,
        .positions = end,
        .group = group, .head_dim = a->key_dim, .value_dim = a->value_dim,
        .k_stride = (int64_t)a->kv_heads * a->key_dim, .k_offset = kv_head * a->key_dim,
        .v_stride = (int64_t)a->kv_heads * a->value_dim, .v_offset = kv_head * a->value_dim,
        .scale = op->scale, .softcap = a->softcap,
    });
}

static void op_attention(air_backend *h, const air_op *op, int index)
{
    int64_t kv_heads = h->program->attention[op->layer].kv_heads;
    deal(h, index, h->pass->rows * kv_heads);
    for (int64_t i; (i = air_pool_job_take(&h->job)) >= 0 && !cancelled(h);)
        attend(h, op, i / kv_heads, i % kv_heads, scratch_of(h, index));
}

/* --- products --- */

static air_product product_of(const air_backend *h, const air_weight *w) { return h->ops->product[w->type]; }

static air_q8 q8_of(const air_backend *h, const air_op *op)
{
    return air_q8_place(h->q8, h->program->buffers[op->in].width, air__host_rows(h, op->in));
}

/* The 8-bit form of op's input, made once for all products that read it. */
static void quantize_input(air_backend *h, const air_op *op, int index)
{
    int64_t n = air__host_rows(h, op->in), k = h->program->buffers[op->in].width;
    const float *x = air__host_buffer(h, op->in);
    if (h->quantized == op->in) return; /* the same on every thread: written before the walk's last barrier */
    deal(h, index, n);
    for (int64_t r; (r = air_pool_job_take(&h->job)) >= 0;)
        h->ops->quantize(x + r * k, k, air_q8_at(q8_of(h, op), k, r, 0));
    air_pool_barrier(h->pool);
    if (index == 0) h->quantized = op->in;
}

static air_columns columns_of(const air_backend *h, const air_op *op, int64_t first, int64_t n)
{
    int64_t k = h->program->buffers[op->in].width;
    return (air_columns){
        .k = k, .n = n, .f32 = air__host_buffer(h, op->in) + first * k, .f32_stride = (size_t)k,
        .q8 = air_q8_at(q8_of(h, op), k, first, 0),
    };
}

/* Results of rows weight rows for the columns of x, to y: by the format's own kernel, or through a decoded row. */
static void multiply(const air_backend *h, const air_weight *w, const uint8_t *data, int64_t rows, const air_columns *x, float *y,
                     size_t y_stride, float *decoded)
{
    air_product product = product_of(h, w);
    if (product.fn) {
        product.fn(data, w->row_bytes, rows, x, y, y_stride);
        return;
    }
    const air_format *format = air_format_by_id(w->type);
    for (int64_t r = 0; r < rows; r++) {
        format->decode(data + (uint64_t)r * w->row_bytes, decoded, w->cols / format->block);
        h->ops->product[AIR_TYPE_F32].fn(decoded, (size_t)w->cols * sizeof(float), 1, x, y + r, y_stride);
    }
}

/* Folds a chunk of results into the output buffer at weight row first. */
static void finish(const air_backend *h, const air_op *op, float *result, int64_t rows, int64_t n, float *out, int64_t width,
                   int64_t first)
{
    const float *bias = op->bias == AIR_NONE ? NULL : h->feed->vectors[op->bias] + first;
    for (int64_t c = 0; c < n; c++) {
        float *r = result + c * rows, *o = out + c * width + first;
        if (bias) h->ops->add(r, bias, rows);
        if (op->epilogue == AIR_EPILOGUE_SET) memcpy(o, r, (size_t)rows * sizeof *o);
        if (op->epilogue == AIR_EPILOGUE_ADD) h->ops->add(o, r, rows);
        if (op->epilogue == AIR_EPILOGUE_SWIGLU) h->ops->swiglu(o, r, o, rows);
    }
}

static void product_chunk(air_backend *h, const air_op *op, int64_t row, int64_t rows, float *scratch)
{
    const air_weight *w = &h->program->weights[op->weight];
    int64_t n = air__host_rows(h, op->in), width = h->program->buffers[op->out].width;
    float *out = air__host_buffer(h, op->out), *decoded = scratch, *result = scratch + ((w->cols + 15) & ~(int64_t)15);
    const uint8_t *data = h->span.data + (uint64_t)(row - h->span.first_row) * w->row_bytes;
    int direct = op->epilogue == AIR_EPILOGUE_SET && op->bias == AIR_NONE;
    for (int64_t c = 0; c < n; c += AIR__CHUNK_COLUMNS) {
        int64_t columns = min64(n - c, AIR__CHUNK_COLUMNS);
        air_columns x = columns_of(h, op, c, columns);
        float *o = out + c * width;
        if (direct) {
            multiply(h, w, data, rows, &x, o + row, (size_t)width, decoded);
        } else {
            multiply(h, w, data, rows, &x, result, (size_t)rows, decoded);
            finish(h, op, result, rows, columns, o, width, row);
        }
    }
}

/* Small enough that threads finish together, large enough that taking one costs nothing; a multiple of what kernels hold in flight. */
static int64_t chunk_rows(const air_backend *h, int64_t rows)
{
    int64_t even = rows / (h->threads * 8) & ~(int64_t)15;
    return max64(16, min64(even, AIR__CHUNK_ROWS));
}

/* The leader: the next span of this op's weight. A failure ends the walk. */
static void take_span(air_backend *h, const air_op *op)
{
    h->status = h->feed->next(h->feed->self, &h->span, &h->error);
    if (!h->status && h->span.weight != op->weight)
        h->status = air_fail(&h->error, AIR_E_ARGUMENT, "cpu: the feed brought weight %d where %d was due", (int)h->span.weight,
                             (int)op->weight);
    if (!h->status) {
        int64_t chunk = chunk_rows(h, h->span.rows);
        air_pool_job_reset(&h->job, (h->span.rows + chunk - 1) / chunk);
    }
    h->span_failed = h->status != AIR_OK;
}

static void op_product(air_backend *h, const air_op *op, int index)
{
    const air_weight *w = &h->program->weights[op->weight];
    air_product product = product_of(h, w);
    if (product.fn && product.input == AIR_INPUT_Q8) quantize_input(h, op, index);
    for (int64_t done = 0; done < w->rows;) {
        if (index == 0) take_span(h, op);
        air_pool_barrier(h->pool);
        if (h->span_failed) return;
        int64_t rows = h->span.rows, first = h->span.first_row, chunk = chunk_rows(h, rows);
        for (int64_t i; (i = air_pool_job_take(&h->job)) >= 0 && !cancelled(h);)
            product_chunk(h, op, first + i * chunk, min64(chunk, rows - i * chunk), scratch_of(h, index));
        done = first + rows;
        air_pool_barrier(h->pool);
        if (index == 0) h->feed->release(h->feed->self, &h->span);
    }
}

void air__host_op(air_backend *h, const air_op *op, int index)
{
    switch (op->kind) {
    case AIR_OP_EMBED: op_embed(h, op, index); break;
    case AIR_OP_RMS_NORM: op_rms_norm(h, op, index); break;
    case AIR_OP_PRODUCT: op_product(h, op, index); break;
    case AIR_OP_ROPE: op_rope(h, op, index); break;
    case AIR_OP_STORE: op_store(h, op, index); break;
    case AIR_OP_ATTENTION: op_attention(h, op, index); break;
    case AIR_OP_SELECT: op_select(h, op, index); break;
    }
    /* A buffer written anew has no 8-bit form. The leader alone reads and writes this before the walk's next barrier. */
    if (index == 0 && op->out != AIR_NONE && op->out == h->quantized) h->quantized = AIR_NONE;
}
