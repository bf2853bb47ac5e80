/* AVX2 products of quantised weights: how each format becomes vectors of groups; product_q8.h has the rest. */
#include "product_q8.h"

#include "quant/blocks.h"

AIR_INLINE __m256i nibbles(__m256i v, int high)
{
    return _mm256_and_si256(high ? _mm256_srli_epi16(v, 4) : v, _mm256_set1_epi8(15));
}

/* The binary16 scales of 8 blocks of 32. */
AIR_INLINE __m256 block_scales(const uint8_t *w, size_t stride) { return _mm256_cvtph_ps(air__halves(w, stride)); }

AIR_INLINE __m256i group_q8_0(const uint8_t *w, int g) { return load_q(((const air_block_q8_0 *)w)[g].qs); }

AIR_INLINE void scales_q8_0(const uint8_t *w, tile_scales *t) { t->scale = block_scales(w, sizeof(air_block_q8_0)); }

AIR_INLINE __m256i group_q4_0(const uint8_t *w, int g)
{
    __m128i v = _mm_loadu_si128((const __m128i *)(const void *)((const air_block_q4_0 *)w)[g].qs);
    return nibbles(_mm256_inserti128_si256(_mm256_castsi128_si256(v), _mm_srli_epi16(v, 4), 1), 0);
}

AIR_INLINE void scales_q4_0(const uint8_t *w, tile_scales *t)
{
    t->scale = t->bias_scale = block_scales(w, sizeof(air_block_q4_0));
    t->bias = _mm256_set1_epi16(-8);
}

/* Of Q4_K and Q5_K. A min belongs to both halves of its group. */
AIR_INLINE void scales_mins(tile_scales *t, const uint8_t d[2], const uint8_t dmin[2], const uint8_t packed[12])
{
    uint64_t scales, mins;
    air__scales_mins(packed, &scales, &mins);
    __m256i scale = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)scales));
    __m256i min = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)mins));
    t->scale = _mm256_mul_ps(_mm256_cvtepi32_ps(scale), _mm256_set1_ps(air__half(d)));
    t->bias = _mm256_or_si256(min, _mm256_slli_epi32(min, 16));
    t->bias_scale = _mm256_set1_ps(-air__half(dmin));
}

AIR_INLINE __m256i group_q4_k(const uint8_t *w, int g)
{
    return nibbles(load_q(((const air_block_q4_k *)w)->qs + g / 2 * 32), g % 2);
}

AIR_INLINE void scales_q4_k(const uint8_t *w, tile_scales *t)
{
    const air_block_q4_k *b = (const air_block_q4_k *)w;
    scales_mins(t, b->d, b->dmin, b->scales);
}

/* Bit g of qh[l] is bit 4 of weight l of group g. */
AIR_INLINE __m256i group_q5_k(const uint8_t *w, int g)
{
    const air_block_q5_k *b = (const air_block_q5_k *)w;
    __m256i qh = load_q(b->qh), top = g < 4 ? _mm256_slli_epi16(qh, 4 - (g & 3)) : _mm256_srli_epi16(qh, g - 4);
    return _mm256_or_si256(nibbles(load_q(b->qs + g / 2 * 32), g % 2), _mm256_and_si256(top, _mm256_set1_epi8(16)));
}

AIR_INLINE void scales_q5_k(const uint8_t *w, tile_scales *t)
{
    const air_block_q5_k *b = (const air_block_q5_k *)w;
    scales_mins(t, b->d, b->dmin, b->scales);
}

/* Each half of the block has 4 runs of 32; run r has bits 2r, 2r + 1 of qh[l] on top. */
AIR_INLINE __m256i group_q6_k(const uint8_t *w, int g)
{
    const air_block_q6_k *b = (const air_block_q6_k *)w;
    int half = g / 4, run = g % 4;
    __m256i qh = load_q(b->qh + 32 * half);
    __m256i top = run < 2 ? _mm256_slli_epi16(qh, 4 - 2 * (run & 1)) : _mm256_srli_epi16(qh, 2 * run - 4);
    __m256i low = nibbles(load_q(b->ql + 64 * half + 32 * (run % 2)), run / 2);
    return _mm256_or_si256(low, _mm256_and_si256(top, _mm256_set1_epi8(0x30)));
}

AIR_INLINE void scales_q6_k(const uint8_t *w, tile_scales *t)
{
    const air_block_q6_k *b = (const air_block_q6_k *)w;
    t->scale = t->bias_scale = _mm256_set1_ps(air__half(b->d));
    t->sub = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)b->scales));
    t->bias = _mm256_slli_epi16(_mm256_sub_epi16(_mm256_setzero_si256(), t->sub), 5);
}

PRODUCT(q8_0, .is_signed = 1, .bytes = 8 * sizeof(air_block_q8_0))
PRODUCT(q4_0, .has_bias = 1, .bytes = 8 * sizeof(air_block_q4_0))
PRODUCT(q4_k, .has_bias = 1, .bytes = sizeof(air_block_q4_k))
PRODUCT(q5_k, .has_bias = 1, .bytes = sizeof(air_block_q5_k))
PRODUCT(q6_k, .has_sub = 1, .has_bias = 1, .bytes = sizeof(air_block_q6_k))

const air_ops air__avx2_quant = {
    .product = {
        [AIR_TYPE_Q8_0] = {product_q8_0, AIR_INPUT_Q8},
        [AIR_TYPE_Q4_0] = {product_q4_0, AIR_INPUT_Q8},
        [AIR_TYPE_Q4_K] = {product_q4_k, AIR_INPUT_Q8},
        [AIR_TYPE_Q5_K] = {product_q5_k, AIR_INPUT_Q8},
        [AIR_TYPE_Q6_K] = {product_q6_k, AIR_INPUT_Q8},
    },
};
