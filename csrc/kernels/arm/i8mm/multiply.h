/* Products of two rows with two columns, 8 bytes of each at a time; of one column, those of dotprod. */
#ifndef AIR_KERNELS_ARM_I8MM_MULTIPLY_H
#define AIR_KERNELS_ARM_I8MM_MULTIPLY_H

#include "kernels/arm/dotprod/dot.h"

/* Two halves a and b, in turn 8 bytes of a and 8 of b. */
AIR_INLINE void store_pair(int8_t *out, int8x16_t a, int8x16_t b)
{
    int64x2_t first = vreinterpretq_s64_s8(a), second = vreinterpretq_s64_s8(b);
    vst1q_s8(out, vreinterpretq_s8_s64(vzip1q_s64(first, second)));
    vst1q_s8(out + 16, vreinterpretq_s8_s64(vzip2q_s64(first, second)));
}

AIR_INLINE void pack(int8_t *out, const int8x16_t rows[QUAD])
{
    store_pair(out, rows[0], rows[1]);
    store_pair(out + 32, rows[2], rows[3]);
}

/* Columns 2p and 2p + 1; a last one alone is both. */
typedef struct activations {
    int8_t pairs[BLOCK_COLUMNS / 2][2 * TILE];
} activations;

AIR_INLINE void take_columns(activations *a, const int8_t *const *q, int halves, int C)
{
    for (int h = 0; h < halves; h++) {
        AIR__UNROLL
        for (int c = 0; c < C; c += 2)
            store_pair(a->pairs[c / 2] + 32 * h, vld1q_s8(q[c] + 16 * h), vld1q_s8(q[c + 1 < C ? c + 1 : c] + 16 * h));
    }
}

AIR_INLINE void multiply(int32x4_t *sums, const int8_t *w, const activations *a, int at, int halves, int C)
{
    int32x4_t square[2][BLOCK_COLUMNS / 2]; /* of rows 0 and 1, of 2 and 3: two by two, a row after the other */
    AIR__UNROLL
    for (int p = 0; p < (C + 1) / 2; p++) square[0][p] = square[1][p] = vdupq_n_s32(0);
    AIR__UNROLL
    for (int h = 0; h < 2 * halves; h++) {
        const int8_t *rows = w + h / 2 * HALF_BYTES + h % 2 * 16;
        int8x16_t upper = vld1q_s8(rows), lower = vld1q_s8(rows + 32);
        AIR__UNROLL
        for (int p = 0; p < (C + 1) / 2; p++) {
            int8x16_t x = vld1q_s8(a->pairs[p] + 32 * at + 16 * h);
            square[0][p] = vmmlaq_s32(square[0][p], upper, x);
            square[1][p] = vmmlaq_s32(square[1][p], lower, x);
        }
    }
    AIR__UNROLL
    for (int c = 0; c < C; c++)
        sums[c] = c % 2 ? vuzp2q_s32(square[0][c / 2], square[1][c / 2]) : vuzp1q_s32(square[0][c / 2], square[1][c / 2]);
}

#endif
