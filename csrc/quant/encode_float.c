/* Plain numbers, rounded to the nearest, ties to even. */
#include "quant/encode.h"
#include "quant/half.h"

void air_encode_f32(const float *src, void *dst, int64_t n_blocks)
{
    memcpy(dst, src, (size_t)n_blocks * sizeof *src);
}

void air_encode_f16(const float *src, void *dst, int64_t n_blocks)
{
    uint8_t *p = dst;
    for (int64_t i = 0; i < n_blocks; i++) air_store_f16(p + 2 * i, src[i]);
}

void air_encode_bf16(const float *src, void *dst, int64_t n_blocks)
{
    uint8_t *p = dst;
    for (int64_t i = 0; i < n_blocks; i++) air_store_u16(p + 2 * i, air_f32_to_bf16(src[i]));
}
