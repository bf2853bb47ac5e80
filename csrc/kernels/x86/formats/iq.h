/* Formats whose weights are points of a codebook: how a tile becomes vectors of groups.
 *
 * A group is four points of 8 weights or eight of 4, read from the decoders' tables one by one. Weights have the greatest one's
 * magnitude added, so that they are unsigned and signs cost nothing for each column. The seven signs of a point become eight for a
 * whole tile at once, and pass through memory. */
#ifndef AIR_KERNELS_X86_FORMATS_IQ_H
#define AIR_KERNELS_X86_FORMATS_IQ_H

#include "unpack.h"

#include "quant/iq_tables.h"

AIR_INLINE int64_t eight_bytes(const void *p)
{
    int64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

AIR_INLINE uint16_t two_bytes(const void *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

AIR_INLINE int32_t four_bytes(const void *p)
{
    int32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

AIR_INLINE __m256i points_of_8(const void *grid, size_t a, size_t b, size_t c, size_t d)
{
    const char *p = grid;
    return _mm256_setr_epi64x(eight_bytes(p + 8 * a), eight_bytes(p + 8 * b), eight_bytes(p + 8 * c), eight_bytes(p + 8 * d));
}

AIR_INLINE __m256i points_of_4(const void *grid, size_t a, size_t b, size_t c, size_t d, size_t e, size_t f, size_t g, size_t h)
{
    const char *p = grid;
    return _mm256_setr_epi32(four_bytes(p + 4 * a), four_bytes(p + 4 * b), four_bytes(p + 4 * c), four_bytes(p + 4 * d),
                             four_bytes(p + 4 * e), four_bytes(p + 4 * f), four_bytes(p + 4 * g), four_bytes(p + 4 * h));
}

/* 32 coordinates, negated where their bit of signs is set, plus offset. */
AIR_INLINE __m256i signed_points(__m256i points, const void *signs, char offset)
{
    __m256i negative = air__spread_bits(signs);
    return _mm256_add_epi8(_mm256_xor_si256(points, negative), _mm256_sub_epi8(_mm256_set1_epi8(offset), negative));
}

/* air_iq_eight_signs of 32 bytes. */
AIR_INLINE __m256i eight_signs(__m256i seven)
{
    __m256i odd = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, -128, -128, 0, -128, 0, 0, -128, -128, 0, 0, -128, 0, -128, -128, 0));
    __m256i folded = _mm256_and_si256(_mm256_xor_si256(seven, _mm256_srli_epi16(seven, 4)), _mm256_set1_epi8(15));
    return _mm256_or_si256(seven, _mm256_shuffle_epi8(odd, folded));
}

/* Four times 7 bits of each word, to bytes. */
AIR_INLINE __m256i spread_sevens(__m256i words)
{
    __m256i low = _mm256_and_si256(words, _mm256_set1_epi32(0x7f));
    __m256i second = _mm256_and_si256(_mm256_slli_epi32(words, 1), _mm256_set1_epi32(0x7f00));
    __m256i third = _mm256_and_si256(_mm256_slli_epi32(words, 2), _mm256_set1_epi32(0x7f0000));
    __m256i fourth = _mm256_and_si256(_mm256_slli_epi32(words, 3), _mm256_set1_epi32(0x7f000000));
    return _mm256_or_si256(_mm256_or_si256(low, second), _mm256_or_si256(third, fourth));
}

/* 2s + 1 of the scales s. */
AIR_INLINE __m128i odd_bytes(__m128i s) { return _mm_add_epi8(_mm_add_epi8(s, s), _mm_set1_epi8(1)); }
AIR_INLINE __m256i odd_ints(__m256i s) { return _mm256_add_epi32(_mm256_add_epi32(s, s), _mm256_set1_epi32(1)); }

/* The nibbles of 8 bytes, the low one of each first. */
AIR_INLINE __m128i nibbles_of_8(const uint8_t *p)
{
    __m128i v = _mm_cvtsi64_si128(eight_bytes(p)), low = _mm_set1_epi8(15);
    return _mm_unpacklo_epi8(_mm_and_si128(v, low), _mm_and_si128(_mm_srli_epi16(v, 4), low));
}

/* Four words to 16, each four times. */
AIR_INLINE __m256i each_word_4_times(__m128i v)
{
    __m256i pick = _mm256_setr_epi8(0, 1, 0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3, 2, 3, 4, 5, 4, 5, 4, 5, 4, 5, 6, 7, 6, 7, 6, 7, 6, 7);
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(v), pick);
}

AIR_INLINE void store_bytes(void *to, __m256i v) { _mm256_storeu_si256((__m256i *)to, v); }

/* Words to bytes, in their order. */
AIR_INLINE __m256i pack_words(__m256i a, __m256i b) { return _mm256_permute4x64_epi64(_mm256_packus_epi16(a, b), 0xd8); }

/* ---- IQ2: coordinates 8, 25, 43 ---- */

/* The words of signs and scales. */
AIR_INLINE __m256i words_iq2_xxs(const uint8_t *w)
{
    const air_block_iq2_xxs *b = (const air_block_iq2_xxs *)w;
    __m256 v = _mm256_shuffle_ps(_mm256_castsi256_ps(load_q(b->qs)), _mm256_castsi256_ps(load_q(b->qs + 32)), 0xdd);
    return _mm256_permute4x64_epi64(_mm256_castps_si256(v), 0xd8);
}

AIR_INLINE void unpack_iq2_xxs(const uint8_t *w, __m256i *groups)
{
    const air_block_iq2_xxs *b = (const air_block_iq2_xxs *)w;
    uint8_t signs[32];
    store_bytes(signs, eight_signs(spread_sevens(words_iq2_xxs(w))));
    AIR__UNROLL
    for (int g = 0; g < GROUPS; g++) {
        const uint8_t *p = b->qs + 8 * g;
        groups[g] = signed_points(points_of_8(air_grid_iq2_xxs, p[0], p[1], p[2], p[3]), signs + 4 * g, 43);
    }
}

AIR_INLINE void scales_iq2_xxs(const uint8_t *w, tile_scales *t)
{
    float d = air__half(((const air_block_iq2_xxs *)w)->d) * 0.125f;
    group_scales(t, odd_ints(_mm256_srli_epi32(words_iq2_xxs(w), 28)), d, 43);
}

AIR_INLINE void unpack_iq2_xs(const uint8_t *w, __m256i *groups)
{
    const air_block_iq2_xs *b = (const air_block_iq2_xs *)w;
    uint8_t signs[32];
    store_bytes(signs, eight_signs(pack_words(_mm256_srli_epi16(load_q(b->qs), 9), _mm256_srli_epi16(load_q(b->qs + 32), 9))));
    AIR__UNROLL
    for (int g = 0; g < GROUPS; g++) {
        uint64_t p = (uint64_t)eight_bytes(b->qs + 8 * g);
        __m256i points = points_of_8(air_grid_iq2_xs, p & 511, p >> 16 & 511, p >> 32 & 511, p >> 48 & 511);
        groups[g] = signed_points(points, signs + 4 * g, 43);
    }
}

AIR_INLINE void scales_iq2_xs(const uint8_t *w, tile_scales *t)
{
    const air_block_iq2_xs *b = (const air_block_iq2_xs *)w;
    half_scales(t, odd_bytes(nibbles_of_8(b->scales)), air__half(b->d) * 0.125f);
}

AIR_INLINE void unpack_iq2_s(const uint8_t *w, __m256i *groups)
{
    const air_block_iq2_s *b = (const air_block_iq2_s *)w;
    AIR__UNROLL
    for (int g = 0; g < GROUPS; g++) {
        const uint8_t *p = b->qs + 4 * g;
        size_t h = (size_t)b->qh[g] << 8;
        __m256i points = points_of_8(air_grid_iq2_s, p[0] | (h & 0x300), p[1] | (h >> 2 & 0x300), p[2] | (h >> 4 & 0x300),
                                     p[3] | (h >> 6 & 0x300));
        groups[g] = signed_points(points, b->signs + 4 * g, 43);
    }
}

AIR_INLINE void scales_iq2_s(const uint8_t *w, tile_scales *t)
{
    const air_block_iq2_s *b = (const air_block_iq2_s *)w;
    half_scales(t, odd_bytes(nibbles_of_8(b->scales)), air__half(b->d) * 0.125f);
}

/* ---- IQ3: coordinates up to 62, and up to 15 ---- */

AIR_INLINE void unpack_iq3_xxs(const uint8_t *w, __m256i *groups)
{
    const air_block_iq3_xxs *b = (const air_block_iq3_xxs *)w;
    uint8_t signs[32];
    store_bytes(signs, eight_signs(spread_sevens(load_q(b->scales))));
    AIR__UNROLL
    for (int g = 0; g < GROUPS; g++) {
        const uint8_t *p = b->qs + 8 * g;
        __m256i points = points_of_4(air_grid_iq3_xxs, p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7]);
        groups[g] = signed_points(points, signs + 4 * g, 62);
    }
}

AIR_INLINE void scales_iq3_xxs(const uint8_t *w, tile_scales *t)
{
    const air_block_iq3_xxs *b = (const air_block_iq3_xxs *)w;
    group_scales(t, odd_ints(_mm256_srli_epi32(load_q(b->scales), 28)), air__half(b->d) * 0.25f, 62);
}

AIR_INLINE void unpack_iq3_s(const uint8_t *w, __m256i *groups)
{
    const air_block_iq3_s *b = (const air_block_iq3_s *)w;
    AIR__UNROLL
    for (int g = 0; g < GROUPS; g++) {
        const uint8_t *p = b->qs + 8 * g;
        size_t h = (size_t)b->qh[g] << 1;
        __m256i points = points_of_4(air_grid_iq3_s, p[0] | (h << 7 & 256), p[1] | (h << 6 & 256), p[2] | (h << 5 & 256),
                                     p[3] | (h << 4 & 256), p[4] | (h << 3 & 256), p[5] | (h << 2 & 256), p[6] | (h << 1 & 256),
                                     p[7] | (h & 256));
        groups[g] = signed_points(points, b->signs + 4 * g, 15);
    }
}

AIR_INLINE void scales_iq3_s(const uint8_t *w, tile_scales *t)
{
    const air_block_iq3_s *b = (const air_block_iq3_s *)w;
    __m128i packed = _mm_cvtsi32_si128(four_bytes(b->scales)), low = _mm_set1_epi8(15);
    __m128i scales = _mm_unpacklo_epi8(_mm_and_si128(packed, low), _mm_and_si128(_mm_srli_epi16(packed, 4), low));
    group_scales(t, odd_ints(_mm256_cvtepu8_epi32(scales)), air__half(b->d), 15);
}

/* ---- IQ1: coordinates -1, 0, 1, shifted by an eighth up or down ---- */

/* Four points: 8 bits of each number in p, 3 above them in h, step bits apart. */
AIR_INLINE __m256i points_iq1(const uint8_t *p, size_t h, int step)
{
    return points_of_8(air_grid_iq1, p[0] | (h & 0x700), p[1] | (h >> step & 0x700), p[2] | (h >> 2 * step & 0x700),
                       p[3] | (h >> 3 * step & 0x700));
}

/* The shift is the group's: y = d s (sum of (w + 1) x - (1 - shift) sum of x), in eighths. */
AIR_INLINE void unpack_iq1_s(const uint8_t *w, __m256i *groups)
{
    const air_block_iq1_s *b = (const air_block_iq1_s *)w;
    AIR__UNROLL
    for (int g = 0; g < GROUPS; g++) {
        groups[g] = _mm256_add_epi8(points_iq1(b->qs + 4 * g, (size_t)two_bytes(b->qh + 2 * g) << 8, 3), _mm256_set1_epi8(1));
    }
}

AIR_INLINE void scales_iq1_s(const uint8_t *w, tile_scales *t)
{
    const air_block_iq1_s *b = (const air_block_iq1_s *)w;
    float d = air__half(b->d);
    __m256i qh = _mm256_cvtepu16_epi32(load_half(b->qh));
    __m256i scales = odd_ints(_mm256_and_si256(_mm256_srli_epi32(qh, 12), _mm256_set1_epi32(7)));
    group_scales(t, scales, d, 1);
    __m256i eighths = _mm256_add_epi32(_mm256_slli_epi32(_mm256_srli_epi32(qh, 15), 1), _mm256_set1_epi32(7));
    t->bias = _mm256_mul_ps(t->bias, _mm256_mul_ps(_mm256_cvtepi32_ps(eighths), _mm256_set1_ps(0.125f)));
}

/* The shift is the point's: weights are 8 w + 9 +- 1, from 0 to 18. */
AIR_INLINE void unpack_iq1_m(const uint8_t *w, __m256i *groups)
{
    const air_block_iq1_m *b = (const air_block_iq1_m *)w;
    __m256i sixteens = _mm256_setr_epi64x(0, 0, 0x0101010101010101, 0x0101010101010101);
    int64_t low = 0x0808080808080808, high = (int64_t)0x8080808080808080;
    __m256i each = _mm256_setr_epi64x(low, high, low, high);
    AIR__UNROLL
    for (int g = 0; g < GROUPS; g++) {
        uint16_t qh = two_bytes(b->qh + 2 * g);
        __m256i points = points_iq1(b->qs + 4 * g, (size_t)qh << 8, 4);
        __m256i down = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi16((short)qh), sixteens), each);
        down = _mm256_cmpeq_epi8(down, each);
        __m256i shift = _mm256_add_epi8(_mm256_set1_epi8(10), _mm256_add_epi8(down, down));
        groups[g] = _mm256_add_epi8(_mm256_sign_epi8(_mm256_set1_epi8(8), points), shift);
    }
}

/* Four words of four scales of 3 bits, and a nibble of d on top. */
AIR_INLINE void scales_iq1_m(const uint8_t *w, tile_scales *t)
{
    uint64_t packed = (uint64_t)eight_bytes(((const air_block_iq1_m *)w)->scales);
    uint64_t d = (packed >> 12 & 0xf) | (packed >> 24 & 0xf0) | (packed >> 36 & 0xf00) | (packed >> 48 & 0xf000);
    __m256i words = each_word_4_times(_mm_cvtsi64_si128((int64_t)packed));
    words = _mm256_mullo_epi16(words, _mm256_set1_epi64x(1LL << 13 | 1LL << (16 + 10) | 1LL << (32 + 7) | 1LL << (48 + 4)));
    __m256i bytes = pack_words(_mm256_srli_epi16(words, 13), _mm256_setzero_si256());
    float eighth = air__half((const uint8_t *)&d) * 0.125f;
    half_scales(t, odd_bytes(_mm256_castsi256_si128(bytes)), eighth);
    t->bias = _mm256_set1_ps(eighth * 9); /* as an offset, 9 makes one column slower, by 1.05 to 1.15 */
}

PRODUCT_UNPACKED(iq2_xxs, .parts = 8, .scaling = SCALE_GROUP, .has_bias = 1, .bytes = sizeof(air_block_iq2_xxs))
PRODUCT_UNPACKED(iq2_xs, .parts = 8, .scaling = SCALE_HALF, .has_bias = 1, .offset = 43, .bytes = sizeof(air_block_iq2_xs))
PRODUCT_UNPACKED(iq2_s, .parts = 8, .scaling = SCALE_HALF, .has_bias = 1, .offset = 43, .bytes = sizeof(air_block_iq2_s))
PRODUCT_UNPACKED(iq3_xxs, .parts = 8, .scaling = SCALE_GROUP, .has_bias = 1, .bytes = sizeof(air_block_iq3_xxs))
PRODUCT_UNPACKED(iq3_s, .parts = 2, .scaling = SCALE_GROUP, .has_bias = 1, .bytes = sizeof(air_block_iq3_s))
PRODUCT_UNPACKED(iq1_s, .parts = 1, .scaling = SCALE_GROUP, .has_bias = 1, .bytes = sizeof(air_block_iq1_s))
PRODUCT_UNPACKED(iq1_m, .parts = 2, .scaling = SCALE_HALF, .has_bias = 1, .bytes = sizeof(air_block_iq1_m))

#define IQ_PRODUCTS                                               \
    {                                                             \
        .product = {                                              \
            [AIR_TYPE_IQ2_XXS] = {product_iq2_xxs, AIR_INPUT_Q8}, \
            [AIR_TYPE_IQ2_XS] = {product_iq2_xs, AIR_INPUT_Q8},   \
            [AIR_TYPE_IQ2_S] = {product_iq2_s, AIR_INPUT_Q8},     \
            [AIR_TYPE_IQ3_XXS] = {product_iq3_xxs, AIR_INPUT_Q8}, \
            [AIR_TYPE_IQ3_S] = {product_iq3_s, AIR_INPUT_Q8},     \
            [AIR_TYPE_IQ1_S] = {product_iq1_s, AIR_INPUT_Q8},     \
            [AIR_TYPE_IQ1_M] = {product_iq1_m, AIR_INPUT_Q8},     \
        },                                                        \
    }

#endif
