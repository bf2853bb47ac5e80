/* The shape of every AVX2 product of quantised weights with 8-bit activations. A format brings decode() and constants.
 *
 * A tile is 256 weights of a row: 8 vectors of bytes, one for each group of 32. A 16-byte lane is half a group. Four vectors make a
 * part; a vector of 8 ints holds the part's sums of halves: lane L of vector i goes to element 4L + i.
 *
 *     per vector: maddubs (16 sums of 2 products), madd with ones (8 of 4); per part a tree of 6 shuffles and 3 adds
 *
 * maddubs adds two products into 16 bits with saturation, which never happens: unsigned weights up to 63 give 2 * 63 * 127 = 16002;
 * signed ones up to 128 in magnitude go in as |w| and x with the sign of w, 2 * 128 * 127 = 32512 < 32768.
 *
 * The float operations that follow are the same for any n and rows, and so are the bits:
 *     acc += float(sums) * scale_w * scale_x                      constant offsets of weights are taken off as integers
 *     acc += (float(sums) * scale_w - sums_x * min_w) * scale_x   weights with minima
 * and at the end the elements of acc are added. A last tile of k % 256 weights is padded with zeros. */
#ifndef AIR_KERNELS_AVX2_PRODUCT_Q8_H
#define AIR_KERNELS_AVX2_PRODUCT_Q8_H

#include "kernels/tables.h"
#include "kernels/x86/x86.h"

enum { TILE = 256, GROUPS = 8, HALVES = 16, PARTS = 2, ROWS = 4, COLUMNS = 16, MAX_TILE_BYTES = 272 };

typedef struct tile_shape {
    int    is_signed;    /* weights are signed bytes */
    int    offset_shift; /* unsigned weights are stored plus 2^offset_shift; 0: as they are */
    int    has_min;
    size_t bytes;        /* of 256 weights */
} tile_shape;

typedef struct tile {
    __m256i w[8];
    __m256  scale[PARTS], min[PARTS];
} tile;

/* 256 activations; q stays in memory. */
typedef struct column {
    const int8_t *q;
    __m256i       start[PARTS]; /* the offset's share of the sums, negative */
    __m256        scale[PARTS], sums[PARTS];
} column;

typedef void (*tile_decode)(const uint8_t *w, tile *t);

/* Element 4L + i of part p belongs to half 8p + 2i + L and so to group 4p + i: both 16-byte lanes want the part's 4 floats. */
AIR_INLINE __m256 spread_groups(const __m128 v)
{
    return _mm256_insertf128_ps(_mm256_castps128_ps256(v), v, 1);
}

/* 8 int16 of halves 0 … 7 of a part, in the order of its elements: 0 2 4 6, 1 3 5 7. */
AIR_INLINE __m256i order_halves(__m128i v)
{
    __m128i order = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    return _mm256_cvtepi16_epi32(_mm_shuffle_epi8(v, order));
}

AIR_INLINE __m256i load_q(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }

AIR_INLINE __m256i add_lanes(const __m256i v[4])
{
    __m256i a = _mm256_add_epi32(_mm256_unpacklo_epi32(v[0], v[1]), _mm256_unpackhi_epi32(v[0], v[1]));
    __m256i b = _mm256_add_epi32(_mm256_unpacklo_epi32(v[2], v[3]), _mm256_unpackhi_epi32(v[2], v[3]));
    return _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
}

AIR_INLINE __m256i dot(__m256i w, __m256i x, const tile_shape *s)
{
    __m256i pairs = s->is_signed ? _mm256_maddubs_epi16(_mm256_sign_epi8(w, w), _mm256_sign_epi8(x, w))
                                 : _mm256_maddubs_epi16(w, x);
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

/* A padded copy of a column's last, shorter tile. */
typedef struct column_pad {
    int8_t  q[TILE];
    float   scale[GROUPS];
    int16_t sums[HALVES];
} column_pad;

AIR_INLINE void column_tile(column *out, column_pad *pad, const air_columns *x, int64_t c, int64_t at, const tile_shape *s)
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
    out->q = q;
    AIR__UNROLL
    for (int p = 0; p < PARTS; p++) {
        __m256i halves = order_halves(_mm_loadu_si128((const __m128i *)(const void *)(sums + 8 * p)));
        out->scale[p] = spread_groups(_mm_loadu_ps(scale + 4 * p));
        out->start[p] = _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_slli_epi32(halves, s->offset_shift));
        out->sums[p] = _mm256_cvtepi32_ps(halves);
    }
}

AIR_INLINE void row_tile(tile *out, const uint8_t *row, int64_t at, int64_t left, const tile_shape *s, tile_decode decode)
{
    const uint8_t *w = row + (size_t)(at / TILE) * s->bytes;
    uint8_t pad[MAX_TILE_BYTES];
    if (AIR_UNLIKELY(left < TILE)) {
        memset(pad, 0, sizeof pad);
        w = memcpy(pad, w, (size_t)(left / AIR_Q8_GROUP) * (s->bytes / GROUPS));
    }
    decode(w, out);
}

/* acc += a tile of one row times that of one column. */
AIR_INLINE __m256 accumulate(__m256 acc, const tile *t, const column *x, const tile_shape *s)
{
    AIR__UNROLL
    for (int p = 0; p < PARTS; p++) {
        __m256i dots[4];
        AIR__UNROLL
        for (int i = 0; i < 4; i++) dots[i] = dot(t->w[4 * p + i], load_q(x->q + 32 * (4 * p + i)), s);
        __m256i sums = add_lanes(dots);
        if (s->offset_shift) sums = _mm256_add_epi32(sums, x->start[p]);
        __m256 f = _mm256_cvtepi32_ps(sums);
        if (!s->has_min) acc = _mm256_fmadd_ps(f, _mm256_mul_ps(t->scale[p], x->scale[p]), acc);
        else acc = _mm256_fmadd_ps(_mm256_fnmadd_ps(t->min[p], x->sums[p], _mm256_mul_ps(f, t->scale[p])), x->scale[p], acc);
    }
    return acc;
}

AIR_INLINE float add_elements(__m256 v)
{
    __m128 a = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
}

/* R rows, columns [c, c + n), n <= COLUMNS: a tile of weights is decoded once for all of them. */
AIR_INLINE void few_columns(const uint8_t *w, size_t row_bytes, const air_columns *x, int64_t c, int64_t n, float *y,
                            size_t y_stride, int R, const tile_shape *s, tile_decode decode)
{
    __m256 acc[COLUMNS][ROWS];
    for (int64_t j = 0; j < n; j++)
        for (int r = 0; r < R; r++) acc[j][r] = _mm256_setzero_ps();
    for (int64_t at = 0; at < x->k; at += TILE) {
        tile t[ROWS];
        air__prefetch_next_rows(w, row_bytes, (size_t)(at / TILE) * s->bytes, s->bytes, R);
        AIR__UNROLL
        for (int r = 0; r < R; r++) row_tile(&t[r], w + (size_t)r * row_bytes, at, x->k - at, s, decode);
        for (int64_t j = 0; j < n; j++) {
            column_pad pad;
            column col;
            column_tile(&col, &pad, x, c + j, at, s);
            AIR__UNROLL
            for (int r = 0; r < R; r++) acc[j][r] = accumulate(acc[j][r], &t[r], &col, s);
        }
    }
    for (int64_t j = 0; j < n; j++)
        for (int r = 0; r < R; r++) y[(size_t)j * y_stride + (size_t)r] = add_elements(acc[j][r]);
}

AIR_INLINE void some_rows(const uint8_t *w, size_t row_bytes, const air_columns *x, float *y, size_t y_stride, int R,
                          const tile_shape *s, tile_decode decode)
{
    for (int64_t c = 0; c < x->n; c += COLUMNS) {
        int64_t n = x->n - c < COLUMNS ? x->n - c : COLUMNS;
        few_columns(w, row_bytes, x, c, n, y + (size_t)c * y_stride, y_stride, R, s, decode);
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
