/* AVX-512 VNNI products of quantised weights: how each format becomes a tile; product_q8.h has the rest.
 * dpbusd accumulates into 32 bits without saturation: 256 products of at most 255 * 127 are far below 2^31. */
#include "product_q8.h"

#include "quant/blocks.h"

AIR_INLINE __m512i load_pair(const void *low, const void *high)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256(low)), _mm256_loadu_si256(high), 1);
}

AIR_INLINE __m512i nibbles(__m512i v, int high)
{
    return _mm512_and_si512(high ? _mm512_srli_epi16(v, 4) : v, _mm512_set1_epi8(15));
}

/* Signed bytes plus 128 are unsigned. */
AIR_INLINE void decode_q8_0(const uint8_t *w, tile *t)
{
    const air_block_q8_0 *b = (const air_block_q8_0 *)w;
    AIR__UNROLL
    for (int i = 0; i < 4; i++) t->w[i] = _mm512_xor_si512(load_pair(b[2 * i].qs, b[2 * i + 1].qs), _mm512_set1_epi8(-128));
    t->scale = spread_groups(_mm256_cvtph_ps(air__halves(w, sizeof *b)), ORDER_NATURAL);
}

AIR_INLINE void decode_q4_0(const uint8_t *w, tile *t)
{
    const air_block_q4_0 *b = (const air_block_q4_0 *)w;
    AIR__UNROLL
    for (int m = 0; m < 2; m++) {
        __m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(const void *)b[4 * m].qs));
        v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(const void *)b[4 * m + 1].qs), 1);
        v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(const void *)b[4 * m + 2].qs), 2);
        v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(const void *)b[4 * m + 3].qs), 3);
        t->w[2 * m] = nibbles(v, 0);
        t->w[2 * m + 1] = nibbles(v, 1);
    }
    t->scale = spread_groups(_mm256_cvtph_ps(air__halves(w, sizeof *b)), ORDER_SPLIT);
}

/* Vector 2m + high: 64 weights, runs 2 high and 2 high + 1 of half m of the block; run r has bits 2r, 2r + 1 of qh[l] on top. */
AIR_INLINE void decode_q6_k(const uint8_t *w, tile *t)
{
    const air_block_q6_k *b = (const air_block_q6_k *)w;
    __m512i two_bits = _mm512_set1_epi8(0x30);
    AIR__UNROLL
    for (int m = 0; m < 2; m++) {
        __m512i v = _mm512_loadu_si512(b->ql + 64 * m), qh = load_pair(b->qh + 32 * m, b->qh + 32 * m);
        /* To bits 4 and 5: runs 0 and 1 by 4 and 2 to the left, runs 2 and 3 by 0 and 2 to the right. */
        __m512i low = _mm512_sllv_epi16(qh, _mm512_inserti64x4(_mm512_set1_epi16(4), _mm256_set1_epi16(2), 1));
        __m512i high = _mm512_srlv_epi16(qh, _mm512_inserti64x4(_mm512_set1_epi16(0), _mm256_set1_epi16(2), 1));
        t->w[2 * m] = _mm512_or_si512(nibbles(v, 0), _mm512_and_si512(low, two_bits));
        t->w[2 * m + 1] = _mm512_or_si512(nibbles(v, 1), _mm512_and_si512(high, two_bits));
    }
    __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m128i scales = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(const void *)b->scales), order);
    t->scale = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(scales)), _mm512_set1_ps(air__half(b->d)));
}

PRODUCT(q8_0, .order = ORDER_NATURAL, .offset_shift = 7, .bytes = 8 * sizeof(air_block_q8_0))
PRODUCT(q4_0, .order = ORDER_SPLIT, .offset_shift = 3, .bytes = 8 * sizeof(air_block_q4_0))
PRODUCT(q6_k, .order = ORDER_NATURAL, .offset_shift = 5, .bytes = sizeof(air_block_q6_k))

const air_ops air__avx512_vnni = {
    .product = {
        [AIR_TYPE_Q8_0] = {product_q8_0, AIR_INPUT_Q8},
        [AIR_TYPE_Q4_0] = {product_q4_0, AIR_INPUT_Q8},
        [AIR_TYPE_Q6_K] = {product_q6_k, AIR_INPUT_Q8},
    },
};
