/* Products of four rows with one dword of a column at a time: nothing is added across lanes. */
#ifndef AIR_KERNELS_ARM_DOTPROD_MULTIPLY_H
#define AIR_KERNELS_ARM_DOTPROD_MULTIPLY_H

#include "dot.h"

/* Dword j of each row, then dword j + 1. */
AIR_INLINE void pack(int8_t *out, const int8x16_t rows[QUAD])
{
    uint32x4_t v[QUAD];
    AIR__UNROLL
    for (int r = 0; r < QUAD; r++) v[r] = vreinterpretq_u32_s8(rows[r]);
    air__transpose(v);
    AIR__UNROLL
    for (int j = 0; j < QUAD; j++) vst1q_s8(out + 16 * j, vreinterpretq_s8_u32(v[j]));
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
    for (int c = 0; c < C; c++) sums[c] = vdupq_n_s32(0);
    AIR__UNROLL
    for (int h = 0; h < halves; h++, w += HALF_BYTES) {
        int8x16_t rows[QUAD];
        AIR__UNROLL
        for (int j = 0; j < QUAD; j++) rows[j] = vld1q_s8(w + 16 * j);
        AIR__UNROLL
        for (int c = 0; c < C; c++) {
            int8x16_t x = vld1q_s8(a->q[c] + 16 * (at + h));
            sums[c] = vdotq_laneq_s32(sums[c], rows[0], x, 0);
            sums[c] = vdotq_laneq_s32(sums[c], rows[1], x, 1);
            sums[c] = vdotq_laneq_s32(sums[c], rows[2], x, 2);
            sums[c] = vdotq_laneq_s32(sums[c], rows[3], x, 3);
        }
    }
}

#endif
