/* kernels/attention.h: the walk over blocks of state that every tier's attention shares; a tier brings the three parts.
 *
 * Online softmax, one update per block of 64 positions. With m the running maximum and l the running sum of exponents of a head:
 *     m' = max(m, max s),  c = exp(m - m'),  p = exp(s - m'),  l = l c + sum p,  out = out c + p V
 * The scores are a product of the block's keys (rows) with the group's queries (columns), so K is read once for the group and
 * their bits are those of the tier's F16 and F32 products. */
#ifndef AIR_KERNELS_ATTENTION_H
#define AIR_KERNELS_ATTENTION_H

#include <math.h>

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

AIR_INLINE void attention_run(const air_attention_args *a, const attention_parts *parts)
{
    int is_f16 = a->type == AIR_STATE_F16;
    size_t element = is_f16 ? sizeof(uint16_t) : sizeof(float);
    air_product_fn product = parts->products->product[is_f16 ? AIR_TYPE_F16 : AIR_TYPE_F32].fn;
    attention_softmax *state = (attention_softmax *)(void *)(a->scratch + a->group * AIR_BLOCK_POSITIONS);
    air_columns q = {.k = a->head_dim, .n = a->group, .f32 = a->q, .f32_stride = (size_t)a->head_dim};

    for (int64_t g = 0; g < a->group; g++) state[g] = (attention_softmax){-INFINITY, 0, 0};
    for (int64_t i = 0; i < a->group * a->value_dim; i++) a->out[i] = 0;

    for (int64_t start = a->first - a->first % AIR_BLOCK_POSITIONS; start < a->positions; start += AIR_BLOCK_POSITIONS) {
        int64_t lo = a->first > start ? a->first - start : 0;
        int64_t hi = a->positions - start < AIR_BLOCK_POSITIONS ? a->positions - start : AIR_BLOCK_POSITIONS;
        const char *k = (const char *)a->k_blocks[start / AIR_BLOCK_POSITIONS] + (size_t)(lo * a->k_stride + a->k_offset) * element;
        const char *v = (const char *)a->v_blocks[start / AIR_BLOCK_POSITIONS] + (size_t)(lo * a->v_stride + a->v_offset) * element;

        product(k, (size_t)a->k_stride * element, hi - lo, &q, a->scratch, AIR_BLOCK_POSITIONS);
        for (int64_t g = 0; g < a->group; g++) parts->softmax(a->scratch + g * AIR_BLOCK_POSITIONS, hi - lo, a, &state[g]);

        attention_values values = {.v = v, .n = hi - lo, .stride = a->v_stride, .dim = a->value_dim,
                                   .p = a->scratch, .state = state, .out = a->out, .group = a->group};
        (is_f16 ? parts->add_values_f16 : parts->add_values_f32)(&values);
    }
    for (int64_t g = 0; g < a->group; g++) {
        float inverse = state[g].sum == 0.0f ? 0.0f : 1.0f / state[g].sum;
        for (int64_t i = 0; i < a->value_dim; i++) a->out[g * a->value_dim + i] *= inverse;
    }
}

#endif
