/* 8 floats: the vocabulary that kernels/simd is written in. Everything is static inline. */
#ifndef AIR_KERNELS_AVX2_VEC_H
#define AIR_KERNELS_AVX2_VEC_H

#include "kernels/x86/x86.h"

/* Lanes; how many rows and columns the registers hold, and of V_SOME_COLUMNS to 16 columns; heads of attention at once, and
 * how many vectors of sums these have. */
enum { V_N = 8, V_ROWS = 4, V_COLUMNS = 3, V_SOME_ROWS = 3, V_SOME_COLUMNS = 4, V_HEADS = 6, V_SUMS = 12 };

typedef __m256 vf;
typedef struct { __m256d low, high; } vd;

AIR_INLINE __m256i v_first(int64_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
AIR_INLINE vf v_zero(void) { return _mm256_setzero_ps(); }
AIR_INLINE vf v_set(float f) { return _mm256_set1_ps(f); }
AIR_INLINE vf v_load(const float *p) { return _mm256_loadu_ps(p); }
AIR_INLINE vf v_load_f16(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p)); }
AIR_INLINE vf v_load_i8(const int8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}
/* Four bits less 8: those of V_N bytes from bit `shift` on; those from element `at` on of 16, of which a byte has elements j and j + 8. */
AIR_INLINE vf v_load_i4(const uint8_t *p, int64_t shift)
{
    __m256i v = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p));
    v = _mm256_and_si256(_mm256_srl_epi32(v, _mm_cvtsi64_si128(shift)), _mm256_set1_epi32(15));
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(v, _mm256_set1_epi32(8)));
}
AIR_INLINE vf v_load_i4_tile(const uint8_t *tile, int64_t at) { return v_load_i4(tile, at / 2); }
AIR_INLINE vf v_load_bf16(const uint16_t *p)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)), 16));
}

/* The first n < V_N elements, in memory; the others are fill, or 0. 16-bit elements go through a copy: there is no such mask. */
AIR_INLINE vf v_load_n(const float *p, int64_t n, vf fill)
{
    return _mm256_blendv_ps(fill, _mm256_maskload_ps(p, v_first(n)), _mm256_castsi256_ps(v_first(n)));
}
AIR_INLINE vf v_load_f16_n(const uint16_t *p, int64_t n)
{
    uint16_t copy[V_N] = {0};
    memcpy(copy, p, (size_t)n * sizeof *p);
    return v_load_f16(copy);
}
AIR_INLINE vf v_load_bf16_n(const uint16_t *p, int64_t n)
{
    uint16_t copy[V_N] = {0};
    memcpy(copy, p, (size_t)n * sizeof *p);
    return v_load_bf16(copy);
}
AIR_INLINE void v_store(float *p, vf v) { _mm256_storeu_ps(p, v); }
AIR_INLINE void v_store_n(float *p, vf v, int64_t n) { _mm256_maskstore_ps(p, v_first(n), v); }

AIR_INLINE void v_store_f16(uint16_t *p, vf v)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
AIR_INLINE void v_store_f16_n(uint16_t *p, vf v, int64_t n)
{
    uint16_t copy[V_N];
    v_store_f16(copy, v);
    memcpy(p, copy, (size_t)n * sizeof *p);
}

AIR_INLINE vf v_add(vf a, vf b) { return _mm256_add_ps(a, b); }
AIR_INLINE vf v_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
AIR_INLINE vf v_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
AIR_INLINE vf v_div(vf a, vf b) { return _mm256_div_ps(a, b); }
AIR_INLINE vf v_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
AIR_INLINE vf v_fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); }
/* Of a NaN and a number these give the second operand. */
AIR_INLINE vf v_max(vf a, vf b) { return _mm256_max_ps(a, b); }
AIR_INLINE vf v_min(vf a, vf b) { return _mm256_min_ps(a, b); }
AIR_INLINE vf v_round(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

/* a * 2^n for a whole number n, |n| < 200, in two steps, of which only the second can round. */
AIR_INLINE vf v_times_pow2(vf a, vf n)
{
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1), bias = _mm256_set1_epi32(127);
    __m256i rest = _mm256_sub_epi32(whole, half);
    a = _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23)));
    return _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23)));
}

/* The low bits of n, as a whole number, added to a's exponent. */
AIR_INLINE vf v_add_exponent(vf a, vf n)
{
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), _mm256_slli_epi32(_mm256_castps_si256(n), 23)));
}

AIR_INLINE float v_sum(vf v)
{
    __m128 a = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
}
AIR_INLINE float v_greatest(vf v)
{
    __m128 a = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    a = _mm_max_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)));
}

/* Pairs (0,1), (2,3) …: V_N / 2 floats each taken twice; the partners exchanged; a*b - c in even lanes, + c in odd ones. */
AIR_INLINE vf v_load_twice(const float *p)
{
    __m128 v = _mm_loadu_ps(p);
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_unpacklo_ps(v, v)), _mm_unpackhi_ps(v, v), 1);
}
AIR_INLINE vf v_swap_pairs(vf v) { return _mm256_permute_ps(v, 0xb1); }
AIR_INLINE vf v_fmaddsub(vf a, vf b, vf c) { return _mm256_fmaddsub_ps(a, b, c); }

/* Of V_N vectors rows become columns: those of each four first, quad by quad, which are four neighbouring lanes. */
AIR_INLINE void v_transpose_quads(vf x[4])
{
    vf a = _mm256_unpacklo_ps(x[0], x[1]), b = _mm256_unpackhi_ps(x[0], x[1]);
    vf c = _mm256_unpacklo_ps(x[2], x[3]), d = _mm256_unpackhi_ps(x[2], x[3]);
    x[0] = _mm256_shuffle_ps(a, c, 0x44), x[1] = _mm256_shuffle_ps(a, c, 0xee);
    x[2] = _mm256_shuffle_ps(b, d, 0x44), x[3] = _mm256_shuffle_ps(b, d, 0xee);
}
AIR_INLINE void v_transpose(vf x[V_N])
{
    v_transpose_quads(x), v_transpose_quads(x + 4);
    AIR__UNROLL
    for (int i = 0; i < 4; i++) {
        vf a = x[i], b = x[4 + i];
        x[i] = _mm256_permute2f128_ps(a, b, 0x20), x[4 + i] = _mm256_permute2f128_ps(a, b, 0x31);
    }
}

AIR_INLINE vd vd_zero(void) { return (vd){_mm256_setzero_pd(), _mm256_setzero_pd()}; }
AIR_INLINE vd vd_widen(vf v)
{
    return (vd){_mm256_cvtps_pd(_mm256_castps256_ps128(v)), _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1))};
}
AIR_INLINE vd vd_add(vd a, vd b) { return (vd){_mm256_add_pd(a.low, b.low), _mm256_add_pd(a.high, b.high)}; }
AIR_INLINE vd vd_fma(vd a, vd b, vd c)
{
    return (vd){_mm256_fmadd_pd(a.low, b.low, c.low), _mm256_fmadd_pd(a.high, b.high, c.high)};
}
AIR_INLINE double vd_sum(vd a)
{
    __m256d s = _mm256_add_pd(a.low, a.high);
    __m128d h = _mm_add_pd(_mm256_castpd256_pd128(s), _mm256_extractf128_pd(s, 1));
    return _mm_cvtsd_f64(_mm_add_sd(h, _mm_unpackhi_pd(h, h)));
}

#endif
