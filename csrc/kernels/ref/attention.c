/* Attention, portable: the parts that attention.h asks for. */
#include "kernels/attention.h"
#include "kernels/tables.h"
#include "quant/half.h"

static void softmax(float *s, int64_t n, const air_attention_args *a, attention_softmax *state)
{
    float max = state->max;
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        if (a->softcap != 0.0f) s[i] = a->softcap * tanhf(s[i] / a->softcap);
        if (s[i] > max) max = s[i];
    }
    for (int64_t i = 0; i < n; i++) sum += (double)(s[i] = expf(s[i] - max));
    state->correction = expf(state->max - max);
    state->sum = (float)((double)state->sum * (double)state->correction + sum);
    state->max = max;
}

/* Of a row and a column; element and position say which scale it has. */
typedef float (*element_fn)(const attention_matrix *m, int64_t row, int64_t column, int64_t element, int64_t position);

static int64_t place(const attention_matrix *m, int64_t row, int64_t column)
{
    return row * m->row + column / AIR_STATE_TILE * m->tile + column % AIR_STATE_TILE;
}

static float element_f32(const attention_matrix *m, int64_t row, int64_t column, int64_t element, int64_t position)
{
    (void)element, (void)position;
    return ((const float *)m->data)[place(m, row, column)];
}

static float element_f16(const attention_matrix *m, int64_t row, int64_t column, int64_t element, int64_t position)
{
    (void)element, (void)position;
    return air_f16_to_f32(((const uint16_t *)m->data)[place(m, row, column)]);
}

static float element_q8(const attention_matrix *m, int64_t row, int64_t column, int64_t element, int64_t position)
{
    float scale = air_f16_to_f32(m->scales[element / AIR_STATE_GROUP * AIR_BLOCK_POSITIONS + position]);
    return scale * (float)((const int8_t *)m->data)[place(m, row, column)];
}

static float element_q4(const attention_matrix *m, int64_t element, int64_t position, uint8_t byte, int64_t high)
{
    float scale = air_f16_to_f32(m->scales[element / AIR_STATE_GROUP * AIR_BLOCK_POSITIONS + position]);
    return scale * (float)((byte >> 4 * high & 15) - 8);
}

static float element_q4_key(const attention_matrix *m, int64_t row, int64_t column, int64_t element, int64_t position)
{
    int64_t at = place(m, row - row % 2, column); /* two rows share their bytes */
    return element_q4(m, element, position, ((const uint8_t *)m->data)[(at - at % AIR_STATE_TILE) / 2 + at % AIR_STATE_TILE], row % 2);
}

static float element_q4_value(const attention_matrix *m, int64_t row, int64_t column, int64_t element, int64_t position)
{
    int64_t at = place(m, row, column);
    return element_q4(m, element, position, ((const uint8_t *)m->data)[at / 16 * 8 + at % 8], at % 16 / 8);
}

AIR_INLINE void scores(const attention_matrix *k, const float *q, int64_t head_dim, float *out, int64_t heads, element_fn element)
{
    for (int64_t p = 0; p < k->columns; p++)
        for (int64_t h = 0; h < heads; h++) {
            double sum = 0;
            for (int64_t i = 0; i < head_dim; i++) sum += (double)q[h * head_dim + i] * (double)element(k, i, p, i, p);
            out[h * AIR_BLOCK_POSITIONS + p] = (float)sum;
        }
}

AIR_INLINE void add_values(const attention_matrix *v, const float *p, const attention_softmax *state, float *out, int64_t heads,
                           element_fn element)
{
    for (int64_t h = 0; h < heads; h++)
        for (int64_t i = 0; i < v->columns; i++) {
            float *o = out + h * v->columns + i;
            double sum = (double)*o * (double)state[h].correction;
            for (int64_t r = 0; r < v->rows; r++) sum += (double)p[h * AIR_BLOCK_POSITIONS + r] * (double)element(v, r, i, i, r);
            *o = (float)sum;
        }
}

AIR_INLINE void add_keys(const attention_matrix *k, const attention_in_keys *v, const float *p, const attention_softmax *state, float *out,
                         int64_t heads, element_fn element)
{
    int64_t row = air_state_padded(v->columns);
    for (int64_t h = 0; h < heads; h++)
        for (int64_t i = 0; i < v->columns; i++) {
            float *o = out + h * row + i;
            double sum = (double)*o * (double)state[h].correction;
            for (int64_t r = 0; r < v->rows; r++)
                sum += (double)p[h * AIR_BLOCK_POSITIONS + r] * (double)element(k, i, v->first + r, i, v->first + r);
            *o = (float)sum;
        }
}

#define ATTENTION_OVER(type, key, value)                                                                                                     \
    static void scores_##type(const attention_matrix *k, const float *q, int64_t head_dim, float *out, int64_t heads)             \
    {                                                                                                                              \
        scores(k, q, head_dim, out, heads, element_##key);                                                                         \
    }                                                                                                                              \
    static void add_values_##type(const attention_matrix *v, const float *p, const attention_softmax *state, float *out,          \
                                  int64_t heads)                                                                                   \
    {                                                                                                                              \
        add_values(v, p, state, out, heads, element_##value);                                                                      \
    }                                                                                                                              \
    static void add_keys_##type(const attention_matrix *k, const attention_in_keys *v, const float *p, const attention_softmax *state, \
                                float *out, int64_t heads)                                                                           \
    {                                                                                                                              \
        add_keys(k, v, p, state, out, heads, element_##key);                                                                       \
    }

ATTENTION_OVER(f16, f16, f16)
ATTENTION_OVER(f32, f32, f32)
ATTENTION_OVER(q8, q8, q8)
ATTENTION_OVER(q4, q4_key, q4_value)

static void attention(const air_attention_args *args)
{
    static const attention_parts parts = {
        .scores = {scores_f16, scores_f32, scores_q8, scores_q4},
        .softmax = softmax,
        .add_values = {add_values_f16, add_values_f32, add_values_q8, add_values_q4},
        .add_keys = {add_keys_f16, add_keys_f32, add_keys_q8, add_keys_q4},
    };
    attention_run(args, &parts);
}

static void attention_merge(const air_attention_args *args) { merge_run(args); }

const air_ops air__ref_attention = {.attention = attention, .attention_merge = attention_merge};
