/* The formats with one scale to a block: Q1_0 to Q8_1. Layouts in blocks.h. */
#include "quant/blocks.h"
#include "quant/format.h"

_Static_assert(sizeof(air_block_q4_0) == 18 && sizeof(air_block_q4_1) == 20, "formats.def");
_Static_assert(sizeof(air_block_q5_0) == 22 && sizeof(air_block_q5_1) == 24, "formats.def");
_Static_assert(sizeof(air_block_q8_0) == 34 && sizeof(air_block_q8_1) == 36, "formats.def");
_Static_assert(sizeof(air_block_q1_0) == 18 && sizeof(air_block_q2_0) == 18, "formats.def");

void air_decode_q1_0(const void *src, float *dst, int64_t n_blocks)
{
    const air_block_q1_0 *b = src;
    for (int64_t i = 0; i < n_blocks; i++, b++, dst += 128) {
        float d = air_load_f16(b->d);
        for (int j = 0; j < 128; j++) dst[j] = b->qs[j / 8] >> j % 8 & 1 ? d : -d;
    }
}

void air_decode_q2_0(const void *src, float *dst, int64_t n_blocks)
{
    const air_block_q2_0 *b = src;
    for (int64_t i = 0; i < n_blocks; i++, b++, dst += 64) {
        float d = air_load_f16(b->d);
        for (int j = 0; j < 64; j++) dst[j] = d * (float)((b->qs[j / 4] >> j % 4 * 2 & 3) - 1);
    }
}

void air_decode_q4_0(const void *src, float *dst, int64_t n_blocks)
{
    const air_block_q4_0 *b = src;
    for (int64_t i = 0; i < n_blocks; i++, b++, dst += 32) {
        float d = air_load_f16(b->d);
        for (int j = 0; j < 16; j++) {
            dst[j]      = d * (float)((b->qs[j] & 15) - 8);
            dst[j + 16] = d * (float)((b->qs[j] >> 4) - 8);
        }
    }
}

void air_decode_q4_1(const void *src, float *dst, int64_t n_blocks)
{
    const air_block_q4_1 *b = src;
    for (int64_t i = 0; i < n_blocks; i++, b++, dst += 32) {
        float d = air_load_f16(b->d), m = air_load_f16(b->m);
        for (int j = 0; j < 16; j++) {
            dst[j]      = d * (float)(b->qs[j] & 15) + m;
            dst[j + 16] = d * (float)(b->qs[j] >> 4) + m;
        }
    }
}

/* Bit j of the 32 in qh, as bit 4 of a weight. */
static inline int fifth_bit(uint32_t qh, int j)
{
    return (int)(qh >> j & 1) << 4;
}

void air_decode_q5_0(const void *src, float *dst, int64_t n_blocks)
{
    const air_block_q5_0 *b = src;
    for (int64_t i = 0; i < n_blocks; i++, b++, dst += 32) {
        float d = air_load_f16(b->d);
        uint32_t qh = air_load_u32(b->qh);
        for (int j = 0; j < 16; j++) {
            dst[j]      = d * (float)(((b->qs[j] & 15) | fifth_bit(qh, j)) - 16);
            dst[j + 16] = d * (float)(((b->qs[j] >> 4) | fifth_bit(qh, j + 16)) - 16);
        }
    }
}

void air_decode_q5_1(const void *src, float *dst, int64_t n_blocks)
{
    const air_block_q5_1 *b = src;
    for (int64_t i = 0; i < n_blocks; i++, b++, dst += 32) {
        float d = air_load_f16(b->d), m = air_load_f16(b->m);
        uint32_t qh = air_load_u32(b->qh);
        for (int j = 0; j < 16; j++) {
            dst[j]      = d * (float)((b->qs[j] & 15) | fifth_bit(qh, j)) + m;
            dst[j + 16] = d * (float)((b->qs[j] >> 4) | fifth_bit(qh, j + 16)) + m;
        }
    }
}

void air_decode_q8_0(const void *src, float *dst, int64_t n_blocks)
{
    const air_block_q8_0 *b = src;
    for (int64_t i = 0; i < n_blocks; i++, b++, dst += 32) {
        float d = air_load_f16(b->d);
        for (int j = 0; j < 32; j++) dst[j] = d * (float)b->qs[j];
    }
}

void air_decode_q8_1(const void *src, float *dst, int64_t n_blocks)
{
    const air_block_q8_1 *b = src;
    for (int64_t i = 0; i < n_blocks; i++, b++, dst += 32) {
        float d = air_load_f16(b->d);
        for (int j = 0; j < 32; j++) dst[j] = d * (float)b->qs[j];
    }
}
