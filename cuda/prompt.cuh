/* cuda/prompt.cuh: the product of packed rows with many columns, one template for every format; tiles and who has what of them: tile.cuh.
 *
 * A slab is 128 weights along k. Weights are unpacked once for a tile, to bytes with their offset taken off, scales and minima of runs of 16
 * or groups of 32; activations are copied beside them:
 *
 *     w[64][36 words]   x[columns][36 words]   scale, minimum [8 or 4][64 + 8]   scale_x[4][columns + 8]   sum_x[8 or 4][columns + 8]
 *
 * Dots are exact within a group, by tensor cores from sm_75 on, else by dp4a, and then added as floats along k in order: sums that are not
 * those of product.cuh; hence AIR_CUDA_PROMPT.
 *
 * While a slab is computed with, a thread has its part of the next one's weights in registers and, where two slabs find room in shared memory,
 * activations are copied into the other without it; the weights after those are on their way to the L2 cache. Bound: issuing floats. A group's
 * 32 results in a thread take 8 mma, 4 loads of fragments and 96 operations on floats (128 with minima, 160 where scales are for 16). */
#ifndef AIR_CUDA_PROMPT_CUH
#define AIR_CUDA_PROMPT_CUH

#include "cuda/formats/format.cuh"
#include "cuda/tile.cuh"

enum {
    AIR_CUDA_SLAB = 128,
    AIR_CUDA_GROUPS = AIR_CUDA_SLAB / AIR_Q8_GROUP,
    AIR_CUDA_GROUP_WORDS = AIR_Q8_GROUP / 4,
    AIR_CUDA_SLABS_AHEAD = 3, /* whose weights are asked for */
    AIR_CUDA_PROMPT_LONGEST = 1 << 24, /* weights, and bytes, of a row: those of a tile are counted in 32 bits */
};

template <class F, int COLUMNS> struct alignas(16) air_cuda_slab {
    static constexpr int HALVES = F::IS_HALVED ? 2 : 1; /* of a group, with a scale each */
    static constexpr int SCALES = HALVES * AIR_CUDA_GROUPS, MINIMA = F::MINIMA ? SCALES : 1;
    static constexpr int ROW_PITCH = AIR_CUDA_TILE_ROWS + AIR_CUDA_APART, COLUMN_PITCH = COLUMNS + AIR_CUDA_APART;

    uint32_t w[AIR_CUDA_TILE_ROWS][AIR_CUDA_PITCH_WORDS], x[COLUMNS][AIR_CUDA_PITCH_WORDS];
    float scale[SCALES][ROW_PITCH], minimum[MINIMA][ROW_PITCH];
    float scale_x[AIR_CUDA_GROUPS][COLUMN_PITCH], sum_x[MINIMA][COLUMN_PITCH];
};

/* Four bytes less an offset each: none borrows from the next, for its top bit is set meanwhile. */
static __device__ __forceinline__ uint32_t air_cuda_less(uint32_t bytes, uint32_t offset)
{
    return ((bytes | 0x80808080u) - offset * 0x01010101u) ^ 0x80808080u;
}

/* One piece to its place. first: its first weight within the slab. */
template <class F, int COLUMNS, class P>
static __device__ __forceinline__ void air_cuda_put_piece(air_cuda_slab<F, COLUMNS> &slab, const P &piece, int first, int row)
{
    constexpr int SCALED = AIR_Q8_GROUP / air_cuda_slab<F, COLUMNS>::HALVES;
    AIR_CUDA_UNROLL
    for (int r = 0; r < F::RUNS; r++) {
        int at = first + r * F::STEP;
        uint32_t w[AIR_CUDA_RUN_WORDS];
        AIR_CUDA_UNROLL
        for (int i = 0; i < AIR_CUDA_RUN_WORDS; i++) w[i] = F::OFFSET ? air_cuda_less(piece.w[r][i], F::OFFSET) : piece.w[r][i];
        *reinterpret_cast<uint4 *>(&slab.w[row][at / 4]) = make_uint4(w[0], w[1], w[2], w[3]);
        if (at % SCALED) continue; /* the group's first half has put it there */
        slab.scale[at / SCALED][row] = piece.scale[F::SCALES == 1 ? 0 : r];
        if (F::MINIMA) slab.minimum[at / SCALED][row] = piece.minimum[F::MINIMA == 1 ? 0 : r];
    }
}

/* --- dots of a group, or of one half of it --- */

/* By tensor cores: the numbers begin with those bits of a float to which integers can be added, which spares turning them into one. */
template <class F, int COLUMNS> struct air_cuda_fragments {
    static constexpr int HALVES = air_cuda_slab<F, COLUMNS>::HALVES, MAGIC_BITS = 0x4b400000;
    unsigned w[2][4], x[2][4]; /* 16 rows; 16 columns */

    __device__ __forceinline__ air_cuda_fragments(const air_cuda_slab<F, COLUMNS> &slab, const air_cuda_place &at, int group)
    {
        AIR_CUDA_UNROLL
        for (int i = 0; i < 2; i++) {
            at.load_rows(w[i], slab.w, i, group * AIR_CUDA_GROUP_WORDS);
            at.load_columns(x[i], slab.x, i, group * AIR_CUDA_GROUP_WORDS);
        }
    }

    /* Results 2m, 2m + 1 by 2n, 2n + 1. */
    __device__ __forceinline__ void dot(int m, int n, int half, float (&dots)[4]) const
    {
        int d[4] = {MAGIC_BITS, MAGIC_BITS, MAGIC_BITS, MAGIC_BITS};
        const unsigned *of_x = &x[n / 2][n % 2 * 2];
        if (HALVES == 1) air_mma_m16n8k32_s8(d, w[m], of_x);
        else air_mma_m16n8k16_s8(d, &w[m][half * 2], of_x[half]);
        AIR_CUDA_UNROLL
        for (int i = 0; i < 4; i++) dots[i] = __fsub_rn(__int_as_float(d[i]), __int_as_float(MAGIC_BITS));
    }
};

/* By dp4a. */
template <class F, int COLUMNS> struct air_cuda_words {
    static constexpr int WORDS = AIR_CUDA_GROUP_WORDS / air_cuda_slab<F, COLUMNS>::HALVES;
    const air_cuda_slab<F, COLUMNS> &slab;
    const air_cuda_place &at;
    int first;

    __device__ __forceinline__ air_cuda_words(const air_cuda_slab<F, COLUMNS> &from, const air_cuda_place &place, int group)
        : slab(from), at(place), first(group * AIR_CUDA_GROUP_WORDS)
    {
    }

    __device__ __forceinline__ void dot(int m, int n, int half, float (&dots)[4]) const
    {
        int d[4] = {};
        AIR_CUDA_UNROLL_BY(1)
        for (int word = first + half * WORDS, end = word + WORDS; word < end; word += 4) {
            uint32_t w[2][4], x[2][4];
            AIR_CUDA_UNROLL
            for (int i = 0; i < 2; i++) {
                memcpy(w[i], __builtin_assume_aligned(&slab.w[at.row_of(2 * m + i)][word], 16), sizeof w[i]);
                memcpy(x[i], __builtin_assume_aligned(&slab.x[at.column_of(2 * n + i)][word], 16), sizeof x[i]);
            }
            AIR_CUDA_UNROLL
            for (int i = 0; i < 16; i++) d[i / 4] = __dp4a((int)w[i / 8][i % 4], (int)x[i / 4 % 2][i % 4], d[i / 4]);
        }
        AIR_CUDA_UNROLL
        for (int i = 0; i < 4; i++) dots[i] = (float)d[i];
    }
};

/* --- a block's walk along k --- */

template <class F, int COLUMNS, int ALIGNED> struct air_cuda_prompt {
    typedef air_cuda_slab<F, COLUMNS> slab_type;
    typedef air_cuda_tile<COLUMNS> tile;
    static constexpr int HALVES = slab_type::HALVES, THREADS = tile::THREADS;
    static constexpr int PIECES = AIR_CUDA_SLAB / (F::RUNS * AIR_CUDA_RUN), ALL_PIECES = AIR_CUDA_TILE_ROWS * PIECES;
    static constexpr int EACH = (ALL_PIECES + THREADS - 1) / THREADS, EACH_GROUPS = COLUMNS * AIR_CUDA_GROUPS / THREADS;

    const air_cuda_product &p;
    const void *table;
    const air_cuda_corner<COLUMNS> corner;
    const air_cuda_place at;
    const uint8_t *const rows;
    const int8_t *const columns;
    const int64_t first_group; /* of the tile's first column */
    air_cuda_results sum = {};
    /* Of the slab to come. */
    air_cuda_piece<F::RUNS, F::SCALES, F::MINIMA> piece[EACH];
    float scale_x[EACH_GROUPS];
    uint32_t sums[EACH_GROUPS]; /* of the two halves of a group */

    __device__ __forceinline__ air_cuda_prompt(const air_cuda_product &product, const void *grid)
        : p(product), table(grid), corner(product), rows(p.w + corner.row * (int64_t)p.row_bytes), columns(p.q8.q + corner.column * p.k),
          first_group(corner.column * (p.k / AIR_Q8_GROUP))
    {
    }

    /* From the tile's first row, and column, to another: 32 bits and one address for all take fewer registers. */
    __device__ __forceinline__ unsigned row_at(int row) const
    {
        return (unsigned)min((int64_t)row, p.rows - 1 - corner.row) * (unsigned)p.row_bytes;
    }
    __device__ __forceinline__ unsigned column_at(int c) const
    {
        return (unsigned)min((int64_t)c, p.n - 1 - corner.column) * (unsigned)p.k;
    }

    /* What is behind the end of k is the last there is, once more: its activations are zeros. */
    __device__ __forceinline__ void fetch_weights(int k)
    {
        const int last = (int)(p.k / F::BLOCK) * F::PIECES - 1, first = k / AIR_CUDA_SLAB * PIECES;
        AIR_CUDA_UNROLL
        for (int i = 0; i < EACH; i++) {
            int which = (int)threadIdx.x + i * THREADS, number = min(first + which % PIECES, last);
            if (ALL_PIECES % THREADS && which >= ALL_PIECES) continue;
            unsigned block = row_at(which / PIECES) + (unsigned)(number / F::PIECES) * F::BYTES;
            F::template load<ALIGNED>(piece[i], rows + block, number % F::PIECES, table);
        }
        unsigned ahead = ((unsigned)k + AIR_CUDA_SLABS_AHEAD * AIR_CUDA_SLAB) / F::BLOCK * F::BYTES;
        if (threadIdx.x < AIR_CUDA_TILE_ROWS && ahead < (unsigned)p.row_bytes) air_prefetch_l2(rows + row_at((int)threadIdx.x) + ahead);
    }

    __device__ __forceinline__ void fetch_scales(int k)
    {
        AIR_CUDA_UNROLL
        for (int i = 0; i < EACH_GROUPS; i++) {
            int which = (int)threadIdx.x + i * THREADS;
            int group = k / AIR_Q8_GROUP + which % AIR_CUDA_GROUPS, end = (int)(p.k / AIR_Q8_GROUP);
            unsigned from = column_at(which / AIR_CUDA_GROUPS) / AIR_Q8_GROUP + (unsigned)min(group, end - 1);
            scale_x[i] = __ldg(p.q8.scale + first_group + from);
            if (F::MINIMA) sums[i] = group < end ? __ldg(reinterpret_cast<const uint32_t *>(p.q8.sums) + first_group + from) : 0;
        }
    }

    __device__ __forceinline__ void fetch(int k)
    {
        fetch_weights(k);
        fetch_scales(k);
    }

    __device__ __forceinline__ void put(slab_type &slab) const
    {
        AIR_CUDA_UNROLL
        for (int i = 0; i < EACH; i++) {
            int which = (int)threadIdx.x + i * THREADS, number = which % PIECES;
            if (ALL_PIECES % THREADS && which >= ALL_PIECES) continue;
            int first = number / F::PIECES * F::BLOCK + F::first(number % F::PIECES);
            air_cuda_put_piece<F, COLUMNS>(slab, piece[i], first, which / PIECES);
        }
        AIR_CUDA_UNROLL
        for (int i = 0; i < EACH_GROUPS; i++) {
            int which = (int)threadIdx.x + i * THREADS, g = which % AIR_CUDA_GROUPS, c = which / AIR_CUDA_GROUPS;
            slab.scale_x[g][c] = scale_x[i];
            if (!F::MINIMA) continue;
            int low = (int16_t)sums[i], high = (int)sums[i] >> 16;
            slab.sum_x[g * HALVES][c] = (float)(HALVES == 1 ? low + high : low);
            if (HALVES == 2) slab.sum_x[g * HALVES + 1][c] = (float)high;
        }
    }

    /* The activations of a slab, 16 at a time. */
    __device__ __forceinline__ void copy_columns(slab_type &slab, int k) const
    {
        constexpr int CHUNK = 16, CHUNKS = AIR_CUDA_SLAB / CHUNK;
        AIR_CUDA_UNROLL
        for (int i = (int)threadIdx.x; i < COLUMNS * CHUNKS; i += THREADS) {
            int c = i / CHUNKS, e = i % CHUNKS * CHUNK;
            uint32_t *to = &slab.x[c][e / 4];
            const int8_t *from = columns + column_at(c) + (unsigned)(k + e);
            if (k + e >= p.k) *reinterpret_cast<uint4 *>(to) = make_uint4(0, 0, 0, 0);
            else if (air_is_sm_80()) air_cp_async16(to, from);
            else *reinterpret_cast<uint4 *>(to) = __ldg(reinterpret_cast<const uint4 *>(from));
        }
        if (air_is_sm_80()) air_cp_async_commit();
    }

    /* Results 2m, 2m + 1 by 2n, 2n + 1 of a group. */
    template <class M> __device__ __forceinline__ void add_results(const slab_type &slab, const M &dots, int group, int m, int n)
    {
        float y[4] = {};
        AIR_CUDA_UNROLL
        for (int half = 0; half < HALVES; half++) {
            float d[4] = {};
            int number = group * HALVES + half;
            dots.dot(m, n, half, d);
            AIR_CUDA_UNROLL
            for (int i = 0; i < 4; i++) {
                int row = at.row_of(2 * m + i / 2), column = at.column_of(2 * n + i % 2);
                y[i] = half ? __fmaf_rn(slab.scale[number][row], d[i], y[i]) : __fmul_rn(slab.scale[number][row], d[i]);
                if (F::MINIMA) y[i] = __fmaf_rn(slab.minimum[number][row], slab.sum_x[number][column], y[i]);
            }
        }
        AIR_CUDA_UNROLL
        for (int i = 0; i < 4; i++) {
            float *to = &sum[2 * m + i / 2][2 * n + i % 2];
            *to = __fmaf_rn(slab.scale_x[group][at.column_of(2 * n + i % 2)], y[i], *to);
        }
    }

    template <class M> __device__ __forceinline__ void add(const slab_type &slab)
    {
        AIR_CUDA_UNROLL_BY(1)
        for (int group = 0; group < AIR_CUDA_GROUPS; group++) {
            M dots(slab, at, group);
            AIR_CUDA_UNROLL
            for (int n = 0; n < AIR_CUDA_EACH_COLUMNS / 2; n++) {
                AIR_CUDA_UNROLL
                for (int m = 0; m < AIR_CUDA_EACH_ROWS / 2; m++) add_results(slab, dots, group, m, n);
            }
        }
    }

    /* stages: slabs in shared memory, 1 or 2. */
    template <class M> __device__ __forceinline__ void run(slab_type *slabs, int stages)
    {
        const int end = (int)p.k;
        const bool is_needed = corner.has(p, at);
        slab_type *slab = slabs, *next = slabs + (stages - 1);
        fetch(0);
        copy_columns(*slab, 0);
        put(*slab);
        for (int k = 0; k < end; k += AIR_CUDA_SLAB) {
            bool has_next = k + AIR_CUDA_SLAB < end;
            if (air_is_sm_80()) air_cp_async_wait<0>();
            __syncthreads();
            if (has_next) fetch(k + AIR_CUDA_SLAB);
            if (has_next && stages == 2) copy_columns(*next, k + AIR_CUDA_SLAB);
            if (is_needed) add<M>(*slab);
            if (!has_next) break;
            if (stages == 1) {
                __syncthreads();
                copy_columns(*next, k + AIR_CUDA_SLAB);
            }
            put(*next);
            slab_type *done = slab;
            slab = next, next = done;
        }
        air_cuda_finish_tile<COLUMNS>(p, corner, at, sum);
    }
};

template <class F, int COLUMNS, int ALIGNED>
static __global__ void __launch_bounds__(air_cuda_tile<COLUMNS>::THREADS, air_cuda_tile<COLUMNS>::BLOCKS)
    air_cuda_prompt_kernel(const air_cuda_product p, int stages)
{
    typedef air_cuda_slab<F, COLUMNS> slab_type;
    AIR_DYN_SHARED(slab_type, slabs);
    air_cuda_prompt<F, COLUMNS, ALIGNED> walk(p, air_cuda_shared_table<air_cuda_packed<F>>(p));
    if (air_is_sm_75()) walk.template run<air_cuda_fragments<F, COLUMNS>>(slabs, stages);
    else if constexpr (COLUMNS == 64) walk.template run<air_cuda_words<F, COLUMNS>>(slabs, stages);
}

template <class F, int COLUMNS, int ALIGNED> static cudaError_t air_cuda_prompt_start(const air_cuda_product &p, cudaStream_t stream)
{
    const int64_t slab = sizeof(air_cuda_slab<F, COLUMNS>), beside = 1024 + F::TABLE;
    void (*kernel)(const air_cuda_product, int) = air_cuda_prompt_kernel<F, COLUMNS, ALIGNED>;
    int room = 0;
    cudaError_t error = air_cuda_attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, &room);
    if (error != cudaSuccess) return error;
    /* Two slabs where a multiprocessor still has room for as many blocks, and copies what needs no registers. */
    bool copies = false, has_room = air_cuda_tile<COLUMNS>::BLOCKS * (2 * slab + beside) <= room;
    if (has_room) error = air_compiled_at_least((const void *)kernel, 80, &copies);
    if (error != cudaSuccess) return error;
    int stages = copies ? 2 : 1;
    return air_cuda_launch_tiles<COLUMNS>(kernel, p, (size_t)(stages * slab), stream, p, stages);
}

template <class F> static cudaError_t air_cuda_prompt_of(const air_cuda_product &p, cudaStream_t stream)
{
    if (p.k % F::BLOCK || p.k > AIR_CUDA_PROMPT_LONGEST || p.row_bytes > AIR_CUDA_PROMPT_LONGEST) return cudaErrorInvalidValue;
    if (((uintptr_t)p.w | p.row_bytes) % F::ALIGN) return air_cuda_prompt_start<F, 64, 1>(p, stream);
    bool wide;
    cudaError_t error = air_cuda_wants_wide_tiles((const void *)air_cuda_prompt_kernel<F, 128, F::ALIGN>, p, &wide);
    if (error != cudaSuccess) return error;
    if (wide) return air_cuda_prompt_start<F, 128, F::ALIGN>(p, stream);
    return air_cuda_prompt_start<F, 64, F::ALIGN>(p, stream);
}

/* The product of one type, air_cuda_product_Q4_K and so on: those that product.cu lists. */
#define AIR_CUDA_PACKED_PRODUCT(name, format)                                           \
    cudaError_t air_cuda_product_##name(const air_cuda_product *p, cudaStream_t stream) \
    {                                                                                   \
        if (p->role == AIR_CUDA_PROMPT) return air_cuda_prompt_of<format>(*p, stream);  \
        return air_cuda_product_of<air_cuda_packed<format>>(*p, stream);                \
    }

#endif
