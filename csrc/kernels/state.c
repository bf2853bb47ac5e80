#include "kernels/state.h"

#include <string.h>

#include "kernels/ops.h"

const char *const air_state_names[AIR_STATE_TYPES] = {[AIR_STATE_F16] = "f16", [AIR_STATE_F32] = "f32", [AIR_STATE_Q8_0] = "q8_0",
                                                      [AIR_STATE_Q4_0] = "q4_0"};

/* A padded copy, then its 8-bit form. */
size_t air_state_scratch(int64_t dim)
{
    int64_t k = air_state_groups(dim) * AIR_STATE_GROUP;
    return ((size_t)k * sizeof(float) + 63) / 64 * 16 + (air_q8_bytes(k, 1) + 3) / 4;
}

/* From one element of a position to the next, and where its first is, in elements. */
static int64_t stride_of(air_state_part part) { return part == AIR_STATE_K ? AIR_STATE_TILE : 1; }

static int64_t first_of(air_state_part part, int64_t dim, int64_t position)
{
    if (part == AIR_STATE_V) return position * air_state_padded(dim);
    return position / AIR_STATE_TILE * AIR_STATE_TILE * dim + position % AIR_STATE_TILE;
}

static void put_16(uint16_t *to, const uint16_t *from, int64_t n, int64_t stride)
{
    for (int64_t i = 0; i < n; i++) to[i * stride] = from[i];
}

static void put_8(int8_t *to, const int8_t *from, int64_t n, int64_t stride)
{
    for (int64_t i = 0; i < n; i++) to[i * stride] = from[i];
}

static void store_q8(const air_ops *ops, int64_t dim, int8_t *to, int64_t stride, uint16_t *scales, const float *x, float *scratch)
{
    int64_t groups = air_state_groups(dim), k = groups * AIR_STATE_GROUP;
    air_q8 q8 = air_q8_place(scratch + (k + 15) / 16 * 16, k, 1);
    memcpy(scratch, x, (size_t)dim * sizeof *x);
    memset(scratch + dim, 0, (size_t)(k - dim) * sizeof *x);
    ops->quantize(scratch, k, q8);
    put_8(to, q8.q, dim, stride);
    for (int64_t g = 0; g < groups; g++) ops->f32_to_f16(q8.scale + g, scales + g * AIR_BLOCK_POSITIONS, 1);
}

/* As ggml does: the scale is that of the element that is farthest from 0, the first of them, so that this one is -8. As integers the bits
 * of magnitudes are in their order, and what is no number is the greatest. Returns the scale. */
static float group_of_q4(const float *x, uint8_t *q)
{
    float farthest = 0.0f;
    uint32_t most = 0;
    for (int i = 0; i < AIR_STATE_GROUP; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bits &= 0x7fffffffu;
        if (bits > most) most = bits, farthest = x[i];
    }
    float scale = farthest / -8.0f, inverse = most >= AIR_STATE_Q4_LEAST && most < 0x7f800000u ? 1.0f / scale : 0.0f;
    for (int i = 0; i < AIR_STATE_GROUP; i++) {
        float product = x[i] * inverse, up = product + 8.5f;
        q[i] = up >= 15.0f ? 15 : up > 0.0f ? (uint8_t)up : 0;
    }
    return scale;
}

/* Whole bytes: what is beyond dim in the last ones is 0. */
static void store_q4(const air_ops *ops, air_state_part part, int64_t dim, uint8_t *head, int64_t position, uint16_t *scales,
                     const float *x, float *scratch)
{
    int64_t groups = air_state_groups(dim), all = part == AIR_STATE_K ? dim + dim % 2 : air_state_padded(dim);
    uint8_t *tile = head + (position / AIR_STATE_TILE * air_state_key_tile(AIR_STATE_Q4_0, dim) / 2) + position % AIR_STATE_TILE;
    uint8_t *row = head + position * air_state_padded(dim) / 2;
    memcpy(scratch, x, (size_t)dim * sizeof *x);
    memset(scratch + dim, 0, (size_t)(groups * AIR_STATE_GROUP - dim) * sizeof *x);
    for (int64_t g = 0; g < groups; g++) {
        uint8_t q[AIR_STATE_GROUP];
        int64_t first = g * AIR_STATE_GROUP, n = all - first < AIR_STATE_GROUP ? all - first : AIR_STATE_GROUP;
        float scale = group_of_q4(scratch + first, q);
        ops->f32_to_f16(&scale, scales + g * AIR_BLOCK_POSITIONS, 1);
        for (int64_t i = 0; i < n && part == AIR_STATE_K; i += 2) tile[(first + i) / 2 * AIR_STATE_TILE] = (uint8_t)(q[i] | q[i + 1] << 4);
        for (int64_t i = 0; i < n && part == AIR_STATE_V; i++)
            if (i % 16 < 8) row[(first + i) / 16 * 8 + i % 8] = (uint8_t)(q[i] | q[i + 8] << 4);
    }
}

void air_state_store(const air_ops *ops, air_state_type type, air_state_part part, int64_t dim, void *head, int64_t position,
                     const float *x, float *scratch)
{
    int64_t stride = stride_of(part), first = first_of(part, dim, position);
    uint16_t *scales = (uint16_t *)(void *)((char *)head + air_state_scales_at(type, dim)) + position;
    if (type == AIR_STATE_Q4_0) {
        store_q4(ops, part, dim, head, position, scales, x, scratch);
    } else if (type == AIR_STATE_Q8_0) {
        store_q8(ops, dim, (int8_t *)head + first, stride, scales, x, scratch);
    } else if (type == AIR_STATE_F16) {
        ops->f32_to_f16(x, (uint16_t *)(void *)scratch, dim);
        put_16((uint16_t *)head + first, (const uint16_t *)(const void *)scratch, dim, stride);
    } else {
        for (int64_t i = 0; i < dim; i++) ((float *)head)[first + i * stride] = x[i];
    }
}
