/* Convolutions and recurrences over a sequence (ops.h), for any vec.h included before: channels, or columns of S, are the lanes, so that
 * nothing is ever summed across a vector, and a lane's bits do not depend on those beside it. */
#ifndef AIR_KERNELS_SIMD_RECURRENT_H
#define AIR_KERNELS_SIMD_RECURRENT_H

#include "kernels/simd/loops.h"
#include "kernels/tables.h"

AIR_INLINE vf load_lanes(const float *p, int64_t n) { return n >= V_N ? v_load(p) : v_load_n(p, n, v_zero()); }

AIR_INLINE void store_lanes(float *p, vf v, int64_t n)
{
    if (n >= V_N) v_store(p, v);
    else v_store_n(p, v, n);
}

/* --- convolution --- */

/* The weights of n channels, tap by tap. */
AIR_INLINE void load_taps(vf *w, const float *weight, int64_t taps, int64_t n)
{
    for (int64_t j = 0; j < taps; j++) {
        float lanes[V_N] = {0};
        for (int64_t i = 0; i < n; i++) lanes[i] = weight[i * taps + j];
        w[j] = v_load(lanes);
    }
}

/* n channels from c on, V_N at most. */
AIR_INLINE void convolve_lanes(const air_convolve_args *a, int64_t taps, int64_t c, int64_t n)
{
    vf w[AIR_CONVOLVE_TAPS], window[AIR_CONVOLVE_TAPS], bias = a->bias ? load_lanes(a->bias + c, n) : v_zero();
    load_taps(w, a->weight + c * taps, taps, n);
    for (int64_t j = 0; j + 1 < taps; j++) window[j] = a->before ? load_lanes(a->before + j * a->window_stride + c, n) : v_zero();
    for (int64_t r = 0; r < a->rows; r++) {
        vf sum = bias;
        window[taps - 1] = load_lanes(a->x + r * a->x_stride + c, n);
        for (int64_t j = 0; j < taps; j++) sum = v_fma(w[j], window[j], sum);
        store_lanes(a->y + r * a->y_stride + c, sum, n);
        for (int64_t j = 0; j + 1 < taps; j++) window[j] = window[j + 1];
    }
    for (int64_t j = 0; j + 1 < taps; j++) store_lanes(a->after + j * a->window_stride + c, window[j], n);
}

/* Of as many taps as models have, the window stays in registers. */
static void convolve(const air_convolve_args *a)
{
    for (int64_t c = 0; c < a->channels; c += V_N) {
        int64_t n = a->channels - c < V_N ? a->channels - c : V_N;
        if (a->taps == 4 && n == V_N) convolve_lanes(a, 4, c, V_N);
        else if (a->taps == 3 && n == V_N) convolve_lanes(a, 3, c, V_N);
        else convolve_lanes(a, a->taps, c, n);
    }
}

/* --- recurrence --- */

enum { SCAN_VECTORS = 4 }; /* side by side: as many sums, each in two halves, keep the multipliers busy */

/* S' k of `vectors` vectors of columns, each from p[i] on: even elements of k and odd ones apart, then together. */
AIR_INLINE void scan_product(const float *const *p, const float *k, int64_t n, int vectors, vf *sum)
{
    vf odd[SCAN_VECTORS];
    AIR__UNROLL
    for (int i = 0; i < vectors; i++) sum[i] = odd[i] = v_zero();
    int64_t e = 0;
    for (; e + 2 <= n; e += 2) {
        vf k0 = v_set(k[e]), k1 = v_set(k[e + 1]);
        AIR__UNROLL
        for (int i = 0; i < vectors; i++) {
            sum[i] = v_fma(v_load(p[i] + e * AIR_STATE_TILE), k0, sum[i]);
            odd[i] = v_fma(v_load(p[i] + (e + 1) * AIR_STATE_TILE), k1, odd[i]);
        }
    }
    AIR__UNROLL
    for (int i = 0; i < vectors; i++) {
        if (e < n) sum[i] = v_fma(v_load(p[i] + e * AIR_STATE_TILE), v_set(k[e]), sum[i]);
        sum[i] = v_add(sum[i], odd[i]);
    }
}

/* One element of a column: decayed, written to, and read by q. */
AIR_INLINE vf scan_element(const float *from, float *to, vf decay, vf k, vf u, vf q, vf sum)
{
    vf s = v_fma(k, u, v_mul(decay, v_load(from)));
    v_store(to, s);
    return v_fma(s, q, sum);
}

/* S = decay S + k u', from where `from` says to where `to` says; out: S' q, added up as above. */
AIR_INLINE void scan_update(const float *const *from, float *const *to, float decay, const float *k, const float *q, const vf *u, int64_t n,
                            int vectors, vf *out)
{
    vf odd[SCAN_VECTORS], g = v_set(decay);
    AIR__UNROLL
    for (int i = 0; i < vectors; i++) out[i] = odd[i] = v_zero();
    int64_t e = 0;
    for (; e + 2 <= n; e += 2) {
        int64_t at = e * AIR_STATE_TILE, next = at + AIR_STATE_TILE;
        AIR__UNROLL
        for (int i = 0; i < vectors; i++) {
            out[i] = scan_element(from[i] + at, to[i] + at, g, v_set(k[e]), u[i], v_set(q[e]), out[i]);
            odd[i] = scan_element(from[i] + next, to[i] + next, g, v_set(k[e + 1]), u[i], v_set(q[e + 1]), odd[i]);
        }
    }
    AIR__UNROLL
    for (int i = 0; i < vectors; i++) {
        int64_t at = e * AIR_STATE_TILE;
        if (e < n) out[i] = scan_element(from[i] + at, to[i] + at, g, v_set(k[e]), u[i], v_set(q[e]), out[i]);
        out[i] = v_add(out[i], odd[i]);
    }
}

/* Rows of the columns from c on, up to `vectors` vectors of them, those behind value_dim zeros. The first row reads S where it comes
 * from and writes it where it goes, so that a generated token copies nothing; in a prompt it stays in the nearest cache. */
AIR_INLINE void scan_columns(const air_scan_args *a, int64_t c, int vectors)
{
    const float *from[SCAN_VECTORS];
    float *to[SCAN_VECTORS];
    for (int i = 0; i < vectors; i++) {
        int64_t column = c + i * V_N, at = column / AIR_STATE_TILE * a->key_dim * AIR_STATE_TILE + column % AIR_STATE_TILE;
        to[i] = a->after + at;
        from[i] = a->before ? a->before + at : to[i];
        for (int64_t e = 0; !a->before && e < a->key_dim; e++) v_store(to[i] + e * AIR_STATE_TILE, v_zero());
    }
    for (int64_t r = 0; r < a->rows; r++) {
        const float *k = a->k + r * a->k_stride, *q = a->q + r * a->q_stride, *v = a->v + r * a->v_stride;
        float *out = a->out + r * a->out_stride;
        vf known[SCAN_VECTORS], u[SCAN_VECTORS], y[SCAN_VECTORS], value[SCAN_VECTORS];
        for (int i = 0; i < vectors; i++) known[i] = v_zero();
        if (a->delta) scan_product(from, k, a->key_dim, vectors, known);
        for (int i = 0; i < vectors; i++) {
            int64_t column = c + i * V_N, left = a->value_dim - column;
            value[i] = left > 0 ? load_lanes(v + column, left) : v_zero();
            u[i] = v_mul(v_set(a->write[r]), v_fnma(v_set(a->decay[r]), known[i], value[i]));
        }
        scan_update(from, to, a->decay[r], k, q, u, a->key_dim, vectors, y);
        for (int i = 0; i < vectors; i++) {
            int64_t column = c + i * V_N, left = a->value_dim - column;
            if (left > 0) store_lanes(out + column, v_fma(v_set(a->skip), value[i], y[i]), left);
            from[i] = to[i];
        }
    }
}

static void scan(const air_scan_args *a)
{
    int64_t columns = air_state_padded(a->value_dim), c = 0;
    for (; c + SCAN_VECTORS * V_N <= columns; c += SCAN_VECTORS * V_N) scan_columns(a, c, SCAN_VECTORS);
    for (; c < columns; c += V_N) scan_columns(a, c, 1);
}

#define RECURRENT_FUNCTIONS {.convolve = convolve, .scan = scan}

#endif
