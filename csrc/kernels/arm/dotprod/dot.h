/* Products of bytes, four added up in each lane. */
#ifndef AIR_KERNELS_ARM_DOTPROD_DOT_H
#define AIR_KERNELS_ARM_DOTPROD_DOT_H

#include "kernels/arm/quad.h"

AIR_INLINE int32x4_t dot_more(int32x4_t sums, int8x16_t w, int8x16_t x) { return vdotq_s32(sums, w, x); }
AIR_INLINE int32x4_t dot(int8x16_t w, int8x16_t x) { return dot_more(vdupq_n_s32(0), w, x); }

#endif
