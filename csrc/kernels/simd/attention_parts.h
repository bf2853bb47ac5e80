/* The parts of attention that kernels/attention.h asks for, for any vec.h included before. The includer names float products. */
#ifndef AIR_KERNELS_SIMD_ATTENTION_PARTS_H
#define AIR_KERNELS_SIMD_ATTENTION_PARTS_H

#include "kernels/attention.h"
#include "kernels/tables.h"
#include "kernels/simd/exp.h"

AIR_INLINE vf scaled_score(const float *s, int64_t n, const air_attention_args *a)
{
    vf v = v_mul(n >= V_N ? v_load(s) : v_load_n(s, n, v_zero()), v_set(a->scale));
    if (a->softcap == 0.0f) return v;
    /* tanh(z) = 1 - 2 / (e^2z + 1) */
    vf e = v_exp(v_mul(v_div(v, v_set(a->softcap)), v_set(2.0f)));
    return v_mul(v_set(a->softcap), v_sub(v_set(1.0f), v_div(v_set(2.0f), v_add(e, v_set(1.0f)))));
}

static void softmax(float *s, int64_t n, const air_attention_args *a, attention_softmax *state)
{
    vf max = v_set(state->max), sum = v_zero();
    for (int64_t i = 0; i < n; i += V_N) {
        vf v = scaled_score(s + i, n - i, a);
        if (n - i >= V_N) v_store(s + i, v);
        else v_store_n(s + i, v, n - i), v = v_load_n(s + i, n - i, max);
        max = v_max(v, max);
    }
    vf greatest = v_set(v_greatest(max));
    for (int64_t i = 0; i < n; i += V_N) {
        vf v = v_exp(v_sub(n - i >= V_N ? v_load(s + i) : v_load_n(s + i, n - i, v_set(-INFINITY)), greatest));
        if (n - i >= V_N) v_store(s + i, v);
        else v_store_n(s + i, v, n - i);
        sum = v_add(sum, v);
    }
    float m = v_greatest(greatest), first[V_N];
    v_store(first, v_exp(v_set(state->max - m)));
    state->correction = first[0];
    state->sum = state->sum * state->correction + v_sum(sum);
    state->max = m;
}

AIR_INLINE vf value_f32(const void *v, int64_t i, int64_t n)
{
    const float *p = (const float *)v + i;
    return n >= V_N ? v_load(p) : v_load_n(p, n, v_zero());
}

AIR_INLINE vf value_f16(const void *v, int64_t i, int64_t n)
{
    const uint16_t *p = (const uint16_t *)v + i;
    return n >= V_N ? v_load_f16(p) : v_load_f16_n(p, n);
}

typedef vf (*value_fn)(const void *v, int64_t i, int64_t n);

enum { WIDTH = 4 }; /* vectors of a value taken at once */

/* out = out * correction + p V for G heads from g on and D vectors from element i on; n elements where D is 1. */
AIR_INLINE void add_rectangle(const attention_values *a, int64_t g, int64_t i, int64_t n, int G, int D, value_fn value)
{
    vf acc[V_HEADS][WIDTH];
    AIR__UNROLL
    for (int h = 0; h < G; h++) {
        vf correction = v_set(a->state[g + h].correction);
        AIR__UNROLL
        for (int d = 0; d < D; d++) acc[h][d] = v_mul(value_f32(a->out + (g + h) * a->dim, i + d * V_N, n), correction);
    }
    for (int64_t r = 0; r < a->n; r++) {
        vf v[WIDTH];
        AIR__UNROLL
        for (int d = 0; d < D; d++) v[d] = value(a->v, r * a->stride + i + d * V_N, n);
        AIR__UNROLL
        for (int h = 0; h < G; h++) {
            vf p = v_set(a->p[(g + h) * AIR_BLOCK_POSITIONS + r]);
            AIR__UNROLL
            for (int d = 0; d < D; d++) acc[h][d] = v_fma(p, v[d], acc[h][d]);
        }
    }
    AIR__UNROLL
    for (int h = 0; h < G; h++) {
        AIR__UNROLL
        for (int d = 0; d < D; d++) {
            float *out = a->out + (g + h) * a->dim + i + d * V_N;
            if (n >= V_N) v_store(out, acc[h][d]);
            else v_store_n(out, acc[h][d], n);
        }
    }
}

AIR_INLINE void add_heads(const attention_values *a, int64_t g, int G, value_fn value)
{
    int64_t i = 0;
    for (; i + WIDTH * V_N <= a->dim; i += WIDTH * V_N) add_rectangle(a, g, i, V_N, G, WIDTH, value);
    for (; i + V_N <= a->dim; i += V_N) add_rectangle(a, g, i, V_N, G, 1, value);
    if (i < a->dim) add_rectangle(a, g, i, a->dim - i, G, 1, value);
}

AIR_INLINE void add_values(const attention_values *a, value_fn value)
{
    int64_t g = 0;
    for (; g + V_HEADS <= a->group; g += V_HEADS) add_heads(a, g, V_HEADS, value);
    for (; g < a->group; g++) add_heads(a, g, 1, value);
}

static void add_values_f32(const attention_values *a)
{
    add_values(a, value_f32);
}

static void add_values_f16(const attention_values *a)
{
    add_values(a, value_f16);
}

#define ATTENTION(float_products)                                                                  \
    static void attention(const air_attention_args *args)                                          \
    {                                                                                              \
        static const attention_parts parts = {&float_products, softmax, add_values_f16, add_values_f32}; \
        attention_run(args, &parts);                                                               \
    }

#endif
