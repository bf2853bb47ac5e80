/* How packed weights and their scales become vectors: what the families of formats share. */
#ifndef AIR_KERNELS_X86_UNPACK_H
#define AIR_KERNELS_X86_UNPACK_H

#include "kernels/x86/tile.h"
#include "quant/blocks.h"

AIR_INLINE vb nibbles(vb v, int high) { return vb_and(high ? vb_srl16(v, 4) : v, vb_set(15)); }

/* The low nibbles of 16 bytes, then the high ones. */
AIR_INLINE vb nibbles_of_16(const uint8_t *p, size_t stride)
{
    return nibbles(vb_srlv64(vb_load_16(p, stride), vb_repeat(_mm256_setr_epi64x(0, 0, 4, 4))), 0);
}

/* The same of all groups, step bytes from one to the next, turned: 16 bytes of four and of the other four side by side. */
AIR_INLINE void turned_nibbles_of_16(const uint8_t *p, size_t step, size_t stride, vb *groups)
{
    AIR__UNROLL
    for (size_t g = 0; g < 4; g++) groups[g] = vb_load_two(p + g * step, p + (g + 4) * step, stride);
    turn_lanes(groups);
    AIR__UNROLL
    for (int j = 0; j < 4; j++) {
        groups[4 + j] = nibbles(groups[j], 1);
        groups[j] = nibbles(groups[j], 0);
    }
}

AIR_INLINE void pick_all(vb table, vb *groups)
{
    AIR__UNROLL
    for (int j = 0; j < GROUPS; j++) groups[j] = vb_pick(table, groups[j]);
}

/* Integer scales of 8 groups as ints, times d; weights have offset added. */
AIR_INLINE void group_scales(tile_scales *t, __m256i scales, float d, float offset)
{
    t->sub[0] = _mm256_or_si256(_mm256_slli_epi32(scales, 16), scales);
    t->scale[0] = _mm256_set1_ps(d);
    t->bias = _mm256_mul_ps(_mm256_cvtepi32_ps(scales), _mm256_set1_ps(d * offset));
}

/* Integer scales of 16 halves as bytes, times d. */
AIR_INLINE void half_scales(tile_scales *t, __m128i scales, float d)
{
    __m256i first = _mm256_setr_epi8(-1, 0, -1, 0, -1, 2, -1, 2, -1, 4, -1, 4, -1, 6, -1, 6, -1, 8, -1, 8, -1, 10, -1, 10, -1, 12, -1, 12,
                                     -1, 14, -1, 14);
    __m256i both = _mm256_broadcastsi128_si256(scales);
    t->scale[0] = _mm256_set1_ps(d);
    t->sub[0] = _mm256_srai_epi16(_mm256_shuffle_epi8(both, first), 8); /* a byte on top of a word, down with its sign */
    t->sub[1] = _mm256_srai_epi16(_mm256_shuffle_epi8(_mm256_srli_epi16(both, 8), first), 8);
    t->bias_sub = _mm256_cvtepi8_epi16(scales);
}

#endif
