/* cuda/formats/k.cuh: the K formats, 256 weights to a block, and the ternary ones, which are packed alike. Layouts in quant/blocks.h; what
 * a format is, in format.cuh. */
#ifndef AIR_CUDA_K_CUH
#define AIR_CUDA_K_CUH

#include "cuda/formats/format.cuh"

/* 16 bytes of two bits, four to a byte: runs of 16, 32 apart. Two pieces to each half of the block. */
struct air_cuda_four_runs : air_cuda_plain {
    static constexpr int BLOCK = 256, PIECES = 4, RUNS = 4, STEP = 32;
    static __device__ __forceinline__ int first(int which) { return which / 2 * 128 + which % 2 * 16; }
};

struct air_cuda_q2_k : air_cuda_four_runs {
    static constexpr int BYTES = 84, ALIGN = 4, SCALES = 4, MINIMA = 4;
    static constexpr bool IS_HALVED = true;
    template <int A> static __device__ __forceinline__ void load(air_cuda_piece<4, 4, 4> &to, const uint8_t *p, int which, const void *)
    {
        uint32_t scales[2], q[4], d[1];
        air_cuda_load<A>(p, which / 2 * 8, scales);
        air_cuda_load<A>(p, 16 + 16 * which, q);
        air_cuda_load<A>(p, 80, d);
        float scale = air_cuda_half(d[0]), minimum = -air_cuda_half(d[0] >> 16);
        AIR_CUDA_UNROLL
        for (int r = 0; r < 4; r++) {
            int both = air_cuda_byte(scales[r / 2], r % 2 * 2 + which % 2);
            to.scale[r] = __fmul_rn(scale, (float)(both & 15));
            to.minimum[r] = __fmul_rn(minimum, (float)(both >> 4));
            AIR_CUDA_UNROLL
            for (int i = 0; i < 4; i++) to.w[r][i] = air_cuda_pairs(q[i], 2 * r);
        }
    }
};

/* The third bit stands for 4 over an offset of -4. */
struct air_cuda_q3_k : air_cuda_four_runs {
    static constexpr int BYTES = 110, ALIGN = 2, SCALES = 4, OFFSET = 4;
    static constexpr bool IS_HALVED = true;

    /* The four scales of even or odd groups of the block's first or later half: low nibbles in two words, top bits in the third. */
    static __device__ __forceinline__ int scale(const uint32_t (&packed)[3], int later, int odd, int r)
    {
        uint32_t low = packed[r / 2] >> 4 * later & 0x0f0f0f0fu, top = air_cuda_pairs(packed[2], 4 * later + r / 2 * 2);
        return air_cuda_byte(low | top << 4, r % 2 * 2 + odd) - 32;
    }

    template <int A> static __device__ __forceinline__ void load(air_cuda_piece<4, 4, 0> &to, const uint8_t *p, int which, const void *)
    {
        uint32_t h[4], q[4], packed[3];
        air_cuda_load<A>(p, which % 2 * 16, h);
        air_cuda_load<A>(p, 32 + 16 * which, q);
        air_cuda_load<A>(p, 96, packed);
        float d = air_cuda_load_half<A>(p, 108);
        AIR_CUDA_UNROLL
        for (int r = 0; r < 4; r++) {
            to.scale[r] = __fmul_rn(d, (float)scale(packed, which / 2, which % 2, r));
            AIR_CUDA_UNROLL
            for (int i = 0; i < 4; i++) to.w[r][i] = air_cuda_pairs(q[i], 2 * r) | air_cuda_bits(h[i], which / 2 * 4 + r) << 2;
        }
    }
};

/* 16 bytes of nibbles: half of an even group of 32 in the low ones, half of the odd one after it in the high. */
struct air_cuda_group_pair : air_cuda_plain {
    static constexpr int BLOCK = 256, ALIGN = 16, PIECES = 8, RUNS = 2, STEP = 32, SCALES = 2, MINIMA = 2, WIDE = 2;
    static __device__ __forceinline__ int first(int which) { return which / 2 * 64 + which % 2 * 16; }

    /* head: d, dmin and the 12 bytes that air_unpack_scale_min reads, here two groups at a time. */
    static __device__ __forceinline__ void scales(air_cuda_piece<2, 2, 2> &to, const uint32_t (&head)[4], int which)
    {
        int later = which / 4, at = which / 2 % 2 * 2;
        uint32_t scale = later ? (head[3] & 0x0f0f0f0fu) | (head[1] >> 2 & 0x30303030u) : head[1] & 0x3f3f3f3fu;
        uint32_t minimum = later ? (head[3] >> 4 & 0x0f0f0f0fu) | (head[2] >> 2 & 0x30303030u) : head[2] & 0x3f3f3f3fu;
        float d = air_cuda_half(head[0]), dmin = -air_cuda_half(head[0] >> 16);
        AIR_CUDA_UNROLL
        for (int r = 0; r < 2; r++) {
            to.scale[r] = __fmul_rn(d, (float)air_cuda_byte(scale, at + r));
            to.minimum[r] = __fmul_rn(dmin, (float)air_cuda_byte(minimum, at + r));
        }
    }
};

struct air_cuda_q4_k : air_cuda_group_pair {
    static constexpr int BYTES = 144;
    template <int A> static __device__ __forceinline__ void load(air_cuda_piece<2, 2, 2> &to, const uint8_t *p, int which, const void *)
    {
        uint32_t head[4], q[4];
        air_cuda_load<A>(p, 0, head);
        air_cuda_load<A>(p, 16 + 16 * which, q);
        air_cuda_two_runs(q, to.w);
        scales(to, head, which);
    }
};

struct air_cuda_q5_k : air_cuda_group_pair {
    static constexpr int BYTES = 176;
    template <int A> static __device__ __forceinline__ void load(air_cuda_piece<2, 2, 2> &to, const uint8_t *p, int which, const void *)
    {
        uint32_t head[4], h[4], q[4];
        air_cuda_load<A>(p, 0, head);
        air_cuda_load<A>(p, 16 + which % 2 * 16, h);
        air_cuda_load<A>(p, 48 + 16 * which, q);
        air_cuda_two_runs(q, to.w);
        AIR_CUDA_UNROLL
        for (int i = 0; i < 4; i++) {
            to.w[0][i] |= air_cuda_bits(h[i], which / 2 * 2) << 4;
            to.w[1][i] |= air_cuda_bits(h[i], which / 2 * 2 + 1) << 4;
        }
        scales(to, head, which);
    }
};

/* Runs 0 or 1 of a half in the low nibbles of 16 bytes, 2 or 3 in the high ones: 64 weights apart. */
struct air_cuda_q6_k : air_cuda_plain {
    static constexpr int BLOCK = 256, BYTES = 210, ALIGN = 2, PIECES = 8, RUNS = 2, STEP = 64, SCALES = 2, OFFSET = 32;
    static constexpr bool IS_HALVED = true;
    static __device__ __forceinline__ int first(int which) { return which / 4 * 128 + which % 4 * 16; }
    template <int A> static __device__ __forceinline__ void load(air_cuda_piece<2, 2, 0> &to, const uint8_t *p, int which, const void *)
    {
        int later = which / 4, run = which / 2 % 2, scale = 192 + 8 * later + which % 4;
        uint32_t q[4], h[4];
        air_cuda_load<A>(p, 16 * which, q);
        air_cuda_load<A>(p, 128 + 32 * later + which % 2 * 16, h);
        float d = air_cuda_load_half<A>(p, 208);
        air_cuda_two_runs(q, to.w);
        AIR_CUDA_UNROLL
        for (int r = 0; r < 2; r++) {
            to.scale[r] = __fmul_rn(d, (float)(int8_t)__ldg(p + scale + 4 * r));
            AIR_CUDA_UNROLL
            for (int i = 0; i < 4; i++) to.w[r][i] |= air_cuda_pairs(h[i], 2 * run + 4 * r) << 4;
        }
    }
};

/* ---- ternary: -1, 0, 1 as 0, 1, 2 ---- */

struct air_cuda_tq2_0 : air_cuda_four_runs {
    static constexpr int BYTES = 66, ALIGN = 2, SCALES = 1, OFFSET = 1;
    template <int A> static __device__ __forceinline__ void load(air_cuda_piece<4, 1, 0> &to, const uint8_t *p, int which, const void *)
    {
        uint32_t q[4];
        air_cuda_load<A>(p, 16 * which, q);
        to.scale[0] = air_cuda_load_half<A>(p, 64);
        AIR_CUDA_UNROLL
        for (int r = 0; r < 4; r++) {
            AIR_CUDA_UNROLL
            for (int i = 0; i < 4; i++) to.w[r][i] = air_cuda_pairs(q[i], 2 * r);
        }
    }
};

/* 32 bytes hold runs 0 to 9, two to a digit; 16 bytes runs 10 to 14; the last four bytes hold run 15, whose word i is digit i. */
struct air_cuda_tq1_0 : air_cuda_plain {
    static constexpr int BLOCK = 256, BYTES = 54, ALIGN = 2, PIECES = 8, RUNS = 2, STEP = 16, SCALES = 1, OFFSET = 1;
    static __device__ __forceinline__ int first(int which) { return 32 * which; }

    /* Digit n, from the top, of four bytes that are fractions in base 3: (byte * 3^n mod 256) * 3 / 256, two bytes at a time. */
    static __device__ __forceinline__ uint32_t digits(uint32_t v, int n)
    {
        uint32_t power = n < 4 ? 0x1b090301u >> 8 * n & 255 : 81u;
        uint32_t even = ((v & 0x00ff00ffu) * power & 0x00ff00ffu) * 3, odd = ((v >> 8 & 0x00ff00ffu) * power & 0x00ff00ffu) * 3;
        return (even >> 8 & 0x00ff00ffu) | (odd & 0xff00ff00u);
    }

    template <int A> static __device__ __forceinline__ void load(air_cuda_piece<2, 1, 0> &to, const uint8_t *p, int which, const void *)
    {
        to.scale[0] = air_cuda_load_half<A>(p, 52);
        AIR_CUDA_UNROLL
        for (int r = 0; r < 2; r++) {
            int run = 2 * which + r, is_last = run == 15, digit = run < 10 ? run / 2 : run - 10;
            int from = is_last ? 48 : run < 10 ? run % 2 * 16 : 32;
            AIR_CUDA_UNROLL
            for (int i = 0; i < 4; i++) {
                uint32_t v[1];
                air_cuda_load<A>(p, from + (is_last ? 0 : 4 * i), v);
                to.w[r][i] = digits(v[0], is_last ? i : digit);
            }
        }
    }
};

#endif
