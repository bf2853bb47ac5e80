/* 16 floats: the vocabulary that kernels/simd is written in. Everything is static inline. */
#ifndef AIR_KERNELS_AVX512_VEC_H
#define AIR_KERNELS_AVX512_VEC_H

#include "kernels/x86/x86.h"

/* Lanes; how many rows and columns the registers hold, and of V_SOME_COLUMNS to 16 columns; heads of attention at once, and
 * how many vectors of sums these have. */
enum { V_N = 16, V_ROWS = 4, V_COLUMNS = 4, V_SOME_ROWS = 4, V_SOME_COLUMNS = 4, V_HEADS = 4, V_SUMS = 16 };

typedef __m512 vf;
typedef struct { __m512d low, high; } vd;

AIR_INLINE __mmask16 v_first(int64_t n) { return (__mmask16)((1u << n) - 1); }
AIR_INLINE vf v_zero(void) { return _mm512_setzero_ps(); }
AIR_INLINE vf v_set(float f) { return _mm512_set1_ps(f); }
AIR_INLINE vf v_load(const float *p) { return _mm512_loadu_ps(p); }
AIR_INLINE vf v_load_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p)); }
AIR_INLINE vf v_load_i8(const int8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}
/* Four bits less 8: those of V_N bytes from bit `shift` on; those from element `at` on of 16, of which a byte has elements j and j + 8. */
AIR_INLINE vf v_from_u4(__m128i nibbles)
{
    __m512i v = _mm512_cvtepu8_epi32(_mm_and_si128(nibbles, _mm_set1_epi8(15)));
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(v, _mm512_set1_epi32(8)));
}
AIR_INLINE vf v_load_i4(const uint8_t *p, int64_t shift)
{
    return v_from_u4(_mm_srl_epi16(_mm_loadu_si128((const __m128i *)(const void *)p), _mm_cvtsi64_si128(shift)));
}
AIR_INLINE vf v_load_i4_tile(const uint8_t *tile, int64_t at)
{
    (void)at;
    __m128i low = _mm_loadl_epi64((const __m128i *)(const void *)tile);
    return v_from_u4(_mm_unpacklo_epi64(low, _mm_srli_epi16(low, 4)));
}
AIR_INLINE vf v_from_bf16(__m256i v) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16)); }
AIR_INLINE vf v_load_bf16(const uint16_t *p) { return v_from_bf16(_mm256_loadu_si256((const __m256i *)(const void *)p)); }

/* The first n < V_N elements, in memory; the others are fill, or 0. */
AIR_INLINE vf v_load_n(const float *p, int64_t n, vf fill) { return _mm512_mask_loadu_ps(fill, v_first(n), p); }
AIR_INLINE vf v_load_f16_n(const uint16_t *p, int64_t n) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(v_first(n), p)); }
AIR_INLINE vf v_load_bf16_n(const uint16_t *p, int64_t n) { return v_from_bf16(_mm256_maskz_loadu_epi16(v_first(n), p)); }
AIR_INLINE void v_store(float *p, vf v) { _mm512_storeu_ps(p, v); }
AIR_INLINE void v_store_n(float *p, vf v, int64_t n) { _mm512_mask_storeu_ps(p, v_first(n), v); }

AIR_INLINE __m256i v_to_f16(vf v) { return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
AIR_INLINE void v_store_f16(uint16_t *p, vf v) { _mm256_storeu_si256((__m256i *)(void *)p, v_to_f16(v)); }
AIR_INLINE void v_store_f16_n(uint16_t *p, vf v, int64_t n) { _mm256_mask_storeu_epi16(p, v_first(n), v_to_f16(v)); }

AIR_INLINE vf v_add(vf a, vf b) { return _mm512_add_ps(a, b); }
AIR_INLINE vf v_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
AIR_INLINE vf v_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
AIR_INLINE vf v_div(vf a, vf b) { return _mm512_div_ps(a, b); }
AIR_INLINE vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
AIR_INLINE vf v_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); }
/* Of a NaN and a number these give the second operand. */
AIR_INLINE vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); }
AIR_INLINE vf v_min(vf a, vf b) { return _mm512_min_ps(a, b); }
AIR_INLINE vf v_round(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
AIR_INLINE vf v_times_pow2(vf a, vf n) { return _mm512_scalef_ps(a, n); } /* n a whole number, |n| < 200 */

/* The low bits of n, as a whole number, added to a's exponent. */
AIR_INLINE vf v_add_exponent(vf a, vf n)
{
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), _mm512_slli_epi32(_mm512_castps_si512(n), 23)));
}

AIR_INLINE float v_sum(vf v) { return _mm512_reduce_add_ps(v); }
AIR_INLINE float v_greatest(vf v) { return _mm512_reduce_max_ps(v); }

/* Pairs (0,1), (2,3) …: V_N / 2 floats each taken twice; the partners exchanged; a*b - c in even lanes, + c in odd ones. */
AIR_INLINE vf v_load_twice(const float *p)
{
    __m512i pairs = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    return _mm512_permutexvar_ps(pairs, _mm512_castps256_ps512(_mm256_loadu_ps(p)));
}
AIR_INLINE vf v_swap_pairs(vf v) { return _mm512_permute_ps(v, 0xb1); }
AIR_INLINE vf v_fmaddsub(vf a, vf b, vf c) { return _mm512_fmaddsub_ps(a, b, c); }

/* Of V_N vectors rows become columns: those of each four first, quad by quad, which are four neighbouring lanes. */
AIR_INLINE void v_transpose_quads(vf x[4])
{
    vf a = _mm512_unpacklo_ps(x[0], x[1]), b = _mm512_unpackhi_ps(x[0], x[1]);
    vf c = _mm512_unpacklo_ps(x[2], x[3]), d = _mm512_unpackhi_ps(x[2], x[3]);
    x[0] = _mm512_shuffle_ps(a, c, 0x44), x[1] = _mm512_shuffle_ps(a, c, 0xee);
    x[2] = _mm512_shuffle_ps(b, d, 0x44), x[3] = _mm512_shuffle_ps(b, d, 0xee);
}
AIR_INLINE void v_transpose(vf x[V_N])
{
    AIR__UNROLL
    for (int i = 0; i < 16; i += 4) v_transpose_quads(x + i);
    AIR__UNROLL
    for (int i = 0; i < 4; i++) {
        vf a = _mm512_shuffle_f32x4(x[i], x[4 + i], 0x88), b = _mm512_shuffle_f32x4(x[i], x[4 + i], 0xdd);
        vf c = _mm512_shuffle_f32x4(x[8 + i], x[12 + i], 0x88), d = _mm512_shuffle_f32x4(x[8 + i], x[12 + i], 0xdd);
        x[i] = _mm512_shuffle_f32x4(a, c, 0x88), x[8 + i] = _mm512_shuffle_f32x4(a, c, 0xdd);
        x[4 + i] = _mm512_shuffle_f32x4(b, d, 0x88), x[12 + i] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
}

AIR_INLINE vd vd_zero(void) { return (vd){_mm512_setzero_pd(), _mm512_setzero_pd()}; }
AIR_INLINE vd vd_widen(vf v)
{
    return (vd){_mm512_cvtps_pd(_mm512_castps512_ps256(v)), _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1))};
}
AIR_INLINE vd vd_add(vd a, vd b) { return (vd){_mm512_add_pd(a.low, b.low), _mm512_add_pd(a.high, b.high)}; }
AIR_INLINE vd vd_fma(vd a, vd b, vd c)
{
    return (vd){_mm512_fmadd_pd(a.low, b.low, c.low), _mm512_fmadd_pd(a.high, b.high, c.high)};
}
AIR_INLINE double vd_sum(vd a) { return _mm512_reduce_add_pd(_mm512_add_pd(a.low, a.high)); }

#endif
