/* The shape of every AArch64 product of quantised weights with 8-bit activations. A format brings group() and scales() (formats.h), a
 * tier how bytes are multiplied (its multiply.h).
 *
 * Four rows make a quad: lane r of every vector here belongs to its row r. Where rows end, the last one stands for those that are
 * missing. A format's block has 1 or 8 groups of 32. For each of its groups
 *
 *     s = sum of w q_x, exact; times the group's integer scale, where there is one; of halves with scales, each half with its own
 *
 * and for each of its blocks
 *
 *     min  = sum over groups of float(m) * (scale_x * sum of q_x)           acc -= min * dmin
 *     part = sum over groups of float(s) * scale_x                          acc += part * d
 *
 *     one column:   weights go from their block into the sums without touching memory; a tree of pairwise sums makes four rows a vector
 *     more columns: a tile of 256 weights of 16 rows is taken out of its blocks once for 16 columns, in the order that the tier
 *                   multiplies best; 4, 2 or 1 columns at a time pass by the rows
 *
 * Both give the same integers and go on with the same float operations in the same order, so the bits depend neither on n nor on
 * rows, nor on the tier. float(s) is exact: formats keep |s| below 2^24, but for a power of two that all of a format's weights have. */
#ifndef AIR_KERNELS_ARM_PRODUCT_Q8_H
#define AIR_KERNELS_ARM_PRODUCT_Q8_H

enum { GROUPS = TILE / AIR_Q8_GROUP, QUADS = 4, ROWS = QUADS * QUAD, COLUMNS = 16 };

typedef enum sub_scales {
    SUB_NONE,
    SUB_GROUPS, /* an integer for each group */
    SUB_HALVES, /* an integer for each half of a group */
} sub_scales;

/* Rows of a quad, from one of their blocks on. */
typedef struct quad {
    const uint8_t *row[QUAD];
} quad;

/* Of a tile's blocks, one lane for each row. */
typedef struct tile_scales {
    float32x4_t d[GROUPS]; /* of each block */
    float32x4_t dmin;
    float32x4_t min[GROUPS];
    int32x4_t   sub[2 * GROUPS];
} tile_scales;

typedef struct format {
    int8x16x2_t (*group)(const uint8_t *block, int g); /* group g of a block, times 2^shift */
    void (*scales)(const quad *block, int b, tile_scales *t); /* of the tile's block b */
    sub_scales sub;
    int    groups; /* in a block */
    int    shift;  /* 0, 2 or 4 */
    int    has_min;
    size_t bytes;  /* of a block */
} format;

AIR_INLINE quad rows_of(const uint8_t *w, size_t row_bytes, int64_t first, int64_t rows, size_t offset)
{
    quad q;
    AIR__UNROLL
    for (int r = 0; r < QUAD; r++) q.row[r] = w + (size_t)(first + r < rows ? first + r : rows - 1) * row_bytes + offset;
    return q;
}

AIR_INLINE quad advance(quad q, size_t bytes)
{
    AIR__UNROLL
    for (int r = 0; r < QUAD; r++) q.row[r] += bytes;
    return q;
}

AIR_INLINE void store_rows(float *y, float32x4_t v, int64_t rows)
{
    float copy[QUAD];
    if (rows >= QUAD) {
        vst1q_f32(y, v);
        return;
    }
    vst1q_f32(copy, v);
    memcpy(y, copy, (size_t)rows * sizeof *y);
}

/* ---- from sums to floats, alike for any number of columns ---- */

/* A tile's activations. */
typedef struct column {
    const int8_t *q;
    const float  *scale;
    float32x4_t   sums[2]; /* of each group, times scale */
} column;

AIR_INLINE column column_of(const air_columns *x, int64_t c, int64_t at, const format *f)
{
    air_q8 q8 = air_q8_at(x->q8, x->k, c, at);
    column col = {.q = q8.q, .scale = q8.scale};
    if (!f->has_min) return col;
    AIR__UNROLL
    for (int i = 0; i < 2; i++) {
        float32x4_t sums = vcvtq_f32_s32(vpaddlq_s16(vld1q_s16(q8.sums + 8 * i)));
        col.sums[i] = vmulq_f32(sums, vld1q_f32(q8.scale + 4 * i));
    }
    return col;
}

/* s of group g, from the sums of its first half and its second, or of all of it. */
AIR_INLINE int32x4_t scaled(int32x4_t first, int32x4_t second, const tile_scales *t, int g, const format *f)
{
    if (f->sub == SUB_NONE) return first;
    if (f->sub == SUB_GROUPS) return vmulq_s32(first, t->sub[g]);
    return vmlaq_s32(vmulq_s32(first, t->sub[2 * g]), second, t->sub[2 * g + 1]);
}

AIR_INLINE float32x4_t add_group(float32x4_t part, int32x4_t s, float scale_x, const format *f)
{
    float32x4_t v = f->shift == 4 ? vcvtq_n_f32_s32(s, 4) : f->shift == 2 ? vcvtq_n_f32_s32(s, 2) : vcvtq_f32_s32(s);
    return f->groups == 1 ? vmulq_n_f32(v, scale_x) : vfmaq_n_f32(part, v, scale_x);
}

AIR_INLINE float32x4_t take_min(float32x4_t acc, const tile_scales *t, const column *x, const format *f)
{
    float32x4_t min = vdupq_n_f32(0);
    if (!f->has_min) return acc;
    AIR__UNROLL
    for (int i = 0; i < 2; i++) {
        min = vfmaq_laneq_f32(min, t->min[4 * i], x->sums[i], 0);
        min = vfmaq_laneq_f32(min, t->min[4 * i + 1], x->sums[i], 1);
        min = vfmaq_laneq_f32(min, t->min[4 * i + 2], x->sums[i], 2);
        min = vfmaq_laneq_f32(min, t->min[4 * i + 3], x->sums[i], 3);
    }
    return vfmsq_f32(acc, min, t->dmin);
}

/* ---- one column ---- */

AIR_INLINE int32x4_t group_sums(const quad *block, int g, const int8_t *q, const tile_scales *t, const format *f)
{
    int8x16_t x0 = vld1q_s8(q + 32 * g), x1 = vld1q_s8(q + 32 * g + 16);
    int32x4_t first[QUAD], second[QUAD];
    if (f->sub == SUB_HALVES && g % 2 == 0) AIR__FORGET(); /* else compilers keep more for later groups than fits the registers */
    AIR__UNROLL
    for (int r = 0; r < QUAD; r++) {
        int8x16x2_t w = f->group(block->row[r], g);
        first[r] = dot(w.val[0], x0);
        if (f->sub == SUB_HALVES) second[r] = dot(w.val[1], x1);
        else first[r] = dot_more(first[r], w.val[1], x1);
    }
    return scaled(join(first), f->sub == SUB_HALVES ? join(second) : vdupq_n_s32(0), t, g, f);
}

AIR_INLINE float32x4_t one_column(quad block, const air_columns *x, const format *f)
{
    float32x4_t acc = vdupq_n_f32(0);
    for (int64_t at = 0; at < x->k; at += f->groups * AIR_Q8_GROUP) {
        column col = column_of(x, 0, at, f);
        float32x4_t part = vdupq_n_f32(0);
        tile_scales t;
        f->scales(&block, 0, &t);
        acc = take_min(acc, &t, &col, f);
        AIR__UNROLL
        for (int g = 0; g < f->groups; g++) part = add_group(part, group_sums(&block, g, col.q, &t, f), col.scale[g], f);
        acc = vfmaq_f32(acc, part, t.d[0]);
        block = advance(block, f->bytes);
    }
    return acc;
}

/* ---- more columns ---- */

/* A tile of a quad, taken out of its blocks; of each group the first half, then the second. */
typedef struct tile {
    int8_t      w[GROUPS][2][HALF_BYTES];
    tile_scales scales;
} tile;

AIR_INLINE void unpack(tile *t, quad block, int blocks, const format *f)
{
    AIR__ROLLED
    for (int b = 0; b < blocks; b++) {
        f->scales(&block, b, &t->scales);
        AIR__UNROLL
        for (int g = 0; g < f->groups; g++) {
            int8x16_t half[2][QUAD];
            AIR__UNROLL
            for (int r = 0; r < QUAD; r++) {
                int8x16x2_t w = f->group(block.row[r], g);
                half[0][r] = w.val[0];
                half[1][r] = w.val[1];
            }
            pack(t->w[b * f->groups + g][0], half[0]);
            pack(t->w[b * f->groups + g][1], half[1]);
        }
        block = advance(block, f->bytes);
    }
}

/* Adds a quad's tile to the sums of C columns, QUADS apart. */
AIR_INLINE void add_tile(float32x4_t *acc, const tile *t, const activations *a, const column *x, int blocks, int C, const format *f)
{
    float32x4_t sum[BLOCK_COLUMNS];
    AIR__UNROLL
    for (int c = 0; c < C; c++) sum[c] = take_min(acc[c * QUADS], &t->scales, &x[c], f);
    AIR__ROLLED
    for (int b = 0; b < blocks; b++) {
        float32x4_t part[BLOCK_COLUMNS];
        AIR__UNROLL
        for (int c = 0; c < C; c++) part[c] = vdupq_n_f32(0);
        AIR__ROLLED
        for (int i = 0; i < f->groups; i++) {
            int g = b * f->groups + i;
            int32x4_t first[BLOCK_COLUMNS], second[BLOCK_COLUMNS] = {0};
            multiply(first, t->w[g][0], a, 2 * g, f->sub == SUB_HALVES ? 1 : 2, C);
            if (f->sub == SUB_HALVES) multiply(second, t->w[g][1], a, 2 * g + 1, 1, C);
            AIR__UNROLL
            for (int c = 0; c < C; c++) part[c] = add_group(part[c], scaled(first[c], second[c], &t->scales, g, f), x[c].scale[g], f);
        }
        AIR__UNROLL
        for (int c = 0; c < C; c++) sum[c] = vfmaq_f32(sum[c], part[c], t->scales.d[b]);
    }
    AIR__UNROLL
    for (int c = 0; c < C; c++) acc[c * QUADS] = sum[c];
}

/* Columns [c, c + C) of `quads` quads. */
AIR_INLINE void add_columns(float32x4_t (*acc)[QUADS], const tile *t, int quads, const air_columns *x, int64_t c, int64_t at, int blocks,
                            int C, const format *f)
{
    activations a;
    column col[BLOCK_COLUMNS];
    const int8_t *q[BLOCK_COLUMNS];
    AIR__UNROLL
    for (int j = 0; j < C; j++) {
        col[j] = column_of(x, c + j, at, f);
        q[j] = col[j].q;
    }
    take_columns(&a, q, 2 * blocks * f->groups, C);
    AIR__ROLLED
    for (int i = 0; i < quads; i++) add_tile(&acc[0][i], &t[i], &a, col, blocks, C, f);
}

/* rows <= ROWS, columns [c, c + n), n <= COLUMNS. */
AIR_INLINE void few_columns(const uint8_t *w, size_t row_bytes, int64_t rows, const air_columns *x, int64_t c, int64_t n, float *y,
                            size_t y_stride, const format *f)
{
    float32x4_t acc[COLUMNS][QUADS];
    int quads = (int)((rows + QUAD - 1) / QUAD);
    for (int64_t j = 0; j < n; j++)
        for (int i = 0; i < quads; i++) acc[j][i] = vdupq_n_f32(0);
    for (int64_t at = 0; at < x->k; at += TILE) {
        int64_t left = x->k - at < TILE ? x->k - at : TILE, j = 0;
        int blocks = f->groups == 1 ? (int)(left / AIR_Q8_GROUP) : 1;
        tile t[QUADS];
        AIR__ROLLED
        for (int i = 0; i < quads; i++)
            unpack(&t[i], rows_of(w, row_bytes, i * QUAD, rows, (size_t)(at / AIR_Q8_GROUP / f->groups) * f->bytes), blocks, f);
        for (; j + 4 <= n; j += 4) add_columns(acc + j, t, quads, x, c + j, at, blocks, 4, f);
        if (j + 2 <= n) add_columns(acc + j, t, quads, x, c + j, at, blocks, 2, f), j += 2;
        if (j < n) add_columns(acc + j, t, quads, x, c + j, at, blocks, 1, f);
    }
    for (int64_t j = 0; j < n; j++)
        for (int i = 0; i < quads; i++) store_rows(y + (size_t)j * y_stride + i * QUAD, acc[j][i], rows - i * QUAD);
}

AIR_INLINE void product(const void *weights, size_t row_bytes, int64_t rows, const air_columns *x, float *y, size_t y_stride,
                        const format *f)
{
    const uint8_t *w = weights;
    if (x->n == 1) {
        for (int64_t r = 0; r < rows; r += QUAD) store_rows(y + r, one_column(rows_of(w, row_bytes, r, rows, 0), x, f), rows - r);
        return;
    }
    for (int64_t r = 0; r < rows; r += ROWS)
        for (int64_t c = 0; c < x->n; c += COLUMNS)
            few_columns(w + (size_t)r * row_bytes, row_bytes, rows - r < ROWS ? rows - r : ROWS, x, c,
                        x->n - c < COLUMNS ? x->n - c : COLUMNS, y + (size_t)c * y_stride + r, y_stride, f);
}

#define PRODUCT(type, ...)                                                                                                         \
    static void product_##type(const void *w, size_t row_bytes, int64_t rows, const air_columns *x, float *y, size_t y_stride)    \
    {                                                                                                                              \
        static const format f = {.group = group_##type, .scales = scales_##type, __VA_ARGS__};                                     \
        product(w, row_bytes, rows, x, y, y_stride, &f);                                                                           \
    }

#endif
