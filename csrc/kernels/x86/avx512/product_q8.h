/* The shape of the AVX-512 VNNI products of Q8_0, Q4_0 and Q6_K with 8-bit activations; product_min.h has the others.
 * A format brings decode() and constants.
 *
 * A tile is 256 weights of a row: 4 vectors of unsigned bytes. A 16-byte lane is half a group of 32, so there are 16 halves, and a
 * vector of 16 ints holds their sums: lane L of vector i goes to element 4L + i. Which half lies where is the format's order.
 *
 *     one column:   4 dpbusd, then a tree of 6 shuffles and 3 adds to the 16 sums
 *     more columns: weights and activations are transposed as 4x4 dwords first (8 shuffles each, the weights' shared by the
 *                   columns and the activations' by the rows); then the 4 dpbusd of a chain end in the 16 sums, with no tree
 *
 * Both give the same 16 exact integers and continue with the same float operations, so the bits do not depend on n or rows:
 *     acc += float(sums) * scale_w * scale_x                      weights with a constant offset, taken off as integers
 * and at the end the 16 elements of acc are added. A last tile of k % 256 weights is padded with zeros. */
#ifndef AIR_KERNELS_AVX512_PRODUCT_Q8_H
#define AIR_KERNELS_AVX512_PRODUCT_Q8_H

#include "kernels/x86/q8.h"

enum { TILE = 256, GROUPS = 8, ROWS = 4, COLUMNS = 16, MAX_TILE_BYTES = 272 };

/* Which halves the lanes of vectors 2m and 2m + 1 hold, less 8m. */
typedef enum tile_order {
    ORDER_NATURAL, /* 0 1 2 3, 4 5 6 7 */
    ORDER_SPLIT,   /* 0 2 4 6, 1 3 5 7 */
} tile_order;

typedef struct tile_shape {
    tile_order order;
    int        offset_shift; /* weights are stored plus 2^offset_shift; 0: as they are */
    size_t     bytes;        /* of 256 weights */
} tile_shape;

typedef struct tile {
    __m512i w[4];
    __m512  scale;
} tile;

typedef struct column {
    __m512i x[4], start; /* start: what the sums begin from, minus the offset's share */
    __m512  scale;
} column;

typedef void (*tile_decode)(const uint8_t *w, tile *t);

AIR_INLINE __m512i half_of_element(tile_order order)
{
    switch (order) {
    case ORDER_SPLIT: return _mm512_setr_epi32(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15);
    default: return _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    }
}

/* 8 floats, one for each group, to the 16 elements. */
AIR_INLINE __m512 spread_groups(__m256 v, tile_order order)
{
    return _mm512_permutexvar_ps(_mm512_srli_epi32(half_of_element(order), 1), _mm512_castps256_ps512(v));
}

AIR_INLINE void transpose(__m512i v[4])
{
    __m512i a = _mm512_unpacklo_epi32(v[0], v[1]), b = _mm512_unpackhi_epi32(v[0], v[1]);
    __m512i c = _mm512_unpacklo_epi32(v[2], v[3]), d = _mm512_unpackhi_epi32(v[2], v[3]);
    v[0] = _mm512_unpacklo_epi64(a, c);
    v[1] = _mm512_unpackhi_epi64(a, c);
    v[2] = _mm512_unpacklo_epi64(b, d);
    v[3] = _mm512_unpackhi_epi64(b, d);
}

AIR_INLINE __m512i add_lanes(const __m512i v[4])
{
    __m512i a = _mm512_add_epi32(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
    __m512i b = _mm512_add_epi32(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
    return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

AIR_INLINE void load_column(column *x, const air_q8 *q8, const tile_shape *s)
{
    AIR__UNROLL
    for (int i = 0; i < 4; i++) x->x[i] = _mm512_loadu_si512(q8->q + 64 * i);
    AIR__UNROLL
    for (int i = 0; i < 4; i += 2) {
        if (s->order == ORDER_NATURAL) continue;
        __m512i a = x->x[i], b = x->x[i + 1];
        x->x[i]     = _mm512_shuffle_i64x2(a, b, 0x88);
        x->x[i + 1] = _mm512_shuffle_i64x2(a, b, 0xdd);
    }
    x->scale = spread_groups(_mm256_loadu_ps(q8->scale), s->order);
    __m512i by_half = _mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)q8->sums));
    __m512i ordered = _mm512_permutexvar_epi32(half_of_element(s->order), by_half);
    x->start = s->offset_shift ? _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32(ordered, (unsigned)s->offset_shift))
                               : _mm512_setzero_si512();
}

/* The float half of a tile, common to every path: it alone decides the bits. */
AIR_INLINE __m512 accumulate(__m512 acc, __m512i sums, const tile *t, const column *x)
{
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), _mm512_mul_ps(t->scale, x->scale), acc);
}

AIR_INLINE void column_tile(column *out, const air_columns *x, int64_t c, int64_t at, const tile_shape *s)
{
    air__q8_pad pad;
    air_q8 q8 = air__q8_tile(&pad, x, c, at);
    load_column(out, &q8, s);
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

/* R rows, one column. */
AIR_INLINE void one_column(const uint8_t *w, size_t row_bytes, const air_columns *x, int64_t c, float *y, int R,
                           const tile_shape *s, tile_decode decode)
{
    __m512 acc[ROWS];
    AIR__UNROLL
    for (int r = 0; r < R; r++) acc[r] = _mm512_setzero_ps();
    for (int64_t at = 0; at < x->k; at += TILE) {
        column col;
        column_tile(&col, x, c, at, s);
        air__prefetch_next_rows(w, row_bytes, (size_t)(at / TILE) * s->bytes, s->bytes, R);
        AIR__UNROLL
        for (int r = 0; r < R; r++) {
            tile t;
            __m512i dot[4];
            const uint8_t *row = w + (size_t)r * row_bytes;
            row_tile(&t, row, at, x->k - at, s, decode);
            AIR__UNROLL
            for (int i = 0; i < 4; i++) dot[i] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), t.w[i], col.x[i]);
            __m512i sums = add_lanes(dot);
            if (s->offset_shift) sums = _mm512_add_epi32(sums, col.start);
            acc[r] = accumulate(acc[r], sums, &t, &col);
        }
    }
    AIR__UNROLL
    for (int r = 0; r < R; r++) y[r] = _mm512_reduce_add_ps(acc[r]);
}

/* One tile of R rows on P columns from c on, whose sums so far are in acc[.][first] on. */
AIR_INLINE void tile_columns(const tile *t, const air_columns *x, int64_t c, int64_t at, __m512 (*acc)[COLUMNS], int64_t first,
                             int R, int P, const tile_shape *s)
{
    column col[2];
    AIR__UNROLL
    for (int p = 0; p < P; p++) {
        column_tile(&col[p], x, c + p, at, s);
        transpose(col[p].x);
    }
    AIR__UNROLL
    for (int r = 0; r < R; r++) {
        __m512i sums[2];
        AIR__UNROLL
        for (int p = 0; p < P; p++) sums[p] = col[p].start;
        AIR__UNROLL
        for (int i = 0; i < 4; i++) {
            AIR__UNROLL
            for (int p = 0; p < P; p++) sums[p] = _mm512_dpbusd_epi32(sums[p], t[r].w[i], col[p].x[i]);
        }
        AIR__UNROLL
        for (int p = 0; p < P; p++) acc[r][first + p] = accumulate(acc[r][first + p], sums[p], &t[r], &col[p]);
    }
}

/* R rows, columns [c, c + n), 2 <= n <= COLUMNS: a tile of weights is decoded once for all of them. */
AIR_INLINE void few_columns(const uint8_t *w, size_t row_bytes, const air_columns *x, int64_t c, int64_t n, float *y,
                            size_t y_stride, int R, const tile_shape *s, tile_decode decode)
{
    __m512 acc[ROWS][COLUMNS];
    for (int r = 0; r < R; r++)
        for (int64_t p = 0; p < n; p++) acc[r][p] = _mm512_setzero_ps();
    for (int64_t at = 0; at < x->k; at += TILE) {
        tile t[ROWS];
        air__prefetch_next_rows(w, row_bytes, (size_t)(at / TILE) * s->bytes, s->bytes, R);
        AIR__UNROLL
        for (int r = 0; r < R; r++) {
            row_tile(&t[r], w + (size_t)r * row_bytes, at, x->k - at, s, decode);
            transpose(t[r].w);
        }
        int64_t p = 0;
        for (; p + 2 <= n; p += 2) tile_columns(t, x, c + p, at, acc, p, R, 2, s);
        if (p < n) tile_columns(t, x, c + p, at, acc, p, R, 1, s);
    }
    for (int r = 0; r < R; r++)
        for (int64_t p = 0; p < n; p++) y[(size_t)p * y_stride + (size_t)r] = _mm512_reduce_add_ps(acc[r][p]);
}

#include "product_rows.h"

#endif
