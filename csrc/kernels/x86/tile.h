/* kernels/x86/tile.h: what a quantised format brings to the products of every x86 family, formats/ *.h, and what they are told of it.
 *
 * A tile is 256 weights of a row: 8 groups of 32 bytes. A format brings scales(), and group() or unpack(), and turned() where that is
 * quicker; the family's bytes.h says how many rows a vector holds, 32 bytes of each, and formats are written in its vocabulary where
 * they work on groups. */
#ifndef AIR_KERNELS_X86_TILE_H
#define AIR_KERNELS_X86_TILE_H

#include "kernels/simd/ahead.h"
#include "kernels/x86/q8.h"

enum { TILE = AIR_Q8_TILE, GROUPS = 8, MAX_TILE_BYTES = 272 };

typedef enum tile_scaling {
    SCALE_FLOAT,       /* a float for each group */
    SCALE_FLOAT_HALF,  /* a float for each half, without a bias */
    SCALE_GROUP,       /* an integer for each group, times d */
    SCALE_HALF,        /* an integer for each half, times d */
} tile_scaling;

typedef struct tile_shape {
    tile_scaling scaling;
    int    parts;     /* in so many the sums of a tile must be taken that pass through 16 bits; avx2/product_q8.h says why */
    int    is_signed; /* weights are signed bytes */
    int    has_bias;
    int    offset;    /* what weights have added, of a SCALE_FLOAT or SCALE_HALF with a bias: scales() then leaves that out; else 0 */
    size_t bytes;     /* of 256 weights */
} tile_shape;

AIR_INLINE int has_floats(const tile_shape *s) { return s->scaling == SCALE_FLOAT || s->scaling == SCALE_FLOAT_HALF; }
AIR_INLINE int has_halves(const tile_shape *s) { return s->scaling == SCALE_FLOAT_HALF || s->scaling == SCALE_HALF; }

/* Of each group, and where its halves have their own, [0] of the first and [1] of the second. A format leaves out what its scaling
 * has none of. */
typedef struct tile_scales {
    __m256  scale[2]; /* of integers, the one float beside them */
    __m256i sub[2];   /* integers, words, each twice */
    __m256  bias;     /* to take off a row's, times a column's; of halves: the one float beside bias_sub */
    __m256i bias_sub; /* of halves in their order, words; with an offset, their scales */
} tile_scales;

/* The bias, whether a format says it or an offset. */
AIR_INLINE __m256 bias_of(const tile_scales *t, const tile_shape *s)
{
    return s->offset ? _mm256_mul_ps(t->scale[0], _mm256_set1_ps((float)s->offset)) : t->bias;
}

/* stride: bytes from one row of a vector to the next. */
typedef struct tile_format {
    vb (*group)(const uint8_t *w, size_t stride, int g);
    /* In group's place, of one row: where much is done for all groups at once, or in too many registers. */
    void (*unpack)(const uint8_t *w, __m256i *groups);
    /* All groups turned, where bytes can be turned before they are taken apart. */
    void (*turned)(const uint8_t *w, size_t stride, vb *groups);
    void (*scales)(const uint8_t *w, tile_scales *t);
    tile_shape shape;
} tile_format;

AIR_INLINE __m256i load_q(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
AIR_INLINE __m128i load_half(const void *p) { return _mm_loadu_si128((const __m128i *)p); }
AIR_INLINE __m256i load_twice(const void *p) { return _mm256_broadcastsi128_si256(load_half(p)); } /* to both lanes */

/* Dwords by 4 x 4 in each 16-byte lane. */
AIR_INLINE void turn_lanes(vb v[4])
{
    vb a = vb_unpack_low32(v[0], v[1]), b = vb_unpack_high32(v[0], v[1]);
    vb c = vb_unpack_low32(v[2], v[3]), d = vb_unpack_high32(v[2], v[3]);
    v[0] = vb_unpack_low64(a, c);
    v[1] = vb_unpack_high64(a, c);
    v[2] = vb_unpack_low64(b, d);
    v[3] = vb_unpack_high64(b, d);
}

/* Each row's groups to what ops.h calls turned: dwords by 8 x 8. */
AIR_INLINE void turn(vb groups[GROUPS])
{
    turn_lanes(groups);
    turn_lanes(groups + 4);
    AIR__UNROLL
    for (int j = 0; j < 4; j++) {
        vb low = groups[j], high = groups[j + 4];
        groups[j] = vb_low_lanes(low, high);
        groups[j + 4] = vb_high_lanes(low, high);
    }
}

/* A copy of a row's last, shorter tile, filled up with zeros. */
AIR_INLINE const uint8_t *pad_tile(uint8_t pad[MAX_TILE_BYTES], const uint8_t *tile, int64_t left, size_t bytes)
{
    memset(pad, 0, MAX_TILE_BYTES);
    return memcpy(pad, tile, (size_t)(left / AIR_Q8_GROUP) * (bytes / GROUPS));
}

AIR_INLINE float add_elements(__m256 v)
{
    __m128 a = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
}

/* ---- vectors of rows ---- */

AIR_INLINE int vectors(int R) { return R < VB_ROWS ? 1 : R / VB_ROWS; }

AIR_INLINE void store_rows(float *y, int64_t y_step, vf acc, int R)
{
    AIR__UNROLL
    for (int r = 0; r < VB_ROWS; r++)
        if (r < R) y[r * y_step] = add_elements(v_row(acc, r));
}

#define PRODUCT(type, ...) PRODUCT_OF(type, .group = group_##type, .turned = NULL, __VA_ARGS__)
#define PRODUCT_TURNED(type, ...) PRODUCT_OF(type, .group = group_##type, .turned = turned_##type, __VA_ARGS__)
#define PRODUCT_UNPACKED(type, ...) PRODUCT_OF(type, .unpack = unpack_##type, .turned = NULL, __VA_ARGS__)
#define PRODUCT_OF(type, from, from_turned, ...)                                                                                   \
    static void product_##type(const void *w, size_t row_bytes, int64_t rows, const air_columns *x, float *y, size_t y_stride)    \
    {                                                                                                                              \
        static const tile_format format = {from, from_turned, .scales = scales_##type, .shape = {__VA_ARGS__}};                    \
        product(w, row_bytes, rows, x, y, y_stride, &format);                                                                      \
    }

#endif
