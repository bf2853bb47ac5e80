/* The parts of attention that kernels/attention.h asks for, for any vec.h included before. */
#ifndef AIR_KERNELS_SIMD_ATTENTION_PARTS_H
#define AIR_KERNELS_SIMD_ATTENTION_PARTS_H

#include "kernels/attention.h"
#include "kernels/simd/loops.h"
#include "kernels/tables.h"
#include "kernels/simd/activation.h"

static void cap(float *s, int64_t n, float softcap)
{
    for (int64_t i = 0; i < n; i += V_N) {
        if (n - i >= V_N) v_store(s + i, v_softcap(v_load(s + i), softcap));
        else v_store_n(s + i, v_softcap(v_load_n(s + i, n - i, v_zero()), softcap), n - i);
    }
}

static void softmax(float *s, int64_t n, const air_attention_args *a, attention_softmax *state)
{
    if (a->softcap != 0.0f) cap(s, n, a->softcap);
    vf max = v_set(state->max), sum = v_zero();
    for (int64_t i = 0; i < n; i += V_N) max = v_max(n - i >= V_N ? v_load(s + i) : v_load_n(s + i, n - i, max), max);
    float m = v_greatest(max), first[V_N];
    for (int64_t i = 0; i < n; i += V_N) {
        if (n - i >= V_N) {
            vf v = v_exp_down(v_sub(v_load(s + i), v_set(m)));
            v_store(s + i, v);
            sum = v_add(sum, v);
        } else {
            v_store_n(s + i, v_exp_down(v_sub(v_load_n(s + i, n - i, v_zero()), v_set(m))), n - i);
            sum = v_add(sum, v_load_n(s + i, n - i, v_zero()));
        }
    }
    v_store(first, v_exp_down(v_set(state->max - m)));
    state->correction = first[0];
    state->sum = state->sum * state->correction + v_sum(sum);
    state->max = m;
}

/* The elements of a type of state: bits, whether they have scales, V_N of them from the i-th on as floats. */
typedef struct element_kind {
    int bits, scaled;
    vf (*load)(const void *m, int64_t i);
} element_kind;

AIR_INLINE vf element_f32(const void *m, int64_t i) { return v_load((const float *)m + i); }
AIR_INLINE vf element_f16(const void *m, int64_t i) { return v_load_f16((const uint16_t *)m + i); }
AIR_INLINE vf element_q8(const void *m, int64_t i) { return v_load_i8((const int8_t *)m + i); }
/* The i-th as if elements lay one by one: rows of keys share their bytes by twos, a row's values by tiles (state.h). */
AIR_INLINE vf element_q4_key(const void *m, int64_t i)
{
    return v_load_i4((const uint8_t *)m + i / (2 * AIR_STATE_TILE) * AIR_STATE_TILE + i % AIR_STATE_TILE, i / AIR_STATE_TILE % 2 * 4);
}
AIR_INLINE vf element_q4_value(const void *m, int64_t i)
{
    return v_load_i4_tile((const uint8_t *)m + i / AIR_STATE_TILE * (AIR_STATE_TILE / 2), i % AIR_STATE_TILE);
}

/* Heads taken at once; vectors of columns: the most beside each, of a tile, of a group of values with a scale. */
enum { HEADS = V_HEADS, WIDTH = AIR_BLOCK_POSITIONS / V_N, TILE_WIDTH = AIR_STATE_TILE / V_N, GROUP_WIDTH = AIR_STATE_GROUP / V_N };

/* acc[h][d] += sum over rows of w[h][row] * m[row][column + d]: G heads of w, stride apart, and D vectors of columns from a whole tile on.
 * An accumulator sees the same operations for any G and D. */
AIR_INLINE void add_rows(vf acc[HEADS][WIDTH], const attention_matrix *m, int64_t first, int64_t rows, int64_t column, const float *w,
                         int64_t stride, int G, int D, element_kind kind)
{
    int64_t at = first * m->row + column / AIR_STATE_TILE * m->tile;
    const char *ahead = m->ahead + (column * m->rows + first * D * V_N) * kind.bits / 8;
    for (int64_t r = 0; r < rows; r++, at += m->row, ahead += D * V_N * kind.bits / 8) {
        AIR_PREFETCH(ahead);
        vf v[WIDTH];
        AIR__UNROLL
        for (int d = 0; d < D; d++) v[d] = kind.load(m->data, at + d / TILE_WIDTH * m->tile + d % TILE_WIDTH * V_N);
        AIR__UNROLL
        for (int h = 0; h < G; h++) {
            vf p = v_set(w[h * stride + r]);
            AIR__UNROLL
            for (int d = 0; d < D; d++) acc[h][d] = v_fma(p, v[d], acc[h][d]);
        }
    }
}

typedef struct keys_call {
    const float *q;
    int64_t head_dim;
    float *scores;
} keys_call;

/* Scores of G heads at D vectors of positions. Groups of elements with a scale are added up apart, then scaled. */
AIR_INLINE void score_rectangle(const attention_matrix *k, keys_call c, int64_t column, int G, int D, element_kind kind)
{
    int64_t step = kind.scaled ? AIR_STATE_GROUP : k->rows;
    for (int64_t first = 0; first < k->rows; first += step) {
        vf acc[HEADS][WIDTH], scale[WIDTH];
        AIR__UNROLL
        for (int h = 0; h < G; h++) {
            AIR__UNROLL
            for (int d = 0; d < D; d++) acc[h][d] = v_zero();
        }
        add_rows(acc, k, first, k->rows - first < step ? k->rows - first : step, column, c.q + first, c.head_dim, G, D, kind);
        if (kind.scaled) {
            AIR__UNROLL
            for (int d = 0; d < D; d++)
                scale[d] = v_load_f16(k->scales + first / AIR_STATE_GROUP * AIR_BLOCK_POSITIONS + column + d * V_N);
        }
        AIR__UNROLL
        for (int h = 0; h < G; h++) {
            AIR__UNROLL
            for (int d = 0; d < D; d++) {
                float *s = c.scores + h * AIR_BLOCK_POSITIONS + column + d * V_N;
                if (kind.scaled) acc[h][d] = v_fma(acc[h][d], scale[d], first ? v_load(s) : v_zero());
                v_store(s, acc[h][d]);
            }
        }
    }
}

AIR_INLINE void score_heads(const attention_matrix *k, keys_call c, int64_t g, int G, int D, element_kind kind)
{
    c.q += g * c.head_dim;
    c.scores += g * AIR_BLOCK_POSITIONS;
    for (int64_t column = 0; column < AIR_BLOCK_POSITIONS; column += D * V_N) score_rectangle(k, c, column, G, D, kind);
}

/* Vectors of columns beside G heads, at most `most`: as many as there are sums for, a power of two, so that they divide a block. */
#define BESIDE(G, most) AT_MOST(V_SUMS / (G) >= 8 ? 8 : V_SUMS / (G) >= 4 ? 4 : V_SUMS / (G) >= 2 ? 2 : 1, most)
#define AT_MOST(n, most) ((n) < (most) ? (n) : (most))

AIR_INLINE void score_all(const attention_matrix *k, keys_call c, int64_t heads, element_kind kind)
{
    int64_t g = 0;
    for (; g + HEADS <= heads; g += HEADS) score_heads(k, c, g, HEADS, BESIDE(HEADS, WIDTH), kind);
    if (HEADS > 4 && g + 4 <= heads) score_heads(k, c, g, 4, BESIDE(4, WIDTH), kind), g += 4;
    if (g + 2 <= heads) score_heads(k, c, g, 2, BESIDE(2, WIDTH), kind), g += 2;
    if (g < heads) score_heads(k, c, g, 1, BESIDE(1, WIDTH), kind);
}

typedef struct values_call {
    const float *p;
    const attention_softmax *state;
    float *out;
    int64_t row; /* of out: floats from a head to the next */
} values_call;

AIR_INLINE void value_rectangle(const attention_matrix *v, values_call c, const float *weights, int64_t column, int G, int D,
                                element_kind kind)
{
    vf acc[HEADS][WIDTH];
    AIR__UNROLL
    for (int h = 0; h < G; h++) {
        vf correction = v_set(c.state[h].correction);
        AIR__UNROLL
        for (int d = 0; d < D; d++) acc[h][d] = v_mul(v_load(c.out + h * c.row + column + d * V_N), correction);
    }
    add_rows(acc, v, 0, v->rows, column, weights, AIR_BLOCK_POSITIONS, G, D, kind);
    AIR__UNROLL
    for (int h = 0; h < G; h++) {
        AIR__UNROLL
        for (int d = 0; d < D; d++) v_store(c.out + h * c.row + column + d * V_N, acc[h][d]);
    }
}

AIR_INLINE void value_columns(const attention_matrix *v, values_call c, const float *weights, int64_t from, int64_t to, int G, int D,
                              element_kind kind)
{
    int64_t column = from;
    for (; column + D * V_N <= to; column += D * V_N) value_rectangle(v, c, weights, column, G, D, kind);
    for (; column < to; column += AIR_STATE_TILE) value_rectangle(v, c, weights, column, G, TILE_WIDTH, kind);
}

/* p times the scales of a group of elements: what its values are weighted by. */
AIR_INLINE void scale_weights(const float *p, const uint16_t *scales, int64_t n, int G, float *weights)
{
    for (int64_t r = 0; r < n; r += V_N) {
        vf s = n - r >= V_N ? v_load_f16(scales + r) : v_load_f16_n(scales + r, n - r);
        AIR__UNROLL
        for (int h = 0; h < G; h++) {
            const float *from = p + h * AIR_BLOCK_POSITIONS + r;
            v_store(weights + h * AIR_BLOCK_POSITIONS + r, v_mul(n - r >= V_N ? v_load(from) : v_load_n(from, n - r, v_zero()), s));
        }
    }
}

AIR_INLINE void value_heads(const attention_matrix *v, values_call c, int64_t g, int G, element_kind kind)
{
    c.p += g * AIR_BLOCK_POSITIONS;
    c.state += g;
    c.out += g * c.row;
    if (!kind.scaled) {
        value_columns(v, c, c.p, 0, v->columns, G, BESIDE(G, WIDTH), kind);
        return;
    }
    for (int64_t from = 0; from < v->columns; from += AIR_STATE_GROUP) {
        float weights[HEADS * AIR_BLOCK_POSITIONS];
        int64_t to = from + AIR_STATE_GROUP < v->columns ? from + AIR_STATE_GROUP : v->columns;
        scale_weights(c.p, v->scales + from / AIR_STATE_GROUP * AIR_BLOCK_POSITIONS, v->rows, G, weights);
        value_columns(v, c, weights, from, to, G, BESIDE(G, GROUP_WIDTH), kind);
    }
}

AIR_INLINE void value_all(const attention_matrix *v, values_call c, int64_t heads, element_kind kind)
{
    int64_t g = 0;
    for (; g + HEADS <= heads; g += HEADS) value_heads(v, c, g, HEADS, kind);
    if (HEADS > 4 && g + 4 <= heads) value_heads(v, c, g, 4, kind), g += 4;
    if (g + 2 <= heads) value_heads(v, c, g, 2, kind), g += 2;
    if (g < heads) value_heads(v, c, g, 1, kind);
}

/* n elements of a tile of positions as floats: [tile of elements][position of the block][element in tile]. */
AIR_INLINE void turn_tile(const attention_matrix *k, int64_t from, int64_t n, int64_t tile, float *panel, element_kind kind)
{
    for (int64_t e = 0; e < n; e += V_N) {
        float *out = panel + (e / AIR_STATE_TILE * AIR_BLOCK_POSITIONS + tile * AIR_STATE_TILE) * AIR_STATE_TILE + e % AIR_STATE_TILE;
        AIR__UNROLL
        for (int d = 0; d < TILE_WIDTH; d++) {
            vf x[V_N], scale = v_zero();
            if (kind.scaled)
                scale = v_load_f16(k->scales + (from + e) / AIR_STATE_GROUP * AIR_BLOCK_POSITIONS + tile * AIR_STATE_TILE + d * V_N);
            AIR__UNROLL
            for (int i = 0; i < V_N; i++) {
                int64_t element = from + e + i < k->rows ? from + e + i : k->rows - 1;
                x[i] = kind.load(k->data, element * k->row + tile * k->tile + d * V_N);
                if (kind.scaled) x[i] = v_mul(x[i], scale);
            }
            v_transpose(x);
            AIR__UNROLL
            for (int i = 0; i < V_N; i++) v_store(out + (d * V_N + i) * AIR_STATE_TILE, x[i]);
        }
    }
}

/* A panel of elements is turned, then added for all heads. */
AIR_INLINE void key_panels(const attention_matrix *k, const attention_in_keys *v, values_call c, int64_t heads, element_kind kind)
{
    enum { ELEMENTS = AIR_ATTENTION_PANEL / AIR_BLOCK_POSITIONS };
    attention_matrix panel = {.data = v->panel + v->first * AIR_STATE_TILE, .rows = v->rows, .row = AIR_STATE_TILE,
                              .tile = AIR_BLOCK_POSITIONS * AIR_STATE_TILE, .ahead = (const char *)v->panel};
    for (int64_t from = 0; from < v->columns; from += ELEMENTS, c.out += ELEMENTS) {
        int64_t n = v->columns - from < ELEMENTS ? v->columns - from : ELEMENTS;
        for (int64_t t = v->first / AIR_STATE_TILE; t * AIR_STATE_TILE < v->first + v->rows; t++) turn_tile(k, from, n, t, v->panel, kind);
        panel.columns = air_state_padded(n);
        value_all(&panel, c, heads, (element_kind){32, 0, element_f32});
    }
}

#define ATTENTION_OVER(type, bits, scaled, key, value)                                                                              \
    static void scores_##type(const attention_matrix *k, const float *q, int64_t head_dim, float *scores, int64_t heads)       \
    {                                                                                                                          \
        score_all(k, (keys_call){q, head_dim, scores}, heads, (element_kind){bits, scaled, element_##key});                   \
    }                                                                                                                          \
    static void add_values_##type(const attention_matrix *v, const float *p, const attention_softmax *state, float *out,       \
                                  int64_t heads)                                                                               \
    {                                                                                                                          \
        value_all(v, (values_call){p, state, out, v->columns}, heads, (element_kind){bits, scaled, element_##value});                     \
    }                                                                                                                          \
    static void add_keys_##type(const attention_matrix *k, const attention_in_keys *v, const float *p,                         \
                                const attention_softmax *state, float *out, int64_t heads)                                     \
    {                                                                                                                          \
        values_call call = {p, state, out, air_state_padded(v->columns)};                                                      \
        key_panels(k, v, call, heads, (element_kind){bits, scaled, element_##key});                                            \
    }

ATTENTION_OVER(f16, 16, 0, f16, f16)
ATTENTION_OVER(f32, 32, 0, f32, f32)
ATTENTION_OVER(q8, 8, 1, q8, q8)
ATTENTION_OVER(q4, 4, 1, q4_key, q4_value)

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

#define ATTENTION {.attention = attention, .attention_merge = attention_merge}

#endif
