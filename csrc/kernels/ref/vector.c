/* The functions on vectors, as ops.h states them; sums in double. */
#include <math.h>

#include "kernels/tables.h"
#include "quant/half.h"

/* The greatest magnitude as bits: integers order floats, infinities and NaNs above all. */
static float greatest_magnitude(const float *x)
{
    uint32_t greatest = 0;
    for (int j = 0; j < AIR_Q8_GROUP; j++) {
        uint32_t magnitude = air_f32_bits(x[j]) & 0x7fffffffu;
        if (magnitude > greatest) greatest = magnitude;
    }
    return air_f32_from_bits(greatest);
}

static void quantize_group(const float *x, air_q8 out)
{
    float greatest = greatest_magnitude(x);
    int zeros = greatest < AIR__QUANTIZE_TINY || !isfinite(greatest);
    float inverse = zeros ? 0 : 127.0f / greatest;
    *out.scale = greatest < AIR__QUANTIZE_TINY ? 0 : greatest / 127.0f;
    out.sums[0] = out.sums[1] = 0;
    for (int j = 0; j < AIR_Q8_GROUP; j++) {
        out.q[j] = zeros ? 0 : (int8_t)lrintf(x[j] * inverse);
        out.sums[j / AIR_Q8_SUM_GROUP] = (int16_t)(out.sums[j / AIR_Q8_SUM_GROUP] + out.q[j]);
    }
}

/* Where element i of a tile is once it is turned. */
static int64_t turned(int64_t i)
{
    int64_t group = i / 32, dword = i / 4 % 8;
    return dword * 32 + group * 4 + i % 4;
}

static void quantize(const float *x, int64_t k, air_q8 out)
{
    for (int64_t at = 0; at < k; at += AIR_Q8_GROUP) quantize_group(x + at, air_q8_at(out, k, 0, at));
    for (int64_t i = 0; i < air_q8_tiles(k) * AIR_Q8_TILE; i++)
        out.turned[i / AIR_Q8_TILE * AIR_Q8_TILE + turned(i % AIR_Q8_TILE)] = i < k ? out.q[i] : 0;
}

static void rms_norm(const float *x, const float *weight, float *y, int64_t n, float eps)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    float scale = (float)(1.0 / sqrt(sum / (double)n + (double)eps));
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * scale * (weight ? weight[i] : 1.0f);
}

static void layer_norm(const float *x, const float *weight, const float *bias, float *y, int64_t n, float eps)
{
    double mean = 0, variance = 0;
    for (int64_t i = 0; i < n; i++) mean += (double)x[i];
    mean /= (double)n;
    for (int64_t i = 0; i < n; i++) variance += ((double)x[i] - mean) * ((double)x[i] - mean);
    double scale = 1.0 / sqrt(variance / (double)n + (double)eps);
    for (int64_t i = 0; i < n; i++)
        y[i] = (float)(((double)x[i] - mean) * scale) * (weight ? weight[i] : 1.0f) + (bias ? bias[i] : 0.0f);
}

static void rope(float *x, int64_t heads, int64_t head_dim, int64_t pairs, air_rope_pairs kind, const float *cos, const float *sin)
{
    int64_t step = kind == AIR_ROPE_NORMAL ? 2 : 1, apart = kind == AIR_ROPE_NORMAL ? 1 : pairs;
    for (int64_t h = 0; h < heads; h++, x += head_dim) {
        for (int64_t i = 0; i < pairs; i++) {
            float *a = x + i * step, *b = a + apart, a0 = *a, b0 = *b;
            *a = a0 * cos[i] - b0 * sin[i];
            *b = a0 * sin[i] + b0 * cos[i];
        }
    }
}

AIR_INLINE float of_none(float x) { return x; }
AIR_INLINE float of_silu(float x) { return x / (1.0f + expf(-x)); }
AIR_INLINE float of_gelu(float x)
{
    double z = (double)x;
    return (float)(0.5 * z * (1 + tanh(0.7978845608028654 * (z + 0.044715 * z * z * z)))); /* sqrt(2 / pi) */
}
AIR_INLINE float of_gelu_erf(float x) { return (float)(0.5 * (double)x * erfc(-0.7071067811865476 * (double)x)); }
AIR_INLINE float of_relu2(float x) { return x < 0 ? 0 : x * x; } /* NaN stays NaN */
AIR_INLINE float of_sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
AIR_INLINE float of_swiglu_oai(float x)
{
    float m = x > 7 ? 7 : x;
    return m / (1.0f + expf(-1.702f * m));
}
AIR_INLINE float as_it_is(float up) { return up; }
AIR_INLINE float clamped_and_one(float up) { return (up > 7 ? 7 : up < -7 ? -7 : up) + 1; }

/* raised: what becomes of the number that is gated. */
#define ACTIVATION(name, raised)                                                                                      \
    static void activate_##name(const float *x, float *y, int64_t n)                                                  \
    {                                                                                                                 \
        for (int64_t i = 0; i < n; i++) y[i] = of_##name(x[i]);                                                       \
    }                                                                                                                 \
    static void gate_##name(const float *gate, const float *up, float *y, int64_t n)                                  \
    {                                                                                                                 \
        for (int64_t i = 0; i < n; i++) y[i] = of_##name(gate[i]) * raised(up[i]);                                    \
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
    for (int64_t i = 0; i < n; i++) x[i] = cap * tanhf(x[i] / cap);
}

static void add(float *y, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) y[i] += x[i];
}

static float softmax(float *x, int64_t n)
{
    float max = -INFINITY;
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        if (x[i] > max) max = x[i];
    if (max == -INFINITY) max = 0; /* all are -inf, or NaN: zeros, or NaN */
    for (int64_t i = 0; i < n; i++) sum += (double)(x[i] = expf(x[i] - max));
    float inverse = sum == 0 ? 0 : (float)(1.0 / sum);
    for (int64_t i = 0; i < n; i++) x[i] *= inverse;
    return (float)((double)max + log(sum));
}

static void f32_to_f16(const float *x, uint16_t *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++) y[i] = air_f32_to_f16(x[i]);
}

const air_ops air__ref_vector = {
    .quantize   = quantize,
    .rms_norm   = rms_norm,
    .layer_norm = layer_norm,
    .rope       = rope,
    .activate   = {activate_none, activate_silu, activate_gelu, activate_gelu_erf, activate_relu2, activate_swiglu_oai,
                   activate_sigmoid},
    .gated      = {gate_none, gate_silu, gate_gelu, gate_gelu_erf, gate_relu2, gate_swiglu_oai, gate_sigmoid},
    .softcap    = softcap,
    .add        = add,
    .softmax    = softmax,
    .f32_to_f16 = f32_to_f16,
};
