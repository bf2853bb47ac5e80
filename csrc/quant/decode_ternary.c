/* Weights of -1, 0 and 1 times one scale for 256. Layouts in blocks.h. */
#include "quant/blocks.h"
#include "quant/format.h"

_Static_assert(sizeof(air_block_tq1_0) == 54 && sizeof(air_block_tq2_0) == 66, "formats.def");

/* Digit n, from the top, of a byte that holds the fraction 0.t0 t1 t2 t3 t4 in base 3, scaled to 256 and rounded up: the product
 * modulo 256 drops the digits before n, times 3 moves digit n above the point. */
static inline int trit(uint8_t byte, int n)
{
    static const uint8_t pow3[5] = { 1, 3, 9, 27, 81 };
    return (uint8_t)(byte * pow3[n]) * 3 >> 8;
}

/* n_bytes bytes with n_digits each; digit n of byte j is weight n × n_bytes + j. */
static float *decode_trits(const uint8_t *src, int n_bytes, int n_digits, float d, float *dst)
{
    for (int n = 0; n < n_digits; n++)
        for (int j = 0; j < n_bytes; j++) *dst++ = d * (float)(trit(src[j], n) - 1);
    return dst;
}

void air_decode_tq1_0(const void *src, float *dst, int64_t n_blocks)
{
    const air_block_tq1_0 *b = src;
    for (int64_t i = 0; i < n_blocks; i++, b++) {
        float d = air_load_f16(b->d);
        dst = decode_trits(b->qs, 32, 5, d, dst);
        dst = decode_trits(b->qs + 32, 16, 5, d, dst);
        dst = decode_trits(b->qh, 4, 4, d, dst);
    }
}

/* Packed as Q2_K: bits 2s, 2s+1 of byte l of each 32 are weight l of run s of four. The fourth code decodes to 2, as in ggml. */
void air_decode_tq2_0(const void *src, float *dst, int64_t n_blocks)
{
    const air_block_tq2_0 *b = src;
    for (int64_t i = 0; i < n_blocks; i++, b++) {
        float d = air_load_f16(b->d);
        for (int run = 0; run < 8; run++, dst += 32) {
            const uint8_t *q = b->qs + run / 4 * 32;
            for (int l = 0; l < 32; l++) dst[l] = d * (float)((q[l] >> run % 4 * 2 & 3) - 1);
        }
    }
}
