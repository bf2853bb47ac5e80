/* E2M1 values with shared scales: MXFP4 (OCP Microscaling, E8M0 for 32) and NVFP4 (E4M3 for 16). Layouts in blocks.h. */
#include "quant/blocks.h"
#include "quant/format.h"

_Static_assert(sizeof(air_block_mxfp4) == 17 && sizeof(air_block_nvfp4) == 36, "formats.def");

/* E2M1 doubled, so that all are integers; the scales of half.h are halved in turn. The second zero is not negative, as in ggml. */
static const int8_t e2m1_doubled[16] = { 0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12 };

/* n_bytes bytes: weight j in the low nibble of byte j, weight n_bytes + j in the high one. */
static void decode_e2m1(const uint8_t *src, int n_bytes, float d, float *dst)
{
    for (int j = 0; j < n_bytes; j++) {
        dst[j]           = d * (float)e2m1_doubled[src[j] & 15];
        dst[j + n_bytes] = d * (float)e2m1_doubled[src[j] >> 4];
    }
}

void air_decode_mxfp4(const void *src, float *dst, int64_t n_blocks)
{
    const air_block_mxfp4 *b = src;
    for (int64_t i = 0; i < n_blocks; i++, b++, dst += 32) decode_e2m1(b->qs, 16, air_e8m0_half_to_f32(b->e[0]), dst);
}

void air_decode_nvfp4(const void *src, float *dst, int64_t n_blocks)
{
    const air_block_nvfp4 *b = src;
    for (int64_t i = 0; i < n_blocks; i++, b++, dst += 64)
        for (int g = 0; g < 4; g++) decode_e2m1(b->qs + 8 * g, 8, air_ue4m3_half_to_f32(b->d[g]), dst + 16 * g);
}
