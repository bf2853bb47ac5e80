/* All rows and columns of a product, by the includer's one_column() and few_columns(). */
#ifndef AIR_KERNELS_AVX512_PRODUCT_ROWS_H
#define AIR_KERNELS_AVX512_PRODUCT_ROWS_H

AIR_INLINE void some_rows(const uint8_t *w, size_t row_bytes, const air_columns *x, float *y, size_t y_stride, int R,
                          const tile_shape *s, tile_decode decode)
{
    for (int64_t c = 0; c < x->n; c += COLUMNS) {
        int64_t n = x->n - c < COLUMNS ? x->n - c : COLUMNS;
        float *out = y + (size_t)c * y_stride;
        if (n == 1) one_column(w, row_bytes, x, c, out, R, s, decode);
        else few_columns(w, row_bytes, x, c, n, out, y_stride, R, s, decode);
    }
}

AIR_INLINE void product(const void *weights, size_t row_bytes, int64_t rows, const air_columns *x, float *y, size_t y_stride,
                        const tile_shape *s, tile_decode decode)
{
    const uint8_t *w = weights;
    int64_t r = 0;
    for (; r + ROWS <= rows; r += ROWS) some_rows(w + (size_t)r * row_bytes, row_bytes, x, y + r, y_stride, ROWS, s, decode);
    for (; r < rows; r++) some_rows(w + (size_t)r * row_bytes, row_bytes, x, y + r, y_stride, 1, s, decode);
}

#define PRODUCT(type, ...)                                                                                                         \
    static void product_##type(const void *w, size_t row_bytes, int64_t rows, const air_columns *x, float *y, size_t y_stride)    \
    {                                                                                                                              \
        static const tile_shape shape = {__VA_ARGS__};                                                                             \
        product(w, row_bytes, rows, x, y, y_stride, &shape, decode_##type);                                                        \
    }

#endif
