/* kernels/x86/x86.h: the few things that both x86 families share. */
#ifndef AIR_KERNELS_X86_H
#define AIR_KERNELS_X86_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels/simd/loops.h"

/* The vector is in a register here, and what it is made of is forgotten: compilers neither read it from memory again at each use nor
 * turn a chain of sums into a tree that needs more registers than there are. */
#if defined(__AVX512F__)
#define AIR__IN_REGISTER(v) __asm__("" : "+v"(v))
#elif defined(__GNUC__)
#define AIR__IN_REGISTER(v) __asm__("" : "+x"(v))
#else
#define AIR__IN_REGISTER(v) ((void)(v))
#endif

/* Asks for bytes at p. */
AIR_INLINE void air__prefetch(const uint8_t *p, size_t bytes)
{
    AIR__UNROLL
    for (size_t line = 0; line < bytes; line += AIR_CACHE_LINE) AIR_PREFETCH_L2(p + line);
}

/* With R rows from w on read side by side, far apart, `bytes` of each at a time and now at offset: asks for what follows in each. */
AIR_INLINE void air__prefetch_rows(const uint8_t *w, size_t row_bytes, size_t offset, size_t bytes, int R)
{
    AIR__UNROLL
    for (int r = 0; r < R; r++) air__prefetch(w + (size_t)r * row_bytes + offset + 2048, bytes);
}

/* 8 binary16 values, stride bytes apart. What follows each is read too. */
AIR_INLINE __m128i air__halves(const uint8_t *p, size_t stride)
{
    __m128i v[8];
    AIR__UNROLL
    for (int i = 0; i < 8; i++) {
        int32_t word;
        memcpy(&word, p + (size_t)i * stride, sizeof word);
        v[i] = _mm_cvtsi32_si128(word);
    }
    AIR__UNROLL
    for (int i = 0; i < 4; i++) v[i] = _mm_unpacklo_epi16(v[2 * i], v[2 * i + 1]);
    return _mm_unpacklo_epi64(_mm_unpacklo_epi32(v[0], v[1]), _mm_unpacklo_epi32(v[2], v[3]));
}

/* Bytes that are all ones where the bit of 32 is set. */
AIR_INLINE __m256i air__spread_bits(const void *p)
{
    int32_t bits;
    memcpy(&bits, p, sizeof bits);
    __m256i eights = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    __m256i each = _mm256_set1_epi64x((int64_t)0x8040201008040201);
    __m256i v = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(bits), eights), each);
    return _mm256_cmpeq_epi8(v, each);
}

AIR_INLINE float air__half(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(h)));
}

#endif
