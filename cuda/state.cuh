/* cuda/state.cuh: eight numbers of a block at once (kernels/state.h), which is what a lane of attention takes: of K eight positions
 * of one element, of V eight elements of one position. Both lie side by side, at a multiple of eight. */
#ifndef AIR_CUDA_STATE_CUH
#define AIR_CUDA_STATE_CUH

#include "cuda/lanes.cuh"
#include "kernels/state.h"

enum { AIR_CUDA_EIGHT = 8 };

/* Sizes of the heads, worked out on the host, where state.h lives. In elements: value_row; in bytes: the others. */
typedef struct air_cuda_state_sizes {
    size_t k_head, v_head, k_scales, v_scales;
    int value_row;
} air_cuda_state_sizes;

static inline air_cuda_state_sizes air_cuda_state_sizes_of(air_state_type type, int64_t key_dim, int64_t value_dim)
{
    air_cuda_state_sizes s;
    s.k_head = air_state_head_bytes(type, key_dim);
    s.v_head = air_state_head_bytes(type, value_dim);
    s.k_scales = air_state_scales_at(type, key_dim);
    s.v_scales = air_state_scales_at(type, value_dim);
    s.value_row = (int)air_state_padded(value_dim);
    return s;
}

/* Four int8 as floats without I2F, which is slow: a byte with its sign turned is a fraction of 2^23, so 2^23 + 128 + q. */
static __device__ __forceinline__ void air_bytes_to_floats(uint32_t bytes, float x[4])
{
    uint32_t turned = bytes ^ 0x80808080u;
    AIR_CUDA_UNROLL
    for (unsigned i = 0; i < 4; i++)
        x[i] = __int_as_float((int)__byte_perm(turned, 0x4b000000u, 0x7440u | i)) - 8388736.0f;
}

/* Eight of four bits, those of eight bytes from bit `shift` on, less 8, by the same means. */
static __device__ __forceinline__ void air_load_eight_nibbles(const uint8_t *data, int shift, float x[8])
{
    uint2 a = __ldg((const uint2 *)data);
    AIR_CUDA_UNROLL
    for (unsigned i = 0; i < 8; i++) {
        uint32_t bytes = ((i < 4 ? a.x : a.y) >> shift) & 0x0f0f0f0fu;
        x[i] = __int_as_float((int)__byte_perm(bytes, 0x4b000000u, 0x7440u | i % 4)) - 8388616.0f;
    }
}

/* Elements at to at + 7 as they are stored: of Q8_0 without their scale. */
template <air_state_type TYPE> static __device__ __forceinline__ void air_load_eight(const uint8_t *data, int at, float x[8])
{
    if constexpr (TYPE == AIR_STATE_F32) {
        const float4 *from = (const float4 *)(data + (size_t)at * sizeof(float));
        float4 a = __ldg(from), b = __ldg(from + 1);
        x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w, x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
    } else if constexpr (TYPE == AIR_STATE_F16) {
        uint4 a = __ldg((const uint4 *)(data + (size_t)at * sizeof(uint16_t)));
        float2 p = air_half2_to_floats(a.x), q = air_half2_to_floats(a.y), r = air_half2_to_floats(a.z), s = air_half2_to_floats(a.w);
        x[0] = p.x, x[1] = p.y, x[2] = q.x, x[3] = q.y, x[4] = r.x, x[5] = r.y, x[6] = s.x, x[7] = s.y;
    } else {
        uint2 a = __ldg((const uint2 *)(data + at));
        air_bytes_to_floats(a.x, x);
        air_bytes_to_floats(a.y, x + 4);
    }
}

/* K: eight positions from `position` on of an element; a tile's elements are AIR_STATE_TILE apart. */
template <air_state_type TYPE>
static __device__ __forceinline__ void air_load_keys(const uint8_t *head, size_t scales_at, int key_dim, int position, int element,
                                                     float x[8])
{
    int tile = position / AIR_STATE_TILE;
    if constexpr (TYPE == AIR_STATE_Q4_0)
        air_load_eight_nibbles(head + (tile * ((key_dim + 1) / 2) + element / 2) * AIR_STATE_TILE + position % AIR_STATE_TILE,
                               element % 2 * 4, x);
    else air_load_eight<TYPE>(head, (tile * key_dim + element) * AIR_STATE_TILE + position % AIR_STATE_TILE, x);
    if constexpr (TYPE == AIR_STATE_Q8_0 || TYPE == AIR_STATE_Q4_0) {
        float scale[8];
        air_load_eight<AIR_STATE_F16>(head + scales_at, element / AIR_STATE_GROUP * AIR_BLOCK_POSITIONS + position, scale);
        AIR_CUDA_UNROLL
        for (int i = 0; i < 8; i++) x[i] *= scale[i];
    }
}

/* V: eight elements from `element` on of a position. */
template <air_state_type TYPE>
static __device__ __forceinline__ void air_load_values(const uint8_t *head, size_t scales_at, int row, int position, int element,
                                                       float x[8])
{
    int at = position * row + element;
    if constexpr (TYPE == AIR_STATE_Q4_0) air_load_eight_nibbles(head + at / AIR_STATE_TILE * AIR_CUDA_EIGHT, at % AIR_STATE_TILE / 2, x);
    else air_load_eight<TYPE>(head, at, x);
    if constexpr (TYPE == AIR_STATE_Q8_0 || TYPE == AIR_STATE_Q4_0) {
        const uint16_t *scales = (const uint16_t *)(head + scales_at);
        float scale = air_half_to_float(__ldg(scales + element / AIR_STATE_GROUP * AIR_BLOCK_POSITIONS + position));
        AIR_CUDA_UNROLL
        for (int i = 0; i < 8; i++) x[i] *= scale;
    }
}

#endif
