/* cuda/load.cuh: packed bytes to registers.
 *
 * Each load is of what lies `at` bytes behind p, both multiples of ALIGN. Below 4, words are read at multiples of 4 and shifted
 * together: every word read holds a byte asked for, so nothing is read beyond the last aligned word of a tile. What of `at` is a
 * multiple of 4 stays apart, so that all loads of a block share an address or two. */
#ifndef AIR_CUDA_LOAD_CUH
#define AIR_CUDA_LOAD_CUH

#include "cuda/scalar.cuh"

static __device__ __forceinline__ const uint32_t *air_cuda_word_of(const uint8_t *p)
{
    return reinterpret_cast<const uint32_t *>(reinterpret_cast<uintptr_t>(p) & ~(uintptr_t)3);
}

/* Where p lies in its word, in bits. */
static __device__ __forceinline__ uint32_t air_cuda_bits_before(const uint8_t *p)
{
    return (uint32_t)(reinterpret_cast<uintptr_t>(p) & 3) * 8;
}

/* N words. */
template <int ALIGN, int N> static __device__ __forceinline__ void air_cuda_load(const uint8_t *p, int at, uint32_t (&to)[N])
{
    if constexpr (ALIGN >= 16 && N % 4 == 0) {
        AIR_CUDA_UNROLL
        for (int i = 0; i < N; i += 4) {
            uint4 v = __ldg(reinterpret_cast<const uint4 *>(p + at) + i / 4);
            to[i] = v.x, to[i + 1] = v.y, to[i + 2] = v.z, to[i + 3] = v.w;
        }
    } else if constexpr (ALIGN >= 8 && N % 2 == 0) {
        AIR_CUDA_UNROLL
        for (int i = 0; i < N; i += 2) {
            uint2 v = __ldg(reinterpret_cast<const uint2 *>(p + at) + i / 2);
            to[i] = v.x, to[i + 1] = v.y;
        }
    } else if constexpr (ALIGN >= 4) {
        AIR_CUDA_UNROLL
        for (int i = 0; i < N; i++) to[i] = __ldg(reinterpret_cast<const uint32_t *>(p + at) + i);
    } else {
        const uint8_t *begin = p + (at & 3);
        uint32_t bits = air_cuda_bits_before(begin);
        const uint32_t *from = air_cuda_word_of(begin), *last = bits ? from + 1 : from;
        uint32_t low = __ldg(from + (at >> 2));
        AIR_CUDA_UNROLL
        for (int i = 0; i < N; i++) {
            uint32_t high = __ldg((i + 1 < N ? from + 1 : last) + (at >> 2) + i);
            to[i] = __funnelshift_rc(low, high, bits);
            low = high;
        }
    }
}

template <int ALIGN> static __device__ __forceinline__ uint32_t air_cuda_load_u16(const uint8_t *p, int at)
{
    if constexpr (ALIGN >= 2) return __ldg(reinterpret_cast<const uint16_t *>(p + at));
    else return __ldg(p + at) | (uint32_t)__ldg(p + at + 1) << 8;
}

/* HEAD bytes, 1 or 2, at p, and the N words after them. */
template <int ALIGN, int HEAD, int N>
static __device__ __forceinline__ void air_cuda_load_after(const uint8_t *p, uint32_t *head, uint32_t (&to)[N])
{
    if constexpr (HEAD <= ALIGN) { /* so the words begin at most 4 bytes after the head's word */
        const uint32_t *from = air_cuda_word_of(p);
        uint32_t bits = air_cuda_bits_before(p), low = __ldg(from);
        *head = low >> bits & ((1u << 8 * HEAD) - 1);
        AIR_CUDA_UNROLL
        for (int i = 0; i < N; i++) {
            uint32_t high = __ldg(from + i + 1);
            to[i] = __funnelshift_rc(low, high, bits + 8 * HEAD);
            low = high;
        }
    } else {
        *head = air_cuda_load_u16<ALIGN>(p, 0);
        air_cuda_load<ALIGN>(p, HEAD, to);
    }
}

static __device__ __forceinline__ float air_cuda_half(uint32_t bits)
{
    uint16_t low = (uint16_t)bits;
    __half h;
    memcpy((void *)&h, &low, sizeof h);
    return __half2float(h);
}

template <int ALIGN> static __device__ __forceinline__ float air_cuda_load_half(const uint8_t *p, int at)
{
    return air_cuda_half(air_cuda_load_u16<ALIGN>(p, at));
}

#endif
