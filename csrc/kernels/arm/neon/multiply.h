/* Products of bytes with what every AArch64 CPU has: two fit into 16 bits, -128 * 127 * 2 being the largest. */
#ifndef AIR_KERNELS_ARM_NEON_MULTIPLY_H
#define AIR_KERNELS_ARM_NEON_MULTIPLY_H

#include "kernels/arm/quad.h"

AIR_INLINE int16x8_t pairs(int8x16_t w, int8x16_t x) { return vmlal_high_s8(vmull_s8(vget_low_s8(w), vget_low_s8(x)), w, x); }

AIR_INLINE int32x4_t dot(int8x16_t w, int8x16_t x) { return vpaddlq_s16(pairs(w, x)); }
AIR_INLINE int32x4_t dot_more(int32x4_t sums, int8x16_t w, int8x16_t x) { return vpadalq_s16(sums, pairs(w, x)); }

/* As they are: one row after the other. */
AIR_INLINE void pack(int8_t *out, const int8x16_t rows[QUAD])
{
    AIR__UNROLL
    for (int r = 0; r < QUAD; r++) vst1q_s8(out + 16 * r, rows[r]);
}

typedef struct activations {
    const int8_t *q[BLOCK_COLUMNS];
} activations;

AIR_INLINE void take_columns(activations *a, const int8_t *const *q, int halves, int C)
{
    (void)halves;
    AIR__UNROLL
    for (int c = 0; c < C; c++) a->q[c] = q[c];
}

AIR_INLINE void multiply(int32x4_t *sums, const int8_t *w, const activations *a, int at, int halves, int C)
{
    AIR__UNROLL
    for (int c = 0; c < C; c++) {
        const int8_t *q = a->q[c] + 16 * at;
        int32x4_t rows[QUAD];
        AIR__UNROLL
        for (int r = 0; r < QUAD; r++) {
            rows[r] = dot(vld1q_s8(w + 16 * r), vld1q_s8(q));
            if (halves == 2) rows[r] = dot_more(rows[r], vld1q_s8(w + HALF_BYTES + 16 * r), vld1q_s8(q + 16));
        }
        sums[c] = join(rows);
    }
}

#endif
