/* Plain numbers: a block is one element. Integers and F64 round to the nearest float. */
#include "quant/format.h"
#include "quant/half.h"

void air_decode_f32(const void *src, float *dst, int64_t n_blocks)
{
    memcpy(dst, src, (size_t)n_blocks * sizeof *dst);
}

void air_decode_f16(const void *src, float *dst, int64_t n_blocks)
{
    const uint8_t *p = src;
    for (int64_t i = 0; i < n_blocks; i++) dst[i] = air_load_f16(p + 2 * i);
}

void air_decode_bf16(const void *src, float *dst, int64_t n_blocks)
{
    const uint8_t *p = src;
    for (int64_t i = 0; i < n_blocks; i++) dst[i] = air_bf16_to_f32(air_load_u16(p + 2 * i));
}

#define DECODE_NUMBER(decode, type)                                     \
    void decode(const void *src, float *dst, int64_t n_blocks)          \
    {                                                                   \
        const uint8_t *p = src;                                         \
        for (int64_t i = 0; i < n_blocks; i++) {                        \
            type v;                                                     \
            memcpy(&v, p + (size_t)i * sizeof v, sizeof v);             \
            dst[i] = (float)v;                                          \
        }                                                               \
    }

DECODE_NUMBER(air_decode_i8, int8_t)
DECODE_NUMBER(air_decode_i16, int16_t)
DECODE_NUMBER(air_decode_i32, int32_t)
DECODE_NUMBER(air_decode_i64, int64_t)
DECODE_NUMBER(air_decode_f64, double)
