/* What a tier's multiply.h and the shape of products agree on.
 *
 * A tier brings, for halves of groups (16 bytes of weights, 16 of activations):
 *     dot, dot_more   the products of one row's half, added up somehow over the four lanes
 *     pack            four rows' halves to HALF_BYTES, in the order that multiply wants them
 *     take_columns    the activations of C columns, likewise
 *     multiply        sums[c] = those of `halves` packed halves from half `at` of the activations on, a lane for each row */
#ifndef AIR_KERNELS_ARM_QUAD_H
#define AIR_KERNELS_ARM_QUAD_H

#include "kernels/arm/arm.h"
#include "kernels/tables.h"

enum { TILE = AIR_Q8_TILE, QUAD = 4, BLOCK_COLUMNS = 4, HALF_BYTES = 16 * QUAD };

/* Sums over four lanes in any way, one vector for each row, to one lane for each row. */
AIR_INLINE int32x4_t join(const int32x4_t v[QUAD]) { return vpaddq_s32(vpaddq_s32(v[0], v[1]), vpaddq_s32(v[2], v[3])); }

#endif
