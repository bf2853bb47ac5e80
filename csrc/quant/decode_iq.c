/* The IQ formats: points of a codebook (iq_tables.h) or of a fixed curve, times quantised scales. Layouts in blocks.h. */
#include "quant/blocks.h"
#include "quant/format.h"
#include "quant/iq_tables.h"

_Static_assert(sizeof(air_block_iq2_xxs) == 66 && sizeof(air_block_iq2_xs) == 74 && sizeof(air_block_iq2_s) == 82, "formats.def");
_Static_assert(sizeof(air_block_iq3_xxs) == 98 && sizeof(air_block_iq3_s) == 110, "formats.def");
_Static_assert(sizeof(air_block_iq1_s) == 50 && sizeof(air_block_iq1_m) == 56, "formats.def");
_Static_assert(sizeof(air_block_iq4_nl) == 18 && sizeof(air_block_iq4_xs) == 136, "formats.def");

/* n coordinates of a point, bit j of signs negating the j-th. Negation after the product, so that -0 comes out as in ggml. */
static void signed_point(const uint8_t *point, int n, uint32_t signs, float scale, float *dst)
{
    for (int j = 0; j < n; j++) {
        float v = scale * (float)point[j];
        dst[j] = signs >> j & 1 ? -v : v;
    }
}

/* Each 32 weights: four bytes choose points of 8; a word holds 4 × 7 signs and, on top, the scale. */
void air_decode_iq2_xxs(const void *src, float *dst, int64_t n_blocks)
{
    const air_block_iq2_xxs *b = src;
    for (int64_t i = 0; i < n_blocks; i++, b++) {
        float d = air_load_f16(b->d);
        for (int g = 0; g < 8; g++) {
            const uint8_t *q = b->qs + 8 * g;
            uint32_t word = air_load_u32(q + 4);
            float scale = d * (0.5f + (float)(word >> 28)) * 0.25f;
            for (int l = 0; l < 4; l++, dst += 8)
                signed_point(air_grid_iq2_xxs[q[l]], 8, air_iq_eight_signs(word >> 7 * l & 127), scale, dst);
        }
    }
}

/* Each 8 weights: 9 bits choose a point, 7 are signs; a nibble scales 16 weights. */
void air_decode_iq2_xs(const void *src, float *dst, int64_t n_blocks)
{
    const air_block_iq2_xs *b = src;
    for (int64_t i = 0; i < n_blocks; i++, b++) {
        float d = air_load_f16(b->d);
        for (int l = 0; l < 32; l++, dst += 8) {
            uint32_t q = air_load_u16(b->qs + 2 * l);
            float scale = d * (0.5f + (float)(b->scales[l / 4] >> l / 2 % 2 * 4 & 15)) * 0.25f;
            signed_point(air_grid_iq2_xs[q & 511], 8, air_iq_eight_signs(q >> 9), scale, dst);
        }
    }
}

/* As IQ2_XS, with 10 bits for the point (two of them in qh) and all 8 signs. */
void air_decode_iq2_s(const void *src, float *dst, int64_t n_blocks)
{
    const air_block_iq2_s *b = src;
    for (int64_t i = 0; i < n_blocks; i++, b++) {
        float d = air_load_f16(b->d);
        for (int l = 0; l < 32; l++, dst += 8) {
            int point = b->qs[l] | (b->qh[l / 4] >> l % 4 * 2 & 3) << 8;
            float scale = d * (0.5f + (float)(b->scales[l / 4] >> l / 2 % 2 * 4 & 15)) * 0.25f;
            signed_point(air_grid_iq2_s[point], 8, b->signs[l], scale, dst);
        }
    }
}

/* Each 32 weights: eight bytes choose points of 4; a word as in IQ2_XXS. */
void air_decode_iq3_xxs(const void *src, float *dst, int64_t n_blocks)
{
    const air_block_iq3_xxs *b = src;
    for (int64_t i = 0; i < n_blocks; i++, b++) {
        float d = air_load_f16(b->d);
        for (int g = 0; g < 8; g++) {
            uint32_t word = air_load_u32(b->scales + 4 * g);
            float scale = d * (0.5f + (float)(word >> 28)) * 0.5f;
            for (int l = 0; l < 4; l++, dst += 8) {
                const uint8_t *q = b->qs + 8 * g + 2 * l;
                uint32_t signs = air_iq_eight_signs(word >> 7 * l & 127);
                signed_point(air_grid_iq3_xxs[q[0]], 4, signs, scale, dst);
                signed_point(air_grid_iq3_xxs[q[1]], 4, signs >> 4, scale, dst + 4);
            }
        }
    }
}

/* Each 4 weights: 9 bits choose a point, the top one in qh; a nibble scales 32 weights. */
void air_decode_iq3_s(const void *src, float *dst, int64_t n_blocks)
{
    const air_block_iq3_s *b = src;
    for (int64_t i = 0; i < n_blocks; i++, b++) {
        float d = air_load_f16(b->d);
        for (int l = 0; l < 64; l++, dst += 4) {
            int point = b->qs[l] | (b->qh[l / 8] >> l % 8 & 1) << 8;
            float scale = d * (float)(1 + 2 * (b->scales[l / 16] >> l / 8 % 2 * 4 & 15));
            signed_point(air_grid_iq3_s[point], 4, (uint32_t)b->signs[l / 2] >> l % 2 * 4, scale, dst);
        }
    }
}

/* A point of -1, 0, 1, moved by an eighth up or, if down is set, down. */
static void shifted_point(const int8_t *point, int down, float scale, float *dst)
{
    float shift = down ? -0.125f : 0.125f;
    for (int j = 0; j < 8; j++) dst[j] = scale * ((float)point[j] + shift);
}

/* Each 32 weights: four bytes and 4 × 3 bits of a half word choose points of 8; above them the scale and the direction of the shift. */
void air_decode_iq1_s(const void *src, float *dst, int64_t n_blocks)
{
    const air_block_iq1_s *b = src;
    for (int64_t i = 0; i < n_blocks; i++, b++) {
        float d = air_load_f16(b->d);
        for (int l = 0; l < 32; l++, dst += 8) {
            int qh = air_load_u16(b->qh + l / 4 * 2), point = b->qs[l] | (qh >> l % 4 * 3 & 7) << 8;
            shifted_point(air_grid_iq1[point], qh >> 15, d * (float)(2 * (qh >> 12 & 7) + 1), dst);
        }
    }
}

/* Each 8 weights: a byte and 3 bits of a nibble choose the point, its top bit the direction. Four half words hold 3-bit scales for 16
 * weights each and, in their top nibbles from first to last, the binary16 scale from its low nibble up. */
void air_decode_iq1_m(const void *src, float *dst, int64_t n_blocks)
{
    const air_block_iq1_m *b = src;
    for (int64_t i = 0; i < n_blocks; i++, b++) {
        int sc[4], bits = 0;
        for (int w = 0; w < 4; w++) {
            sc[w] = air_load_u16(b->scales + 2 * w);
            bits |= (sc[w] >> 12) << 4 * w;
        }
        float d = air_f16_to_f32((uint16_t)bits);
        for (int l = 0; l < 32; l++, dst += 8) {
            int nibble = b->qh[l / 2] >> l % 2 * 4 & 15, point = b->qs[l] | (nibble & 7) << 8;
            int scale = sc[l / 8] >> l / 2 % 4 * 3 & 7;
            shifted_point(air_grid_iq1[point], nibble >> 3, d * (float)(2 * scale + 1), dst);
        }
    }
}

/* 16 bytes: weight j in the low nibble of byte j, weight 16 + j in the high one. */
static void decode_curve(const uint8_t *src, float scale, float *dst)
{
    for (int j = 0; j < 16; j++) {
        dst[j]      = scale * (float)air_values_iq4nl[src[j] & 15];
        dst[j + 16] = scale * (float)air_values_iq4nl[src[j] >> 4];
    }
}

void air_decode_iq4_nl(const void *src, float *dst, int64_t n_blocks)
{
    const air_block_iq4_nl *b = src;
    for (int64_t i = 0; i < n_blocks; i++, b++, dst += 32) decode_curve(b->qs, air_load_f16(b->d), dst);
}

/* IQ4_NL with a 6-bit scale, less 32, for each 32 weights: four bits in scales_l, two in scales_h. */
void air_decode_iq4_xs(const void *src, float *dst, int64_t n_blocks)
{
    const air_block_iq4_xs *b = src;
    for (int64_t i = 0; i < n_blocks; i++, b++) {
        float d = air_load_f16(b->d);
        int high = air_load_u16(b->scales_h);
        for (int g = 0; g < 8; g++, dst += 32) {
            int scale = (b->scales_l[g / 2] >> g % 2 * 4 & 15) | (high >> 2 * g & 3) << 4;
            decode_curve(b->qs + 16 * g, d * (float)(scale - 32), dst);
        }
    }
}
