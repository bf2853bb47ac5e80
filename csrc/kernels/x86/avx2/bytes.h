/* 32 bytes of one row: the vocabulary that formats are taken apart in, with its namesake of AVX-512. Everything is static inline. */
#ifndef AIR_KERNELS_AVX2_BYTES_H
#define AIR_KERNELS_AVX2_BYTES_H

#include "kernels/x86/q8.h"
#include "vec.h"

enum { VB_ROWS = 1 };

typedef __m256i vb;

/* Of one row there is no second. */
AIR_INLINE vb vb_join(__m256i first, __m256i second) { return (void)second, first; }
AIR_INLINE vf v_join(__m256 first, __m256 second) { return (void)second, first; }
AIR_INLINE vb vb_repeat(__m256i row) { return row; }
AIR_INLINE vf v_repeat(__m256 row) { return row; }
AIR_INLINE vb vb_repeat_16(__m128i lane) { return _mm256_broadcastsi128_si256(lane); }
AIR_INLINE vb vb_set(char c) { return _mm256_set1_epi8(c); }
AIR_INLINE vb vb_zero(void) { return _mm256_setzero_si256(); }

/* Each row's 32 bytes; its 16 bytes, twice. */
AIR_INLINE vb vb_load(const void *p, size_t stride)
{
    (void)stride;
    return _mm256_loadu_si256((const __m256i *)p);
}
AIR_INLINE vb vb_load_16(const void *p, size_t stride)
{
    (void)stride;
    return vb_repeat_16(_mm_loadu_si128((const __m128i *)p));
}

/* 16 bytes at p, then 16 at q. */
AIR_INLINE vb vb_load_two(const void *p, const void *q, size_t stride)
{
    (void)stride;
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)p)), _mm_loadu_si128((const __m128i *)q), 1);
}

AIR_INLINE vb vb_and(vb a, vb b) { return _mm256_and_si256(a, b); }
AIR_INLINE vb vb_or(vb a, vb b) { return _mm256_or_si256(a, b); }
AIR_INLINE vb vb_xor(vb a, vb b) { return _mm256_xor_si256(a, b); }
AIR_INLINE vb vb_sll16(vb v, int n) { return _mm256_slli_epi16(v, n); }
AIR_INLINE vb vb_srl16(vb v, int n) { return _mm256_srli_epi16(v, n); }
AIR_INLINE vb vb_srlv64(vb v, vb n) { return _mm256_srlv_epi64(v, n); }
AIR_INLINE vb vb_srlv32(vb v, vb n) { return _mm256_srlv_epi32(v, n); }
AIR_INLINE vb vb_pick(vb table, vb index) { return _mm256_shuffle_epi8(table, index); } /* in 16-byte lanes */

/* Bytes that are all ones where the bit of 32 is set. */
AIR_INLINE vb vb_spread_bits(const void *p, size_t stride)
{
    (void)stride;
    return air__spread_bits(p);
}

/* ---- integers of 32 bits, 8 of each row ---- */

AIR_INLINE vb vb_add32(vb a, vb b) { return _mm256_add_epi32(a, b); }
AIR_INLINE vb vb_sub32(vb a, vb b) { return _mm256_sub_epi32(a, b); }
AIR_INLINE vb vb_sll32(vb v, int n) { return _mm256_slli_epi32(v, n); }
AIR_INLINE vb vb_sra32(vb v, int n) { return _mm256_srai_epi32(v, n); }
AIR_INLINE vb vb_madd16(vb a, vb b) { return _mm256_madd_epi16(a, b); }
AIR_INLINE vf vb_floats(vb v) { return _mm256_cvtepi32_ps(v); }
#if defined(__AVXVNNI__)
AIR_INLINE vb vb_dot(vb sums, vb w, vb x) { return _mm256_dpbusd_avx_epi32(sums, w, x); } /* plus those of 4 unsigned w times signed x */
#endif

AIR_INLINE vb vb_unpack_low32(vb a, vb b) { return _mm256_unpacklo_epi32(a, b); }
AIR_INLINE vb vb_unpack_high32(vb a, vb b) { return _mm256_unpackhi_epi32(a, b); }
AIR_INLINE vb vb_unpack_low64(vb a, vb b) { return _mm256_unpacklo_epi64(a, b); }
AIR_INLINE vb vb_unpack_high64(vb a, vb b) { return _mm256_unpackhi_epi64(a, b); }

/* Dword j of each 16-byte lane of a, twice, and of b. */
AIR_INLINE vb vb_twice32(vb a, vb b, int j)
{
    __m256 x = _mm256_castsi256_ps(a), y = _mm256_castsi256_ps(b);
    return _mm256_castps_si256(j == 0   ? _mm256_shuffle_ps(x, y, 0x00)
                               : j == 1 ? _mm256_shuffle_ps(x, y, 0x55)
                               : j == 2 ? _mm256_shuffle_ps(x, y, 0xaa)
                                        : _mm256_shuffle_ps(x, y, 0xff));
}

/* The first 16 bytes of a's rows and of b's, and the second. */
AIR_INLINE vb vb_low_lanes(vb a, vb b) { return _mm256_permute2x128_si256(a, b, 0x20); }
AIR_INLINE vb vb_high_lanes(vb a, vb b) { return _mm256_permute2x128_si256(a, b, 0x31); }

AIR_INLINE __m256 v_row(vf v, int r) { return (void)r, v; }

#endif
