/* kernels/attention.h: the walk over blocks of state that every tier's attention shares; a tier brings the three parts.
 *
 * Online softmax, one update per block of 64 positions. With m the running maximum and l the running sum of exponents of a head:
 *     m' = max(m, max s),  c = exp(m - m'),  p = exp(s - m'),  l = l c + sum p,  out = out c + p V
 * A block that all rows attend is read once for all of them, one that some attend in part once for each: as each head of each row is
 * added up on its own, its bits do not depend on the rows beside it. Segments merge by the same formulas. */
#ifndef AIR_KERNELS_ATTENTION_H
#define AIR_KERNELS_ATTENTION_H

#include <math.h>
#include <string.h>

#include "kernels/ops.h"

typedef struct attention_softmax {
    float max, sum, correction; /* m, l and c above */
} attention_softmax;

/* A head's K or V in one block, from a row of it on (state.h). Columns come in tiles of AIR_STATE_TILE. */
typedef struct attention_matrix {
    const void *data;
    const uint16_t *scales; /* Q8_0, Q4_0: of element group 0 and the first position */
    int64_t rows, columns;  /* columns: a multiple of AIR_STATE_TILE */
    int64_t row, tile;      /* elements from one to the next */
    const char *ahead;      /* what is read after this: asked for at the same pace */
} attention_matrix;

/* Values that are elements of keys (multi-head latent attention, arXiv 2405.04434): the first `columns` of the positions from first on. */
typedef struct attention_in_keys {
    int64_t first, rows, columns;
    float  *panel; /* AIR_ATTENTION_PANEL floats to turn them in, some at a time */
} attention_in_keys;

typedef struct attention_parts {
    /* scores[h][position] = q[h] . k[position] for all positions of the block, whatever they hold. */
    void (*scores[AIR_STATE_TYPES])(const attention_matrix *k, const float *q, int64_t head_dim, float *scores, int64_t heads);
    /* Scores to exponents in place; brings state up to date. softcap is applied first. */
    void (*softmax)(float *s, int64_t n, const air_attention_args *a, attention_softmax *state);
    /* out[h] = out[h] * correction of h + sum of p[h][row] v[row]; heads of p are AIR_BLOCK_POSITIONS apart, of out v->columns. */
    void (*add_values[AIR_STATE_TYPES])(const attention_matrix *v, const float *p, const attention_softmax *state, float *out,
                                        int64_t heads);
    /* The same with values that are in keys. */
    void (*add_keys[AIR_STATE_TYPES])(const attention_matrix *k, const attention_in_keys *v, const float *p, const attention_softmax *state,
                                      float *out, int64_t heads);
} attention_parts;

/* A call's heads, those of all its rows, and what is kept for each. */
typedef struct attention_work {
    const air_attention_args *args;
    const attention_parts    *parts;
    float *q;      /* [heads][head_dim], scaled */
    float *scores; /* [heads][AIR_BLOCK_POSITIONS] */
    float *out;    /* [heads][value_dim, padded] */
    attention_softmax *state;
    float *panel;  /* AIR_ATTENTION_PANEL, where values are in keys */
    int64_t end;   /* of all positions that are attended */
} attention_work;

AIR_INLINE attention_work attention_cut(const air_attention_args *a, const attention_parts *parts)
{
    int64_t heads = a->rows * a->group;
    attention_work w = {.args = a, .parts = parts, .q = a->scratch + (a->values_in_keys ? AIR_ATTENTION_PANEL : 0), .panel = a->scratch};
    w.scores = w.q + heads * a->head_dim;
    w.out = w.scores + heads * AIR_BLOCK_POSITIONS;
    w.state = (attention_softmax *)(void *)(w.out + heads * air_state_padded(a->value_dim));
    return w;
}

AIR_INLINE attention_matrix attention_keys(const air_attention_args *a, int64_t block)
{
    const char *head = (const char *)a->k_blocks[block] + a->k_offset;
    return (attention_matrix){
        .data = head, .scales = (const uint16_t *)(const void *)(head + air_state_scales_at(a->type, a->head_dim)), .rows = a->head_dim,
        .columns = AIR_BLOCK_POSITIONS, .row = AIR_STATE_TILE, .tile = air_state_key_tile(a->type, a->head_dim),
    };
}

AIR_INLINE attention_matrix attention_values(const air_attention_args *a, int64_t block, int64_t lo, int64_t hi)
{
    const char *head = (const char *)a->v_blocks[block] + a->v_offset;
    int64_t row = air_state_padded(a->value_dim);
    return (attention_matrix){
        .data = head + air_state_bytes_of(a->type, lo * row),
        .scales = (const uint16_t *)(const void *)(head + air_state_scales_at(a->type, a->value_dim)) + lo, .rows = hi - lo,
        .columns = row, .row = row, .tile = AIR_STATE_TILE,
    };
}

/* ALiBi (arXiv 2108.12409): a head's scores at n positions from lo on, of a row that is at position own. */
AIR_INLINE void add_slope(float *s, int64_t n, float slope, int64_t lo, int64_t own)
{
    for (int64_t i = 0; i < n; i++) s[i] -= slope * (float)(lo + i < own ? own - lo - i : lo + i - own);
}

/* Positions [lo, hi) of one block, for `heads` heads from `first` on. */
AIR_INLINE void attend_block(const attention_work *w, int64_t lo, int64_t hi, int64_t first, int64_t heads)
{
    const air_attention_args *a = w->args;
    int64_t block = lo / AIR_BLOCK_POSITIONS, start = block * AIR_BLOCK_POSITIONS;
    float *scores = w->scores + first * AIR_BLOCK_POSITIONS, *p = scores + (lo - start);
    const char *next = (const char *)a->k_blocks[start + AIR_BLOCK_POSITIONS < w->end ? block + 1 : block] + a->k_offset;
    attention_matrix k = attention_keys(a, block), v = {.ahead = next};
    if (!a->values_in_keys) v = attention_values(a, block, lo - start, hi - start), v.ahead = next;
    k.ahead = a->values_in_keys ? next : (const char *)v.data;
    w->parts->scores[a->type](&k, w->q + first * a->head_dim, a->head_dim, scores, heads);
    for (int64_t h = first; a->slopes && h < first + heads; h++)
        add_slope(p + (h - first) * AIR_BLOCK_POSITIONS, hi - lo, a->slopes[h % a->group], lo, a->positions + h / a->group - 1);
    for (int64_t h = 0; h < heads; h++) w->parts->softmax(p + h * AIR_BLOCK_POSITIONS, hi - lo, a, &w->state[first + h]);
    float *out = w->out + first * air_state_padded(a->value_dim);
    if (a->values_in_keys) {
        attention_in_keys in_keys = {lo - start, hi - lo, a->value_dim, w->panel};
        w->parts->add_keys[a->type](&k, &in_keys, p, w->state + first, out, heads);
    } else {
        w->parts->add_values[a->type](&v, p, w->state + first, out, heads);
    }
}

/* The positions from start to end that a row attends, none where lo >= hi. */
typedef struct attention_span { int64_t lo, hi; } attention_span;
AIR_INLINE attention_span attention_within(const air_attention_args *a, int64_t row, int64_t start, int64_t end)
{
    int64_t lo = air_attention_first(a, row), hi = air_attention_end(a, row);
    return (attention_span){lo < start ? start : lo, hi > end ? end : hi};
}

AIR_INLINE void attention_run(const air_attention_args *a, const attention_parts *parts)
{
    attention_work w = attention_cut(a, parts);
    int64_t heads = a->rows * a->group;
    for (int64_t r = 0; r < a->rows; r++)
        for (int64_t i = 0, n = a->group * a->head_dim; i < n; i++) w.q[r * n + i] = a->q[r * a->q_stride + i] * a->scale;
    for (int64_t h = 0; h < heads; h++) w.state[h] = (attention_softmax){-INFINITY, 0, 0};
    memset(w.out, 0, (size_t)(heads * air_state_padded(a->value_dim)) * sizeof *w.out);

    attention_span all = attention_within(a, 0, a->segment * AIR_SEGMENT_POSITIONS, (a->segment + 1) * AIR_SEGMENT_POSITIONS);
    int64_t last = attention_within(a, a->rows - 1, all.lo, (a->segment + 1) * AIR_SEGMENT_POSITIONS).hi;
    w.end = last;
    for (int64_t start = all.lo / AIR_BLOCK_POSITIONS * AIR_BLOCK_POSITIONS; start < last; start += AIR_BLOCK_POSITIONS) {
        int64_t end = start + AIR_BLOCK_POSITIONS, all_end = end < last ? end : last; /* all_end: where all rows see as far as any does */
        if (air_attention_first(a, a->rows - 1) <= start && all_end <= air_attention_end(a, 0)) {
            attend_block(&w, start, all_end, 0, heads);
            continue;
        }
        for (int64_t r = 0; r < a->rows; r++) {
            attention_span seen = attention_within(a, r, start, end);
            if (seen.lo < seen.hi) attend_block(&w, seen.lo, seen.hi, r * a->group, a->group);
        }
    }
}

/* One head's segment, which is not its first, into what there is of it. */
AIR_INLINE void merge_head(float *out, air_attention_total *total, const float *part, const attention_softmax *state, int64_t n)
{
    float max = fmaxf(total->max, state->max), old = expf(total->max - max), more = expf(state->max - max);
    *total = (air_attention_total){max, total->sum * old + state->sum * more};
    for (int64_t i = 0; i < n; i++) out[i] = out[i] * old + part[i] * more;
}

AIR_INLINE void merge_run(const air_attention_args *a)
{
    attention_work w = attention_cut(a, NULL);
    int64_t start = a->segment * AIR_SEGMENT_POSITIONS, end = start + AIR_SEGMENT_POSITIONS, n = a->value_dim;
    for (int64_t h = 0; h < a->rows * a->group; h++) {
        int64_t row = h / a->group;
        attention_span seen = attention_within(a, row, start, end);
        if (seen.lo >= seen.hi) continue;
        float *out = a->out + row * a->out_stride + h % a->group * n;
        const float *part = w.out + h * air_state_padded(n);
        if (air_attention_first(a, row) >= start) {
            memcpy(out, part, (size_t)n * sizeof *out);
            a->totals[h] = (air_attention_total){w.state[h].max, w.state[h].sum};
        } else {
            merge_head(out, &a->totals[h], part, &w.state[h], n);
        }
        if (seen.hi < air_attention_end(a, row)) continue;
        float sum = a->totals[h].sum;
        if (a->sinks) sum += expf(a->sinks[h % a->group] - a->totals[h].max);
        float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
        for (int64_t i = 0; i < n; i++) out[i] *= inverse;
    }
}

#endif
