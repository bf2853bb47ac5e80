/* cuda/prompt.cuh: the product of packed rows with many columns, one template for every format.
 *
 * A block of threads has a tile of 64 rows and 64 columns and walks along k in slabs of 128. A slab's weights are unpacked once, to bytes
 * with their offset taken off, scales and minima of runs of 16 or groups of 32; activations are copied beside them. Both lie by words of
 * four along k, rows or columns next to each other:
 *
 *     w[32][64 + 8]   x[32][64 + 8]   scale, minimum [8 or 4][64 + 8]   scale_x[4][64 + 8]   sum_x[8 or 4][64 + 8]
 *
 * so that a thread reads its four rows, and its four columns, of a word at once; 8 more keep words that follow each other along k off
 * each other's banks. Dots are exact within a group, by tensor cores from sm_80 on, else by dp4a, and then added as floats along k in
 * order: sums that are not those of product.cuh; hence AIR_CUDA_PROMPT. Bound: issuing instructions. Of a group's 16 results in a thread
 * 128 are dp4a and 16 loads, or 4 are mma and 12 loads; 32 to 48 turn integers into floats and scale them. */
#ifndef AIR_CUDA_PROMPT_CUH
#define AIR_CUDA_PROMPT_CUH

#include "cuda/formats/format.cuh"
#include "cuda/product.cuh"

enum {
    AIR_CUDA_TILE = 64,  /* rows, and columns */
    AIR_CUDA_EACH = 4,   /* of both for a thread */
    AIR_CUDA_SIDE = AIR_CUDA_TILE / AIR_CUDA_EACH,
    AIR_CUDA_THREADS = AIR_CUDA_SIDE * AIR_CUDA_SIDE,
    AIR_CUDA_SLAB = 128,
    AIR_CUDA_SLAB_WORDS = AIR_CUDA_SLAB / 4,
    AIR_CUDA_GROUPS = AIR_CUDA_SLAB / AIR_Q8_GROUP,
    AIR_CUDA_GROUP_WORDS = AIR_Q8_GROUP / 4,
    AIR_CUDA_PITCH = AIR_CUDA_TILE + 8,
};

template <class F> struct alignas(16) air_cuda_slab {
    static constexpr int HALVES = F::IS_HALVED ? 2 : 1; /* of a group, with a scale each */
    static constexpr int SCALES = HALVES * AIR_CUDA_GROUPS, MINIMA = F::MINIMA ? SCALES : 1;

    uint32_t w[AIR_CUDA_SLAB_WORDS][AIR_CUDA_PITCH], x[AIR_CUDA_SLAB_WORDS][AIR_CUDA_PITCH];
    float scale[SCALES][AIR_CUDA_PITCH], minimum[MINIMA][AIR_CUDA_PITCH];
    float scale_x[AIR_CUDA_GROUPS][AIR_CUDA_PITCH], sum_x[MINIMA][AIR_CUDA_PITCH];
};

/* Four bytes less an offset each: none borrows from the next, for its top bit is set meanwhile. */
static __device__ __forceinline__ uint32_t air_cuda_less(uint32_t bytes, uint32_t offset)
{
    return ((bytes | 0x80808080u) - offset * 0x01010101u) ^ 0x80808080u;
}

/* One piece to its place, zeros where the row has ended. first: its first weight within the slab. */
template <class F, class P>
static __device__ __forceinline__ void air_cuda_put_piece(air_cuda_slab<F> &slab, const P &piece, int first, int row)
{
    AIR_CUDA_UNROLL
    for (int r = 0; r < F::RUNS; r++) {
        constexpr int SCALED = AIR_Q8_GROUP / air_cuda_slab<F>::HALVES;
        int at = first + r * F::STEP;
        AIR_CUDA_UNROLL
        for (int i = 0; i < AIR_CUDA_RUN_WORDS; i++)
            slab.w[at / 4 + i][row] = F::OFFSET ? air_cuda_less(piece.w[r][i], F::OFFSET) : piece.w[r][i];
        if (at % SCALED) continue; /* the group's first half has put it there */
        slab.scale[at / SCALED][row] = piece.scale[F::SCALES == 1 ? 0 : r];
        if (F::MINIMA) slab.minimum[at / SCALED][row] = piece.minimum[F::MINIMA == 1 ? 0 : r];
    }
}

template <class F, int ALIGNED>
static __device__ __forceinline__ void air_cuda_put_weights(air_cuda_slab<F> &slab, const air_cuda_product &p, int64_t first_row,
                                                            int64_t at, const void *table)
{
    constexpr int PIECES = AIR_CUDA_SLAB / (F::RUNS * AIR_CUDA_RUN); /* of a row */
    for (int i = (int)threadIdx.x; i < AIR_CUDA_TILE * PIECES; i += AIR_CUDA_THREADS) {
        int row = i / PIECES, number = (int)(at / AIR_CUDA_SLAB) * PIECES + i % PIECES;
        int64_t block = number / F::PIECES, first = block * F::BLOCK + F::first(number % F::PIECES);
        air_cuda_piece<F::RUNS, F::SCALES, F::MINIMA> piece = {};
        const uint8_t *w = p.w + min(first_row + row, p.rows - 1) * (int64_t)p.row_bytes;
        if (first < p.k) F::template load<ALIGNED>(piece, w + block * F::BYTES, number % F::PIECES, table);
        air_cuda_put_piece<F>(slab, piece, (int)(first - at), row);
    }
}

/* A group of a column to a thread. */
template <class F>
static __device__ __forceinline__ void air_cuda_put_columns(air_cuda_slab<F> &slab, const air_cuda_product &p, int64_t first_column,
                                                            int64_t at)
{
    for (int i = (int)threadIdx.x; i < AIR_CUDA_TILE * AIR_CUDA_GROUPS; i += AIR_CUDA_THREADS) {
        int c = i / AIR_CUDA_GROUPS, g = i % AIR_CUDA_GROUPS;
        bool is_there = at + g * AIR_Q8_GROUP < p.k;
        int64_t first = min(first_column + c, p.n - 1) * p.k + at + g * AIR_Q8_GROUP;
        uint32_t q[AIR_CUDA_GROUP_WORDS] = {};
        if (is_there) air_cuda_load<16>(reinterpret_cast<const uint8_t *>(p.q8.q + first), 0, q);
        AIR_CUDA_UNROLL
        for (int j = 0; j < AIR_CUDA_GROUP_WORDS; j++) slab.x[g * AIR_CUDA_GROUP_WORDS + j][c] = q[j];
        slab.scale_x[g][c] = is_there ? __ldg(p.q8.scale + first / AIR_Q8_GROUP) : 0;
        if (!F::MINIMA) continue;
        constexpr int HALVES = air_cuda_slab<F>::HALVES;
        const int16_t *sums = p.q8.sums + first / AIR_Q8_SUM_GROUP;
        int low = is_there ? __ldg(sums) : 0, high = is_there ? __ldg(sums + 1) : 0;
        slab.sum_x[g * HALVES][c] = (float)(HALVES == 1 ? low + high : low);
        if (HALVES == 2) slab.sum_x[g * HALVES + 1][c] = (float)high;
    }
}

typedef int air_cuda_dots[AIR_CUDA_EACH][AIR_CUDA_EACH];

/* Which 4 rows and 4 columns of the tile are a thread's, and how it gets their dots. Here: rows 4 * (thread / 16) on, columns
 * 4 * (thread % 16) on, by dp4a. */
struct air_cuda_square {
    int row, column;

    __device__ __forceinline__ air_cuda_square()
        : row((int)threadIdx.x / AIR_CUDA_SIDE * AIR_CUDA_EACH), column((int)threadIdx.x % AIR_CUDA_SIDE * AIR_CUDA_EACH)
    {
    }

    __device__ __forceinline__ int row_of(int r) const { return row + r; }
    __device__ __forceinline__ int column_of(int c) const { return column + c; }

    template <class T> static __device__ __forceinline__ void four(const T *from, T (&to)[AIR_CUDA_EACH])
    {
        memcpy(to, __builtin_assume_aligned(from, 16), sizeof to);
    }

    template <int WORDS, class S> __device__ __forceinline__ void dots(const S &slab, int word, air_cuda_dots &dot) const
    {
        AIR_CUDA_UNROLL
        for (int j = 0; j < WORDS; j++) {
            uint32_t w[AIR_CUDA_EACH], x[AIR_CUDA_EACH];
            four(&slab.w[word + j][row], w);
            four(&slab.x[word + j][column], x);
            AIR_CUDA_UNROLL
            for (int r = 0; r < AIR_CUDA_EACH; r++) {
                AIR_CUDA_UNROLL
                for (int c = 0; c < AIR_CUDA_EACH; c++) dot[r][c] = __dp4a((int)w[r], (int)x[c], dot[r][c]);
            }
        }
    }
};

/* The same by the tensor cores: a warp has 32 rows and 16 columns, two fragments of each; result (r, c) of a thread is element
 * 2 * (r % 2) + c % 2 of fragments r / 2 and c / 2. Half a group fills half a fragment, the rest is zeros. Free of bank conflicts: lanes
 * read 4 words along k, 8 banks apart, of 8 rows or columns. */
struct air_cuda_fragments {
    int row, column, lane;

    __device__ __forceinline__ air_cuda_fragments() : lane((int)threadIdx.x % 32)
    {
        int warp = (int)threadIdx.x / 32;
        row = warp / 4 * 32, column = warp % 4 * 16;
    }

    __device__ __forceinline__ int row_of(int r) const { return row + r * 8 + lane / 4; }
    __device__ __forceinline__ int column_of(int c) const { return column + c / 2 * 8 + lane % 4 * 2 + c % 2; }

    template <int WORDS, class S> __device__ __forceinline__ void dots(const S &slab, int word, air_cuda_dots &dot) const
    {
        int first = word + lane % 4;
        uint32_t x[2][2] = {};
        AIR_CUDA_UNROLL
        for (int n = 0; n < 2; n++) {
            AIR_CUDA_UNROLL
            for (int half = 0; half < WORDS / 4; half++) x[n][half] = slab.x[first + 4 * half][column + 8 * n + lane / 4];
        }
        AIR_CUDA_UNROLL
        for (int m = 0; m < 2; m++) {
            uint32_t w[4] = {};
            AIR_CUDA_UNROLL
            for (int i = 0; i < WORDS / 2; i++) w[i] = slab.w[first + i / 2 * 4][row_of(2 * m + i % 2)];
            AIR_CUDA_UNROLL
            for (int n = 0; n < 2; n++) {
                int d[4] = {};
                air_mma_m16n8k32_s8(d, w, x[n]);
                AIR_CUDA_UNROLL
                for (int i = 0; i < 4; i++) dot[2 * m + i / 2][2 * n + i % 2] = d[i];
            }
        }
    }
};

/* A thread's sums. M says which: the bits are the same. */
template <class F, class M> struct air_cuda_sums {
    typedef air_cuda_slab<F> slab_type;
    M at;
    float sum[AIR_CUDA_EACH][AIR_CUDA_EACH] = {};

    /* One scale's dots, added to y of its group. */
    __device__ __forceinline__ void scaled(const slab_type &slab, int number, const air_cuda_dots &dot,
                                           float (&y)[AIR_CUDA_EACH][AIR_CUDA_EACH]) const
    {
        AIR_CUDA_UNROLL
        for (int r = 0; r < AIR_CUDA_EACH; r++) {
            float scale = slab.scale[number][at.row_of(r)], minimum = F::MINIMA ? slab.minimum[number][at.row_of(r)] : 0;
            AIR_CUDA_UNROLL
            for (int c = 0; c < AIR_CUDA_EACH; c++) {
                y[r][c] = __fmaf_rn(scale, (float)dot[r][c], y[r][c]);
                if (F::MINIMA) y[r][c] = __fmaf_rn(minimum, slab.sum_x[number][at.column_of(c)], y[r][c]);
            }
        }
    }

    __device__ __forceinline__ void add_group(const slab_type &slab, int group)
    {
        constexpr int HALVES = slab_type::HALVES, WORDS = AIR_CUDA_GROUP_WORDS / HALVES;
        float y[AIR_CUDA_EACH][AIR_CUDA_EACH] = {};
        AIR_CUDA_UNROLL
        for (int h = 0; h < HALVES; h++) {
            air_cuda_dots dot = {};
            at.template dots<WORDS>(slab, group * AIR_CUDA_GROUP_WORDS + h * WORDS, dot);
            scaled(slab, group * HALVES + h, dot, y);
        }
        AIR_CUDA_UNROLL
        for (int c = 0; c < AIR_CUDA_EACH; c++) {
            float scale_x = slab.scale_x[group][at.column_of(c)];
            AIR_CUDA_UNROLL
            for (int r = 0; r < AIR_CUDA_EACH; r++) sum[r][c] = __fmaf_rn(scale_x, y[r][c], sum[r][c]);
        }
    }

    __device__ __forceinline__ void finish(const air_cuda_product &p, int64_t first_row, int64_t first_column) const
    {
        AIR_CUDA_UNROLL
        for (int c = 0; c < AIR_CUDA_EACH; c++) {
            AIR_CUDA_UNROLL
            for (int r = 0; r < AIR_CUDA_EACH; r++) air_cuda_finish(p, first_row + at.row_of(r), first_column + at.column_of(c), sum[r][c]);
        }
    }
};

template <class F, class M, int ALIGNED>
static __device__ __forceinline__ void air_cuda_prompt_tile(const air_cuda_product &p, air_cuda_slab<F> &slab, const void *table)
{
    const int64_t first_row = (int64_t)blockIdx.x * AIR_CUDA_TILE, first_column = (int64_t)blockIdx.y * AIR_CUDA_TILE;
    air_cuda_sums<F, M> sums;
    for (int64_t at = 0; at < p.k; at += AIR_CUDA_SLAB) {
        air_cuda_put_weights<F, ALIGNED>(slab, p, first_row, at, table);
        air_cuda_put_columns<F>(slab, p, first_column, at);
        __syncthreads();
        AIR_CUDA_UNROLL_BY(1)
        for (int g = 0; g < AIR_CUDA_GROUPS; g++) sums.add_group(slab, g);
        __syncthreads();
    }
    sums.finish(p, first_row, first_column);
}

template <class F, int ALIGNED>
static __global__ void __launch_bounds__(AIR_CUDA_THREADS, 2) air_cuda_prompt_kernel(const air_cuda_product p)
{
    AIR_SHARED(air_cuda_slab<F>, slabs, [1]);
    const void *table = air_cuda_shared_table<air_cuda_packed<F>>(p);
    if (air_is_sm_80()) air_cuda_prompt_tile<F, air_cuda_fragments, ALIGNED>(p, slabs[0], table);
    else air_cuda_prompt_tile<F, air_cuda_square, ALIGNED>(p, slabs[0], table);
}

template <class F> static cudaError_t air_cuda_prompt_of(const air_cuda_product &p, cudaStream_t stream)
{
    int64_t across = (p.rows + AIR_CUDA_TILE - 1) / AIR_CUDA_TILE, down = (p.n + AIR_CUDA_TILE - 1) / AIR_CUDA_TILE;
    if (p.k % F::BLOCK || across > INT32_MAX || down > AIR_CUDA_MOST_GRID_Y) return cudaErrorInvalidValue;
    dim3 grid((unsigned)across, (unsigned)down);
    bool is_aligned = ((uintptr_t)p.w | p.row_bytes) % F::ALIGN == 0;
    void (*kernel)(const air_cuda_product) = is_aligned ? air_cuda_prompt_kernel<F, F::ALIGN> : air_cuda_prompt_kernel<F, 1>;
    return air_launch(kernel, grid, dim3(AIR_CUDA_THREADS), 0, stream, p);
}

/* As AIR_CUDA_PRODUCT, of a packed format: both roles. */
#define AIR_CUDA_PACKED_PRODUCT(name, format)                                           \
    cudaError_t air_cuda_product_##name(const air_cuda_product *p, cudaStream_t stream) \
    {                                                                                   \
        if (p->role == AIR_CUDA_PROMPT) return air_cuda_prompt_of<format>(*p, stream);  \
        return air_cuda_product_of<air_cuda_packed<format>>(*p, stream);                \
    }

#endif
