/* cuda/formats/legacy.cuh: the formats with one scale to 16 or 32 weights: Q4_0 to Q8_0, IQ4_NL, MXFP4, NVFP4. Layouts in
 * quant/blocks.h; what a format is, in format.cuh. */
#ifndef AIR_CUDA_LEGACY_CUH
#define AIR_CUDA_LEGACY_CUH

#include "cuda/formats/format.cuh"

/* One piece is a block: 16 bytes of nibbles. */
struct air_cuda_nibble_block : air_cuda_plain {
    static constexpr int BLOCK = 32, PIECES = 1, RUNS = 2, STEP = 16, SCALES = 1;
    static __device__ __forceinline__ int first(int) { return 0; }
};

struct air_cuda_q4_0 : air_cuda_nibble_block {
    static constexpr int BYTES = 18, ALIGN = 2, OFFSET = 8;
    template <int A> static __device__ __forceinline__ void load(air_cuda_piece<2, 1, 0> &to, const uint8_t *p, int, const void *)
    {
        uint32_t d, q[4];
        air_cuda_load_after<A, 2>(p, &d, q);
        air_cuda_two_runs(q, to.w);
        to.scale[0] = air_cuda_half(d);
    }
};

struct air_cuda_q4_1 : air_cuda_nibble_block {
    static constexpr int BYTES = 20, ALIGN = 4, MINIMA = 1;
    template <int A> static __device__ __forceinline__ void load(air_cuda_piece<2, 1, 1> &to, const uint8_t *p, int, const void *)
    {
        uint32_t dm[1], q[4];
        air_cuda_load<A>(p, 0, dm);
        air_cuda_load<A>(p, 4, q);
        air_cuda_two_runs(q, to.w);
        to.scale[0] = air_cuda_half(dm[0]);
        to.minimum[0] = air_cuda_half(dm[0] >> 16);
    }
};

static __device__ __forceinline__ void air_cuda_fifth_bits(uint32_t qh, uint32_t (&w)[2][4])
{
    AIR_CUDA_UNROLL
    for (int i = 0; i < 4; i++) {
        w[0][i] |= air_cuda_spread_to_4(qh >> 4 * i & 15);
        w[1][i] |= air_cuda_spread_to_4(qh >> (16 + 4 * i) & 15);
    }
}

struct air_cuda_q5_0 : air_cuda_nibble_block {
    static constexpr int BYTES = 22, ALIGN = 2, OFFSET = 16;
    template <int A> static __device__ __forceinline__ void load(air_cuda_piece<2, 1, 0> &to, const uint8_t *p, int, const void *)
    {
        uint32_t d, v[5];
        air_cuda_load_after<A, 2>(p, &d, v);
        uint32_t q[4] = {v[1], v[2], v[3], v[4]};
        air_cuda_two_runs(q, to.w);
        air_cuda_fifth_bits(v[0], to.w);
        to.scale[0] = air_cuda_half(d);
    }
};

struct air_cuda_q5_1 : air_cuda_nibble_block {
    static constexpr int BYTES = 24, ALIGN = 8, MINIMA = 1;
    template <int A> static __device__ __forceinline__ void load(air_cuda_piece<2, 1, 1> &to, const uint8_t *p, int, const void *)
    {
        uint32_t head[2], q[4];
        air_cuda_load<A>(p, 0, head);
        air_cuda_load<A>(p, 8, q);
        air_cuda_two_runs(q, to.w);
        air_cuda_fifth_bits(head[1], to.w);
        to.scale[0] = air_cuda_half(head[0]);
        to.minimum[0] = air_cuda_half(head[0] >> 16);
    }
};

/* Half a block to a piece: the lanes of a warp then read what lies closer together, 17 bytes apart instead of 34. */
struct air_cuda_q8_0 : air_cuda_plain {
    static constexpr int BLOCK = 32, BYTES = 34, ALIGN = 2, PIECES = 2, RUNS = 1, STEP = 16, SCALES = 1;
    static __device__ __forceinline__ int first(int which) { return 16 * which; }
    template <int A> static __device__ __forceinline__ void load(air_cuda_piece<1, 1, 0> &to, const uint8_t *p, int which, const void *)
    {
        to.scale[0] = air_cuda_load_half<A>(p, 0);
        air_cuda_load<A>(p, 2 + 16 * which, to.w[0]);
    }
};

static __device__ __forceinline__ void air_cuda_two_runs_of(air_cuda_values values, const uint32_t (&q)[4], uint32_t (&w)[2][4])
{
    AIR_CUDA_UNROLL
    for (int i = 0; i < 4; i++) air_cuda_look_up(values, q[i], &w[0][i], &w[1][i]);
}

/* air_values_iq4nl: -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113. */
static __device__ __forceinline__ air_cuda_values air_cuda_iq4_nl_values()
{
    return {0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u};
}

struct air_cuda_iq4_nl : air_cuda_nibble_block {
    static constexpr int BYTES = 18, ALIGN = 2;
    template <int A> static __device__ __forceinline__ void load(air_cuda_piece<2, 1, 0> &to, const uint8_t *p, int, const void *)
    {
        uint32_t d, q[4];
        air_cuda_load_after<A, 2>(p, &d, q);
        air_cuda_two_runs_of(air_cuda_iq4_nl_values(), q, to.w);
        to.scale[0] = air_cuda_half(d);
    }
};

/* E2M1 doubled: 0, 1, 2, 3, 4, 6, 8, 12, and the same with a minus; the scales are halved in turn. */
static __device__ __forceinline__ air_cuda_values air_cuda_e2m1_values()
{
    return {0x03020100u, 0x0c080604u, 0xfdfeff00u, 0xf4f8fafcu};
}

struct air_cuda_mxfp4 : air_cuda_nibble_block {
    static constexpr int BYTES = 17, ALIGN = 1;
    static constexpr bool IS_BOUNDED = false;
    template <int A> static __device__ __forceinline__ void load(air_cuda_piece<2, 1, 0> &to, const uint8_t *p, int, const void *)
    {
        uint32_t e, q[4];
        air_cuda_load_after<A, 1>(p, &e, q);
        air_cuda_two_runs_of(air_cuda_e2m1_values(), q, to.w);
        to.scale[0] = __int_as_float(e < 2 ? 0x00200000 << e : (int)(e - 1) << 23); /* 2^(e - 128); the first two are subnormal */
    }
};

/* E4M3 halved; the sign is ignored and 127 alone means 0. */
static __device__ __forceinline__ float air_cuda_half_ue4m3(int e)
{
    int exponent = e >> 3 & 15, fraction = e & 7;
    if (e == 0x7f) return 0.0f;
    return exponent ? __int_as_float((exponent + 119) << 23 | fraction << 20) : (float)fraction * 0x1p-10f;
}

/* Half a block to a piece: two runs of 8 bytes, the low nibbles its first 8 weights. */
struct air_cuda_nvfp4 : air_cuda_plain {
    static constexpr int BLOCK = 64, BYTES = 36, ALIGN = 4, PIECES = 2, RUNS = 2, STEP = 16, SCALES = 2;
    static constexpr bool IS_HALVED = true;
    static __device__ __forceinline__ int first(int which) { return 32 * which; }
    template <int A> static __device__ __forceinline__ void load(air_cuda_piece<2, 2, 0> &to, const uint8_t *p, int which, const void *)
    {
        uint32_t d[1], q[4];
        air_cuda_load<A>(p, 0, d);
        air_cuda_load<A>(p, 4 + 16 * which, q);
        AIR_CUDA_UNROLL
        for (int r = 0; r < 2; r++) {
            air_cuda_look_up(air_cuda_e2m1_values(), q[2 * r], &to.w[r][0], &to.w[r][2]);
            air_cuda_look_up(air_cuda_e2m1_values(), q[2 * r + 1], &to.w[r][1], &to.w[r][3]);
            to.scale[r] = air_cuda_half_ue4m3(air_cuda_byte(d[0], 2 * which + r));
        }
    }
};

#endif
