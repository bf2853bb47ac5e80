/* kernels/arm/arm.h: the few things that all AArch64 tiers share. Pointers to what may lie at any address are to bytes. */
#ifndef AIR_KERNELS_ARM_H
#define AIR_KERNELS_ARM_H

#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

#include "kernels/simd/loops.h"

AIR_INLINE float32x4_t air__load_floats(const void *p) { return vreinterpretq_f32_u8(vld1q_u8(p)); }

/* Four vectors of four dwords: dword j of vector i becomes dword i of vector j. */
AIR_INLINE void air__transpose(uint32x4_t v[4])
{
    uint32x4_t a = vzip1q_u32(v[0], v[2]), b = vzip2q_u32(v[0], v[2]), c = vzip1q_u32(v[1], v[3]), d = vzip2q_u32(v[1], v[3]);
    v[0] = vzip1q_u32(a, c);
    v[1] = vzip2q_u32(a, c);
    v[2] = vzip1q_u32(b, d);
    v[3] = vzip2q_u32(b, d);
}

#endif
