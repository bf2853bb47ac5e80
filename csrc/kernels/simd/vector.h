/* The functions on vectors of ops.h, for any vec.h, and a q8.h with air__quantize(), included before. Each tail goes through the same
 * operations as a full vector. */
#ifndef AIR_KERNELS_SIMD_VECTOR_H
#define AIR_KERNELS_SIMD_VECTOR_H

#include <math.h>

#include "kernels/tables.h"
#include "kernels/simd/activation.h"

AIR_INLINE vf load_up_to(const float *p, int64_t n, vf fill) { return n >= V_N ? v_load(p) : v_load_n(p, n, fill); }

AIR_INLINE void store_up_to(float *p, vf v, int64_t n)
{
    if (n >= V_N) v_store(p, v);
    else v_store_n(p, v, n);
}

static void rms_norm(const float *x, const float *weight, float *y, int64_t n, float eps)
{
    vd sum = vd_zero(); /* in double: squares of large activations must not overflow */
    for (int64_t i = 0; i < n; i += V_N) {
        vd v = vd_widen(load_up_to(x + i, n - i, v_zero()));
        sum = vd_fma(v, v, sum);
    }
    vf scale = v_set((float)(1.0 / sqrt(vd_sum(sum) / (double)n + (double)eps)));
    for (int64_t i = 0; i < n; i += V_N) {
        vf v = v_mul(load_up_to(x + i, n - i, v_zero()), scale);
        if (weight) v = v_mul(v, load_up_to(weight + i, n - i, v_zero()));
        store_up_to(y + i, v, n - i);
    }
}

static void layer_norm(const float *x, const float *weight, const float *bias, float *y, int64_t n, float eps)
{
    vd sum = vd_zero(), rest = vd_zero(), squares = vd_zero();
    for (int64_t i = 0; i < n; i += V_N) sum = vd_add(sum, vd_widen(load_up_to(x + i, n - i, v_zero())));
    vf mean = v_set((float)(vd_sum(sum) / (double)n));
    for (int64_t i = 0; i < n; i += V_N) {
        vd v = vd_widen(v_sub(load_up_to(x + i, n - i, mean), mean));
        rest = vd_add(rest, v);
        squares = vd_fma(v, v, squares);
    }
    double off = vd_sum(rest) / (double)n, variance = vd_sum(squares) / (double)n - off * off; /* off: by rounding mean */
    double scale = 1.0 / sqrt((variance > 0 || variance != variance ? variance : 0) + (double)eps);
    vf by = v_set((float)scale), more = v_set((float)(-off * scale));
    for (int64_t i = 0; i < n; i += V_N) {
        vf v = v_fma(v_sub(load_up_to(x + i, n - i, v_zero()), mean), by, more);
        if (weight) v = v_mul(v, load_up_to(weight + i, n - i, v_zero()));
        if (bias) v = v_add(v, load_up_to(bias + i, n - i, v_zero()));
        store_up_to(y + i, v, n - i);
    }
}

static int64_t rope_neox(float *x, int64_t pairs, const float *cos, const float *sin)
{
    int64_t i = 0;
    for (; i + V_N <= pairs; i += V_N) {
        vf a = v_load(x + i), b = v_load(x + pairs + i), c = v_load(cos + i), s = v_load(sin + i);
        v_store(x + i, v_fnma(b, s, v_mul(a, c)));
        v_store(x + pairs + i, v_fma(a, s, v_mul(b, c)));
    }
    return i;
}

static int64_t rope_normal(float *x, int64_t pairs, const float *cos, const float *sin)
{
    int64_t i = 0;
    for (; i + V_N / 2 <= pairs; i += V_N / 2) {
        vf v = v_load(x + 2 * i);
        v_store(x + 2 * i, v_fmaddsub(v, v_load_twice(cos + i), v_mul(v_swap_pairs(v), v_load_twice(sin + i))));
    }
    return i;
}

static void rope(float *x, int64_t heads, int64_t head_dim, int64_t pairs, air_rope_pairs kind, const float *cos, const float *sin)
{
    int64_t step = kind == AIR_ROPE_NORMAL ? 2 : 1, apart = kind == AIR_ROPE_NORMAL ? 1 : pairs;
    for (int64_t h = 0; h < heads; h++, x += head_dim) {
        int64_t i = kind == AIR_ROPE_NORMAL ? rope_normal(x, pairs, cos, sin) : rope_neox(x, pairs, cos, sin);
        for (; i < pairs; i++) {
            float *a = x + i * step, *b = a + apart, a0 = *a, b0 = *b;
            *a = a0 * cos[i] - b0 * sin[i];
            *b = a0 * sin[i] + b0 * cos[i];
        }
    }
}

#define ACTIVATION(name, raised)                                                                                      \
    static void activate_##name(const float *x, float *y, int64_t n)                                                  \
    {                                                                                                                 \
        for (int64_t i = 0; i < n; i += V_N) store_up_to(y + i, v_##name(load_up_to(x + i, n - i, v_zero())), n - i); \
    }                                                                                                                 \
    static void gate_##name(const float *gate, const float *up, float *y, int64_t n)                                  \
    {                                                                                                                 \
        for (int64_t i = 0; i < n; i += V_N) {                                                                        \
            vf g = load_up_to(gate + i, n - i, v_zero()), u = load_up_to(up + i, n - i, v_zero());                    \
            store_up_to(y + i, v_mul(v_##name(g), v_##raised(u)), n - i);                                             \
        }                                                                                                             \
    }

ACTIVATION(none, as_it_is)
ACTIVATION(silu, as_it_is)
ACTIVATION(gelu, as_it_is)
ACTIVATION(gelu_erf, as_it_is)
ACTIVATION(relu2, as_it_is)
ACTIVATION(swiglu_oai, clamped_and_one)
ACTIVATION(sigmoid, as_it_is)

static void softcap(float *x, int64_t n, float cap)
{
    for (int64_t i = 0; i < n; i += V_N) store_up_to(x + i, v_softcap(load_up_to(x + i, n - i, v_zero()), cap), n - i);
}

static void add(float *y, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i += V_N)
        store_up_to(y + i, v_add(load_up_to(y + i, n - i, v_zero()), load_up_to(x + i, n - i, v_zero())), n - i);
}

static float softmax(float *x, int64_t n)
{
    vf infinity = v_set(-INFINITY), greatest = infinity;
    for (int64_t i = 0; i < n; i += V_N) greatest = v_max(load_up_to(x + i, n - i, infinity), greatest);
    float max = v_greatest(greatest);
    if (max == -INFINITY) max = 0; /* all are -inf, or NaN: zeros, or NaN */
    vd sum = vd_zero();
    for (int64_t i = 0; i < n; i += V_N) {
        vf e = v_exp(v_sub(load_up_to(x + i, n - i, infinity), v_set(max)));
        sum = vd_add(sum, vd_widen(e));
        store_up_to(x + i, e, n - i);
    }
    double total = vd_sum(sum);
    vf inverse = v_set(total == 0 ? 0 : (float)(1.0 / total));
    for (int64_t i = 0; i < n; i += V_N) store_up_to(x + i, v_mul(load_up_to(x + i, n - i, v_zero()), inverse), n - i);
    return (float)((double)max + log(total));
}

static void f32_to_f16(const float *x, uint16_t *y, int64_t n)
{
    int64_t i = 0;
    for (; i + V_N <= n; i += V_N) v_store_f16(y + i, v_load(x + i));
    if (i < n) v_store_f16_n(y + i, v_load_n(x + i, n - i, v_zero()), n - i);
}

#define VECTOR_FUNCTIONS                                                                                              \
    {                                                                                                                 \
        .quantize = air__quantize, .rms_norm = rms_norm, .layer_norm = layer_norm, .rope = rope,                      \
        .activate = {activate_none, activate_silu, activate_gelu, activate_gelu_erf, activate_relu2,                  \
                     activate_swiglu_oai, activate_sigmoid},                                                          \
        .gated = {gate_none, gate_silu, gate_gelu, gate_gelu_erf, gate_relu2, gate_swiglu_oai, gate_sigmoid},         \
        .softcap = softcap, .add = add, .softmax = softmax, .f32_to_f16 = f32_to_f16,                                 \
    }

#endif
