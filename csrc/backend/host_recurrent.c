/* What goes on from one position of a sequence to the next, on the CPU: convolutions, whose jobs are some channels of a sequence, and
 * recurrences, whose jobs are its heads. A job walks all of the sequence's rows: step by step, so that bits do not depend on how a prompt
 * is cut into passes. */
#include "backend/host.h"

#include <math.h>

enum {
    JOBS = 4,                           /* for each thread, so that threads end together */
    CHANNELS_LEAST = 64, CHANNELS_MOST = 512, /* of a job: whole lines, and what a row of does not fall out of the nearest cache */
    ROWS = 32,                          /* whose steps, queries and keys are made ready at a time */
};

static int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

/* A sequence's rows follow each other, so the pass's are those of the states from the first row's to the last one's. */
static int64_t sequences_of(const air_pass *p) { return p->sequences[p->rows - 1] - p->sequences[0] + 1; }

static const air_op *op_of(const air_backend *h) { return &h->program->ops[h->stage->first]; }

static const air_recurrent_shape *shape_of(const air_backend *h) { return &h->program->recurrent[h->stage->layer]; }

static int64_t channels_of_job(const air_backend *h)
{
    int64_t all = shape_of(h)->channels * sequences_of(h->pass), even = all / (h->threads * JOBS) / AIR_STATE_TILE * AIR_STATE_TILE;
    return max64(CHANNELS_LEAST, min64(even, CHANNELS_MOST));
}

/* Jobs of a sequence. */
static int64_t parts_of(const air_backend *h)
{
    const air_recurrent_shape *s = shape_of(h);
    int64_t each = channels_of_job(h);
    return op_of(h)->kind == AIR_OP_SCAN ? s->heads : (s->channels + each - 1) / each;
}

void air__recurrent_begin(air_backend *h) { air_pool_job_reset(&h->job, sequences_of(h->pass) * parts_of(h)); }

/* --- convolution --- */

static void convolve(const air_backend *h, const air_recurrent_span *span, int64_t first, int64_t n)
{
    const air_recurrent_shape *s = shape_of(h);
    const air_op *op = op_of(h);
    int64_t width = s->channels, from = span->first * width + first;
    float *out = air__host_buffer(h, op->out) + from;
    h->ops->convolve(&(air_convolve_args){
        .x = air__host_buffer(h, op->in) + from, .y = out, .rows = span->rows, .channels = n, .x_stride = width, .y_stride = width,
        .weight = h->feed->vectors[op->weight] + first * s->taps,
        .bias = op->bias == AIR_NONE ? NULL : h->feed->vectors[op->bias] + first, .taps = s->taps,
        .before = span->before ? (const float *)(const void *)(span->before + s->offset) + first : NULL,
        .after = (float *)(void *)(span->after + s->offset) + first, .window_stride = width,
    });
    for (int64_t r = 0; op->activation != AIR_ACTIVATION_NONE && r < span->rows; r++)
        h->ops->activate[op->activation](out + r * width, out + r * width, n);
}

/* --- recurrence --- */

size_t air__recurrent_scratch_floats(const air_program *p)
{
    int64_t most = 0;
    for (int32_t i = 0; p->recurrent && i < p->n_layers; i++) most = max64(most, ROWS * (2 + 2 * (int64_t)p->recurrent[i].key_dim));
    return (size_t)most;
}

static float softplus(float x) { return x > 20 ? x : log1pf(expf(x)); }
static float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

/* What the vectors of ready have of a row: how much of S stays, how much of it is written. */
static void prepare_step(const air_backend *h, const air_recurrent_shape *s, int64_t head, const float *steps, float *decay, float *write)
{
    float rate = h->feed->vectors[s->rate][head], bias = h->feed->vectors[s->step_bias][head];
    if (s->kind == AIR_RECURRENCE_STATE_SPACE) {
        *write = softplus(steps[head] + bias);
        *decay = expf(rate * *write);
        return;
    }
    int64_t shared = s->in_turn ? s->heads : s->heads / s->key_heads;
    const float *own = steps + head / shared * 2 * shared + head % shared;
    *write = sigmoid(own[0]);
    *decay = expf(rate * softplus(own[shared] + bias));
}

/* scale x / sqrt(|x|^2 + eps): an RMS norm is that times the root of n. */
static void to_length(const air_ops *ops, const float *x, float *y, int64_t n, float eps, float scale)
{
    float by = scale / sqrtf((float)n);
    ops->rms_norm(x, NULL, y, n, eps / (float)n);
    for (int64_t i = 0; i < n; i++) y[i] *= by;
}

/* Rows [first, first + n) of a head, n at most ROWS. */
static void scan_rows(const air_backend *h, int64_t head, int64_t first, int64_t n, const float *before, float *after, float *scratch)
{
    const air_recurrent_shape *s = shape_of(h);
    const air_op *op = op_of(h);
    const air_buffer_desc *buffers = h->program->buffers;
    int64_t width = buffers[op->in].width, key_head = s->in_turn ? head % s->key_heads : head / (s->heads / s->key_heads);
    int64_t key = key_head * s->key_dim;
    int64_t out_width = (int64_t)s->heads * s->value_dim;
    const float *in = air__host_buffer(h, op->in) + first * width;
    float *decay = scratch, *write = decay + ROWS, *q = write + ROWS, *k = q + ROWS * s->key_dim;
    air_scan_args a = {
        .q = in + s->q + key, .k = in + s->k + key, .v = in + s->v + head * s->value_dim, .q_stride = width, .k_stride = width,
        .v_stride = width, .decay = decay, .write = write, .skip = s->skip == AIR_NONE ? 0 : h->feed->vectors[s->skip][head],
        .delta = s->kind == AIR_RECURRENCE_DELTA, .out = air__host_buffer(h, op->out) + first * out_width + head * s->value_dim,
        .out_stride = out_width, .before = before, .after = after, .rows = n, .key_dim = s->key_dim, .value_dim = s->value_dim,
    };
    for (int64_t r = 0; r < n; r++) {
        const float *steps = air__host_buffer(h, op->in2) + (first + r) * buffers[op->in2].width;
        prepare_step(h, s, head, steps, &decay[r], &write[r]);
        if (!a.delta) continue;
        to_length(h->ops, a.q + r * width, q + r * s->key_dim, s->key_dim, s->eps, 1 / sqrtf((float)s->key_dim));
        to_length(h->ops, a.k + r * width, k + r * s->key_dim, s->key_dim, s->eps, 1);
    }
    if (a.delta) a.q = q, a.k = k, a.q_stride = a.k_stride = s->key_dim;
    h->ops->scan(&a);
}

static void scan(const air_backend *h, const air_recurrent_span *span, int64_t head, float *scratch)
{
    const air_recurrent_shape *s = shape_of(h);
    size_t at = s->offset + (size_t)(air_recurrent_matrices_at(s) + head * air_recurrent_matrix(s)) * sizeof(float);
    const float *before = span->before ? (const float *)(const void *)(span->before + at) : NULL;
    float *after = (float *)(void *)(span->after + at);
    for (int64_t r = 0; r < span->rows && !air__host_cancelled(h); r += ROWS) {
        scan_rows(h, head, span->first + r, min64(ROWS, span->rows - r), before, after, scratch);
        before = after;
    }
}

void air__recurrent_run(air_backend *h, int index)
{
    int64_t parts = parts_of(h), each = channels_of_job(h), channels = shape_of(h)->channels;
    for (int64_t i; (i = air_pool_job_take(&h->job)) >= 0 && !air__host_cancelled(h);) {
        const air_state_view *view = &h->pass->states[h->pass->sequences[0] + i / parts];
        int64_t part = i % parts;
        for (int32_t n = 0; n < view->n_spans; n++) {
            if (op_of(h)->kind == AIR_OP_SCAN) scan(h, &view->spans[n], part, air__host_scratch(h, index));
            else convolve(h, &view->spans[n], part * each, min64(each, channels - part * each));
        }
    }
}
