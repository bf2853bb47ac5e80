/* 32 bytes of each of two rows: the vocabulary that formats are taken apart in, with its namesake of AVX2. Everything is static inline. */
#ifndef AIR_KERNELS_AVX512_BYTES_H
#define AIR_KERNELS_AVX512_BYTES_H

#include "vec.h"

enum { VB_ROWS = 2 };

typedef __m512i vb;

AIR_INLINE vb vb_join(__m256i first, __m256i second) { return _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1); }
AIR_INLINE vf v_join(__m256 first, __m256 second) { return _mm512_insertf32x8(_mm512_castps256_ps512(first), second, 1); }
AIR_INLINE vb vb_repeat(__m256i row) { return _mm512_broadcast_i64x4(row); }
AIR_INLINE vf v_repeat(__m256 row) { return _mm512_broadcast_f32x8(row); }
AIR_INLINE vb vb_repeat_16(__m128i lane) { return _mm512_broadcast_i32x4(lane); }
AIR_INLINE vb vb_set(char c) { return _mm512_set1_epi8(c); }
AIR_INLINE vb vb_zero(void) { return _mm512_setzero_si512(); }

/* Each row's 32 bytes; its 16 bytes, twice. */
AIR_INLINE vb vb_load(const void *p, size_t stride)
{
    const char *second = (const char *)p + stride;
    return vb_join(_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)(const void *)second));
}
AIR_INLINE vb vb_load_16(const void *p, size_t stride)
{
    __m128i first, second;
    memcpy(&first, p, sizeof first);
    memcpy(&second, (const char *)p + stride, sizeof second);
    return _mm512_mask_broadcast_i32x4(_mm512_broadcast_i32x4(first), 0xff00, second);
}

/* 16 bytes of each row at p, then 16 at q. */
AIR_INLINE vb vb_load_two(const void *p, const void *q, size_t stride)
{
    vb v = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)p));
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)q), 1);
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(const void *)((const char *)p + stride)), 2);
    return _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(const void *)((const char *)q + stride)), 3);
}

AIR_INLINE vb vb_and(vb a, vb b) { return _mm512_and_si512(a, b); }
AIR_INLINE vb vb_or(vb a, vb b) { return _mm512_or_si512(a, b); }
AIR_INLINE vb vb_xor(vb a, vb b) { return _mm512_xor_si512(a, b); }
AIR_INLINE vb vb_sll16(vb v, int n) { return _mm512_slli_epi16(v, n); }
AIR_INLINE vb vb_srl16(vb v, int n) { return _mm512_srli_epi16(v, n); }
AIR_INLINE vb vb_srlv64(vb v, vb n) { return _mm512_srlv_epi64(v, n); }
AIR_INLINE vb vb_srlv32(vb v, vb n) { return _mm512_srlv_epi32(v, n); }
AIR_INLINE vb vb_pick(vb table, vb index) { return _mm512_shuffle_epi8(table, index); } /* in 16-byte lanes */

/* Bytes that are all ones where the bit of each row's 32 is set. */
AIR_INLINE vb vb_spread_bits(const void *p, size_t stride)
{
    uint32_t first, second;
    memcpy(&first, p, sizeof first);
    memcpy(&second, (const char *)p + stride, sizeof second);
    return _mm512_movm_epi8(first | (uint64_t)second << 32);
}

/* ---- integers of 32 bits, 8 of each row ---- */

AIR_INLINE vb vb_add32(vb a, vb b) { return _mm512_add_epi32(a, b); }
AIR_INLINE vb vb_sub32(vb a, vb b) { return _mm512_sub_epi32(a, b); }
AIR_INLINE vb vb_sll32(vb v, int n) { return _mm512_slli_epi32(v, (unsigned)n); }
AIR_INLINE vb vb_sra32(vb v, int n) { return _mm512_srai_epi32(v, (unsigned)n); }
AIR_INLINE vb vb_madd16(vb a, vb b) { return _mm512_madd_epi16(a, b); }
AIR_INLINE vb vb_dot(vb sums, vb w, vb x) { return _mm512_dpbusd_epi32(sums, w, x); } /* plus those of 4 unsigned w times signed x */
AIR_INLINE vf vb_floats(vb v) { return _mm512_cvtepi32_ps(v); }

AIR_INLINE vb vb_unpack_low32(vb a, vb b) { return _mm512_unpacklo_epi32(a, b); }
AIR_INLINE vb vb_unpack_high32(vb a, vb b) { return _mm512_unpackhi_epi32(a, b); }
AIR_INLINE vb vb_unpack_low64(vb a, vb b) { return _mm512_unpacklo_epi64(a, b); }
AIR_INLINE vb vb_unpack_high64(vb a, vb b) { return _mm512_unpackhi_epi64(a, b); }

/* Dword j of each 16-byte lane of a, twice, and of b. */
AIR_INLINE vb vb_twice32(vb a, vb b, int j)
{
    __m512 x = _mm512_castsi512_ps(a), y = _mm512_castsi512_ps(b);
    return _mm512_castps_si512(j == 0   ? _mm512_shuffle_ps(x, y, 0x00)
                               : j == 1 ? _mm512_shuffle_ps(x, y, 0x55)
                               : j == 2 ? _mm512_shuffle_ps(x, y, 0xaa)
                                        : _mm512_shuffle_ps(x, y, 0xff));
}

/* The first 16 bytes of a's rows and of b's, and the second. */
AIR_INLINE vb vb_low_lanes(vb a, vb b) { return _mm512_permutex2var_epi64(a, _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13), b); }
AIR_INLINE vb vb_high_lanes(vb a, vb b) { return _mm512_permutex2var_epi64(a, _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15), b); }

AIR_INLINE __m256 v_row(vf v, int r) { return r ? _mm512_extractf32x8_ps(v, 1) : _mm512_castps512_ps256(v); }

#endif
