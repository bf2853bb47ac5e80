/* The shape of every AVX2 product of quantised weights with 8-bit activations. A format brings group() and scales().
 *
 * A tile is 256 weights of a row: 8 vectors of bytes, one for each group of 32. A 16-byte lane is half a group.
 *
 *     per group: maddubs (16 sums of 2 products), madd with the integer scales or ones (8 sums of 4), to float,
 *                acc += sums * (scale_w * scale_x of the group, broadcast from memory)
 *     per tile:  acc += float(bias · sums of x, one int for each group) * (bias_scale_w * scale_x)
 *
 * The eight elements of acc are partial sums that are added at the end of the row: nothing is added across a vector before, as
 * shuffles are what this core has fewest of. Integer scales of halves multiply where ones would have been: they cost nothing.
 * What a format adds to its weights (an offset, a minimum) is the bias.
 *
 * maddubs adds two products into 16 bits with saturation, which never happens: unsigned weights up to 63 give 2 * 63 * 127 = 16002;
 * signed ones up to 128 in magnitude go in as |w| and x with the sign of w, 2 * 128 * 127 = 32512 < 32768. The sums of 4 products
 * times scales up to 128 stay below 2^24, so they become floats exactly.
 *
 * The float operations are the same for any n and rows, and so are the bits. A last tile of k % 256 weights is padded with zeros. */
#ifndef AIR_KERNELS_AVX2_PRODUCT_Q8_H
#define AIR_KERNELS_AVX2_PRODUCT_Q8_H

#include "kernels/tables.h"
#include "kernels/x86/x86.h"

enum { TILE = 256, GROUPS = 8, HALVES = 16, ROWS = 4, COLUMNS = 16, PAIR = 2, MAX_TILE_BYTES = 272 };

typedef struct tile_shape {
    int    is_signed; /* weights are signed bytes */
    int    has_sub;   /* halves have integer scales beside the group's */
    int    has_bias;
    size_t bytes;     /* of 256 weights */
} tile_shape;

/* Vectors of scales have one element for each group, those of integers one for each half. */
typedef struct tile_scales {
    __m256  scale;
    __m256i sub;
    __m256  bias_scale;
    __m256i bias;
} tile_scales;

typedef struct tile_format {
    __m256i (*group)(const uint8_t *w, int g);
    void (*scales)(const uint8_t *w, tile_scales *t);
    tile_shape shape;
} tile_format;

AIR_INLINE __m256i load_q(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }

/* 256 activations of a column; q stays in memory. */
typedef struct column {
    const int8_t *q;
    __m256        scale;
    __m256i       sums;
} column;

/* A padded copy of a column's last, shorter tile. */
typedef struct column_pad {
    int8_t  q[TILE];
    float   scale[GROUPS];
    int16_t sums[HALVES];
} column_pad;

AIR_INLINE column column_tile(column_pad *pad, const air_columns *x, int64_t c, int64_t at)
{
    const int8_t *q = x->q + c * x->k + at;
    const float *scale = x->scale + c * (x->k / AIR_Q8_GROUP) + at / AIR_Q8_GROUP;
    const int16_t *sums = x->sums + c * (x->k / AIR_Q8_SUM_GROUP) + at / AIR_Q8_SUM_GROUP;
    int64_t left = x->k - at;
    if (AIR_UNLIKELY(left < TILE)) {
        memset(pad, 0, sizeof *pad);
        q = memcpy(pad->q, q, (size_t)left);
        scale = memcpy(pad->scale, scale, (size_t)(left / AIR_Q8_GROUP) * sizeof *scale);
        sums = memcpy(pad->sums, sums, (size_t)(left / AIR_Q8_SUM_GROUP) * sizeof *sums);
    }
    return (column){q, _mm256_loadu_ps(scale), load_q(sums)};
}

/* Where the tile of a row at `at` lies; the last, shorter one in pad. */
AIR_INLINE const uint8_t *row_tile(uint8_t pad[MAX_TILE_BYTES], const uint8_t *row, int64_t at, int64_t left, size_t bytes)
{
    const uint8_t *w = row + (size_t)(at / TILE) * bytes;
    if (AIR_LIKELY(left >= TILE)) return w;
    memset(pad, 0, MAX_TILE_BYTES);
    return memcpy(pad, w, (size_t)(left / AIR_Q8_GROUP) * (bytes / GROUPS));
}

/* Int16 of halves, so that those of even halves are below and those of odd ones above. */
AIR_INLINE __m256i split_halves(__m256i v)
{
    __m256i order = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, 0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11,
                                     14, 15);
    return _mm256_permute4x64_epi64(_mm256_shuffle_epi8(v, order), 0xd8);
}

/* What the sums of group g are multiplied by: sub is split. */
AIR_INLINE __m256i sub_of(__m256i sub, int g, int has_sub)
{
    return has_sub ? _mm256_shuffle_epi8(sub, _mm256_set1_epi16((short)(2 * g | (2 * g + 1) << 8))) : _mm256_set1_epi16(1);
}

AIR_INLINE __m256i dot(__m256i w, __m256i x, __m256i sub, const tile_shape *s)
{
    __m256i pairs = s->is_signed ? _mm256_maddubs_epi16(_mm256_sign_epi8(w, w), _mm256_sign_epi8(x, w))
                                 : _mm256_maddubs_epi16(w, x);
    return _mm256_madd_epi16(pairs, sub);
}

AIR_INLINE __m256 add_bias(__m256 acc, const tile_scales *t, const column *x)
{
    __m256 bias = _mm256_cvtepi32_ps(_mm256_madd_epi16(t->bias, x->sums));
    return _mm256_fmadd_ps(bias, _mm256_mul_ps(t->bias_scale, x->scale), acc);
}

AIR_INLINE float add_elements(__m256 v)
{
    __m128 a = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
}

/* R rows of one column: a group of weights goes from its block into the sum without touching memory. */
AIR_INLINE void one_column(const uint8_t *w, size_t row_bytes, const air_columns *x, float *y, int R, const tile_format *f)
{
    const tile_shape *s = &f->shape;
    __m256 acc[ROWS];
    for (int r = 0; r < R; r++) acc[r] = _mm256_setzero_ps();
    for (int64_t at = 0; at < x->k; at += TILE) {
        column_pad pad;
        uint8_t row_pad[ROWS][MAX_TILE_BYTES];
        const uint8_t *tile[ROWS];
        __m256i sub[ROWS];
        float scale[ROWS][GROUPS];
        column col = column_tile(&pad, x, 0, at);
        air__prefetch_next_rows(w, row_bytes, (size_t)(at / TILE) * s->bytes, s->bytes, R);
        AIR__UNROLL
        for (int r = 0; r < R; r++) {
            tile_scales t;
            tile[r] = row_tile(row_pad[r], w + (size_t)r * row_bytes, at, x->k - at, s->bytes);
            f->scales(tile[r], &t);
            if (s->has_sub) sub[r] = split_halves(t.sub);
            _mm256_storeu_ps(scale[r], _mm256_mul_ps(t.scale, col.scale));
            if (s->has_bias) acc[r] = add_bias(acc[r], &t, &col);
        }
        AIR__IN_MEMORY(scale);
        AIR__UNROLL
        for (int g = 0; g < GROUPS; g++) {
            __m256i q = load_q(col.q + 32 * g);
            AIR__UNROLL
            for (int r = 0; r < R; r++) {
                __m256i sums = dot(f->group(tile[r], g), q, sub_of(sub[r], g, s->has_sub), s);
                acc[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), _mm256_set1_ps(scale[r][g]), acc[r]);
            }
        }
    }
    for (int r = 0; r < R; r++) y[r] = add_elements(acc[r]);
}

/* A tile of R rows, taken out of its blocks once for all columns. */
typedef struct unpacked {
    __m256i     w[ROWS][GROUPS], sub[ROWS];
    tile_scales scales[ROWS];
} unpacked;

AIR_INLINE void unpack(unpacked *u, const uint8_t *w, size_t row_bytes, int64_t at, int64_t left, int R, const tile_format *f)
{
    AIR__UNROLL
    for (int r = 0; r < R; r++) {
        uint8_t pad[MAX_TILE_BYTES];
        const uint8_t *tile = row_tile(pad, w + (size_t)r * row_bytes, at, left, f->shape.bytes);
        AIR__UNROLL
        for (int g = 0; g < GROUPS; g++) u->w[r][g] = f->group(tile, g);
        f->scales(tile, &u->scales[r]);
        if (f->shape.has_sub) u->sub[r] = split_halves(u->scales[r].sub);
    }
}

/* Adds to the sums of one row and C columns: a vector of weights is loaded once for all of them. */
AIR_INLINE void accumulate(__m256 (*acc)[ROWS], const unpacked *u, int r, const column *x, int C, const tile_shape *s)
{
    float scale[PAIR][GROUPS];
    __m256 sum[PAIR];
    AIR__UNROLL
    for (int j = 0; j < C; j++) {
        _mm256_storeu_ps(scale[j], _mm256_mul_ps(u->scales[r].scale, x[j].scale));
        sum[j] = s->has_bias ? add_bias(acc[j][r], &u->scales[r], &x[j]) : acc[j][r];
    }
    AIR__IN_MEMORY(scale);
    AIR__UNROLL
    for (int g = 0; g < GROUPS; g++) {
        __m256i w = u->w[r][g], sub = sub_of(u->sub[r], g, s->has_sub);
        AIR__UNROLL
        for (int j = 0; j < C; j++) {
            __m256i sums = dot(w, load_q(x[j].q + 32 * g), sub, s);
            sum[j] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), _mm256_set1_ps(scale[j][g]), sum[j]);
        }
    }
    AIR__UNROLL
    for (int j = 0; j < C; j++) acc[j][r] = sum[j];
}

AIR_INLINE void columns_tile(__m256 (*acc)[ROWS], const unpacked *u, const air_columns *x, int64_t c, int64_t at, int C, int R,
                             const tile_shape *s)
{
    column_pad pad[PAIR];
    column col[PAIR];
    AIR__UNROLL
    for (int j = 0; j < C; j++) col[j] = column_tile(&pad[j], x, c + j, at);
    AIR__UNROLL
    for (int r = 0; r < R; r++) accumulate(acc, u, r, col, C, s);
}

/* R rows, columns [c, c + n), n <= COLUMNS. */
AIR_INLINE void few_columns(const uint8_t *w, size_t row_bytes, const air_columns *x, int64_t c, int64_t n, float *y,
                            size_t y_stride, int R, const tile_format *f)
{
    __m256 acc[COLUMNS][ROWS];
    for (int64_t j = 0; j < n; j++)
        for (int r = 0; r < R; r++) acc[j][r] = _mm256_setzero_ps();
    for (int64_t at = 0; at < x->k; at += TILE) {
        unpacked u;
        air__prefetch_next_rows(w, row_bytes, (size_t)(at / TILE) * f->shape.bytes, f->shape.bytes, R);
        unpack(&u, w, row_bytes, at, x->k - at, R, f);
        int64_t j = 0;
        for (; j + PAIR <= n; j += PAIR) columns_tile(acc + j, &u, x, c + j, at, PAIR, R, &f->shape);
        for (; j < n; j++) columns_tile(acc + j, &u, x, c + j, at, 1, R, &f->shape);
    }
    for (int64_t j = 0; j < n; j++)
        for (int r = 0; r < R; r++) y[(size_t)j * y_stride + (size_t)r] = add_elements(acc[j][r]);
}

AIR_INLINE void some_rows(const uint8_t *w, size_t row_bytes, const air_columns *x, float *y, size_t y_stride, int R,
                          const tile_format *f)
{
    if (x->n == 1) {
        one_column(w, row_bytes, x, y, R, f);
        return;
    }
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
    for (; r + ROWS <= rows; r += ROWS) some_rows(w + (size_t)r * row_bytes, row_bytes, x, y + r, y_stride, ROWS, f);
    for (; r < rows; r++) some_rows(w + (size_t)r * row_bytes, row_bytes, x, y + r, y_stride, 1, f);
}

#define PRODUCT(type, ...)                                                                                                         \
    static void product_##type(const void *w, size_t row_bytes, int64_t rows, const air_columns *x, float *y, size_t y_stride)    \
    {                                                                                                                              \
        static const tile_format format = {group_##type, scales_##type, {__VA_ARGS__}};                                            \
        product(w, row_bytes, rows, x, y, y_stride, &format);                                                                      \
    }

#endif
