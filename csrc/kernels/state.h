/* kernels/state.h: how the K or V of one head lies in a block of 64 positions. The heads of a block follow each other.
 *
 * Both are read as a matrix whose rows are added up with weights: of V the positions, weighted by the softmax; of K the elements,
 * weighted by the query, so that scores of several positions are the lanes of a vector and no vector is ever summed across.
 *
 *     K: 4 tiles of 16 positions: [tile][element][position in tile]      V: [position][element, padded to whole 16]
 *
 * A tile, because storing one position touches a line for every two elements, not for each. Q8_0 holds int8 in these places and behind
 * them binary16 scales [element / 32][position]: ggml's blocks of 32 elements of a position, taken apart, so that a vector of scales is
 * one load. x = scale * q. Q4_0 has four bits for each, x = scale * (q - 8); the two in a byte, the first in its low half, are of the
 * same position, which one thread stores:
 *
 *     K: [tile][element / 2][position in tile], elements 2i and 2i + 1      V: [position][16 elements][8], elements j and j + 8 of these
 *
 * A head takes the same memory as K and as V. */
#ifndef AIR_KERNELS_STATE_H
#define AIR_KERNELS_STATE_H

#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"

AIR_BEGIN_C

typedef enum air_state_type { AIR_STATE_F16, AIR_STATE_F32, AIR_STATE_Q8_0, AIR_STATE_Q4_0, AIR_STATE_TYPES } air_state_type;
extern const char *const air_state_names[AIR_STATE_TYPES];

enum {
    AIR_BLOCK_POSITIONS = 64,     /* of one layer's K or V in a block */
    AIR_SEGMENT_POSITIONS = 1024, /* whole blocks: those that share an online softmax */
    AIR_STATE_TILE = 16,
    AIR_STATE_GROUP = 32,         /* elements that share a scale */
    AIR_STATE_Q4_LEAST = 0x10000000, /* bits of 2^-95: scales of less are 0 in binary16, and their inverse may be infinite */
};

typedef enum air_state_part { AIR_STATE_K, AIR_STATE_V } air_state_part;

/* Bytes of an even number of elements. */
static inline size_t air_state_bytes_of(air_state_type type, int64_t elements)
{
    static const unsigned char bits[AIR_STATE_TYPES] = {16, 32, 8, 4};
    return (size_t)elements * bits[type] / 8;
}
static inline int air_state_scaled(air_state_type type) { return type == AIR_STATE_Q8_0 || type == AIR_STATE_Q4_0; }
/* Elements of K in a tile, counted as if they lay one by one. */
static inline int64_t air_state_key_tile(air_state_type type, int64_t dim)
{
    return (type == AIR_STATE_Q4_0 ? dim + dim % 2 : dim) * AIR_STATE_TILE;
}
static inline int64_t air_state_padded(int64_t dim) { return (dim + AIR_STATE_TILE - 1) / AIR_STATE_TILE * AIR_STATE_TILE; }
static inline int64_t air_state_groups(int64_t dim) { return (dim + AIR_STATE_GROUP - 1) / AIR_STATE_GROUP; }

/* Bytes before a head's scales, and of all of it: a multiple of 64. */
static inline size_t air_state_scales_at(air_state_type type, int64_t dim)
{
    return air_state_bytes_of(type, air_state_padded(dim) * AIR_BLOCK_POSITIONS);
}
static inline size_t air_state_head_bytes(air_state_type type, int64_t dim)
{
    size_t scales = air_state_scaled(type) ? (size_t)air_state_groups(dim) * AIR_BLOCK_POSITIONS * sizeof(uint16_t) : 0;
    return air_state_scales_at(type, dim) + scales;
}

/* Floats of scratch that storing a head takes, aligned to 64 bytes. */
size_t air_state_scratch(int64_t dim);

/* Writes one position of a head, x of dim floats, with the conversions of the table. What is not finite stays so in F16 and F32, and
 * makes the scale of its group so in Q8_0 and Q4_0. */
struct air_ops;
void air_state_store(const struct air_ops *ops, air_state_type type, air_state_part part, int64_t dim, void *head, int64_t position,
                     const float *x, float *scratch);

AIR_END_C
#endif
