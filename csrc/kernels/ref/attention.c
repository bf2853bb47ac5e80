/* Attention, portable: the parts that attention.h asks for. */
#include "kernels/attention.h"
#include "kernels/tables.h"
#include "quant/half.h"

static void softmax(float *s, int64_t n, const air_attention_args *a, attention_softmax *state)
{
    float max = state->max;
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        s[i] *= a->scale;
        if (a->softcap != 0.0f) s[i] = a->softcap * tanhf(s[i] / a->softcap);
        if (s[i] > max) max = s[i];
    }
    for (int64_t i = 0; i < n; i++) sum += (double)(s[i] = expf(s[i] - max));
    state->correction = expf(state->max - max);
    state->sum = (float)((double)state->sum * (double)state->correction + sum);
    state->max = max;
}

static float value_f32(const void *v, int64_t i)
{
    return ((const float *)v)[i];
}

static float value_f16(const void *v, int64_t i)
{
    return air_f16_to_f32(((const uint16_t *)v)[i]);
}

AIR_INLINE void add_values(const attention_values *a, float (*value)(const void *, int64_t))
{
    for (int64_t g = 0; g < a->group; g++) {
        const float *p = a->p + g * AIR_BLOCK_POSITIONS;
        for (int64_t i = 0; i < a->dim; i++) {
            float *out = a->out + g * a->dim + i;
            double sum = (double)*out * (double)a->state[g].correction;
            for (int64_t r = 0; r < a->n; r++) sum += (double)p[r] * (double)value(a->v, r * a->stride + i);
            *out = (float)sum;
        }
    }
}

static void add_values_f16(const attention_values *a)
{
    add_values(a, value_f16);
}

static void add_values_f32(const attention_values *a)
{
    add_values(a, value_f32);
}

static void attention(const air_attention_args *args)
{
    static const attention_parts parts = {&air__ref_float, softmax, add_values_f16, add_values_f32};
    attention_run(args, &parts);
}

const air_ops air__ref_attention = {.attention = attention};
