/* Rows and columns of a product in pieces of the sizes that a family's one_column() and add_block() are made for, included after them. */
#ifndef AIR_KERNELS_X86_PRODUCT_ROWS_H
#define AIR_KERNELS_X86_PRODUCT_ROWS_H

/* Adds the products of a tile of R rows with columns [c, c + C) to their sums. */
AIR_INLINE void add_columns(vf (*acc)[ROWS / VB_ROWS], const unpacked *u, const air_columns *x, int64_t c, int64_t at, int C, int R,
                            const tile_shape *s, ahead *next)
{
    int V = vectors(R), B = V < BLOCK_VECTORS ? V : BLOCK_VECTORS;
    column col[BLOCK_COLUMNS];
    AIR__UNROLL
    for (int j = 0; j < C; j++) {
        air__q8_pad pad;
        air_q8 q8 = air__q8_tile(&pad, x, c + j, at);
        col[j] = column_of(&q8, q8.turned, s);
    }
    AIR__ROLLED
    for (int v = 0; v < V; v += B) {
        AIR__FORGET();
        ask_ahead(next);
        add_block(acc, u, v, col, B, C, s);
    }
}

/* What is asked for while a tile of R rows is taken apart and meets n columns, the bytes of as many further on. */
AIR_INLINE ahead what_follows(const uint8_t *w, size_t row_bytes, int64_t at, int64_t n, int together, int R, size_t bytes)
{
    int64_t columns = n / together + n % together / 2 + n % together % 2;
    int64_t times = vectors(R) + columns * ((vectors(R) + BLOCK_VECTORS - 1) / BLOCK_VECTORS);
    return ahead_of(w, (size_t)R * (row_bytes + (size_t)(at / TILE) * bytes), (size_t)R * bytes, times);
}

/* R rows, columns [c, c + n), n <= COLUMNS. */
AIR_INLINE void few_columns(const uint8_t *w, size_t row_bytes, const air_columns *x, int64_t c, int64_t n, float *y,
                            size_t y_stride, int R, const tile_format *f)
{
    const tile_shape *s = &f->shape;
    int together = R > 1 ? columns_together(s) : 1; /* one row is not worth the code */
    vf acc[COLUMNS][ROWS / VB_ROWS];
    for (int64_t j = 0; j < n; j++)
        for (int v = 0; v < vectors(R); v++) acc[j][v] = v_zero();
    for (int64_t at = 0; at < x->k; at += TILE) {
        unpacked u;
        int64_t j = 0;
        ahead next = what_follows(w, row_bytes, at, n, together, R, c ? 0 : s->bytes); /* once, by the first columns */
        unpack(&u, w, row_bytes, at, x->k - at, R, f, &next);
        if (together > 2)
            for (; j + BLOCK_COLUMNS <= n; j += BLOCK_COLUMNS) add_columns(acc + j, &u, x, c + j, at, BLOCK_COLUMNS, R, s, &next);
        if (together > 1)
            for (; j + 2 <= n; j += 2) add_columns(acc + j, &u, x, c + j, at, 2, R, s, &next);
        for (; j < n; j++) add_columns(acc + j, &u, x, c + j, at, 1, R, s, &next);
    }
    for (int64_t j = 0; j < n; j++)
        for (int v = 0; v < vectors(R); v++) store_rows(y + (size_t)j * y_stride + (size_t)(v * VB_ROWS), 1, acc[j][v], R);
}

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
    if (x->n > FEW_COLUMNS)
        for (; r + ROWS <= rows; r += ROWS) some_rows(w + (size_t)r * row_bytes, row_bytes, x, y + r, y_stride, ROWS, f);
    if (FEW_ROWS < ROWS)
        for (; r + FEW_ROWS <= rows; r += FEW_ROWS) some_rows(w + (size_t)r * row_bytes, row_bytes, x, y + r, y_stride, FEW_ROWS, f);
    for (; r < rows; r++) some_rows(w + (size_t)r * row_bytes, row_bytes, x, y + r, y_stride, 1, f);
}

#endif
