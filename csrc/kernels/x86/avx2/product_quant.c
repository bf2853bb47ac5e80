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
    t->scale = block_scales(w, sizeof(air_block_q4_0));
    t->bias = _mm256_mul_ps(t->scale, _mm256_set1_ps(8));
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
    t->sub = _mm256_shuffle_epi8(bytes, groups_to_words());
    __m256i mins = _mm256_setr_epi8(8, -1, -1, -1, 9, -1, -1, -1, 10, -1, -1, -1, 11, -1, -1, -1, 12, -1, -1, -1, 13, -1, -1, -1,
                                    14, -1, -1, -1, 15, -1, -1, -1);
    __m128 d = _mm_cvtph_ps(_mm256_castsi256_si128(head));
    t->scale = _mm256_broadcastss_ps(d);
    t->bias = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_shuffle_epi8(bytes, mins)), _mm256_broadcastss_ps(_mm_movehdup_ps(d)));
}

AIR_INLINE __m256i group_q4_k(const uint8_t *w, int g)
{
    return nibbles(load_q(((const air_block_q4_k *)w)->qs + g / 2 * 32), g % 2);
}

AIR_INLINE void scales_q4_k(const uint8_t *w, tile_scales *t) { scales_mins(w, t); }

/* Bit g of qh[l] is bit 4 of weight l of group g. */
AIR_INLINE __m256i group_q5_k(const uint8_t *w, int g)
{
    const air_block_q5_k *b = (const air_block_q5_k *)w;
    __m256i qh = load_q(b->qh), top = g < 4 ? _mm256_slli_epi16(qh, 4 - (g & 3)) : _mm256_srli_epi16(qh, g - 4);
    return _mm256_or_si256(nibbles(load_q(b->qs + g / 2 * 32), g % 2), _mm256_and_si256(top, _mm256_set1_epi8(16)));
}

AIR_INLINE void scales_q5_k(const uint8_t *w, tile_scales *t) { scales_mins(w, t); }

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
    float d = air__half(b->d);
    t->scale = _mm256_set1_ps(d);
    __m128i scales = _mm_loadu_si128((const __m128i *)(const void *)b->scales);
    __m128i even_odd = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    t->sub = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(scales, even_odd));
    t->bias_sub = _mm256_cvtepi8_epi16(scales);
    t->bias = _mm256_set1_ps(32 * d);
}

PRODUCT(q8_0, .is_signed = 1, .bytes = 8 * sizeof(air_block_q8_0))
PRODUCT(q4_0, .has_bias = 1, .bytes = 8 * sizeof(air_block_q4_0))
PRODUCT(q4_k, .scaling = SCALE_GROUP, .run = 8, .has_bias = 1, .bytes = sizeof(air_block_q4_k))
PRODUCT(q5_k, .scaling = SCALE_GROUP, .run = 8, .has_bias = 1, .bytes = sizeof(air_block_q5_k))
PRODUCT(q6_k, .scaling = SCALE_HALF, .run = 4, .has_bias = 1, .bytes = sizeof(air_block_q6_k))

const air_ops air__avx2_quant = {
    .product = {
        [AIR_TYPE_Q8_0] = {product_q8_0, AIR_INPUT_Q8},
        [AIR_TYPE_Q4_0] = {product_q4_0, AIR_INPUT_Q8},
        [AIR_TYPE_Q4_K] = {product_q4_k, AIR_INPUT_Q8},
        [AIR_TYPE_Q5_K] = {product_q5_k, AIR_INPUT_Q8},
        [AIR_TYPE_Q6_K] = {product_q6_k, AIR_INPUT_Q8},
    },
};
