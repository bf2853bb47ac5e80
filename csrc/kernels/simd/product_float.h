/* The shape of the products of F32, F16 and BF16 weights with float activations, for any vec.h included before.
 *
 * R rows by C columns of accumulators, each a vector; weights are converted once for the C columns. Sums of CHUNK vectors are added
 * to totals, which keeps the rounding errors of long rows apart from k. A (row, column) sees the same operations for any R and C. */
#ifndef AIR_KERNELS_SIMD_PRODUCT_FLOAT_H
#define AIR_KERNELS_SIMD_PRODUCT_FLOAT_H

#include "ahead.h"
#include "kernels/tables.h"

/* A chunk is vectors. Up to MOST_SOME columns, activations are in near caches and weights cost more; of more it is the other way round. */
enum { CHUNK = 64, MOST_SOME = 16, MOST_ROWS = V_ROWS, MOST_COLUMNS = V_SOME_COLUMNS };
_Static_assert((int)V_SOME_ROWS <= (int)MOST_ROWS && (int)V_COLUMNS <= (int)MOST_COLUMNS, "accumulators hold both shapes");

AIR_INLINE vf load_f32(const uint8_t *p, int64_t i) { return v_load((const float *)(const void *)p + i); }
AIR_INLINE vf load_f16(const uint8_t *p, int64_t i) { return v_load_f16((const uint16_t *)(const void *)p + i); }
AIR_INLINE vf load_bf16(const uint8_t *p, int64_t i) { return v_load_bf16((const uint16_t *)(const void *)p + i); }
AIR_INLINE vf load_f32_n(const uint8_t *p, int64_t i, int64_t n)
{
    return v_load_n((const float *)(const void *)p + i, n, v_zero());
}
AIR_INLINE vf load_f16_n(const uint8_t *p, int64_t i, int64_t n) { return v_load_f16_n((const uint16_t *)(const void *)p + i, n); }
AIR_INLINE vf load_bf16_n(const uint8_t *p, int64_t i, int64_t n)
{
    return v_load_bf16_n((const uint16_t *)(const void *)p + i, n);
}

typedef vf (*load_fn)(const uint8_t *row, int64_t i);
typedef vf (*load_n_fn)(const uint8_t *row, int64_t i, int64_t n);

/* n <= V_N of them; the others 0. */
AIR_INLINE vf load_some(const uint8_t *row, int64_t i, int64_t n, load_fn load, load_n_fn load_n)
{
    return n == V_N ? load(row, i) : load_n(row, i, n);
}

AIR_INLINE vf load_x(const float *x, int64_t n) { return n == V_N ? v_load(x) : v_load_n(x, n, v_zero()); }

/* acc += weights [i, i + n) times activations, for n <= V_N. Of rows and columns the fewer are in registers all at once. */
AIR_INLINE void step(vf acc[MOST_ROWS][MOST_COLUMNS], const uint8_t *w, size_t row_bytes, const float *x, size_t stride, int64_t i,
                     int64_t n, int R, int C, load_fn load, load_n_fn load_n)
{
    vf a[MOST_COLUMNS], b[MOST_ROWS];
    if (R < C) {
        AIR__UNROLL
        for (int r = 0; r < R; r++) b[r] = load_some(w + (size_t)r * row_bytes, i, n, load, load_n);
        AIR__UNROLL
        for (int c = 0; c < C; c++) {
            a[c] = load_x(x + (size_t)c * stride + i, n);
            AIR__UNROLL
            for (int r = 0; r < R; r++) acc[r][c] = v_fma(b[r], a[c], acc[r][c]);
        }
        return;
    }
    AIR__UNROLL
    for (int c = 0; c < C; c++) a[c] = load_x(x + (size_t)c * stride + i, n);
    AIR__UNROLL
    for (int r = 0; r < R; r++) {
        b[r] = load_some(w + (size_t)r * row_bytes, i, n, load, load_n);
        AIR__UNROLL
        for (int c = 0; c < C; c++) acc[r][c] = v_fma(b[r], a[c], acc[r][c]);
    }
}

AIR_INLINE void rectangle(const uint8_t *w, size_t row_bytes, const float *x, size_t stride, int64_t k, float *y, size_t y_stride,
                          int64_t y_step, int R, int C, load_fn load, load_n_fn load_n, ahead *next)
{
    vf total[MOST_ROWS][MOST_COLUMNS];
    for (int r = 0; r < R; r++)
        for (int c = 0; c < C; c++) total[r][c] = v_zero();
    for (int64_t i = 0; i < k;) {
        vf acc[MOST_ROWS][MOST_COLUMNS];
        int64_t end = k - i > CHUNK * V_N ? i + CHUNK * V_N : k;
        AIR__UNROLL
        for (int r = 0; r < R; r++) {
            AIR__UNROLL
            for (int c = 0; c < C; c++) acc[r][c] = v_zero();
        }
        ask_ahead(next);
        for (; i + V_N <= end; i += V_N) step(acc, w, row_bytes, x, stride, i, V_N, R, C, load, load_n);
        if (i < end) step(acc, w, row_bytes, x, stride, i, end - i, R, C, load, load_n);
        i = end;
        AIR__UNROLL
        for (int r = 0; r < R; r++) {
            AIR__UNROLL
            for (int c = 0; c < C; c++) total[r][c] = v_add(total[r][c], acc[r][c]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int c = 0; c < C; c++) y[(int64_t)y_stride * c + y_step * r] = v_sum(total[r][c]);
}

/* R rows, row_bytes apart, results y_step: C columns at once; the last ones by two, and one if it must be, which 4 of C = 3 need not. */
AIR_INLINE void some_rows(const uint8_t *w, size_t row_bytes, const air_columns *x, float *y, size_t y_stride, int64_t y_step, int R,
                          int C, load_fn load, load_n_fn load_n, ahead *next)
{
    for (int64_t c = 0; c < x->n;) {
        const float *column = x->f32 + (size_t)c * x->f32_stride;
        float *out = y + (size_t)c * y_stride;
        int64_t left = x->n - c, some = left >= C && (left != 4 || C != 3) ? C : left > 1 ? 2 : 1;
        if (some == C) rectangle(w, row_bytes, column, x->f32_stride, x->k, out, y_stride, y_step, R, C, load, load_n, next);
        else if (some == 2) rectangle(w, row_bytes, column, x->f32_stride, x->k, out, y_stride, y_step, R, 2, load, load_n, next);
        else rectangle(w, row_bytes, column, x->f32_stride, x->k, out, y_stride, y_step, R, 1, load, load_n, next);
        c += some;
    }
}

/* Few columns: rows side by side lie far apart, so that each begins a stream of its own. More: the weights are near while they meet the
 * columns, and those that follow are asked for meanwhile, once for each chunk, as more often gains nothing. */
AIR_INLINE void all_rows(const uint8_t *w, size_t row_bytes, int64_t rows, const air_columns *x, float *y, size_t y_stride, int R,
                         int C, load_fn load, load_n_fn load_n)
{
    int64_t near = x->n > 2 * C, apart = near ? 1 : rows / R, last = rows / R * R;
    int64_t times = (x->n + C - 1) / C * ((x->k + CHUNK * V_N - 1) / (CHUNK * V_N));
    ahead none = {0};
    for (int64_t i = 0; i < rows / R; i++) {
        int64_t r = near ? i * R : i;
        const uint8_t *first = w + (size_t)r * row_bytes;
        ahead next = near ? ahead_of(first, (size_t)R * row_bytes, (size_t)R * row_bytes, times) : none;
        some_rows(first, (size_t)apart * row_bytes, x, y + r, y_stride, apart, R, C, load, load_n, &next);
    }
    for (int64_t r = last; r < rows; r++)
        some_rows(w + (size_t)r * row_bytes, row_bytes, x, y + r, y_stride, 1, 1, C, load, load_n, &none);
}

AIR_INLINE void product(const uint8_t *w, size_t row_bytes, int64_t rows, const air_columns *x, float *y, size_t y_stride,
                        load_fn load, load_n_fn load_n)
{
    int some = V_SOME_COLUMNS > V_COLUMNS && x->n >= V_SOME_COLUMNS && x->n <= MOST_SOME;
    if (some) all_rows(w, row_bytes, rows, x, y, y_stride, V_SOME_ROWS, V_SOME_COLUMNS, load, load_n);
    else all_rows(w, row_bytes, rows, x, y, y_stride, V_ROWS, V_COLUMNS, load, load_n);
}

#define PRODUCT(type)                                                                                                              \
    static void product_##type(const void *w, size_t row_bytes, int64_t rows, const air_columns *x, float *y, size_t y_stride)    \
    {                                                                                                                              \
        product(w, row_bytes, rows, x, y, y_stride, load_##type, load_##type##_n);                                                 \
    }

PRODUCT(f32)
PRODUCT(f16)
PRODUCT(bf16)

#define FLOAT_PRODUCTS                                     \
    {                                                      \
        .product = {                                       \
            [AIR_TYPE_F32]  = {product_f32, AIR_INPUT_F32},   \
            [AIR_TYPE_F16]  = {product_f16, AIR_INPUT_F32},   \
            [AIR_TYPE_BF16] = {product_bf16, AIR_INPUT_F32},  \
        },                                                 \
    }

#endif
