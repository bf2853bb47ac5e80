/* AVX-512 functions on vectors. */
#include "vec.h"

#include "kernels/x86/vector.h"

/* The greatest magnitude of 32 floats as bits: integers order floats, infinities and NaNs above all. */
AIR_INLINE float greatest_magnitude(__m512 a, __m512 b)
{
    __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512i bits = _mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(a), magnitude),
                                    _mm512_and_si512(_mm512_castps_si512(b), magnitude));
    return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(_mm512_reduce_max_epi32(bits))));
}

AIR_INLINE int16_t quantize_half(int8_t *q, __m512 x, __m512 inverse)
{
    __m512i v = _mm512_cvtps_epi32(_mm512_mul_ps(x, inverse));
    _mm_storeu_si128((__m128i *)(void *)q, _mm512_cvtepi32_epi8(v));
    return (int16_t)_mm512_reduce_add_epi32(v);
}

static void quantize(const float *x, int64_t k, int8_t *q, float *scale, int16_t *sums)
{
    for (int64_t i = 0; i < k; i += AIR_Q8_GROUP) {
        __m512 a = v_load(x + i), b = v_load(x + i + 16);
        float greatest = greatest_magnitude(a, b);
        scale[i / AIR_Q8_GROUP] = greatest < AIR__QUANTIZE_TINY ? 0 : greatest / 127.0f;
        if (greatest < AIR__QUANTIZE_TINY || !isfinite(greatest)) a = b = v_zero(), greatest = 1;
        __m512 inverse = v_set(127.0f / greatest);
        sums[i / AIR_Q8_SUM_GROUP] = quantize_half(q + i, a, inverse);
        sums[i / AIR_Q8_SUM_GROUP + 1] = quantize_half(q + i + 16, b, inverse);
    }
}

const air_ops air__avx512_vector = VECTOR_FUNCTIONS;
