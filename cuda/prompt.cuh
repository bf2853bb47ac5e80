/* cuda/prompt.cuh: the product of packed rows with many columns, one template for every format; tiles and who has what of them: tile.cuh.
 *
 * A slab is 128 weights along k. Weights are unpacked once for a tile, to bytes with their offset taken off, scales and minima of runs of 16
 * or groups of 32; activations are copied beside them:
 *
 *     w[64][36 words]   x[columns][36 words]   scale, minimum [8 or 4][64 + 8]   scale_x[4][columns + 8]   sum_x[8 or 4][columns + 8]
 *
 * Scales, minima and sums lie so that those of a thread's rows, and of its columns, are side by side.
 *
 * Dots are exact within a group, by tensor cores from sm_75 on, else by dp4a, and then added as floats along k in order: sums that are not
 * those of product.cuh; hence AIR_CUDA_PROMPT.
 *
 * While a slab is computed with, the next one's activations are copied into another, where two find room in shared memory, and the weights
 * after those are on their way to the L2 cache. The next one's weights are unpacked after it: before, they would take registers that the
 * computation wants, and all would wait for them (with 512 columns on an H200 +1 to +18 % of Q4_K and Q8_0, -3 % of Q6_K).
 *
 * Bound: issuing floats. A group's 32 results in a thread take 8 mma, 4 loads of fragments and 64 operations on floats (96 with minima, 128
 * where scales are for 16). Measured there, 11008 x 4096 by 512 columns: 143 TOPS of Q4_K, 162 of Q8_0, 126 of Q6_K, of 1220 that mma has. */
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
    alignas(16) float scale[SCALES][ROW_PITCH], minimum[MINIMA][ROW_PITCH];
    alignas(16) float scale_x[AIR_CUDA_GROUPS][COLUMN_PITCH], sum_x[MINIMA][COLUMN_PITCH];
};

/* Where the scales of a row lie, and of a column: a thread's rows are 8 apart, its columns pairs of them. */
static __device__ __forceinline__ int air_cuda_turned_row(int row)
{
    return row / AIR_CUDA_WARP_SIDE * AIR_CUDA_WARP_SIDE + row % 8 * AIR_CUDA_EACH_ROWS + row % AIR_CUDA_WARP_SIDE / 8;
}
static __device__ __forceinline__ int air_cuda_turned_column(int c)
{
    return c / AIR_CUDA_WARP_SIDE * AIR_CUDA_WARP_SIDE + c % 8 / 2 * AIR_CUDA_EACH_COLUMNS + c % AIR_CUDA_WARP_SIDE / 8 * 2 + c % 2;
}

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
        slab.scale[at / SCALED][air_cuda_turned_row(row)] = piece.scale[F::SCALES == 1 ? 0 : r];
        if (F::MINIMA) slab.minimum[at / SCALED][air_cuda_turned_row(row)] = piece.minimum[F::MINIMA == 1 ? 0 : r];
    }
}

/* --- dots of a group, or of one half of it, and 1.5 * 2^23, which makes an integer a float by its bits --- */

static constexpr int AIR_CUDA_MAGIC_BITS = 0x4b400000;
static constexpr float AIR_CUDA_MAGIC = 12582912.0f;

/* By tensor cores, whose sums begin with those bits. */
template <class F, int COLUMNS> struct air_cuda_fragments {
    static constexpr int HALVES = air_cuda_slab<F, COLUMNS>::HALVES;
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
        int d[4] = {AIR_CUDA_MAGIC_BITS, AIR_CUDA_MAGIC_BITS, AIR_CUDA_MAGIC_BITS, AIR_CUDA_MAGIC_BITS};
        const unsigned *of_x = &x[n / 2][n % 2 * 2];
        if (HALVES == 1) air_mma_m16n8k32_s8(d, w[m], of_x);
        else air_mma_m16n8k16_s8(d, &w[m][half * 2], of_x[half]);
        AIR_CUDA_UNROLL
        for (int i = 0; i < 4; i++) dots[i] = __int_as_float(d[i]);
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
        for (int i = 0; i < 4; i++) dots[i] = __int_as_float(AIR_CUDA_MAGIC_BITS + d[i]);
    }
};

/* What a thread needs of a group besides. less: what the magic number adds to a dot times the scale. */
template <class F, int COLUMNS> struct air_cuda_group {
    static constexpr int HALVES = air_cuda_slab<F, COLUMNS>::HALVES, ROWS = AIR_CUDA_EACH_ROWS;
    float scale[HALVES][ROWS], less[ROWS], minimum[HALVES][ROWS], scale_x[AIR_CUDA_EACH_COLUMNS], sum_x[HALVES][AIR_CUDA_EACH_COLUMNS];

    template <int N> static __device__ __forceinline__ void load(float (&to)[N], const float *from)
    {
        memcpy(to, __builtin_assume_aligned(from, 16), sizeof to);
    }

    __device__ __forceinline__ air_cuda_group(const air_cuda_slab<F, COLUMNS> &slab, const air_cuda_place &at, int group)
    {
        const int row = at.row + at.lane / 4 * ROWS, column = at.column + at.lane % 4 * AIR_CUDA_EACH_COLUMNS;
        AIR_CUDA_UNROLL
        for (int half = 0; half < HALVES; half++) {
            load(scale[half], &slab.scale[group * HALVES + half][row]);
            if (!F::MINIMA) continue;
            load(minimum[half], &slab.minimum[group * HALVES + half][row]);
            load(sum_x[half], &slab.sum_x[group * HALVES + half][column]);
        }
        load(scale_x, &slab.scale_x[group][column]);
        AIR_CUDA_UNROLL
        for (int r = 0; r < ROWS; r++) less[r] = __fmul_rn(scale[0][r], -AIR_CUDA_MAGIC);
    }

    /* y plus the scale times a dot, rounded once: scale * magic is exact, three times what has at most 19 bits, so both go in one operation,
     * where there is no y. An infinite scale gives NaN. */
    __device__ __forceinline__ float scaled(int half, int r, float dot, float y) const
    {
        if (half == 0 && F::IS_BOUNDED) return __fmaf_rn(scale[0][r], dot, less[r]);
        dot = __fsub_rn(dot, AIR_CUDA_MAGIC);
        return half ? __fmaf_rn(scale[half][r], dot, y) : __fmul_rn(scale[0][r], dot);
    }
};

/* --- a block's walk along k --- */

template <class F, int COLUMNS, int ALIGNED> struct air_cuda_prompt {
    typedef air_cuda_slab<F, COLUMNS> slab_type;
    typedef air_cuda_tile<COLUMNS> tile;
    static constexpr int HALVES = slab_type::HALVES, THREADS = tile::THREADS;
    static constexpr int PIECES = AIR_CUDA_SLAB / (F::RUNS * AIR_CUDA_RUN), ALL_PIECES = AIR_CUDA_TILE_ROWS * PIECES;
    static constexpr int EACH = (ALL_PIECES + THREADS - 1) / THREADS, EACH_GROUPS = COLUMNS * AIR_CUDA_GROUPS / THREADS;
    static constexpr int CHUNK = 16, CHUNKS = AIR_CUDA_SLAB / CHUNK; /* of activations, to be copied at once */

    const air_cuda_product &p;
    const void *table;
    const air_cuda_corner<COLUMNS> corner;
    const air_cuda_place at;
    const unsigned length;           /* of a row and a column */
    const int last_row, last_column; /* of the tile, whose all these are */
    const uint8_t *rows;
    const int8_t *columns;           /* from the thread's chunk on */
    const float *scales_x;
    const uint32_t *sums_x;          /* of the two halves of a group */
    air_cuda_results sum = {};
    /* Of the slab to come. */
    float scale_x[EACH_GROUPS];
    uint32_t sums[EACH_GROUPS];

    __device__ __forceinline__ air_cuda_prompt(const air_cuda_product &product, const void *grid)
        : p(product), table(grid), corner(product), length((unsigned)p.k),
          last_row((int)min((int64_t)AIR_CUDA_TILE_ROWS, p.rows - corner.row) - 1),
          last_column((int)min((int64_t)COLUMNS, p.n - corner.column) - 1),
          rows(p.w + (air_cuda_head_row(p) + corner.row) * (int64_t)p.row_bytes),
          columns(p.q8.q + (air_cuda_head_column(p) + corner.column) * p.k + threadIdx.x % CHUNKS * CHUNK),
          scales_x(p.q8.scale + (air_cuda_head_column(p) + corner.column) * (p.k / AIR_Q8_GROUP)),
          sums_x(reinterpret_cast<const uint32_t *>(p.q8.sums) + (air_cuda_head_column(p) + corner.column) * (p.k / AIR_Q8_GROUP))
    {
        air_keep(rows), air_keep(columns), air_keep(scales_x);
        if (F::MINIMA) air_keep(sums_x);
    }

    /* From the tile's first row, and column, to another: 32 bits and one address for all take fewer registers. */
    __device__ __forceinline__ unsigned row_at(int row) const { return (unsigned)min(row, last_row) * (unsigned)p.row_bytes; }
    __device__ __forceinline__ unsigned column_at(int c) const { return (unsigned)min(c, last_column) * length; }

    /* A slab's weights, and asks for later ones to come to the L2 cache. Eight threads side by side have eight rows, whose words lie in
     * different banks. What is behind the end of k is the last there is, once more: its activations are zeros. */
    __device__ __forceinline__ void put_weights(slab_type &slab, unsigned k) const
    {
        const unsigned last = length / F::BLOCK * F::PIECES - 1, first = k / AIR_CUDA_SLAB * PIECES;
        const unsigned ahead = (k + AIR_CUDA_SLABS_AHEAD * AIR_CUDA_SLAB) / F::BLOCK * F::BYTES;
        air_cuda_piece<F::RUNS, F::SCALES, F::MINIMA> piece[EACH];
        AIR_CUDA_UNROLL
        for (int i = 0; i < EACH; i++) {
            int which = (int)threadIdx.x + i * THREADS;
            unsigned number = min(first + (unsigned)number_of(which), last);
            if (ALL_PIECES % THREADS && which >= ALL_PIECES) continue;
            const uint8_t *row = rows + row_at(row_of(which));
            F::template load<ALIGNED>(piece[i], row + number / F::PIECES * F::BYTES, (int)(number % F::PIECES), table);
            if (number_of(which) == 0 && ahead < (unsigned)p.row_bytes) air_prefetch_l2(row + ahead);
        }
        AIR_CUDA_UNROLL
        for (int i = 0; i < EACH; i++) {
            int which = (int)threadIdx.x + i * THREADS, number = number_of(which);
            if (ALL_PIECES % THREADS && which >= ALL_PIECES) continue;
            air_cuda_put_piece<F, COLUMNS>(slab, piece[i], number / F::PIECES * F::BLOCK + F::first(number % F::PIECES), row_of(which));
        }
    }
    static __device__ __forceinline__ int row_of(int which) { return which / (8 * PIECES) * 8 + which % 8; }
    static __device__ __forceinline__ int number_of(int which) { return which / 8 % PIECES; }

    __device__ __forceinline__ void fetch_scales(unsigned k)
    {
        const unsigned end = length / AIR_Q8_GROUP, group = k / AIR_Q8_GROUP + threadIdx.x % AIR_CUDA_GROUPS;
        AIR_CUDA_UNROLL
        for (int i = 0; i < EACH_GROUPS; i++) {
            int c = ((int)threadIdx.x + i * THREADS) / AIR_CUDA_GROUPS;
            unsigned from = (unsigned)min(c, last_column) * end + min(group, end - 1);
            scale_x[i] = __ldg(scales_x + from);
            if (F::MINIMA) sums[i] = group < end ? __ldg(sums_x + from) : 0;
        }
    }

    __device__ __forceinline__ void put_scales(slab_type &slab) const
    {
        AIR_CUDA_UNROLL
        for (int i = 0; i < EACH_GROUPS; i++) {
            int which = (int)threadIdx.x + i * THREADS, g = which % AIR_CUDA_GROUPS, c = air_cuda_turned_column(which / AIR_CUDA_GROUPS);
            slab.scale_x[g][c] = scale_x[i];
            if (!F::MINIMA) continue;
            int low = (int16_t)sums[i], high = (int)sums[i] >> 16;
            slab.sum_x[g * HALVES][c] = (float)(HALVES == 1 ? low + high : low);
            if (HALVES == 2) slab.sum_x[g * HALVES + 1][c] = (float)high;
        }
    }

    /* The activations of a slab. */
    __device__ __forceinline__ void copy_columns(slab_type &slab, unsigned k) const
    {
        const int first = (int)threadIdx.x / CHUNKS, chunk = (int)threadIdx.x % CHUNKS;
        const bool is_behind = k + (unsigned)chunk * CHUNK >= length;
        AIR_CUDA_UNROLL
        for (int c = first; c < first + COLUMNS; c += THREADS / CHUNKS) {
            uint32_t *to = &slab.x[c][chunk * CHUNK / 4];
            const int8_t *from = columns + k + column_at(c);
            if (is_behind) *reinterpret_cast<uint4 *>(to) = make_uint4(0, 0, 0, 0);
            else if (air_is_sm_80()) air_cp_async16(to, from);
            else *reinterpret_cast<uint4 *>(to) = __ldg(reinterpret_cast<const uint4 *>(from));
        }
        if (air_is_sm_80()) air_cp_async_commit();
    }

    /* Results 2m, 2m + 1 by 2n, 2n + 1 of a group. */
    template <class M> __device__ __forceinline__ void add_results(const air_cuda_group<F, COLUMNS> &of, const M &dots, int m, int n)
    {
        float y[4] = {};
        AIR_CUDA_UNROLL
        for (int half = 0; half < HALVES; half++) {
            float d[4] = {};
            dots.dot(m, n, half, d);
            AIR_CUDA_UNROLL
            for (int i = 0; i < 4; i++) {
                int r = 2 * m + i / 2, c = 2 * n + i % 2;
                y[i] = of.scaled(half, r, d[i], y[i]);
                if (F::MINIMA) y[i] = __fmaf_rn(of.minimum[half][r], of.sum_x[half][c], y[i]);
            }
        }
        AIR_CUDA_UNROLL
        for (int i = 0; i < 4; i++) {
            float *to = &sum[2 * m + i / 2][2 * n + i % 2];
            *to = __fmaf_rn(of.scale_x[2 * n + i % 2], y[i], *to);
        }
    }

    template <class M> __device__ __forceinline__ void add(const slab_type &slab)
    {
        AIR_CUDA_UNROLL_BY(1)
        for (int group = 0; group < AIR_CUDA_GROUPS; group++) {
            const M dots(slab, at, group);
            const air_cuda_group<F, COLUMNS> of(slab, at, group);
            AIR_CUDA_UNROLL
            for (int n = 0; n < AIR_CUDA_EACH_COLUMNS / 2; n++) {
                AIR_CUDA_UNROLL
                for (int m = 0; m < AIR_CUDA_EACH_ROWS / 2; m++) add_results(of, dots, m, n);
            }
        }
    }

    /* stages: slabs in shared memory, 1 or 2. */
    template <class M> __device__ __forceinline__ void run(slab_type *slabs, int stages)
    {
        const bool is_needed = corner.has(p, at);
        slab_type *slab = slabs, *next = slabs + (stages - 1);
        copy_columns(*slab, 0);
        fetch_scales(0);
        put_weights(*slab, 0);
        put_scales(*slab);
        for (unsigned k = AIR_CUDA_SLAB;; k += AIR_CUDA_SLAB) { /* the next slab's */
            if (air_is_sm_80()) air_cp_async_wait<0>();
            __syncthreads();
            bool has_next = k < length;
            if (has_next) fetch_scales(k);
            if (has_next && stages == 2) copy_columns(*next, k);
            if (is_needed) add<M>(*slab);
            if (!has_next) break;
            if (stages == 1) {
                __syncthreads();
                copy_columns(*next, k);
            }
            put_weights(*next, k);
            put_scales(*next);
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
