/* The shape of the AVX-512 VNNI products of formats with minima and 6-bit scales, Q4_K and Q5_K, with 8-bit activations.
 *
 * A tile is a block: 256 weights, 8 groups of 32. decode() makes 4 vectors of unsigned bytes; a 16-byte lane is half a group:
 *     w[0], w[1]: first and second halves of groups 0 2 4 6;    w[2], w[3]: of groups 1 3 5 7, times 2^odd_shift
 * The activations are brought into that order once for ROWS rows. Each group ends in two sums of 16 products, so that lane j of the
 * 16 sums is of groups 2j 2j 2j+1 2j+1:
 *
 *     one column:   2 dpbusd for the even groups and 2 for the odd ones; these sums of 8 products have at most 31 * 127 * 8 < 2^15,
 *                   so they pack into 16 bits, and one madd adds pairs and multiplies by the scales
 *     more columns: both sides are transposed further, so that a chain of 4 dpbusd ends in the 16 sums
 *
 *     acc  += (float(sums * scale) * d) * scale_x           16 elements
 *     accm -= (min * dmin) * float(sums_x) * scale_x        8 elements
 *
 * sums * scale < 2^24 and scale * d are exact in a float, so it does not matter whether sums meet the scales as integers or as
 * floats: the bits do not depend on n or rows. At the end the elements of acc and accm are added. */
#ifndef AIR_KERNELS_AVX512_PRODUCT_MIN_H
#define AIR_KERNELS_AVX512_PRODUCT_MIN_H

#include "kernels/tables.h"
#include "kernels/x86/x86.h"
#include "quant/blocks.h"

enum { TILE = 256, ROWS = 4, COLUMNS = 16 };

typedef struct tile_shape {
    int    odd_shift;
    size_t bytes, scales; /* of a block; where its 12 bytes of scales are: d and dmin are its first 4 bytes */
} tile_shape;

typedef struct column {
    __m512i x[4];
    __m512  scale;
    __m256  sums; /* times scale */
} column;

typedef struct accumulator {
    __m512 sums;
    __m256 mins;
} accumulator;

typedef void (*tile_decode)(const uint8_t *w, __m512i out[4]);

/* 8 values, one for each group, to the 16 elements. */
AIR_INLINE __m512 spread_groups(__m256 v)
{
    __m512i group = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    return _mm512_permutexvar_ps(group, _mm512_castps256_ps512(v));
}

/* From halves of groups to quarters in turn: element 4j + i of the four together holds the 16 weights that end in its sum. */
AIR_INLINE void transpose(__m512i v[4])
{
    AIR__UNROLL
    for (int i = 0; i < 2; i++) {
        __m512 even = _mm512_castsi512_ps(v[i]), odd = _mm512_castsi512_ps(v[i + 2]);
        v[i] = _mm512_castps_si512(_mm512_shuffle_ps(even, odd, 0x88));
        v[i + 2] = _mm512_castps_si512(_mm512_shuffle_ps(even, odd, 0xdd));
    }
}

AIR_INLINE void load_column(column *out, const air_columns *x, int64_t c, int64_t at)
{
    air_q8 q8 = air_q8_at(x->q8, x->k, c, at);
    __m256 scale = _mm256_loadu_ps(q8.scale);
    __m512i v[4], a[4];
    AIR__UNROLL
    for (int i = 0; i < 4; i++) v[i] = _mm512_loadu_si512(q8.q + 64 * i);
    AIR__UNROLL
    for (int i = 0; i < 2; i++) {
        a[i] = _mm512_shuffle_i64x2(v[2 * i], v[2 * i + 1], 0x44);
        a[2 + i] = _mm512_shuffle_i64x2(v[2 * i], v[2 * i + 1], 0xee);
    }
    AIR__UNROLL
    for (int i = 0; i < 4; i += 2) {
        out->x[i] = _mm512_shuffle_i64x2(a[i], a[i + 1], 0x88);
        out->x[i + 1] = _mm512_shuffle_i64x2(a[i], a[i + 1], 0xdd);
    }
    __m256i sums = _mm256_madd_epi16(_mm256_loadu_si256((const __m256i *)(const void *)q8.sums), _mm256_set1_epi16(1));
    out->scale = spread_groups(scale);
    out->sums = _mm256_mul_ps(_mm256_cvtepi32_ps(sums), scale);
}

/* 8 bytes as floats. */
AIR_INLINE __m256 bytes_to_floats(uint64_t v)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((int64_t)v)));
}

/* d and dmin of R rows' blocks, in turn. */
AIR_INLINE void load_deltas(float *d, const uint8_t *w, size_t row_bytes, int R)
{
    int32_t v[ROWS] = {0};
    AIR__UNROLL
    for (int r = 0; r < R; r++) memcpy(&v[r], w + (size_t)r * row_bytes, 4);
    _mm256_storeu_ps(d, _mm256_cvtph_ps(_mm_set_epi32(v[3], v[2], v[1], v[0])));
}

/* The 16 sums, each times its group's scale. */
AIR_INLINE __m512i scaled_sums(const __m512i w[4], const __m512i x[4], uint64_t scales, const tile_shape *s)
{
    __m512i even = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(_mm512_setzero_si512(), w[0], x[0]), w[1], x[1]);
    __m512i odd = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(_mm512_setzero_si512(), w[2], x[2]), w[3], x[3]);
    if (s->odd_shift) odd = _mm512_srai_epi32(odd, (unsigned)s->odd_shift);
    const int64_t first = (int64_t)0x8000800080008000, second = (int64_t)0x8001800180018001, two = 0x0002000200020002;
    __m512i pick = _mm512_setr_epi64(first, second, first + two, second + two, first + 2 * two, second + 2 * two, first + 3 * two,
                                     second + 3 * two);
    return _mm512_madd_epi16(_mm512_packs_epi32(even, odd), _mm512_shuffle_epi8(_mm512_set1_epi64((int64_t)scales), pick));
}

AIR_INLINE float add_elements(const accumulator *acc)
{
    __m256 sums = _mm256_add_ps(_mm512_castps512_ps256(acc->sums), _mm512_extractf32x8_ps(acc->sums, 1));
    return _mm512_reduce_add_ps(_mm512_zextps256_ps512(_mm256_sub_ps(sums, acc->mins)));
}

/* R rows, one column. */
AIR_INLINE void one_column(const uint8_t *w, size_t row_bytes, const air_columns *x, int64_t c, float *y, int R,
                           const tile_shape *s, tile_decode decode)
{
    accumulator acc[ROWS];
    AIR__UNROLL
    for (int r = 0; r < R; r++) acc[r] = (accumulator){_mm512_setzero_ps(), _mm256_setzero_ps()};
    for (int64_t at = 0; at < x->k; at += TILE) {
        size_t offset = (size_t)(at / TILE) * s->bytes;
        column col;
        float d[2 * ROWS];
        load_column(&col, x, c, at);
        air__prefetch_next_rows(w, row_bytes, offset, s->bytes, R);
        load_deltas(d, w + offset, row_bytes, R);
        AIR__UNROLL
        for (int r = 0; r < R; r++) {
            const uint8_t *block = w + (size_t)r * row_bytes + offset;
            uint64_t scales, mins;
            __m512i q[4];
            air__scales_mins(block + s->scales, &scales, &mins);
            decode(block, q);
            __m512 f = _mm512_cvtepi32_ps(scaled_sums(q, col.x, scales, s));
            acc[r].sums = _mm512_fmadd_ps(_mm512_mul_ps(f, _mm512_set1_ps(d[2 * r])), col.scale, acc[r].sums);
            __m256 min = _mm256_mul_ps(bytes_to_floats(mins), _mm256_set1_ps(d[2 * r + 1]));
            acc[r].mins = _mm256_fmadd_ps(min, col.sums, acc[r].mins);
        }
    }
    AIR__UNROLL
    for (int r = 0; r < R; r++) y[r] = add_elements(&acc[r]);
}

/* A tile as more columns want it. */
typedef struct tile {
    __m512i w[4];
    __m512  scale;
    __m256  min;
} tile;

AIR_INLINE void load_tile(tile *t, const uint8_t *block, const float d[2], const tile_shape *s, tile_decode decode)
{
    uint64_t scales, mins;
    air__scales_mins(block + s->scales, &scales, &mins);
    decode(block, t->w);
    transpose(t->w);
    float even = d[0], odd = d[0] / (float)(1 << s->odd_shift); /* exact: d is at least 2^-24 */
    __m256 unit = _mm256_setr_ps(even, odd, even, odd, even, odd, even, odd);
    t->scale = spread_groups(_mm256_mul_ps(bytes_to_floats(scales), unit));
    t->min = _mm256_mul_ps(bytes_to_floats(mins), _mm256_set1_ps(d[1]));
}

/* One tile of R rows on P columns from c on, whose sums so far are in acc[.][first] on. */
AIR_INLINE void tile_columns(const tile *t, const air_columns *x, int64_t c, int64_t at, accumulator (*acc)[COLUMNS], int64_t first,
                             int R, int P)
{
    column col[2];
    AIR__UNROLL
    for (int p = 0; p < P; p++) {
        load_column(&col[p], x, c + p, at);
        transpose(col[p].x);
    }
    AIR__UNROLL
    for (int r = 0; r < R; r++) {
        __m512i sums[2];
        AIR__UNROLL
        for (int p = 0; p < P; p++) sums[p] = _mm512_setzero_si512();
        AIR__UNROLL
        for (int i = 0; i < 4; i++) {
            AIR__UNROLL
            for (int p = 0; p < P; p++) sums[p] = _mm512_dpbusd_epi32(sums[p], t[r].w[i], col[p].x[i]);
        }
        AIR__UNROLL
        for (int p = 0; p < P; p++) {
            accumulator *a = &acc[r][first + p];
            a->sums = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sums[p]), t[r].scale), col[p].scale, a->sums);
            a->mins = _mm256_fmadd_ps(t[r].min, col[p].sums, a->mins);
        }
    }
}

/* R rows, columns [c, c + n), 2 <= n <= COLUMNS: a tile of weights is decoded once for all of them. */
AIR_INLINE void few_columns(const uint8_t *w, size_t row_bytes, const air_columns *x, int64_t c, int64_t n, float *y,
                            size_t y_stride, int R, const tile_shape *s, tile_decode decode)
{
    accumulator acc[ROWS][COLUMNS];
    for (int r = 0; r < R; r++)
        for (int64_t p = 0; p < n; p++) acc[r][p] = (accumulator){_mm512_setzero_ps(), _mm256_setzero_ps()};
    for (int64_t at = 0; at < x->k; at += TILE) {
        size_t offset = (size_t)(at / TILE) * s->bytes;
        tile t[ROWS];
        float d[2 * ROWS];
        air__prefetch_next_rows(w, row_bytes, offset, s->bytes, R);
        load_deltas(d, w + offset, row_bytes, R);
        AIR__UNROLL
        for (int r = 0; r < R; r++) load_tile(&t[r], w + (size_t)r * row_bytes + offset, d + 2 * r, s, decode);
        int64_t p = 0;
        for (; p + 2 <= n; p += 2) tile_columns(t, x, c + p, at, acc, p, R, 2);
        if (p < n) tile_columns(t, x, c + p, at, acc, p, R, 1);
    }
    for (int r = 0; r < R; r++)
        for (int64_t p = 0; p < n; p++) y[(size_t)p * y_stride + (size_t)r] = add_elements(&acc[r][p]);
}

#include "product_rows.h"

#endif
