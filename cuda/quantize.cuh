/* cuda/quantize.cuh: one group of activations in 8 bits, as csrc/kernels/ref/vector.c makes it, bit for bit. For kernels that have a
 * vector at hand in a warp: cuda/quantize.cu, and the norm fused with it. */
#ifndef AIR_CUDA_QUANTIZE_CUH
#define AIR_CUDA_QUANTIZE_CUH

#include "cuda/kernels.h"
#include "cuda/scalar.cuh"

/* Below this magnitude, AIR__QUANTIZE_TINY (2^-110), a group becomes zeros; from the bits of infinity on it has no multiple. */
enum { AIR_CUDA_TINY_BITS = 17 << 23, AIR_CUDA_INFINITY_BITS = 0x7f800000, AIR_CUDA_QUIET_BIT = 0x00400000 };

/* The greatest magnitude of the warp's 32 numbers, as bits: integers order floats, infinities and NaNs above all. */
static __device__ __forceinline__ int air_cuda_greatest_magnitude(float x)
{
    int greatest = __float_as_int(x) & 0x7fffffff;
    AIR_CUDA_UNROLL
    for (int apart = 16; apart; apart /= 2) greatest = max(greatest, __shfl_xor_sync(~0u, greatest, apart));
    return greatest;
}

/* A NaN divides to itself, quiet, on the CPU; the device would make another one of it. */
static __device__ __forceinline__ float air_cuda_group_scale(int greatest)
{
    if (greatest < AIR_CUDA_TINY_BITS) return 0.0f;
    if (greatest > AIR_CUDA_INFINITY_BITS) return __int_as_float(greatest | AIR_CUDA_QUIET_BIT);
    return __int_as_float(greatest) / 127.0f;
}

/* What a lane's number becomes in a group of that magnitude. */
static __device__ __forceinline__ int air_cuda_quantized(float x, int greatest)
{
    if (greatest < AIR_CUDA_TINY_BITS || greatest >= AIR_CUDA_INFINITY_BITS) return 0;
    return (int)rintf(x * (127.0f / __int_as_float(greatest)));
}

/* Group `group` of out (its elements from 32 * group on, columns one after the other) from x, one element in each lane of a whole,
 * converged warp whose threads are numbered along x. */
static __device__ __forceinline__ void air_cuda_quantize_group(float x, air_cuda_q8 out, int64_t group)
{
    int lane = (int)(threadIdx.x % 32), greatest = air_cuda_greatest_magnitude(x), q = air_cuda_quantized(x, greatest), sum = q;
    AIR_CUDA_UNROLL
    for (int apart = AIR_Q8_SUM_GROUP / 2; apart; apart /= 2) sum += __shfl_xor_sync(~0u, sum, apart);

    out.q[group * AIR_Q8_GROUP + lane] = (int8_t)q;
    if (lane % AIR_Q8_SUM_GROUP == 0) out.sums[2 * group + lane / AIR_Q8_SUM_GROUP] = (int16_t)sum;
    if (lane == 0) out.scale[group] = air_cuda_group_scale(greatest);
}

/* The same by eight lanes, four elements each: those from `at` on, a multiple of four, of which a whole group is in lanes that follow each
 * other from a multiple of eight on. All lanes of a warp come here; `has`: whether this one has elements. */
static __device__ __forceinline__ void air_cuda_quantize_quad(float4 x, air_cuda_q8 out, int64_t at, bool has)
{
    const float of[4] = {x.x, x.y, x.z, x.w};
    int greatest = 0, sum = 0;
    uint32_t packed = 0;
    AIR_CUDA_UNROLL
    for (int i = 0; i < 4; i++) greatest = max(greatest, __float_as_int(of[i]) & 0x7fffffff);
    AIR_CUDA_UNROLL
    for (int apart = AIR_Q8_GROUP / 8; apart; apart /= 2) greatest = max(greatest, __shfl_xor_sync(~0u, greatest, apart));
    AIR_CUDA_UNROLL
    for (int i = 0; i < 4; i++) {
        int q = air_cuda_quantized(of[i], greatest);
        packed |= (uint32_t)(q & 255) << 8 * i;
        sum += q;
    }
    AIR_CUDA_UNROLL
    for (int apart = AIR_Q8_SUM_GROUP / 8; apart; apart /= 2) sum += __shfl_xor_sync(~0u, sum, apart);
    if (!has) return;
    *reinterpret_cast<uint32_t *>(out.q + at) = packed;
    if (at % AIR_Q8_SUM_GROUP == 0) out.sums[at / AIR_Q8_SUM_GROUP] = (int16_t)sum;
    if (at % AIR_Q8_GROUP == 0) out.scale[at / AIR_Q8_GROUP] = air_cuda_group_scale(greatest);
}

#endif
