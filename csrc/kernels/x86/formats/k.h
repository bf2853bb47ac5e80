/* Formats with one float for 256 weights, and integers for 16 or 32 of them: how each becomes vectors of groups. */
#ifndef AIR_KERNELS_X86_FORMATS_K_H
#define AIR_KERNELS_X86_FORMATS_K_H

#include "unpack.h"

#include "quant/iq_tables.h"

/* Bits 2s, 2s + 1 of byte l of each 32 are weight l of group s of four. */
AIR_INLINE vb two_bits(const uint8_t *qs, size_t stride, int g)
{
    return vb_and(vb_srl16(vb_load(qs + g / 4 * 32, stride), g % 4 * 2), vb_set(3));
}

/* Bit g of each byte, at bit to. */
AIR_INLINE vb bit_of_group(const uint8_t *p, size_t stride, int g, int to)
{
    vb v = vb_load(p, stride);
    return vb_and(g < to ? vb_sll16(v, to - g) : vb_srl16(v, g - to), vb_set((char)(1 << to)));
}

AIR_INLINE vb group_q2_k(const uint8_t *w, size_t stride, int g) { return two_bits(((const air_block_q2_k *)w)->qs, stride, g); }

AIR_INLINE void scales_q2_k(const uint8_t *w, tile_scales *t)
{
    const air_block_q2_k *b = (const air_block_q2_k *)w;
    __m128i packed = load_half(b->scales), low = _mm_set1_epi8(15);
    half_scales(t, _mm_and_si128(packed, low), air__half(b->d));
    t->bias_sub = _mm256_cvtepi8_epi16(_mm_and_si128(_mm_srli_epi16(packed, 4), low));
    t->bias = _mm256_set1_ps(air__half(b->dmin));
}

AIR_INLINE vb group_q3_k(const uint8_t *w, size_t stride, int g)
{
    const air_block_q3_k *b = (const air_block_q3_k *)w;
    return vb_or(two_bits(b->qs, stride, g), bit_of_group(b->hmask, stride, g, 2));
}

/* As air_unpack_scale_q3_k; the 12 bytes are read with two before them and the scale after. */
AIR_INLINE void scales_q3_k(const uint8_t *w, tile_scales *t)
{
    const air_block_q3_k *b = (const air_block_q3_k *)w;
    __m128i packed = load_half(b->scales - 2);
    __m128i low = _mm_shuffle_epi8(packed, _mm_setr_epi8(2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5, 6, 7, 8, 9));
    __m128i top = _mm_shuffle_epi8(packed, _mm_setr_epi8(10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13, 10, 11, 12, 13));
    low = _mm_and_si128(_mm_srlv_epi64(low, _mm_set_epi64x(4, 0)), _mm_set1_epi8(15));
    top = _mm_and_si128(_mm_srlv_epi32(top, _mm_setr_epi32(0, 2, 4, 6)), _mm_set1_epi8(3));
    half_scales(t, _mm_sub_epi8(_mm_or_si128(low, _mm_slli_epi16(top, 4)), _mm_set1_epi8(32)), air__half(b->d));
}

/* Of Q4_K and Q5_K, whose blocks begin alike: d, dmin, and 12 bytes that blocks.h draws. Both 16-byte lanes do the same work: to
 * bytes, 8 scales and then 8 mins, and on from there. */
AIR_INLINE void scales_mins(const uint8_t *w, tile_scales *t)
{
    __m256i head = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)w));
    __m256i first = _mm256_set_epi32(0x0f0e0d0c, 0x0b0a0908, 0x0f0e0d0c, 0x07060504, 0x0f0e0d0c, 0x0b0a0908, 0x0f0e0d0c, 0x07060504);
    __m256i second = _mm256_set_epi32(0x0b0a0908, -1, 0x07060504, -1, 0x0b0a0908, -1, 0x07060504, -1);
    __m256i keep = _mm256_set_epi32(0x0f0f0f0f, 0x3f3f3f3f, 0x0f0f0f0f, 0x3f3f3f3f, 0x0f0f0f0f, 0x3f3f3f3f, 0x0f0f0f0f, 0x3f3f3f3f);
    __m256i low = _mm256_srlv_epi32(_mm256_shuffle_epi8(head, first), _mm256_set_epi32(4, 0, 0, 0, 4, 0, 0, 0));
    __m256i high = _mm256_srli_epi32(_mm256_shuffle_epi8(head, second), 2);
    __m256i bytes = _mm256_or_si256(_mm256_and_si256(low, keep), _mm256_and_si256(high, _mm256_set1_epi8(0x30)));
    __m256i words = _mm256_setr_epi8(0, -1, 0, -1, 1, -1, 1, -1, 2, -1, 2, -1, 3, -1, 3, -1, 4, -1, 4, -1, 5, -1, 5, -1, 6, -1, 6, -1, 7, -1, 7, -1);
    t->sub[0] = _mm256_shuffle_epi8(bytes, words);
    __m256i mins = _mm256_setr_epi8(8, -1, -1, -1, 9, -1, -1, -1, 10, -1, -1, -1, 11, -1, -1, -1, 12, -1, -1, -1, 13, -1, -1, -1,
                                    14, -1, -1, -1, 15, -1, -1, -1);
    __m128 d = _mm_cvtph_ps(_mm256_castsi256_si128(head));
    t->scale[0] = _mm256_broadcastss_ps(d);
    t->bias = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_shuffle_epi8(bytes, mins)), _mm256_broadcastss_ps(_mm_movehdup_ps(d)));
}

AIR_INLINE vb group_q4_k(const uint8_t *w, size_t stride, int g)
{
    return nibbles(vb_load(((const air_block_q4_k *)w)->qs + g / 2 * 32, stride), g % 2);
}

/* Turned: each 32 bytes are two groups, so that a dword stands for both and is shifted for one. */
AIR_INLINE void turned_q4_k(const uint8_t *w, size_t stride, vb *groups)
{
    const uint8_t *qs = ((const air_block_q4_k *)w)->qs;
    vb shifts = vb_repeat(_mm256_setr_epi32(0, 4, 0, 4, 0, 4, 0, 4));
    AIR__UNROLL
    for (int half = 0; half < 2; half++) {
        const uint8_t *p = qs + 16 * half;
        vb even = vb_load_two(p, p + 64, stride), odd = vb_load_two(p + 32, p + 96, stride);
        AIR__UNROLL
        for (int j = 0; j < 4; j++) groups[4 * half + j] = nibbles(vb_srlv32(vb_twice32(even, odd, j), shifts), 0);
    }
}

AIR_INLINE void scales_q4_k(const uint8_t *w, tile_scales *t) { scales_mins(w, t); }

/* Bit g of qh[l] is bit 4 of weight l of group g. */
AIR_INLINE vb group_q5_k(const uint8_t *w, size_t stride, int g)
{
    const air_block_q5_k *b = (const air_block_q5_k *)w;
    return vb_or(nibbles(vb_load(b->qs + g / 2 * 32, stride), g % 2), bit_of_group(b->qh, stride, g, 4));
}

AIR_INLINE void scales_q5_k(const uint8_t *w, tile_scales *t) { scales_mins(w, t); }

/* Each half of the block has 4 runs of 32; run r has bits 2r, 2r + 1 of qh[l] on top. */
AIR_INLINE vb group_q6_k(const uint8_t *w, size_t stride, int g)
{
    const air_block_q6_k *b = (const air_block_q6_k *)w;
    int half = g / 4, run = g % 4;
    vb qh = vb_load(b->qh + 32 * half, stride);
    vb top = run < 2 ? vb_sll16(qh, 4 - 2 * (run & 1)) : vb_srl16(qh, 2 * run - 4);
    vb low = nibbles(vb_load(b->ql + 64 * half + 32 * (run % 2), stride), run / 2);
    return vb_or(low, vb_and(top, vb_set(0x30)));
}

AIR_INLINE void scales_q6_k(const uint8_t *w, tile_scales *t)
{
    const air_block_q6_k *b = (const air_block_q6_k *)w;
    half_scales(t, load_half(b->scales), air__half(b->d));
}

AIR_INLINE vb group_iq4_xs(const uint8_t *w, size_t stride, int g)
{
    return vb_pick(vb_repeat_16(load_half(air_values_iq4nl)), nibbles_of_16(((const air_block_iq4_xs *)w)->qs + 16 * g, stride));
}

AIR_INLINE void turned_iq4_xs(const uint8_t *w, size_t stride, vb *groups)
{
    turned_nibbles_of_16(((const air_block_iq4_xs *)w)->qs, 16, stride, groups);
    pick_all(vb_repeat_16(load_half(air_values_iq4nl)), groups);
}

/* Dword g takes bits 2g, 2g + 1 of scales_h, and nibble g of scales_l; both of its words become the scale. */
AIR_INLINE void scales_iq4_xs(const uint8_t *w, tile_scales *t)
{
    const air_block_iq4_xs *b = (const air_block_iq4_xs *)w;
    uint16_t high;
    uint32_t low;
    memcpy(&high, b->scales_h, sizeof high);
    memcpy(&low, b->scales_l, sizeof low);
    __m256i top = _mm256_srlv_epi32(_mm256_set1_epi32(high), _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14));
    __m256i bottom = _mm256_srlv_epi32(_mm256_set1_epi32((int32_t)low), _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
    top = _mm256_and_si256(_mm256_slli_epi32(top, 4), _mm256_set1_epi32(0x30));
    __m256i scales = _mm256_or_si256(_mm256_and_si256(bottom, _mm256_set1_epi32(15)), top);
    t->sub[0] = _mm256_sub_epi16(_mm256_or_si256(_mm256_slli_epi32(scales, 16), scales), _mm256_set1_epi16(32));
    t->scale[0] = _mm256_set1_ps(air__half(b->d));
}

/* ---- ternary: weights of -1, 0, 1 with 1 added, and one scale for all ---- */

AIR_INLINE __m256i times_3(__m256i v) { return _mm256_add_epi8(v, _mm256_add_epi8(v, v)); }

/* The first base-3 digit of the fractions v / 256: v * 3 / 256 is (v - v / 4) / 64, the quarter rounded up as averages are. */
AIR_INLINE __m256i trits(__m256i v)
{
    __m256i zero = _mm256_setzero_si256(), quarter = _mm256_avg_epu8(_mm256_avg_epu8(v, zero), zero);
    return _mm256_and_si256(_mm256_srli_epi16(_mm256_sub_epi8(v, quarter), 6), _mm256_set1_epi8(3));
}

/* Times 3 modulo 256, a byte's next digit comes first. 32 bytes hold groups 0 to 4, then 16 bytes hold halves 10 to 14, 4 bytes 15. */
AIR_INLINE void unpack_tq1_0(const uint8_t *w, __m256i *groups)
{
    const air_block_tq1_0 *b = (const air_block_tq1_0 *)w;
    __m256i v = load_q(b->qs);
    AIR__UNROLL
    for (int g = 0; g < 5; g++, v = times_3(v)) groups[g] = trits(v);

    int32_t last;
    memcpy(&last, b->qh, sizeof last);
    __m256i tail = _mm256_mullo_epi16(_mm256_cvtepu8_epi16(_mm_set1_epi32(last)),
                                      _mm256_setr_epi16(1, 1, 1, 1, 3, 3, 3, 3, 9, 9, 9, 9, 27, 27, 27, 27));
    tail = _mm256_and_si256(tail, _mm256_set1_epi16(255));
    __m128i digits = _mm_packus_epi16(_mm256_castsi256_si128(tail), _mm256_extracti128_si256(tail, 1));

    v = load_twice(b->qs + 32);
    v = _mm256_blend_epi32(v, times_3(v), 0xf0);
    groups[5] = trits(v);
    v = times_3(times_3(v));
    groups[6] = trits(v);
    groups[7] = trits(_mm256_inserti128_si256(times_3(times_3(v)), digits, 1));
}

AIR_INLINE void scales_tq1_0(const uint8_t *w, tile_scales *t) { t->scale[0] = _mm256_set1_ps(air__half(((const air_block_tq1_0 *)w)->d)); }

AIR_INLINE vb group_tq2_0(const uint8_t *w, size_t stride, int g) { return two_bits(((const air_block_tq2_0 *)w)->qs, stride, g); }
AIR_INLINE void scales_tq2_0(const uint8_t *w, tile_scales *t) { t->scale[0] = _mm256_set1_ps(air__half(((const air_block_tq2_0 *)w)->d)); }

PRODUCT(q2_k, .parts = 2, .scaling = SCALE_HALF, .has_bias = 1, .bytes = sizeof(air_block_q2_k))
PRODUCT(q3_k, .parts = 2, .scaling = SCALE_HALF, .has_bias = 1, .offset = 4, .bytes = sizeof(air_block_q3_k))
PRODUCT_TURNED(q4_k, .parts = 1, .scaling = SCALE_GROUP, .has_bias = 1, .bytes = sizeof(air_block_q4_k))
PRODUCT(q5_k, .parts = 2, .scaling = SCALE_GROUP, .has_bias = 1, .bytes = sizeof(air_block_q5_k))
PRODUCT(q6_k, .parts = 4, .scaling = SCALE_HALF, .has_bias = 1, .offset = 32, .bytes = sizeof(air_block_q6_k))
PRODUCT_TURNED(iq4_xs, .parts = 8, .scaling = SCALE_GROUP, .is_signed = 1, .bytes = sizeof(air_block_iq4_xs))
PRODUCT_UNPACKED(tq1_0, .parts = 1, .has_bias = 1, .offset = 1, .bytes = sizeof(air_block_tq1_0))
PRODUCT(tq2_0, .parts = 1, .has_bias = 1, .offset = 1, .bytes = sizeof(air_block_tq2_0))

#define K_PRODUCTS                                              \
    {                                                           \
        .product = {                                            \
            [AIR_TYPE_Q2_K] = {product_q2_k, AIR_INPUT_Q8},     \
            [AIR_TYPE_Q3_K] = {product_q3_k, AIR_INPUT_Q8},     \
            [AIR_TYPE_Q4_K] = {product_q4_k, AIR_INPUT_Q8},     \
            [AIR_TYPE_Q5_K] = {product_q5_k, AIR_INPUT_Q8},     \
            [AIR_TYPE_Q6_K] = {product_q6_k, AIR_INPUT_Q8},     \
            [AIR_TYPE_IQ4_XS] = {product_iq4_xs, AIR_INPUT_Q8}, \
            [AIR_TYPE_TQ1_0] = {product_tq1_0, AIR_INPUT_Q8},   \
            [AIR_TYPE_TQ2_0] = {product_tq2_0, AIR_INPUT_Q8},   \
        },                                                      \
    }

#endif
