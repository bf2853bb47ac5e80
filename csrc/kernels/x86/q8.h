/* The 8-bit form of activations in both x86 families: how it is made, and how products take a tile of it. */
#ifndef AIR_KERNELS_X86_Q8_H
#define AIR_KERNELS_X86_Q8_H

#include "kernels/tables.h"
#include "kernels/x86/x86.h"

enum { AIR__Q8_GROUPS = AIR_Q8_TILE / AIR_Q8_GROUP, AIR__Q8_SUMS = AIR_Q8_TILE / AIR_Q8_SUM_GROUP };

/* A copy of a column's last, shorter tile, filled up with zeros. */
typedef struct air__q8_pad {
    int8_t  q[AIR_Q8_TILE], multiple[AIR__Q8_GROUPS];
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
    t.multiple = memcpy(pad->multiple, t.multiple, groups);
    t.scale = memcpy(pad->scale, t.scale, groups * sizeof *t.scale);
    return t;
}

/* ---- quantizing ---- */

/* Magnitudes as bits: integers order floats, infinities and NaNs above all. */
AIR_INLINE __m256i air__greatest_bits(const float *x)
{
    __m256i bits = _mm256_setzero_si256();
    AIR__UNROLL
    for (int i = 0; i < AIR_Q8_GROUP; i += 8) {
        __m256i v = _mm256_castps_si256(_mm256_loadu_ps(x + i));
        bits = _mm256_max_epi32(bits, _mm256_and_si256(v, _mm256_set1_epi32(0x7fffffff)));
    }
    return bits;
}

AIR_INLINE int32_t air__greatest_element(__m256i v)
{
    __m128i a = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    a = _mm_max_epi32(a, _mm_shuffle_epi32(a, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(a, _mm_shuffle_epi32(a, 0xb1)));
}

AIR_INLINE int16_t air__quantize_half(int8_t *q, const float *x, __m256 inverse)
{
    __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), inverse));
    __m256i b = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8), inverse));
    __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
    __m128i low = _mm256_castsi256_si128(words), high = _mm256_extracti128_si256(words, 1);
    _mm_storeu_si128((__m128i *)(void *)q, _mm_packs_epi16(low, high));
    __m128i sum = _mm_madd_epi16(_mm_add_epi16(low, high), _mm_set1_epi16(1));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
    return (int16_t)_mm_cvtsi128_si32(sum);
}

/* A tile whose greatest magnitude is zero, nearly so, or not finite: nothing to round. */
AIR_INLINE void air__quantize_nothing(float step, int64_t n, air_q8 out)
{
    *out.step = step;
    memset(out.q, 0, (size_t)n);
    for (int64_t g = 0; g < n / AIR_Q8_GROUP; g++) {
        out.sums[2 * g] = out.sums[2 * g + 1] = 0;
        out.multiple[g] = step != 0;
        out.scale[g] = step;
    }
}

AIR_INLINE void air__quantize_tile(const float *x, int64_t n, air_q8 out)
{
    int32_t bits[AIR__Q8_GROUPS] = {0};
    float greatest, group[AIR__Q8_GROUPS];
    for (int64_t g = 0; g < n / AIR_Q8_GROUP; g++) bits[g] = air__greatest_element(air__greatest_bits(x + g * AIR_Q8_GROUP));
    __m256i groups = _mm256_loadu_si256((const __m256i *)(const void *)bits);
    int32_t most = air__greatest_element(groups);
    memcpy(&greatest, &most, sizeof greatest);
    if (!(greatest >= AIR__QUANTIZE_TINY && greatest <= 3.4028234e38f)) {
        air__quantize_nothing(greatest < AIR__QUANTIZE_TINY ? 0 : greatest, n, out);
        return;
    }
    float step = greatest / (127.0f * 127.0f);
    __m256 multiple = _mm256_ceil_ps(_mm256_mul_ps(_mm256_castsi256_ps(groups), _mm256_set1_ps(127.0f / greatest)));
    multiple = _mm256_min_ps(multiple, _mm256_set1_ps(127));
    __m256 scale = _mm256_mul_ps(multiple, _mm256_set1_ps(step));
    __m256 zeros = _mm256_cmp_ps(multiple, _mm256_setzero_ps(), _CMP_EQ_OQ);
    __m256 inverse = _mm256_andnot_ps(zeros, _mm256_div_ps(_mm256_set1_ps(1), scale));
    _mm256_storeu_si256((__m256i *)(void *)bits, _mm256_cvtps_epi32(multiple));
    _mm256_storeu_ps(group, scale);
    *out.step = step;
    for (int64_t g = 0; g < n / AIR_Q8_GROUP; g++) out.multiple[g] = (int8_t)bits[g], out.scale[g] = group[g];
    _mm256_storeu_ps(group, inverse);
    for (int64_t h = 0; h < n / AIR_Q8_SUM_GROUP; h++)
        out.sums[h] = air__quantize_half(out.q + h * AIR_Q8_SUM_GROUP, x + h * AIR_Q8_SUM_GROUP, _mm256_set1_ps(group[h / 2]));
}

AIR_INLINE void air__quantize(const float *x, int64_t k, air_q8 out)
{
    for (int64_t at = 0; at < k; at += AIR_Q8_TILE)
        air__quantize_tile(x + at, k - at < AIR_Q8_TILE ? k - at : AIR_Q8_TILE, air_q8_at(out, k, 0, at));
}

#endif
