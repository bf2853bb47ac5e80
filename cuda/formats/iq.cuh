/* cuda/formats/iq.cuh: the IQ formats, 256 weights to a block that are points of a codebook, and IQ4_XS. A piece is a group of 32. Layouts
 * in quant/blocks.h; what a format is, in format.cuh.
 *
 * The codebooks lie in shared memory, as tables.cuh packs them: a thread looks up 4 or 8 points for a piece, and 32 threads hit as many
 * lines of a cache, but only a few times the same bank. */
#ifndef AIR_CUDA_IQ_CUH
#define AIR_CUDA_IQ_CUH

#include "cuda/formats/legacy.cuh"

struct air_cuda_group_of_32 : air_cuda_plain {
    static constexpr int BLOCK = 256, PIECES = 8, RUNS = 2, STEP = 16;
    static __device__ __forceinline__ int first(int which) { return 32 * which; }
};

struct air_cuda_iq4_xs : air_cuda_group_of_32 {
    static constexpr int BYTES = 136, ALIGN = 8, SCALES = 1;
    template <int A> static __device__ __forceinline__ void load(air_cuda_piece<2, 1, 0> &to, const uint8_t *p, int which, const void *)
    {
        uint32_t head[2], q[4];
        air_cuda_load<A>(p, 0, head);
        air_cuda_load<A>(p, 8 + 16 * which, q);
        air_cuda_two_runs_of(air_cuda_iq4_nl_values(), q, to.w);
        int scale = (int)((head[1] >> 4 * which & 15) | (head[0] >> (16 + 2 * which) & 3) << 4);
        to.scale[0] = __fmul_rn(air_cuda_half(head[0]), (float)(scale - 32));
    }
};

/* ---- points with signs ---- */

/* Negates the bytes whose bit of four is set; none of them is 0, so nothing carries. */
static __device__ __forceinline__ uint32_t air_cuda_negate(uint32_t bytes, uint32_t four)
{
    uint32_t ones = air_cuda_spread(four & 15);
    return (bytes ^ ones * 255) + ones;
}

/* air_iq_eight_signs: the eighth makes the number of negative ones even. */
static __device__ __forceinline__ uint32_t air_cuda_eight_signs(uint32_t seven)
{
    return seven | (uint32_t)(__popc(seven) & 1) << 7;
}

/* Point i of a piece, of eight coordinates 8, 25 or 43. */
static __device__ __forceinline__ void air_cuda_point_of_8(uint32_t (&w)[2][4], int i, uint32_t point, uint32_t signs)
{
    const uint32_t coordinates = 0x002b1908u;
    w[i / 2][i % 2 * 2] = air_cuda_negate(__byte_perm(coordinates, 0, point & 0x7777), signs);
    w[i / 2][i % 2 * 2 + 1] = air_cuda_negate(__byte_perm(coordinates, 0, point >> 16), signs >> 4);
}

/* d times 2 s + 1, s being what is left of a half: IQ2 and IQ3_XXS write it as s + 1/2. */
static __device__ __forceinline__ float air_cuda_odd_scale(float d, uint32_t s) { return __fmul_rn(d, (float)(int)(2 * s + 1)); }

struct air_cuda_iq2_xxs : air_cuda_group_of_32 {
    static constexpr int BYTES = 66, ALIGN = 2, SCALES = 1, TABLE = sizeof(air_cuda_tables::iq2_xxs);
    static __device__ __forceinline__ const void *table(const air_cuda_tables *t) { return t->iq2_xxs; }
    template <int A> static __device__ __forceinline__ void load(air_cuda_piece<2, 1, 0> &to, const uint8_t *p, int which, const void *grid)
    {
        const uint32_t *points = static_cast<const uint32_t *>(grid);
        uint32_t q[2];
        air_cuda_load<A>(p, 2 + 8 * which, q);
        AIR_CUDA_UNROLL
        for (int i = 0; i < 4; i++) air_cuda_point_of_8(to.w, i, points[q[0] >> 8 * i & 255], air_cuda_eight_signs(q[1] >> 7 * i & 127));
        to.scale[0] = air_cuda_odd_scale(air_cuda_load_half<A>(p, 0) * 0.125f, q[1] >> 28);
    }
};

struct air_cuda_iq2_xs : air_cuda_group_of_32 {
    static constexpr int BYTES = 74, ALIGN = 2, SCALES = 2, TABLE = sizeof(air_cuda_tables::iq2_xs);
    static constexpr bool IS_HALVED = true;
    static __device__ __forceinline__ const void *table(const air_cuda_tables *t) { return t->iq2_xs; }
    template <int A> static __device__ __forceinline__ void load(air_cuda_piece<2, 2, 0> &to, const uint8_t *p, int which, const void *grid)
    {
        const uint32_t *points = static_cast<const uint32_t *>(grid);
        uint32_t q[2];
        air_cuda_load<A>(p, 2 + 8 * which, q);
        AIR_CUDA_UNROLL
        for (int i = 0; i < 4; i++) {
            uint32_t v = q[i / 2] >> i % 2 * 16;
            air_cuda_point_of_8(to.w, i, points[v & 511], air_cuda_eight_signs(v >> 9 & 127));
        }
        float d = air_cuda_load_half<A>(p, 0) * 0.125f;
        uint32_t scales = __ldg(p + 66 + which);
        to.scale[0] = air_cuda_odd_scale(d, scales & 15);
        to.scale[1] = air_cuda_odd_scale(d, scales >> 4);
    }
};

struct air_cuda_iq2_s : air_cuda_group_of_32 {
    static constexpr int BYTES = 82, ALIGN = 2, SCALES = 2, TABLE = sizeof(air_cuda_tables::iq2_s);
    static constexpr bool IS_HALVED = true;
    static __device__ __forceinline__ const void *table(const air_cuda_tables *t) { return t->iq2_s; }
    template <int A> static __device__ __forceinline__ void load(air_cuda_piece<2, 2, 0> &to, const uint8_t *p, int which, const void *grid)
    {
        const uint32_t *points = static_cast<const uint32_t *>(grid);
        uint32_t q[1], signs[1], high = __ldg(p + 66 + which), scales = __ldg(p + 74 + which);
        air_cuda_load<A>(p, 2 + 4 * which, q);
        air_cuda_load<A>(p, 34 + 4 * which, signs);
        AIR_CUDA_UNROLL
        for (int i = 0; i < 4; i++) {
            uint32_t number = (q[0] >> 8 * i & 255) | (high >> 2 * i & 3) << 8;
            air_cuda_point_of_8(to.w, i, points[number], signs[0] >> 8 * i);
        }
        float d = air_cuda_load_half<A>(p, 0) * 0.125f;
        to.scale[0] = air_cuda_odd_scale(d, scales & 15);
        to.scale[1] = air_cuda_odd_scale(d, scales >> 4);
    }
};

struct air_cuda_iq3_xxs : air_cuda_group_of_32 {
    static constexpr int BYTES = 98, ALIGN = 2, SCALES = 1, TABLE = sizeof(air_cuda_tables::iq3_xxs);
    static __device__ __forceinline__ const void *table(const air_cuda_tables *t) { return t->iq3_xxs; }
    template <int A> static __device__ __forceinline__ void load(air_cuda_piece<2, 1, 0> &to, const uint8_t *p, int which, const void *grid)
    {
        const uint32_t *points = static_cast<const uint32_t *>(grid);
        uint32_t q[2], word[1];
        air_cuda_load<A>(p, 2 + 8 * which, q);
        air_cuda_load<A>(p, 66 + 4 * which, word);
        AIR_CUDA_UNROLL
        for (int i = 0; i < 8; i++) {
            uint32_t signs = air_cuda_eight_signs(word[0] >> i / 2 * 7 & 127) >> i % 2 * 4;
            to.w[i / 4][i % 4] = air_cuda_negate(points[air_cuda_byte(q[i / 4], i % 4)], signs);
        }
        to.scale[0] = air_cuda_odd_scale(air_cuda_load_half<A>(p, 0) * 0.25f, word[0] >> 28);
    }
};

struct air_cuda_iq3_s : air_cuda_group_of_32 {
    static constexpr int BYTES = 110, ALIGN = 2, SCALES = 1, TABLE = sizeof(air_cuda_tables::iq3_s);
    static __device__ __forceinline__ const void *table(const air_cuda_tables *t) { return t->iq3_s; }
    template <int A> static __device__ __forceinline__ void load(air_cuda_piece<2, 1, 0> &to, const uint8_t *p, int which, const void *grid)
    {
        const uint32_t *points = static_cast<const uint32_t *>(grid);
        uint32_t q[2], signs[1], high = __ldg(p + 66 + which), scales = __ldg(p + 106 + which / 2);
        air_cuda_load<A>(p, 2 + 8 * which, q);
        air_cuda_load<A>(p, 74 + 4 * which, signs);
        AIR_CUDA_UNROLL
        for (int i = 0; i < 8; i++) {
            uint32_t number = (q[i / 4] >> i % 4 * 8 & 255) | (high >> i & 1) << 8;
            to.w[i / 4][i % 4] = air_cuda_negate(points[number], signs[0] >> 4 * i);
        }
        to.scale[0] = air_cuda_odd_scale(air_cuda_load_half<A>(p, 0), scales >> which % 2 * 4 & 15);
    }
};

/* ---- IQ1: -1, 0, 1, moved by an eighth up or down: in eighths, and 9 added, 8 (w + 1) and 2 or 0 ---- */

static __device__ __forceinline__ void air_cuda_point_of_iq1(uint32_t (&w)[2][4], int i, uint32_t point, uint32_t down)
{
    uint32_t fields = point | point << 12, shift = down ? 0 : 0x02020202u; /* as tables.cuh packs them */
    w[i / 2][i % 2 * 2] = air_cuda_pairs(fields, 0) << 3 | shift;
    w[i / 2][i % 2 * 2 + 1] = air_cuda_pairs(fields, 2) << 3 | shift;
}

struct air_cuda_iq1 : air_cuda_group_of_32 {
    static constexpr int OFFSET = 9, TABLE = sizeof(air_cuda_tables::iq1);
    static __device__ __forceinline__ const void *table(const air_cuda_tables *t) { return t->iq1; }
};

struct air_cuda_iq1_s : air_cuda_iq1 {
    static constexpr int BYTES = 50, ALIGN = 2, SCALES = 1;
    template <int A> static __device__ __forceinline__ void load(air_cuda_piece<2, 1, 0> &to, const uint8_t *p, int which, const void *grid)
    {
        const uint16_t *points = static_cast<const uint16_t *>(grid);
        uint32_t q[1], high = air_cuda_load_u16<A>(p, 34 + 2 * which);
        air_cuda_load<A>(p, 2 + 4 * which, q);
        AIR_CUDA_UNROLL
        for (int i = 0; i < 4; i++) {
            uint32_t number = (q[0] >> 8 * i & 255) | (high >> 3 * i & 7) << 8;
            air_cuda_point_of_iq1(to.w, i, points[number], high >> 15);
        }
        to.scale[0] = air_cuda_odd_scale(air_cuda_load_half<A>(p, 0) * 0.125f, high >> 12 & 7);
    }
};

struct air_cuda_iq1_m : air_cuda_iq1 {
    static constexpr int BYTES = 56, ALIGN = 8, SCALES = 2;
    static constexpr bool IS_HALVED = true;
    template <int A> static __device__ __forceinline__ void load(air_cuda_piece<2, 2, 0> &to, const uint8_t *p, int which, const void *grid)
    {
        const uint16_t *points = static_cast<const uint16_t *>(grid);
        uint32_t q[1], packed[2], high = air_cuda_load_u16<A>(p, 32 + 2 * which);
        air_cuda_load<(A < 4 ? A : 4)>(p, 4 * which, q);
        air_cuda_load<A>(p, 48, packed);
        AIR_CUDA_UNROLL
        for (int i = 0; i < 4; i++) {
            uint32_t nibble = high >> 4 * i & 15;
            air_cuda_point_of_iq1(to.w, i, points[(q[0] >> 8 * i & 255) | (nibble & 7) << 8], nibble >> 3);
        }
        uint32_t bits = (packed[0] >> 12 & 0xf) | (packed[0] >> 24 & 0xf0) | (packed[1] >> 4 & 0xf00) | (packed[1] >> 16 & 0xf000);
        uint32_t scales = packed[which / 4] >> (which / 2 % 2 * 16 + which % 2 * 6);
        float d = air_cuda_half(bits) * 0.125f;
        to.scale[0] = air_cuda_odd_scale(d, scales & 7);
        to.scale[1] = air_cuda_odd_scale(d, scales >> 3 & 7);
    }
};

#endif
