/* quant/half.h: the small float formats, converted bit by bit: exact, portable, independent of the rounding mode and of
 * flush-to-zero. Kernels with hardware conversions are tested against these. */
#ifndef AIR_QUANT_HALF_H
#define AIR_QUANT_HALF_H

#include <stdint.h>
#include <string.h>

static inline float air_f32_from_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline uint32_t air_f32_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* binary16: sign, 5 bits of exponent (bias 15), 10 of fraction. A signalling NaN comes out quiet, as from F16C and NEON.
 * All cases are computed and joined by masks, which lets loops over this vectorise where selections do not. */
static inline float air_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, magnitude = h & 0x7fffu;
    uint32_t is_subnormal = 0u - (uint32_t)(magnitude < 0x0400u);
    uint32_t is_special = 0u - (uint32_t)(magnitude >= 0x7c00u), is_nan = 0u - (uint32_t)(magnitude > 0x7c00u);

    uint32_t normal = (magnitude << 13) + (112u << 23);                         /* bias 15 to 127 */
    /* A subnormal is (1 + fraction) × 2^-14 less 2^-14: both normal in binary32, the difference exact. */
    uint32_t subnormal = air_f32_bits(air_f32_from_bits((magnitude << 13) + (113u << 23)) - 0x1p-14f);
    return air_f32_from_bits(sign | (normal & ~is_subnormal) | (subnormal & is_subnormal) | (0x7f800000u & is_special)
                             | (0x00400000u & is_nan));
}

/* Rounds to nearest, ties to even; beyond 65519.996 to infinity; a NaN stays one, quiet, with the top of its payload. */
static inline uint16_t air_f32_to_f16(float f)
{
    uint32_t bits = air_f32_bits(f), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu));
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);                    /* 65520, the tie that rounds up */
    if (magnitude >= 0x38800000u) {                                                     /* 2^-14, the least normal */
        uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);                 /* a carry enters the exponent */
        return (uint16_t)(sign | (rounded - (112u << 23)) >> 13);
    }
    if (magnitude < 0x33000000u) return (uint16_t)sign;                                 /* below 2^-25 */

    uint32_t shift = 126u - (magnitude >> 23);                                          /* 14 … 24 */
    uint32_t significand = (magnitude & 0x7fffffu) | 0x800000u;
    uint32_t rounded = significand + (1u << (shift - 1)) - 1u + (significand >> shift & 1u);
    return (uint16_t)(sign | rounded >> shift);
}

/* bfloat16: the upper half of binary32. */
static inline float air_bf16_to_f32(uint16_t h)
{
    return air_f32_from_bits((uint32_t)h << 16);
}

/* Rounds to nearest, ties to even; beyond the largest to infinity; a NaN stays one, quiet. */
static inline uint16_t air_f32_to_bf16(float f)
{
    uint32_t bits = air_f32_bits(f);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/* E8M0 scale of MXFP4, halved because its values are stored doubled: 2^(e - 128). As in ggml, 255 is a number and not NaN. */
static inline float air_e8m0_half_to_f32(uint8_t e)
{
    return air_f32_from_bits(e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23);
}

/* E4M3 scale of NVFP4 (bias 7), halved likewise. As in ggml the sign is ignored and 127 means zero. */
static inline float air_ue4m3_half_to_f32(uint8_t e)
{
    if (e == 0x7f) return 0.0f;
    uint32_t exponent = e >> 3 & 0xfu, fraction = e & 7u;
    if (exponent == 0) return (float)fraction * 0x1p-10f;
    return air_f32_from_bits((exponent + 119) << 23 | fraction << 20);
}

/* Little-endian loads from any alignment. */
static inline uint16_t air_load_u16(const void *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline uint32_t air_load_u32(const void *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline float air_load_f16(const void *p)
{
    return air_f16_to_f32(air_load_u16(p));
}

/* Little-endian stores to any alignment. */
static inline void air_store_u16(void *p, uint16_t v)
{
    memcpy(p, &v, sizeof v);
}

static inline void air_store_f16(void *p, float f)
{
    air_store_u16(p, air_f32_to_f16(f));
}

#endif
