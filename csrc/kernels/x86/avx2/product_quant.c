/* AVX2 products of quantised weights: how each format becomes a tile; product_q8.h has the rest. */
#include "product_q8.h"

#include "quant/blocks.h"

AIR_INLINE __m256i nibbles(__m256i v, int high)
{
    return _mm256_and_si256(high ? _mm256_srli_epi16(v, 4) : v, _mm256_set1_epi8(15));
}

/* The binary16 scales of 8 blocks of 32. */
AIR_INLINE void block_scales(tile *t, const uint8_t *w, size_t stride)
{
    __m256 d = _mm256_cvtph_ps(air__halves(w, stride));
    t->scale[0] = spread_groups(_mm256_castps256_ps128(d));
    t->scale[1] = spread_groups(_mm256_extractf128_ps(d, 1));
}

AIR_INLINE void decode_q8_0(const uint8_t *w, tile *t)
{
    const air_block_q8_0 *b = (const air_block_q8_0 *)w;
    AIR__UNROLL
    for (int g = 0; g < GROUPS; g++) t->w[g] = load_q(b[g].qs);
    block_scales(t, w, sizeof *b);
}

AIR_INLINE void decode_q4_0(const uint8_t *w, tile *t)
{
    const air_block_q4_0 *b = (const air_block_q4_0 *)w;
    AIR__UNROLL
    for (int g = 0; g < GROUPS; g++) {
        __m128i v = _mm_loadu_si128((const __m128i *)(const void *)b[g].qs);
        t->w[g] = nibbles(_mm256_inserti128_si256(_mm256_castsi128_si256(v), _mm_srli_epi16(v, 4), 1), 0);
    }
    block_scales(t, w, sizeof *b);
}

/* d * scale and dmin * min of Q4_K and Q5_K. */
AIR_INLINE void scales_mins(tile *t, const uint8_t d[2], const uint8_t dmin[2], const uint8_t packed[12])
{
    uint64_t scales, mins;
    air__scales_mins(packed, &scales, &mins);
    __m128i bytes = _mm_set_epi64x((int64_t)mins, (int64_t)scales);
    __m256 scale = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)), _mm256_set1_ps(air__half(d)));
    __m256 min = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8))), _mm256_set1_ps(air__half(dmin)));
    t->scale[0] = spread_groups(_mm256_castps256_ps128(scale));
    t->scale[1] = spread_groups(_mm256_extractf128_ps(scale, 1));
    t->min[0] = spread_groups(_mm256_castps256_ps128(min));
    t->min[1] = spread_groups(_mm256_extractf128_ps(min, 1));
}

AIR_INLINE void decode_q4_k(const uint8_t *w, tile *t)
{
    const air_block_q4_k *b = (const air_block_q4_k *)w;
    AIR__UNROLL
    for (int g = 0; g < GROUPS; g++) t->w[g] = nibbles(load_q(b->qs + g / 2 * 32), g % 2);
    scales_mins(t, b->d, b->dmin, b->scales);
}

/* Bit g of qh[l] is bit 4 of weight l of group g. */
AIR_INLINE void decode_q5_k(const uint8_t *w, tile *t)
{
    const air_block_q5_k *b = (const air_block_q5_k *)w;
    __m256i qh = load_q(b->qh);
    AIR__UNROLL
    for (int g = 0; g < GROUPS; g++) {
        __m256i top = g < 4 ? _mm256_slli_epi16(qh, 4 - (g & 3)) : _mm256_srli_epi16(qh, g - 4);
        t->w[g] = _mm256_or_si256(nibbles(load_q(b->qs + g / 2 * 32), g % 2), _mm256_and_si256(top, _mm256_set1_epi8(16)));
    }
    scales_mins(t, b->d, b->dmin, b->scales);
}

/* Each half of the block has 4 runs of 32; run r has bits 2r, 2r + 1 of qh[l] on top. */
AIR_INLINE void decode_q6_k(const uint8_t *w, tile *t)
{
    const air_block_q6_k *b = (const air_block_q6_k *)w;
    AIR__UNROLL
    for (int g = 0; g < GROUPS; g++) {
        int half = g / 4, run = g % 4;
        __m256i qh = load_q(b->qh + 32 * half);
        __m256i top = run < 2 ? _mm256_slli_epi16(qh, 4 - 2 * (run & 1)) : _mm256_srli_epi16(qh, 2 * run - 4);
        __m256i low = nibbles(load_q(b->ql + 64 * half + 32 * (run % 2)), run / 2);
        t->w[g] = _mm256_or_si256(low, _mm256_and_si256(top, _mm256_set1_epi8(0x30)));
    }
    __m128i scales = _mm_loadu_si128((const __m128i *)(const void *)b->scales);
    __m256 d = _mm256_set1_ps(air__half(b->d));
    t->scale[0] = _mm256_mul_ps(d, _mm256_cvtepi32_ps(order_halves(_mm_cvtepi8_epi16(scales))));
    t->scale[1] = _mm256_mul_ps(d, _mm256_cvtepi32_ps(order_halves(_mm_cvtepi8_epi16(_mm_srli_si128(scales, 8)))));
}

PRODUCT(q8_0, .is_signed = 1, .bytes = 8 * sizeof(air_block_q8_0))
PRODUCT(q4_0, .offset_shift = 3, .bytes = 8 * sizeof(air_block_q4_0))
PRODUCT(q4_k, .has_min = 1, .bytes = sizeof(air_block_q4_k))
PRODUCT(q5_k, .has_min = 1, .bytes = sizeof(air_block_q5_k))
PRODUCT(q6_k, .offset_shift = 5, .bytes = sizeof(air_block_q6_k))

const air_ops air__avx2_quant = {
    .product = {
        [AIR_TYPE_Q8_0] = {product_q8_0, AIR_INPUT_Q8},
        [AIR_TYPE_Q4_0] = {product_q4_0, AIR_INPUT_Q8},
        [AIR_TYPE_Q4_K] = {product_q4_k, AIR_INPUT_Q8},
        [AIR_TYPE_Q5_K] = {product_q5_k, AIR_INPUT_Q8},
        [AIR_TYPE_Q6_K] = {product_q6_k, AIR_INPUT_Q8},
    },
};
