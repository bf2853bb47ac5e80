/* The 8-bit form of activations in both x86 families: how it is made, and how products take a tile of it. */
#ifndef AIR_KERNELS_X86_Q8_H
#define AIR_KERNELS_X86_Q8_H

#include <math.h>

#include "kernels/tables.h"
#include "kernels/x86/x86.h"

enum { AIR__Q8_GROUPS = AIR_Q8_TILE / AIR_Q8_GROUP, AIR__Q8_SUMS = AIR_Q8_TILE / AIR_Q8_SUM_GROUP };

/* A copy of a column's last, shorter tile, filled up with zeros. */
typedef struct air__q8_pad {
    int8_t  q[AIR_Q8_TILE];
    int16_t sums[AIR__Q8_SUMS];
    float   scale[AIR__Q8_GROUPS];
} air__q8_pad;

AIR_INLINE air_q8 air__q8_tile(air__q8_pad *pad, const air_columns *x, int64_t c, int64_t at)
{
    air_q8 t = air_q8_at(x->q8, x->k, c, at);
    size_t left = (size_t)(x->k - at), groups = left / AIR_Q8_GROUP;
    if (AIR_LIKELY(left >= AIR_Q8_TILE)) return t;
    memset(pad, 0, sizeof *pad);
    t.q = memcpy(pad->q, t.q, left);
    t.sums = memcpy(pad->sums, t.sums, left / AIR_Q8_SUM_GROUP * sizeof *t.sums);
    t.scale = memcpy(pad->scale, t.scale, groups * sizeof *t.scale);
    return t;
}

/* ---- quantizing ---- */

/* The greatest magnitude of 32 floats as bits: integers order floats, infinities and NaNs above all. */
AIR_INLINE float air__greatest_magnitude(const float *x)
{
    __m256i bits = _mm256_setzero_si256();
    AIR__UNROLL
    for (int i = 0; i < AIR_Q8_GROUP; i += 8) {
        __m256i v = _mm256_castps_si256(_mm256_loadu_ps(x + i));
        bits = _mm256_max_epi32(bits, _mm256_and_si256(v, _mm256_set1_epi32(0x7fffffff)));
    }
    __m128i a = _mm_max_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
    a = _mm_max_epi32(a, _mm_shuffle_epi32(a, 0x4e));
    a = _mm_max_epi32(a, _mm_shuffle_epi32(a, 0xb1));
    return _mm_cvtss_f32(_mm_castsi128_ps(a));
}

AIR_INLINE int16_t air__quantize_half(int8_t *q, __m256 x0, __m256 x1, __m256 inverse)
{
    __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(x0, inverse)), b = _mm256_cvtps_epi32(_mm256_mul_ps(x1, inverse));
    __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
    __m128i low = _mm256_castsi256_si128(words), high = _mm256_extracti128_si256(words, 1);
    _mm_storeu_si128((__m128i *)(void *)q, _mm_packs_epi16(low, high));
    __m128i sum = _mm_madd_epi16(_mm_add_epi16(low, high), _mm_set1_epi16(1));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
    return (int16_t)_mm_cvtsi128_si32(sum);
}

AIR_INLINE void air__quantize_group(const float *x, air_q8 out)
{
    __m256 v[4];
    AIR__UNROLL
    for (int j = 0; j < 4; j++) v[j] = _mm256_loadu_ps(x + 8 * j);
    float greatest = air__greatest_magnitude(x);
    *out.scale = greatest < AIR__QUANTIZE_TINY ? 0 : greatest / 127.0f;
    if (greatest < AIR__QUANTIZE_TINY || !isfinite(greatest)) v[0] = v[1] = v[2] = v[3] = _mm256_setzero_ps(), greatest = 1;
    __m256 inverse = _mm256_set1_ps(127.0f / greatest);
    out.sums[0] = air__quantize_half(out.q, v[0], v[1], inverse);
    out.sums[1] = air__quantize_half(out.q + 16, v[2], v[3], inverse);
}

/* Dwords by 4 x 4 in each 16-byte lane. */
AIR_INLINE void air__turn_lanes(__m256i v[4])
{
    __m256i a = _mm256_unpacklo_epi32(v[0], v[1]), b = _mm256_unpackhi_epi32(v[0], v[1]);
    __m256i c = _mm256_unpacklo_epi32(v[2], v[3]), d = _mm256_unpackhi_epi32(v[2], v[3]);
    v[0] = _mm256_unpacklo_epi64(a, c);
    v[1] = _mm256_unpackhi_epi64(a, c);
    v[2] = _mm256_unpacklo_epi64(b, d);
    v[3] = _mm256_unpackhi_epi64(b, d);
}

/* A tile's groups to what ops.h calls turned: dwords by 8 x 8. */
AIR_INLINE void air__turn(__m256i v[8])
{
    air__turn_lanes(v);
    air__turn_lanes(v + 4);
    AIR__UNROLL
    for (int j = 0; j < 4; j++) {
        __m256i low = v[j], high = v[j + 4];
        v[j] = _mm256_permute2x128_si256(low, high, 0x20);
        v[j + 4] = _mm256_permute2x128_si256(low, high, 0x31);
    }
}

AIR_INLINE void air__quantize(const float *x, int64_t k, air_q8 out)
{
    for (int64_t at = 0; at < k; at += AIR_Q8_GROUP) air__quantize_group(x + at, air_q8_at(out, k, 0, at));
    for (int64_t at = 0; at < air_q8_tiles(k) * AIR_Q8_TILE; at += AIR_Q8_TILE) {
        __m256i v[AIR__Q8_GROUPS];
        AIR__UNROLL
        for (int g = 0; g < AIR__Q8_GROUPS; g++) {
            int64_t i = at + g * AIR_Q8_GROUP;
            v[g] = i < k ? _mm256_loadu_si256((const __m256i *)(const void *)(out.q + i)) : _mm256_setzero_si256();
        }
        air__turn(v);
        AIR__UNROLL
        for (int j = 0; j < AIR__Q8_GROUPS; j++) _mm256_storeu_si256((__m256i *)(void *)(out.turned + at + j * AIR_Q8_GROUP), v[j]);
    }
}

#endif
