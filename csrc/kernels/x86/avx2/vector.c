/* AVX2 functions on vectors. */
#include "vec.h"

#include "kernels/x86/vector.h"

/* The greatest magnitude of 32 floats as bits: integers order floats, infinities and NaNs above all. */
AIR_INLINE float greatest_magnitude(const __m256 v[4])
{
    __m256i magnitude = _mm256_set1_epi32(0x7fffffff), bits = _mm256_setzero_si256();
    AIR__UNROLL
    for (int i = 0; i < 4; i++) bits = _mm256_max_epi32(bits, _mm256_and_si256(_mm256_castps_si256(v[i]), magnitude));
    __m128i a = _mm_max_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
    a = _mm_max_epi32(a, _mm_shuffle_epi32(a, 0x4e));
    a = _mm_max_epi32(a, _mm_shuffle_epi32(a, 0xb1));
    return _mm_cvtss_f32(_mm_castsi128_ps(a));
}

AIR_INLINE int16_t quantize_half(int8_t *q, __m256 x0, __m256 x1, __m256 inverse)
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

static void quantize(const float *x, int64_t k, int8_t *q, float *scale, int16_t *sums)
{
    for (int64_t i = 0; i < k; i += AIR_Q8_GROUP) {
        __m256 v[4];
        AIR__UNROLL
        for (int j = 0; j < 4; j++) v[j] = v_load(x + i + 8 * j);
        float greatest = greatest_magnitude(v);
        scale[i / AIR_Q8_GROUP] = greatest < AIR__QUANTIZE_TINY ? 0 : greatest / 127.0f;
        if (greatest < AIR__QUANTIZE_TINY || !isfinite(greatest)) v[0] = v[1] = v[2] = v[3] = v_zero(), greatest = 1;
        __m256 inverse = v_set(127.0f / greatest);
        sums[i / AIR_Q8_SUM_GROUP] = quantize_half(q + i, v[0], v[1], inverse);
        sums[i / AIR_Q8_SUM_GROUP + 1] = quantize_half(q + i + 16, v[2], v[3], inverse);
    }
}

const air_ops air__avx2_vector = VECTOR_FUNCTIONS;
