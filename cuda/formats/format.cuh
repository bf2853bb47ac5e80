/* cuda/formats/format.cuh: what a packed format is to a product, and its dot with 8-bit activations.
 *
 * A piece is what one thread reads at a time: RUNS runs of 16 weights, STEP weights from one to the next, out of one block. A format is
 *
 *   BLOCK, BYTES    of a block, as formats.def says; ALIGN: the greatest power of two up to 16 that divides BYTES
 *   PIECES          in a block, a divisor of 32, so that a lane keeps to one of them
 *   RUNS, STEP      STEP 16: two runs are one group of activations; else each run lies in a group of its own
 *   SCALES          1, or RUNS where each run has its own
 *   IS_HALVED       whether scales are for 16 weights, not 32 or more
 *   WIDE            so many pieces that follow each other a thread takes at once: 2 where they are the halves of the same groups, which have
 *                   a scale each, else 1
 *   OFFSET          that the weights have added, so that none is negative
 *   IS_BOUNDED      whether a scale is so small, unless it is infinite, that a float holds 2^24 of them
 *   MINIMA          0, or as SCALES: to be added to each weight after it was scaled
 *   table(tables)   where the format has TABLE bytes of them
 *   first(which)    the weight of the block that begins a piece
 *   load<ALIGN>(to, block, which, table)
 *
 * Each piece of a row adds to a thread's sum scale_x * (scale * (sum of w q - OFFSET * sum of q) + minimum * sum of q): the sums are exact
 * integers, floats come once for a run, or for a whole group where its scale is one. */
#ifndef AIR_CUDA_FORMAT_CUH
#define AIR_CUDA_FORMAT_CUH

#include "cuda/kernels.h"
#include "cuda/load.cuh"
#include "cuda/tables.cuh"

static constexpr int AIR_CUDA_RUN = 16, AIR_CUDA_RUN_WORDS = 4;

template <int RUNS, int SCALES, int MINIMA> struct air_cuda_piece {
    uint32_t w[RUNS][AIR_CUDA_RUN_WORDS];
    float scale[SCALES], minimum[MINIMA ? MINIMA : 1];
};

/* What formats have in common unless they say otherwise. */
struct air_cuda_plain {
    static constexpr int OFFSET = 0, MINIMA = 0, TABLE = 0, WIDE = 1;
    static constexpr bool IS_HALVED = false, IS_BOUNDED = true;
    static __device__ __forceinline__ const void *table(const air_cuda_tables *) { return nullptr; }
};

/* --- bits of four weights at once --- */

static __device__ __forceinline__ uint32_t air_cuda_nibbles(uint32_t v, int high) { return v >> (high ? 4 : 0) & 0x0f0f0f0fu; }

/* The lowest bit of each byte, and the lowest two, after a shift. */
static __device__ __forceinline__ uint32_t air_cuda_bits(uint32_t v, int shift) { return v >> shift & 0x01010101u; }
static __device__ __forceinline__ uint32_t air_cuda_pairs(uint32_t v, int shift) { return v >> shift & 0x03030303u; }

/* Bits 0 to 3 to the lowest bit of each byte, and to bit 4: copies 7 bits apart do not meet. */
static __device__ __forceinline__ uint32_t air_cuda_spread(uint32_t four) { return four * 0x00204081u & 0x01010101u; }
static __device__ __forceinline__ uint32_t air_cuda_spread_to_4(uint32_t four) { return four * 0x02040810u & 0x10101010u; }

static __device__ __forceinline__ int air_cuda_byte(uint32_t v, int i) { return (int)(v >> 8 * i & 255); }

/* Two runs out of nibbles: the low ones, then the high. */
static __device__ __forceinline__ void air_cuda_two_runs(const uint32_t (&q)[4], uint32_t (&w)[2][4])
{
    AIR_CUDA_UNROLL
    for (int i = 0; i < 4; i++) {
        w[0][i] = air_cuda_nibbles(q[i], 0);
        w[1][i] = air_cuda_nibbles(q[i], 1);
    }
}

/* 16 values by their number, in the order of bytes. */
struct air_cuda_values { uint32_t of_0, of_4, of_8, of_12; };

/* Eight nibbles to their values: those of the low ones, and of the high. Each half of q selects four among the first eight values, four
 * among the last, and then between the two by the top bits. */
static __device__ __forceinline__ void air_cuda_look_up(air_cuda_values v, uint32_t q, uint32_t *low, uint32_t *high)
{
    uint32_t three = q & 0x77777777u, top = (q & 0x88888888u) >> 1 | 0x32103210u, found[2];
    AIR_CUDA_UNROLL
    for (int i = 0; i < 2; i++) {
        uint32_t first = __byte_perm(v.of_0, v.of_4, three >> 16 * i), last = __byte_perm(v.of_8, v.of_12, three >> 16 * i);
        found[i] = __byte_perm(first, last, top >> 16 * i);
    }
    *low = __byte_perm(found[0], found[1], 0x6420);
    *high = __byte_perm(found[0], found[1], 0x7531);
}

/* --- activations --- */

template <class F> struct air_cuda_packed {
    static constexpr int ALIGN = F::ALIGN, TABLE = F::TABLE;
    static constexpr int GROUPS = F::STEP == AIR_CUDA_RUN ? 1 : F::RUNS; /* of activations that a piece meets */
    static constexpr bool IS_ONE = GROUPS == 1 && F::SCALES == 1;        /* one sum for the whole piece */
    static constexpr int SIDE_BY_SIDE = F::RUNS == 4 ? 1 : 2;            /* rows that a thread's registers hold well */
    static constexpr bool HAS_SUMS = F::OFFSET != 0 || F::MINIMA != 0;
    static constexpr int WIDE = F::WIDE, PIECES = F::PIECES / WIDE; /* in a block, of WIDE each */
    static_assert(WIDE == 1 || (WIDE == 2 && !IS_ONE && GROUPS == F::RUNS && F::SCALES == F::RUNS && !F::OFFSET), "halves of groups");

    struct piece {
        air_cuda_piece<F::RUNS, F::SCALES, F::MINIMA> half[WIDE];
    };
    struct column {
        uint32_t q[WIDE][F::RUNS][AIR_CUDA_RUN_WORDS];
        int sums[F::RUNS];
        float scale[GROUPS];
    };

    static bool takes(int64_t k) { return k % F::BLOCK == 0; }
    static int64_t pieces(int64_t k) { return k / F::BLOCK * PIECES; }
    /* Bytes from the row's begin to the block of a piece. */
    static __device__ __forceinline__ int64_t place(int at) { return (int64_t)(at / PIECES) * F::BYTES; }
    static __device__ __forceinline__ const void *table(const air_cuda_product &p)
    {
        return F::table(static_cast<const air_cuda_tables *>(p.tables));
    }

    template <int ALIGNED>
    static __device__ __forceinline__ void load(piece &to, const air_cuda_product &, const uint8_t *row, int at, const void *table)
    {
        AIR_CUDA_UNROLL
        for (int h = 0; h < WIDE; h++) F::template load<ALIGNED>(to.half[h], row + place(at), at % PIECES * WIDE + h, table);
    }

    static __device__ __forceinline__ void fetch(column &x, const air_cuda_product &p, int64_t c, int at)
    {
        int64_t first = c * p.k + (int64_t)(at / PIECES) * F::BLOCK + F::first(at % PIECES * WIDE);
        AIR_CUDA_UNROLL
        for (int r = 0; r < F::RUNS; r++) {
            int64_t i = first + r * F::STEP;
            AIR_CUDA_UNROLL
            for (int h = 0; h < WIDE; h++) air_cuda_load<16>(reinterpret_cast<const uint8_t *>(p.q8.q + i), h * AIR_CUDA_RUN, x.q[h][r]);
            if (HAS_SUMS) x.sums[r] = sums_of(p.q8.sums + i / AIR_Q8_SUM_GROUP);
            if (r < GROUPS) x.scale[r] = __ldg(p.q8.scale + i / AIR_Q8_GROUP);
        }
    }

    /* Of a run, or of both that are a group. */
    static __device__ __forceinline__ int sums_of(const int16_t *sums)
    {
        if (WIDE == 1) return __ldg(sums);
        uint32_t both = __ldg(reinterpret_cast<const uint32_t *>(sums));
        return (int16_t)both + ((int)both >> 16);
    }

    static __device__ __forceinline__ int dot_run(const piece &w, const column &x, int r, int sum)
    {
        AIR_CUDA_UNROLL
        for (int i = 0; i < WIDE * AIR_CUDA_RUN_WORDS; i++)
            sum = __dp4a((int)w.half[i / AIR_CUDA_RUN_WORDS].w[r][i % AIR_CUDA_RUN_WORDS], (int)x.q[i / AIR_CUDA_RUN_WORDS][r][i % AIR_CUDA_RUN_WORDS], sum);
        return sum;
    }

    static __device__ __forceinline__ float scaled(const piece &w, int r, int dots, int sum)
    {
        float y = __fmul_rn(w.half[0].scale[F::SCALES == 1 ? 0 : r], (float)dots);
        return F::MINIMA ? __fmaf_rn(w.half[0].minimum[F::MINIMA == 1 ? 0 : r], (float)sum, y) : y;
    }

    /* y plus the piece's part of the product. */
    static __device__ __forceinline__ float dot(const piece &w, const column &x, float y)
    {
        int dots = 0, sums = 0;
        float parts = 0;
        AIR_CUDA_UNROLL
        for (int r = 0; r < F::RUNS; r++) {
            int sum = HAS_SUMS ? x.sums[r] : 0;
            dots = dot_run(w, x, r, (IS_ONE ? dots : 0) - F::OFFSET * sum);
            sums += sum;
            if (IS_ONE) continue;
            float part = scaled(w, r, dots, sum);
            if (GROUPS == 1) parts = r ? __fadd_rn(parts, part) : part;
            else y = __fmaf_rn(x.scale[GROUPS == 1 ? 0 : r], part, y);
        }
        if (IS_ONE) parts = scaled(w, 0, dots, sums);
        return GROUPS == 1 ? __fmaf_rn(x.scale[0], parts, y) : y;
    }
};

#endif
