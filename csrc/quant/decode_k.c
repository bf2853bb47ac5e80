/* The K formats: 256 weights, a binary16 scale over quantised scales of groups of 16 or 32. Layouts in blocks.h. */
#include "quant/blocks.h"
#include "quant/format.h"

_Static_assert(sizeof(air_block_q2_k) == 84 && sizeof(air_block_q3_k) == 110, "formats.def");
_Static_assert(sizeof(air_block_q4_k) == 144 && sizeof(air_block_q5_k) == 176, "formats.def");
_Static_assert(sizeof(air_block_q6_k) == 210 && sizeof(air_block_q8_k) == 292, "formats.def");

/* Groups of 16, scale in the low nibble and min in the high one. Each 32 bytes of qs hold 128 weights: bits 2s, 2s+1 of byte l are
 * weight 32 s + l. Q3_K packs the same way. */
void air_decode_q2_k(const void *src, float *dst, int64_t n_blocks)
{
    const air_block_q2_k *b = src;
    for (int64_t i = 0; i < n_blocks; i++, b++, dst += 256) {
        float d = air_load_f16(b->d), dmin = air_load_f16(b->dmin);
        for (int g = 0; g < 16; g++) {
            const uint8_t *q = b->qs + g / 8 * 32 + g % 2 * 16;
            float scale = d * (float)(b->scales[g] & 15), min = dmin * (float)(b->scales[g] >> 4);
            for (int l = 0; l < 16; l++) dst[16 * g + l] = scale * (float)(q[l] >> g % 8 / 2 * 2 & 3) - min;
        }
    }
}

/* As Q2_K without mins; the third bit of weight w is bit w / 32 of hmask[w % 32], and stands for +4 over an offset of -4. */
void air_decode_q3_k(const void *src, float *dst, int64_t n_blocks)
{
    const air_block_q3_k *b = src;
    for (int64_t i = 0; i < n_blocks; i++, b++, dst += 256) {
        float d = air_load_f16(b->d);
        for (int g = 0; g < 16; g++) {
            const uint8_t *q = b->qs + g / 8 * 32 + g % 2 * 16, *h = b->hmask + g % 2 * 16;
            float scale = d * (float)air_unpack_scale_q3_k(b->scales, g);
            for (int l = 0; l < 16; l++)
                dst[16 * g + l] = scale * (float)((q[l] >> g % 8 / 2 * 2 & 3) + (h[l] >> g / 2 & 1) * 4 - 4);
        }
    }
}

/* Groups of 32. Each 32 bytes of qs hold two groups: the even one in the low nibbles, the odd one in the high. Q5_K packs the same
 * way, with the fifth bit of group g in bit g of qh. */
void air_decode_q4_k(const void *src, float *dst, int64_t n_blocks)
{
    const air_block_q4_k *b = src;
    for (int64_t i = 0; i < n_blocks; i++, b++, dst += 256) {
        float d = air_load_f16(b->d), dmin = air_load_f16(b->dmin);
        for (int g = 0; g < 8; g++) {
            uint8_t sc, m;
            air_unpack_scale_min(b->scales, g, &sc, &m);
            float scale = d * (float)sc, min = dmin * (float)m;
            const uint8_t *q = b->qs + g / 2 * 32;
            for (int l = 0; l < 32; l++) dst[32 * g + l] = scale * (float)(q[l] >> g % 2 * 4 & 15) - min;
        }
    }
}

void air_decode_q5_k(const void *src, float *dst, int64_t n_blocks)
{
    const air_block_q5_k *b = src;
    for (int64_t i = 0; i < n_blocks; i++, b++, dst += 256) {
        float d = air_load_f16(b->d), dmin = air_load_f16(b->dmin);
        for (int g = 0; g < 8; g++) {
            uint8_t sc, m;
            air_unpack_scale_min(b->scales, g, &sc, &m);
            float scale = d * (float)sc, min = dmin * (float)m;
            const uint8_t *q = b->qs + g / 2 * 32;
            for (int l = 0; l < 32; l++)
                dst[32 * g + l] = scale * (float)((q[l] >> g % 2 * 4 & 15) | (b->qh[l] >> g & 1) << 4) - min;
        }
    }
}

/* Groups of 16, signed scales. Each half of the block (128 weights, 4 runs r of 32): low nibbles of ql[0..63] are runs 0 and 1, high ones
 * runs 2 and 3; bits 2r, 2r+1 of qh[l] top weight l of run r. */
void air_decode_q6_k(const void *src, float *dst, int64_t n_blocks)
{
    const air_block_q6_k *b = src;
    for (int64_t i = 0; i < n_blocks; i++, b++, dst += 256) {
        float d = air_load_f16(b->d);
        for (int g = 0; g < 16; g++) {
            int half = g / 8, r = g % 8 / 2, at = g % 2 * 16;
            const uint8_t *ql = b->ql + half * 64 + r % 2 * 32 + at, *qh = b->qh + half * 32 + at;
            float scale = d * (float)b->scales[g];
            for (int l = 0; l < 16; l++)
                dst[16 * g + l] = scale * (float)(((ql[l] >> r / 2 * 4 & 15) | (qh[l] >> 2 * r & 3) << 4) - 32);
        }
    }
}

void air_decode_q8_k(const void *src, float *dst, int64_t n_blocks)
{
    const air_block_q8_k *b = src;
    for (int64_t i = 0; i < n_blocks; i++, b++, dst += 256) {
        float d = air_f32_from_bits(air_load_u32(b->d));
        for (int j = 0; j < 256; j++) dst[j] = d * (float)b->qs[j];
    }
}
