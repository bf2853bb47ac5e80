/* cuda/lanes.cuh: sums and maxima over the lanes of a warp, in one order, and numbers of 16 bits. All 32 lanes take part. */
#ifndef AIR_CUDA_LANES_CUH
#define AIR_CUDA_LANES_CUH

#include "cuda/scalar.cuh"

enum { AIR_CUDA_WARP = 32 };
static constexpr unsigned AIR_CUDA_ALL_LANES = 0xffffffffu;

static __device__ __forceinline__ float air_lanes_sum(float x)
{
    AIR_CUDA_UNROLL
    for (int apart = AIR_CUDA_WARP / 2; apart > 0; apart /= 2) x += __shfl_xor_sync(AIR_CUDA_ALL_LANES, x, apart);
    return x;
}

/* NaNs are passed over: who needs them sees them in a sum. */
static __device__ __forceinline__ float air_lanes_max(float x)
{
    AIR_CUDA_UNROLL
    for (int apart = AIR_CUDA_WARP / 2; apart > 0; apart /= 2) x = fmaxf(x, __shfl_xor_sync(AIR_CUDA_ALL_LANES, x, apart));
    return x;
}

static __device__ __forceinline__ float2 air_half2_to_floats(uint32_t bits)
{
    __half2 h;
    memcpy((void *)&h, &bits, sizeof h);
    return __half22float2(h);
}

static __device__ __forceinline__ float air_half_to_float(uint16_t bits)
{
    __half h;
    memcpy((void *)&h, &bits, sizeof h);
    return __half2float(h);
}

/* To nearest even. A NaN keeps its sign and the top of its payload, as in quant/half.h, where the instruction has but one NaN. */
static __device__ __forceinline__ uint16_t air_float_to_half(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (x != x) return (uint16_t)((bits >> 16 & 0x8000u) | 0x7e00u | (bits >> 13 & 0x3ffu));
    __half h = __float2half_rn(x);
    uint16_t rounded;
    memcpy(&rounded, &h, sizeof rounded);
    return rounded;
}

#endif
