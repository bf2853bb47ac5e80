/* Formats whose scales are floats, one for 32 weights, or for 16: how each becomes vectors of groups. */
#ifndef AIR_KERNELS_X86_FORMATS_LEGACY_H
#define AIR_KERNELS_X86_FORMATS_LEGACY_H

#include "unpack.h"

#include "quant/iq_tables.h"

/* The binary16 scales of 8 blocks of 32. */
AIR_INLINE __m256 block_scales(const uint8_t *w, size_t stride) { return _mm256_cvtph_ps(air__halves(w, stride)); }

/* A binary16 minimum follows the scale, and is added. */
AIR_INLINE void scales_minimum(const uint8_t *w, size_t stride, tile_scales *t)
{
    t->scale[0] = block_scales(w, stride);
    t->bias = _mm256_xor_ps(block_scales(w + 2, stride), _mm256_set1_ps(-0.0f));
}

AIR_INLINE vb fifth_bits(const uint8_t *qh, size_t stride) { return vb_and(vb_spread_bits(qh, stride), vb_set(16)); }

AIR_INLINE vb group_q8_0(const uint8_t *w, size_t stride, int g) { return vb_load(((const air_block_q8_0 *)w)[g].qs, stride); }
AIR_INLINE void scales_q8_0(const uint8_t *w, tile_scales *t) { t->scale[0] = block_scales(w, sizeof(air_block_q8_0)); }

AIR_INLINE vb group_q4_0(const uint8_t *w, size_t stride, int g) { return nibbles_of_16(((const air_block_q4_0 *)w)[g].qs, stride); }

AIR_INLINE void turned_q4_0(const uint8_t *w, size_t stride, vb *groups)
{
    turned_nibbles_of_16(((const air_block_q4_0 *)w)->qs, sizeof(air_block_q4_0), stride, groups);
}

AIR_INLINE void scales_q4_0(const uint8_t *w, tile_scales *t) { t->scale[0] = block_scales(w, sizeof(air_block_q4_0)); }

AIR_INLINE vb group_q4_1(const uint8_t *w, size_t stride, int g) { return nibbles_of_16(((const air_block_q4_1 *)w)[g].qs, stride); }

AIR_INLINE void turned_q4_1(const uint8_t *w, size_t stride, vb *groups)
{
    turned_nibbles_of_16(((const air_block_q4_1 *)w)->qs, sizeof(air_block_q4_1), stride, groups);
}

AIR_INLINE void scales_q4_1(const uint8_t *w, tile_scales *t) { scales_minimum(w, sizeof(air_block_q4_1), t); }

AIR_INLINE vb group_q5_0(const uint8_t *w, size_t stride, int g)
{
    const air_block_q5_0 *b = (const air_block_q5_0 *)w + g;
    return vb_or(nibbles_of_16(b->qs, stride), fifth_bits(b->qh, stride));
}

AIR_INLINE void scales_q5_0(const uint8_t *w, tile_scales *t) { t->scale[0] = block_scales(w, sizeof(air_block_q5_0)); }

AIR_INLINE vb group_q5_1(const uint8_t *w, size_t stride, int g)
{
    const air_block_q5_1 *b = (const air_block_q5_1 *)w + g;
    return vb_or(nibbles_of_16(b->qs, stride), fifth_bits(b->qh, stride));
}

AIR_INLINE void scales_q5_1(const uint8_t *w, tile_scales *t) { scales_minimum(w, sizeof(air_block_q5_1), t); }

AIR_INLINE vb group_iq4_nl(const uint8_t *w, size_t stride, int g)
{
    return vb_pick(vb_repeat_16(load_half(air_values_iq4nl)), nibbles_of_16(((const air_block_iq4_nl *)w)[g].qs, stride));
}

AIR_INLINE void turned_iq4_nl(const uint8_t *w, size_t stride, vb *groups)
{
    turned_nibbles_of_16(((const air_block_iq4_nl *)w)->qs, sizeof(air_block_iq4_nl), stride, groups);
    pick_all(vb_repeat_16(load_half(air_values_iq4nl)), groups);
}

AIR_INLINE void scales_iq4_nl(const uint8_t *w, tile_scales *t) { t->scale[0] = block_scales(w, sizeof(air_block_iq4_nl)); }

/* E2M1 values doubled, as their scales are halved. */
AIR_INLINE vb e2m1_values(void) { return vb_repeat_16(_mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)); }
AIR_INLINE vb e2m1(vb codes) { return vb_pick(e2m1_values(), codes); }

AIR_INLINE vb group_mxfp4(const uint8_t *w, size_t stride, int g) { return e2m1(nibbles_of_16(((const air_block_mxfp4 *)w)[g].qs, stride)); }

AIR_INLINE void turned_mxfp4(const uint8_t *w, size_t stride, vb *groups)
{
    turned_nibbles_of_16(((const air_block_mxfp4 *)w)->qs, sizeof(air_block_mxfp4), stride, groups);
    pick_all(e2m1_values(), groups);
}

/* 2^(e - 128), as air_e8m0_half_to_f32; the least two are subnormal. */
AIR_INLINE void scales_mxfp4(const uint8_t *w, tile_scales *t)
{
    const air_block_mxfp4 *b = (const air_block_mxfp4 *)w;
    uint64_t bytes = 0;
    AIR__UNROLL
    for (int i = 0; i < 8; i++) bytes |= (uint64_t)b[i].e[0] << 8 * i;
    __m256i e = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((int64_t)bytes)), two = _mm256_set1_epi32(2);
    __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
    __m256i subnormal = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), e);
    t->scale[0] = _mm256_castsi256_ps(_mm256_blendv_epi8(normal, subnormal, _mm256_cmpgt_epi32(two, e)));
}

/* Half a block: 8 bytes hold 16 weights, the first 8 in the low nibbles. */
AIR_INLINE vb group_nvfp4(const uint8_t *w, size_t stride, int g)
{
    const air_block_nvfp4 *b = (const air_block_nvfp4 *)w + g / 2;
    __m256i twice = _mm256_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13,
                                     14, 15);
    vb v = vb_pick(vb_load_16(b->qs + g % 2 * 16, stride), vb_repeat(twice));
    return e2m1(nibbles(vb_srlv64(v, vb_repeat(_mm256_setr_epi64x(0, 4, 0, 4))), 0));
}

/* E4M3 without its sign, moved up by 7 bits, is a binary16 of 2^-7 times the value, which is wanted halved; 127 alone means 0. */
AIR_INLINE void scales_nvfp4(const uint8_t *w, tile_scales *t)
{
    const air_block_nvfp4 *b = (const air_block_nvfp4 *)w;
    int32_t d[4];
    AIR__UNROLL
    for (int i = 0; i < 4; i++) memcpy(&d[i], b[i].d, sizeof d[i]);
    __m128i bytes = _mm_setr_epi32(d[0], d[1], d[2], d[3]), most = _mm_set1_epi8(0x7f);
    bytes = _mm_andnot_si128(_mm_cmpeq_epi8(bytes, most), _mm_and_si128(bytes, most));
    bytes = _mm_shuffle_epi8(bytes, _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
    __m256i halves = _mm256_slli_epi16(_mm256_cvtepu8_epi16(bytes), 7);
    t->scale[0] = _mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(halves)), _mm256_set1_ps(128));
    t->scale[1] = _mm256_mul_ps(_mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1)), _mm256_set1_ps(128));
}

PRODUCT(q8_0, .parts = 8, .is_signed = 1, .bytes = 8 * sizeof(air_block_q8_0))
PRODUCT_TURNED(q4_0, .parts = 1, .has_bias = 1, .offset = 8, .bytes = 8 * sizeof(air_block_q4_0))
PRODUCT_TURNED(q4_1, .parts = 1, .has_bias = 1, .bytes = 8 * sizeof(air_block_q4_1))
PRODUCT(q5_0, .parts = 2, .has_bias = 1, .offset = 16, .bytes = 8 * sizeof(air_block_q5_0))
PRODUCT(q5_1, .parts = 2, .has_bias = 1, .bytes = 8 * sizeof(air_block_q5_1))
PRODUCT_TURNED(iq4_nl, .parts = 8, .is_signed = 1, .bytes = 8 * sizeof(air_block_iq4_nl))
PRODUCT_TURNED(mxfp4, .parts = 1, .is_signed = 1, .bytes = 8 * sizeof(air_block_mxfp4))
PRODUCT(nvfp4, .parts = 2, .scaling = SCALE_FLOAT_HALF, .is_signed = 1, .bytes = 4 * sizeof(air_block_nvfp4))

#define LEGACY_PRODUCTS                                         \
    {                                                           \
        .product = {                                            \
            [AIR_TYPE_Q8_0] = {product_q8_0, AIR_INPUT_Q8},     \
            [AIR_TYPE_Q4_0] = {product_q4_0, AIR_INPUT_Q8},     \
            [AIR_TYPE_Q4_1] = {product_q4_1, AIR_INPUT_Q8},     \
            [AIR_TYPE_Q5_0] = {product_q5_0, AIR_INPUT_Q8},     \
            [AIR_TYPE_Q5_1] = {product_q5_1, AIR_INPUT_Q8},     \
            [AIR_TYPE_IQ4_NL] = {product_iq4_nl, AIR_INPUT_Q8}, \
            [AIR_TYPE_MXFP4] = {product_mxfp4, AIR_INPUT_Q8},   \
            [AIR_TYPE_NVFP4] = {product_nvfp4, AIR_INPUT_Q8},   \
        },                                                      \
    }

#endif
