/* kernels/attention.h: the walk over blocks of state that every tier's attention shares; a tier brings the three parts.
 *
 * Online softmax, one update per block of 64 positions. With m the running maximum and l the running sum of exponents of a head:
 *     m' = max(m, max s),  c = exp(m - m'),  p = exp(s - m'),  l = l c + sum p,  out = out c + p V
 * The scores are a product of the block's keys (rows) with queries (columns), so their bits are those of the tier's F16 and F32
 * products. A block that all rows attend is read once for all of them, one that some attend in part once for each: as each head of each
 * row is a column of its own, its bits do not depend on the rows beside it. */
#ifndef AIR_KERNELS_ATTENTION_H
#define AIR_KERNELS_ATTENTION_H

#include <math.h>
#include <string.h>

#include "kernels/ops.h"

typedef struct attention_softmax {
    float max, sum, correction; /* m, l and c above */
} attention_softmax;

/* n rows of values of dim elements, stride elements apart, weighted by p[head][row] (heads are AIR_BLOCK_POSITIONS apart). */
typedef struct attention_values {
    const void *v;
    int64_t     n, stride, dim;
    const float *p;
    const attention_softmax *state; /* [group] */
    float      *out;                /* [group][dim] */
    int64_t     group;
} attention_values;

typedef struct attention_parts {
    const air_ops *products; /* the tier's table that has F16 and F32 */
    /* Scores to exponents in place; brings state up to date. scale and softcap are applied first. */
    void (*softmax)(float *s, int64_t n, const air_attention_args *a, attention_softmax *state);
    void (*add_values_f16)(const attention_values *v);
    void (*add_values_f32)(const attention_values *v);
} attention_parts;

/* A call's heads, those of all its rows, and what is kept for each. */
typedef struct attention_work {
    const air_attention_args *args;
    const attention_parts    *parts;
    float *q;      /* [heads][head_dim] */
    float *scores; /* [heads][AIR_BLOCK_POSITIONS] */
    float *out;    /* [heads][value_dim] */
    attention_softmax *state;
} attention_work;

AIR_INLINE const char *attention_at(const air_attention_args *a, const void *const *blocks, int64_t position, int64_t stride,
                                    int64_t offset)
{
    size_t element = a->type == AIR_STATE_F16 ? sizeof(uint16_t) : sizeof(float);
    const char *block = (const char *)blocks[position / AIR_BLOCK_POSITIONS];
    return block + (size_t)(position % AIR_BLOCK_POSITIONS * stride + offset) * element;
}

/* Positions [lo, hi) of one block, for `heads` heads from `first` on. */
AIR_INLINE void attend_block(const attention_work *w, int64_t lo, int64_t hi, int64_t first, int64_t heads)
{
    const air_attention_args *a = w->args;
    int is_f16 = a->type == AIR_STATE_F16;
    float *scores = w->scores + first * AIR_BLOCK_POSITIONS;
    air_product_fn product = w->parts->products->product[is_f16 ? AIR_TYPE_F16 : AIR_TYPE_F32].fn;
    size_t row_bytes = (size_t)a->k_stride * (is_f16 ? sizeof(uint16_t) : sizeof(float));
    air_columns q = {.k = a->head_dim, .n = heads, .f32 = w->q + first * a->head_dim, .f32_stride = (size_t)a->head_dim};
    product(attention_at(a, a->k_blocks, lo, a->k_stride, a->k_offset), row_bytes, hi - lo, &q, scores, AIR_BLOCK_POSITIONS);
    for (int64_t h = 0; h < heads; h++) w->parts->softmax(scores + h * AIR_BLOCK_POSITIONS, hi - lo, a, &w->state[first + h]);
    attention_values values = {
        .v = attention_at(a, a->v_blocks, lo, a->v_stride, a->v_offset), .n = hi - lo, .stride = a->v_stride, .dim = a->value_dim,
        .p = scores, .state = w->state + first, .out = w->out + first * a->value_dim, .group = heads,
    };
    (is_f16 ? w->parts->add_values_f16 : w->parts->add_values_f32)(&values);
}

AIR_INLINE int64_t attention_first(const air_attention_args *a, int64_t row)
{
    return a->positions + row > a->window ? a->positions + row - a->window : 0;
}

AIR_INLINE void attention_run(const air_attention_args *a, const attention_parts *parts)
{
    int64_t heads = a->rows * a->group;
    attention_work w = {.args = a, .parts = parts, .q = a->scratch};
    w.scores = w.q + heads * a->head_dim;
    w.out = w.scores + heads * AIR_BLOCK_POSITIONS;
    w.state = (attention_softmax *)(void *)(w.out + heads * a->value_dim);
    for (int64_t r = 0; r < a->rows; r++)
        memcpy(w.q + r * a->group * a->head_dim, a->q + r * a->q_stride, (size_t)(a->group * a->head_dim) * sizeof *w.q);
    for (int64_t h = 0; h < heads; h++) w.state[h] = (attention_softmax){-INFINITY, 0, 0};
    memset(w.out, 0, (size_t)(heads * a->value_dim) * sizeof *w.out);

    int64_t last = a->positions + a->rows - 1, start = attention_first(a, 0) / AIR_BLOCK_POSITIONS * AIR_BLOCK_POSITIONS;
    for (; start < last; start += AIR_BLOCK_POSITIONS) {
        int64_t end = start + AIR_BLOCK_POSITIONS;
        if (attention_first(a, a->rows - 1) <= start && end <= a->positions) {
            attend_block(&w, start, end, 0, heads);
            continue;
        }
        for (int64_t r = 0; r < a->rows; r++) {
            int64_t lo = attention_first(a, r), hi = a->positions + r;
            if (lo < start) lo = start;
            if (hi > end) hi = end;
            if (lo < hi) attend_block(&w, lo, hi, r * a->group, a->group);
        }
    }
    for (int64_t h = 0; h < heads; h++) {
        float inverse = w.state[h].sum == 0.0f ? 0.0f : 1.0f / w.state[h].sum;
        float *out = a->out + h / a->group * a->out_stride + h % a->group * a->value_dim;
        for (int64_t i = 0; i < a->value_dim; i++) out[i] = w.out[h * a->value_dim + i] * inverse;
    }
}

#endif
