/* cuda/formats/numbers.cuh: weights that are plain numbers, F32, F16 and BF16, with activations as floats: as format.cuh, to a product.
 *
 * A piece is 8 numbers, added in order. ALIGN 16 asks for rows and columns that begin at multiples of 16 bytes, k a multiple of 8 then;
 * else numbers are read one by one, those beyond the row's end as zeros. The bits are the same. */
#ifndef AIR_CUDA_NUMBERS_CUH
#define AIR_CUDA_NUMBERS_CUH

#include "cuda/kernels.h"
#include "cuda/load.cuh"

enum { AIR_CUDA_NUMBERS = 8 };

struct air_cuda_f32 {
    static constexpr int BYTES = 4;
    static __device__ __forceinline__ float number(const uint32_t *words, int i) { return __int_as_float((int)words[i]); }
};

/* Two to a word. */
static __device__ __forceinline__ uint32_t air_cuda_half_word(const uint32_t *words, int i) { return words[i / 2] >> i % 2 * 16; }

struct air_cuda_f16 {
    static constexpr int BYTES = 2;
    static __device__ __forceinline__ float number(const uint32_t *words, int i) { return air_cuda_half(air_cuda_half_word(words, i)); }
};

struct air_cuda_bf16 {
    static constexpr int BYTES = 2;
    static __device__ __forceinline__ float number(const uint32_t *words, int i)
    {
        return __int_as_float((int)(air_cuda_half_word(words, i) << 16));
    }
};

template <class T> struct air_cuda_numbers {
    static constexpr int ALIGN = 16, TABLE = 0, SIDE_BY_SIDE = 2, WORDS = AIR_CUDA_NUMBERS * T::BYTES / 4;
    struct piece { float w[AIR_CUDA_NUMBERS]; };
    struct column { uint32_t x[AIR_CUDA_NUMBERS]; };

    static bool takes(int64_t) { return true; }
    static int64_t pieces(int64_t k) { return (k + AIR_CUDA_NUMBERS - 1) / AIR_CUDA_NUMBERS; }
    static __device__ __forceinline__ int64_t place(int at) { return (int64_t)at * AIR_CUDA_NUMBERS * T::BYTES; }

    template <int ALIGNED>
    static __device__ __forceinline__ void load(piece &to, const air_cuda_product &p, const uint8_t *row, int at, const void *)
    {
        uint32_t words[WORDS] = {};
        int64_t left = p.k - (int64_t)at * AIR_CUDA_NUMBERS;
        bool whole = ALIGNED >= 16 && left >= AIR_CUDA_NUMBERS; /* what is behind a row's end may be no number, or not there */
        if (whole) air_cuda_load<16>(row + place(at), 0, words);
        AIR_CUDA_UNROLL
        for (int i = 0; i < AIR_CUDA_NUMBERS; i++) {
            if (!whole) read_one(words, row + place(at), i, i < left);
            to.w[i] = T::number(words, i);
        }
    }

    /* Number i to its place in the words, or zero. */
    static __device__ __forceinline__ void read_one(uint32_t *words, const uint8_t *p, int i, bool is_there)
    {
        uint32_t bits = is_there ? air_cuda_load_u16<1>(p, i * T::BYTES) : 0;
        if (T::BYTES == 4) words[i] = is_there ? bits | air_cuda_load_u16<1>(p, i * T::BYTES + 2) << 16 : 0;
        else words[i / 2] = i % 2 ? words[i / 2] | bits << 16 : bits;
    }

    static __device__ __forceinline__ void fetch(column &to, const air_cuda_product &p, int64_t c, int at)
    {
        int64_t first = (int64_t)at * AIR_CUDA_NUMBERS, left = p.k - first;
        const float *x = p.x + c * p.k + first;
        if (p.k % AIR_CUDA_NUMBERS == 0) {
            air_cuda_load<16>(reinterpret_cast<const uint8_t *>(x), 0, to.x);
            return;
        }
        AIR_CUDA_UNROLL
        for (int i = 0; i < AIR_CUDA_NUMBERS; i++) to.x[i] = i < left ? (uint32_t)__float_as_int(__ldg(x + i)) : 0;
    }

    static __device__ __forceinline__ float dot(const piece &w, const column &x, float y)
    {
        AIR_CUDA_UNROLL
        for (int i = 0; i < AIR_CUDA_NUMBERS; i++) y = __fmaf_rn(w.w[i], __int_as_float((int)x.x[i]), y);
        return y;
    }
};

#endif
