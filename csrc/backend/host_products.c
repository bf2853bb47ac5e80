/* Products on the CPU: chunks of weight rows, from spans that threads go through one after the other without a barrier. */
#include "backend/host.h"

#include <stdatomic.h>
#include <string.h>

#include "platform/clock.h"
#include "quant/format.h"

static int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }

/* --- the belt --- */

static void stop(air__belt *b)
{
    atomic_store_explicit(&b->stopped, 1, memory_order_release);
    air_gate_count(&b->moved);
}

/* Whether what is left of the pass is in vain. Who waits asks too: whoever leaves early says so by stop. */
static int ended(const air_backend *h)
{
    return air__host_cancelled(h) || atomic_load_explicit(&h->belt.stopped, memory_order_acquire);
}

/* Small enough that threads finish together, large enough that taking one costs nothing; a multiple of what kernels hold in flight. */
int64_t air__chunk_rows(int threads, int64_t rows)
{
    int64_t even = rows / (threads * 8) & ~(int64_t)15;
    return even < 16 ? 16 : min64(even, AIR__CHUNK_ROWS);
}

/* The thread whose turn it is (asked counts span n): takes it from the feed. A failure ends the pass. */
static void take_span(air_backend *h, uint32_t n)
{
    air__belt *b = &h->belt;
    air__belt_span *s = &b->spans[n % AIR__BELT_SPANS];
    s->op = &h->program->ops[b->op];
    h->status = h->feed->next(h->feed->self, &s->span, &h->error);
    if (!h->status && s->span.weight != s->op->weight) {
        h->status = air_fail(&h->error, AIR_E_ARGUMENT, "cpu: the feed brought weight %d where %d was due", (int)s->span.weight,
                             (int)s->op->weight);
        h->feed->release(h->feed->self, &s->span);
    }
    if (h->status) {
        stop(b);
        return;
    }
    int op_ends = s->span.first_row + s->span.rows >= h->program->weights[s->op->weight].rows;
    s->op_first = b->op_first;
    s->chunk_rows = air__chunk_rows(h->threads, s->span.rows);
    s->last = op_ends && b->op + 1 == b->end;
    air_pool_job_reset(&s->job, (s->span.rows + s->chunk_rows - 1) / s->chunk_rows);
    atomic_store_explicit(&s->left, 0, memory_order_relaxed);
    if (op_ends) {
        b->op++;
        b->op_first = n + 1;
    }
    atomic_store_explicit(&b->ready, n + 1, memory_order_release);
    air_gate_count(&b->moved);
}

void air__products_begin(air_backend *h)
{
    air__belt *b = &h->belt;
    uint32_t n = atomic_load_explicit(&b->asked, memory_order_relaxed);
    b->op = h->stage->first;
    b->end = h->stage->first + h->stage->n_ops;
    b->op_first = b->stage_first = n;
    atomic_store_explicit(&b->asked, n + 1, memory_order_relaxed);
    air__adapters_begin(h);
    take_span(h, n);
}

static void note_idle(const air_backend *h, uint64_t begin)
{
    const air__stage *s = h->stage;
    air_timeline_add(h->timeline, &(air_event){
        .begin_ns = begin, .end_ns = air_clock_ns(), .kind = AIR_EVENT_IDLE, .lane = (uint16_t)air_lane(), .layer = s->layer,
        .weight = h->program->ops[s->first].weight, .number = AIR_NONE,
    });
}

/* Span n, taken by this thread or by another; NULL when the pass has ended. */
static air__belt_span *wait_for_span(air_backend *h, uint32_t n)
{
    air__belt *b = &h->belt;
    for (;;) {
        uint32_t seen = air_gate_read(&b->moved), turn = n;
        if (ended(h)) return NULL;
        if (atomic_load_explicit(&b->ready, memory_order_acquire) > n) return &b->spans[n % AIR__BELT_SPANS];
        int room = n - atomic_load_explicit(&b->released, memory_order_acquire) < AIR__BELT_SPANS;
        if (room && atomic_compare_exchange_strong(&b->asked, &turn, n + 1)) {
            take_span(h, n);
            continue;
        }
        uint64_t begin = h->timeline ? air_clock_ns() : 0;
        air_gate_wait(&b->moved, seen, h->pool);
        if (begin) note_idle(h, begin);
    }
}

/* Waits until all spans of the ops before this one in its stage have been left; 0 when the pass has ended. Their last chunks were
 * begun before the first of this op, so they are done, or nearly so, when a chunk of it is. */
static int earlier_done(air_backend *h, const air__belt_span *s)
{
    air__belt *b = &h->belt;
    for (;;) {
        uint32_t seen = air_gate_read(&b->moved);
        if (atomic_load_explicit(&b->released, memory_order_acquire) >= s->op_first) return 1;
        if (ended(h)) return 0;
        air_gate_wait(&b->moved, seen, h->pool);
    }
}

/* The last thread to leave a span gives it back. It has left the spans before and will leave those behind, so that they are given back
 * in order and one at a time. */
static void leave_span(air_backend *h, air__belt_span *s)
{
    if (atomic_fetch_add_explicit(&s->left, 1, memory_order_acq_rel) < h->threads - 1) return;
    h->feed->release(h->feed->self, &s->span);
    atomic_fetch_add_explicit(&h->belt.released, 1, memory_order_release);
    air_gate_count(&h->belt.moved);
}

void air__belt_clear(air_backend *h)
{
    air__belt *b = &h->belt;
    uint32_t ready = atomic_load(&b->ready);
    for (uint32_t n = atomic_load(&b->released); n < ready; n++)
        h->feed->release(h->feed->self, &b->spans[n % AIR__BELT_SPANS].span);
    atomic_store(&b->asked, 0);
    atomic_store(&b->ready, 0);
    atomic_store(&b->released, 0);
    atomic_store(&b->stopped, 0);
}

/* --- a chunk --- */

int air__reads_q8(const air_ops *ops, const air_weight *weight)
{
    air_product product = ops->product[weight->type];
    return product.fn && product.input == AIR_INPUT_Q8;
}

int air__product_reads_q8(const air_backend *h, const air_op *op)
{
    return air__reads_q8(h->ops, &h->program->weights[op->weight]);
}

/* Of a part of the input, that of all there is or a head's. */
static air_columns columns_of(const air_backend *h, const air_op *op, int64_t part, int64_t first, int64_t n)
{
    air__input_parts p = air__input_parts_of(h, op);
    int64_t width = h->program->buffers[op->in].width;
    return (air_columns){
        .k = p.k, .n = n, .f32 = air__host_buffer(h, op->in) + first * width + p.first + part * p.step, .f32_stride = (size_t)width,
        .q8 = air__q8_of(h, op, part, first),
    };
}

void air__multiply(const air_ops *ops, const air_weight *w, const uint8_t *data, int64_t rows, const air_columns *x, float *y,
                   size_t y_stride, float *decoded)
{
    air_product product = ops->product[w->type];
    if (product.fn) {
        product.fn(data, w->row_bytes, rows, x, y, y_stride);
        return;
    }
    const air_format *format = air_format_by_id(w->type);
    for (int64_t r = 0; r < rows; r++) {
        format->decode(data + (uint64_t)r * w->row_bytes, decoded, w->cols / format->block);
        ops->product[AIR_TYPE_F32].fn(decoded, (size_t)w->cols * sizeof(float), 1, x, y + r, y_stride);
    }
}

static void clamp(float *x, int64_t n, float most)
{
    for (int64_t i = 0; i < n; i++) x[i] = x[i] > most ? most : x[i] < -most ? -most : x[i]; /* NaN stays */
}

/* Folds a chunk of results into the output buffer at weight row first. */
static void finish(const air_backend *h, const air_op *op, float *result, int64_t rows, int64_t n, float *out, int64_t width,
                   int64_t first)
{
    const float *bias = op->bias == AIR_NONE ? NULL : h->feed->vectors[op->bias] + first;
    for (int64_t c = 0; c < n; c++) {
        float *r = result + c * rows, *o = out + c * width + first;
        if (bias) h->ops->add(r, bias, rows);
        for (int64_t i = 0; op->scale != 0.0f && i < rows; i++) r[i] *= op->scale;
        if (op->clamp != 0.0f) clamp(r, rows, op->clamp);
        if (op->softcap != 0.0f) h->ops->softcap(r, rows, op->softcap);
        if (op->epilogue == AIR_EPILOGUE_SET) h->ops->activate[op->activation](r, o, rows);
        if (op->epilogue == AIR_EPILOGUE_ADD) h->ops->add(o, r, rows);
        if (op->epilogue == AIR_EPILOGUE_GATED) h->ops->gated[op->activation](o, r, o, rows);
    }
}

/* Rows of one matrix: of the weight, or of one of its heads', which is `part`; their results go to out from element at on. 0 when the
 * pass has ended. */
typedef struct product_part { int64_t part, rows, at; const uint8_t *data; } product_part;

static int multiply_part(air_backend *h, const air__belt_span *s, const product_part *p, float *scratch)
{
    const air_op *op = s->op;
    const air_weight *w = &h->program->weights[op->weight];
    int64_t n = air__host_rows(h, op->in), width = h->program->buffers[op->out].width, rows = p->rows;
    float *out = air__host_buffer(h, op->out), *decoded = scratch, *result = scratch + ((w->cols + 15) & ~(int64_t)15);
    int direct = op->epilogue == AIR_EPILOGUE_SET && op->bias == AIR_NONE && op->scale == 0.0f && op->clamp == 0.0f &&
                 op->softcap == 0.0f && op->activation == AIR_ACTIVATION_NONE;
    for (int64_t c = 0; c < n; c += AIR__CHUNK_COLUMNS) {
        int64_t columns = min64(n - c, AIR__CHUNK_COLUMNS);
        air_columns x = columns_of(h, op, p->part, c, columns);
        float *o = out + c * width;
        if (direct) {
            air__multiply(h->ops, w, p->data, rows, &x, o + p->at, (size_t)width, decoded);
            if (h->pass->adapted) air__adapters_add(h, op, p->at, rows, c, columns, o + p->at, (size_t)width);
        } else {
            air__multiply(h->ops, w, p->data, rows, &x, result, (size_t)rows, decoded);
            if (h->pass->adapted) air__adapters_add(h, op, p->at, rows, c, columns, result, (size_t)rows);
            if (op->epilogue != AIR_EPILOGUE_SET && !earlier_done(h, s)) return 0;
            finish(h, op, result, rows, columns, o, width, p->at);
        }
    }
    return 1;
}

static void product_chunk(air_backend *h, const air__belt_span *s, int64_t chunk, float *scratch)
{
    const air_op *op = s->op;
    const air_weight *w = &h->program->weights[op->weight];
    if (s->span.left_out) return;
    int64_t from = chunk * s->chunk_rows, end = min64(from + s->chunk_rows, s->span.rows), each = op->heads ? w->rows / op->heads : w->rows;
    for (int64_t rows; from < end; from += rows) {
        int64_t row = s->span.first_row + from, head = row / each;
        rows = min64(end - from, (head + 1) * each - row);
        product_part p = {head, rows, row, s->span.data + (uint64_t)from * w->row_bytes};
        if (op->heads) p.at = op->to.first + head * op->to.step + row % each;
        if (!multiply_part(h, s, &p, scratch)) return;
    }
}

void air__products_run(air_backend *h, int index)
{
    air__adapters_run(h);
    for (uint32_t n = h->belt.stage_first;; n++) {
        air__belt_span *s = wait_for_span(h, n);
        if (!s) {
            stop(&h->belt);
            return;
        }
        int last = s->last; /* read before the span is another's */
        for (int64_t i; (i = air_pool_job_take(&s->job)) >= 0 && !ended(h);) product_chunk(h, s, i, air__host_scratch(h, index));
        leave_span(h, s);
        if (last) return;
    }
}
