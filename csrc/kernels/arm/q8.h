/* The 8-bit form of activations on AArch64: how it is made. */
#ifndef AIR_KERNELS_ARM_Q8_H
#define AIR_KERNELS_ARM_Q8_H

#include <math.h>

#include "kernels/arm/arm.h"
#include "kernels/tables.h"

/* The greatest magnitude of 32 floats as bits: integers order floats, infinities and NaNs above all. */
AIR_INLINE float air__greatest_magnitude(const float32x4_t v[8])
{
    uint32x4_t bits = vdupq_n_u32(0);
    AIR__UNROLL
    for (int i = 0; i < 8; i++) bits = vmaxq_u32(bits, vreinterpretq_u32_f32(vabsq_f32(v[i])));
    return vgetq_lane_f32(vreinterpretq_f32_u32(vdupq_n_u32(vmaxvq_u32(bits))), 0);
}

AIR_INLINE int16x8_t air__round(float32x4_t a, float32x4_t b, float inverse)
{
    int16x4_t low = vqmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(a, inverse)));
    return vqmovn_high_s32(low, vcvtnq_s32_f32(vmulq_n_f32(b, inverse)));
}

AIR_INLINE void air__quantize_group(const float *x, air_q8 out)
{
    float32x4_t v[8];
    AIR__UNROLL
    for (int i = 0; i < 8; i++) v[i] = air__load_floats(x + 4 * i);
    float greatest = air__greatest_magnitude(v);
    int zeros = greatest < AIR__QUANTIZE_TINY || !isfinite(greatest);
    float inverse = 127.0f / (zeros ? 1 : greatest);
    *out.scale = greatest < AIR__QUANTIZE_TINY ? 0 : greatest / 127.0f;
    AIR__UNROLL
    for (int half = 0; half < 2; half++) {
        const float32x4_t *from = v + 4 * half;
        int8x16_t q = vqmovn_high_s16(vqmovn_s16(air__round(from[0], from[1], inverse)), air__round(from[2], from[3], inverse));
        if (zeros) q = vdupq_n_s8(0);
        vst1q_s8(out.q + 16 * half, q);
        out.sums[half] = vaddlvq_s8(q);
    }
}

/* Four groups, those beyond left elements as zeros, turned as ops.h says: dwords 0 to 3 of them, and 4 to 7. */
AIR_INLINE void air__turn(const int8_t *q, int64_t left, int8_t *turned)
{
    AIR__UNROLL
    for (int half = 0; half < 32; half += 16) {
        uint32x4_t v[4];
        AIR__UNROLL
        for (int g = 0; g < 4; g++)
            v[g] = 32 * g < left ? vreinterpretq_u32_s8(vld1q_s8(q + 32 * g + half)) : vdupq_n_u32(0);
        air__transpose(v);
        AIR__UNROLL
        for (int j = 0; j < 4; j++) vst1q_s8(turned + 32 * (half / 4 + j), vreinterpretq_s8_u32(v[j]));
    }
}

AIR_INLINE void air__quantize(const float *x, int64_t k, air_q8 out)
{
    for (int64_t at = 0; at < k; at += AIR_Q8_GROUP) air__quantize_group(x + at, air_q8_at(out, k, 0, at));
    for (int64_t at = 0; at < air_q8_tiles(k) * AIR_Q8_TILE; at += AIR_Q8_TILE) {
        air__turn(out.q + at, k - at, out.turned + at);
        air__turn(out.q + at + 4 * AIR_Q8_GROUP, k - at - 4 * AIR_Q8_GROUP, out.turned + at + 16);
    }
}

#endif
