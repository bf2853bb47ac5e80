/* How each format's blocks become groups of bytes and scales of a quad; product_q8.h has the rest, the tier's multiply.h, included
 * before, the instructions. */
#ifndef AIR_KERNELS_ARM_FORMATS_H
#define AIR_KERNELS_ARM_FORMATS_H

#include "kernels/arm/product_q8.h"
#include "quant/blocks.h"

AIR_INLINE int8x16_t load_signed(const void *p) { return vld1q_s8(p); }
AIR_INLINE uint8x16_t load_bytes(const void *p) { return vld1q_u8(p); }
AIR_INLINE int8x16x2_t group_of(uint8x16_t first, uint8x16_t second)
{
    return (int8x16x2_t){{vreinterpretq_s8_u8(first), vreinterpretq_s8_u8(second)}};
}

/* The binary16 that each row's block has at this offset. */
AIR_INLINE float32x4_t halves_at(const quad *block, size_t offset)
{
    uint16_t h[QUAD];
    AIR__UNROLL
    for (int r = 0; r < QUAD; r++) memcpy(&h[r], block->row[r] + offset, sizeof h[r]);
    uint16x4_t v = vset_lane_u16(h[1], vdup_n_u16(h[0]), 1);
    return vcvt_f32_f16(vreinterpret_f16_u16(vset_lane_u16(h[3], vset_lane_u16(h[2], v, 2), 3)));
}

/* 16 bytes of each row's block from offset on, as four vectors of dwords with one lane for each row. */
AIR_INLINE void dwords_at(const quad *block, size_t offset, uint32x4_t v[4])
{
    AIR__UNROLL
    for (int r = 0; r < QUAD; r++) v[r] = vreinterpretq_u32_u8(load_bytes(block->row[r] + offset));
    air__transpose(v);
}

/* Byte i of each dword. */
AIR_INLINE uint32x4_t unsigned_byte(uint32x4_t v, int i)
{
    v = i == 1 ? vshrq_n_u32(v, 8) : i == 2 ? vshrq_n_u32(v, 16) : i == 3 ? vshrq_n_u32(v, 24) : v;
    return i == 3 ? v : vandq_u32(v, vdupq_n_u32(255));
}
AIR_INLINE int32x4_t signed_byte(uint32x4_t v, int i)
{
    v = i == 0 ? vshlq_n_u32(v, 24) : i == 1 ? vshlq_n_u32(v, 16) : i == 2 ? vshlq_n_u32(v, 8) : v;
    return vshrq_n_s32(vreinterpretq_s32_u32(v), 24);
}

/* ---- blocks of 32 ---- */

AIR_INLINE int8x16x2_t group_q8_0(const uint8_t *block, int g)
{
    const air_block_q8_0 *b = (const air_block_q8_0 *)block;
    (void)g;
    return (int8x16x2_t){{load_signed(b->qs), load_signed(b->qs + 16)}};
}

AIR_INLINE void scales_q8_0(const quad *block, int b, tile_scales *t) { t->d[b] = halves_at(block, offsetof(air_block_q8_0, d)); }

/* A nibble with its top bit turned over is the weight, a signed one: in a byte's upper half, times 16. */
AIR_INLINE int8x16x2_t group_q4_0(const uint8_t *block, int g)
{
    uint8x16_t v = veorq_u8(load_bytes(((const air_block_q4_0 *)block)->qs), vdupq_n_u8(0x88));
    (void)g;
    return group_of(vshlq_n_u8(v, 4), vandq_u8(v, vdupq_n_u8(0xf0)));
}

AIR_INLINE void scales_q4_0(const quad *block, int b, tile_scales *t) { t->d[b] = halves_at(block, offsetof(air_block_q4_0, d)); }

/* ---- blocks of 256 ---- */

AIR_INLINE uint8x16_t nibbles(uint8x16_t v, int high) { return high ? vshrq_n_u8(v, 4) : vandq_u8(v, vdupq_n_u8(15)); }

AIR_INLINE int8x16x2_t group_q4_k(const uint8_t *block, int g)
{
    const uint8_t *qs = ((const air_block_q4_k *)block)->qs + g / 2 * 32;
    return group_of(nibbles(load_bytes(qs), g % 2), nibbles(load_bytes(qs + 16), g % 2));
}

/* The first 16 bytes are d, dmin and 12 bytes that blocks.h draws: dwords of which the second and third have 6 bits of a byte for
 * groups 0 to 3, and the rest of those for 4 to 7 above. */
AIR_INLINE void scales_q4_k(const quad *block, int b, tile_scales *t)
{
    uint32x4_t head[4], six = vdupq_n_u32(0x3f3f3f3f), four = vdupq_n_u32(0x0f0f0f0f), top = vdupq_n_u32(0x30303030);
    dwords_at(block, 0, head);
    uint32x4_t sub[2] = {vandq_u32(head[1], six), vorrq_u32(vandq_u32(head[3], four), vandq_u32(vshrq_n_u32(head[1], 2), top))};
    uint32x4_t min[2] = {vandq_u32(head[2], six),
                         vorrq_u32(vandq_u32(vshrq_n_u32(head[3], 4), four), vandq_u32(vshrq_n_u32(head[2], 2), top))};
    AIR__UNROLL
    for (int g = 0; g < GROUPS; g++) {
        t->sub[g] = vreinterpretq_s32_u32(unsigned_byte(sub[g / 4], g % 4));
        t->min[g] = vcvtq_f32_u32(unsigned_byte(min[g / 4], g % 4));
    }
    t->d[b] = vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(head[0])));
    t->dmin = vcvt_f32_f16(vreinterpret_f16_u16(vshrn_n_u32(head[0], 16)));
}

/* Each half of the block has 4 runs of 32; run r has bits 2r, 2r + 1 of qh[l] on top. The topmost turned over makes the weight a signed
 * one: in a byte's upper six bits, times 4. */
AIR_INLINE uint8x16_t six_bits(uint8x16_t low, uint8x16_t high, int run)
{
    high = veorq_u8(high, vdupq_n_u8(0xaa));
    high = run == 0 ? vshlq_n_u8(high, 6) : run == 1 ? vshlq_n_u8(high, 4) : run == 2 ? vshlq_n_u8(high, 2) : high;
    return vsriq_n_u8(high, run < 2 ? vshlq_n_u8(low, 4) : vandq_u8(low, vdupq_n_u8(0xf0)), 2);
}

AIR_INLINE int8x16x2_t group_q6_k(const uint8_t *block, int g)
{
    const air_block_q6_k *b = (const air_block_q6_k *)block;
    const uint8_t *ql = b->ql + g / 4 * 64 + g % 2 * 32, *qh = b->qh + g / 4 * 32;
    return group_of(six_bits(load_bytes(ql), load_bytes(qh), g % 4), six_bits(load_bytes(ql + 16), load_bytes(qh + 16), g % 4));
}

AIR_INLINE void scales_q6_k(const quad *block, int b, tile_scales *t)
{
    uint32x4_t sub[4];
    dwords_at(block, offsetof(air_block_q6_k, scales), sub);
    AIR__UNROLL
    for (int h = 0; h < 2 * GROUPS; h++) t->sub[h] = signed_byte(sub[h / 4], h % 4);
    t->d[b] = halves_at(block, offsetof(air_block_q6_k, d));
}

PRODUCT(q8_0, .groups = 1, .bytes = sizeof(air_block_q8_0))
PRODUCT(q4_0, .groups = 1, .shift = 4, .bytes = sizeof(air_block_q4_0))
PRODUCT(q4_k, .groups = 8, .sub = SUB_GROUPS, .has_min = 1, .bytes = sizeof(air_block_q4_k))
PRODUCT(q6_k, .groups = 8, .sub = SUB_HALVES, .shift = 2, .bytes = sizeof(air_block_q6_k))

#define QUANT_PRODUCTS                                     \
    {                                                      \
        .product = {                                       \
            [AIR_TYPE_Q8_0] = {product_q8_0, AIR_INPUT_Q8},   \
            [AIR_TYPE_Q4_0] = {product_q4_0, AIR_INPUT_Q8},   \
            [AIR_TYPE_Q4_K] = {product_q4_k, AIR_INPUT_Q8},   \
            [AIR_TYPE_Q6_K] = {product_q6_k, AIR_INPUT_Q8},   \
        },                                                 \
    }

#endif
