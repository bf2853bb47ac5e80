/* Rows and columns of a product in pieces of the sizes that a family's one_column() and few_columns() are made for, included after them. */
#ifndef AIR_KERNELS_X86_PRODUCT_ROWS_H
#define AIR_KERNELS_X86_PRODUCT_ROWS_H

AIR_INLINE void some_rows(const uint8_t *w, size_t row_bytes, const air_columns *x, float *y, size_t y_stride, int R,
                          const tile_format *f)
{
    for (int64_t c = 0; c < x->n; c += COLUMNS) {
        int64_t n = x->n - c < COLUMNS ? x->n - c : COLUMNS;
        few_columns(w, row_bytes, x, c, n, y + (size_t)c * y_stride, y_stride, R, f);
    }
}

AIR_INLINE void product(const void *weights, size_t row_bytes, int64_t rows, const air_columns *x, float *y, size_t y_stride,
                        const tile_format *f)
{
    const uint8_t *w = weights;
    int64_t r = 0;
    if (x->n == 1) {
        /* Rows side by side lie far apart: what follows each is a stream of its own for the prefetchers, which take those within a page
         * for one. */
        int64_t apart = rows / ONE_ROWS;
        for (; r < apart; r++) one_column(w + (size_t)r * row_bytes, (size_t)apart * row_bytes, x, y + r, apart, ONE_ROWS, f);
        for (r = apart * ONE_ROWS; r < rows; r++) one_column(w + (size_t)r * row_bytes, row_bytes, x, y + r, 1, 1, f);
        return;
    }
    for (; r + ROWS <= rows; r += ROWS) some_rows(w + (size_t)r * row_bytes, row_bytes, x, y + r, y_stride, ROWS, f);
    for (; r < rows; r++) some_rows(w + (size_t)r * row_bytes, row_bytes, x, y + r, y_stride, 1, f);
}

#endif
