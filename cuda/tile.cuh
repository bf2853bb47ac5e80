/* cuda/tile.cuh: what the products of prompts have in common: a block's tile of results, what of it is a thread's, the walk of a grid.
 *
 * A block of threads has 64 rows and 64 or 128 columns, a warp 32 of both, a thread 4 rows and 8 columns, as tensor cores deal results of
 * 16 × 8 out: so a result is made alike whatever the tile. A tile walks along k in slabs, which lie in shared memory with rows, and columns,
 * of 128 bytes of k one after the other, 16 bytes apart, so that the eight that are loaded together lie in different banks.
 *
 * Tiles of the same rows follow each other: their weights come from memory once, and from the L2 cache to the others. */
#ifndef AIR_CUDA_TILE_CUH
#define AIR_CUDA_TILE_CUH

#include "cuda/product.cuh"

enum {
    AIR_CUDA_TILE_ROWS = 64,
    AIR_CUDA_WARP_SIDE = 32,   /* rows and columns of a warp */
    AIR_CUDA_EACH_ROWS = 4,    /* of a thread */
    AIR_CUDA_EACH_COLUMNS = 8,
    AIR_CUDA_PITCH_WORDS = 36, /* of a row in shared memory: 128 bytes and 16 */
    AIR_CUDA_APART = 8,        /* numbers between those of one group of rows and the next, for the banks */
};

template <int columns> struct air_cuda_tile {
    static constexpr int COLUMNS = columns, THREADS = AIR_CUDA_TILE_ROWS * columns / (AIR_CUDA_EACH_ROWS * AIR_CUDA_EACH_COLUMNS);
    static constexpr int BLOCKS = 512 / THREADS; /* on a multiprocessor, with 128 registers to a thread */

    static int64_t across(const air_cuda_product &p) { return (p.n + COLUMNS - 1) / COLUMNS; }
    static int64_t tiles(const air_cuda_product &p) { return (p.rows + AIR_CUDA_TILE_ROWS - 1) / AIR_CUDA_TILE_ROWS * across(p); }
};

typedef float air_cuda_results[AIR_CUDA_EACH_ROWS][AIR_CUDA_EACH_COLUMNS];

/* Where in the tile a thread's results lie. */
struct air_cuda_place {
    int lane, row, column; /* the warp's first */

    __device__ __forceinline__ air_cuda_place()
    {
        int warp = (int)threadIdx.x / 32;
        lane = (int)threadIdx.x % 32;
        row = warp % (AIR_CUDA_TILE_ROWS / AIR_CUDA_WARP_SIDE) * AIR_CUDA_WARP_SIDE;
        column = warp / (AIR_CUDA_TILE_ROWS / AIR_CUDA_WARP_SIDE) * AIR_CUDA_WARP_SIDE;
    }

    __device__ __forceinline__ int row_of(int r) const { return row + 8 * r + lane / 4; }
    __device__ __forceinline__ int column_of(int c) const { return column + c / 2 * 8 + lane % 4 * 2 + c % 2; }

    /* 16 rows of 32 bytes from word `word` on, for an mma's A; and 16 columns, two of its B. */
    __device__ __forceinline__ void load_rows(unsigned w[4], const uint32_t (*rows)[AIR_CUDA_PITCH_WORDS], int m, int word) const
    {
        air_ldmatrix_x4(w, &rows[row + 16 * m + lane % 16][word + lane / 16 * 4]);
    }
    __device__ __forceinline__ void load_columns(unsigned x[4], const uint32_t (*columns)[AIR_CUDA_PITCH_WORDS], int pair, int word) const
    {
        air_ldmatrix_x4(x, &columns[column + 16 * pair + lane / 16 * 8 + lane % 8][word + lane / 8 % 2 * 4]);
    }
};

/* The block's first row and column. */
template <int COLUMNS> struct air_cuda_corner {
    int64_t row, column;
    __device__ __forceinline__ explicit air_cuda_corner(const air_cuda_product &p)
    {
        unsigned across = (unsigned)((p.n + COLUMNS - 1) / COLUMNS);
        row = (int64_t)(blockIdx.x / across) * AIR_CUDA_TILE_ROWS;
        column = (int64_t)(blockIdx.x % across) * COLUMNS;
    }

    /* Whether a warp has any result: of a short prompt half of them have none. */
    __device__ __forceinline__ bool has(const air_cuda_product &p, const air_cuda_place &at) const
    {
        return row + at.row < p.rows && column + at.column < p.n;
    }
};

/* A thread's part of the output: its first place, and how many rows and columns there are from it on. */
struct air_cuda_output {
    const air_cuda_product &p;
    const int64_t row, column;
    float *const first;
    const int rows, columns;

    __device__ __forceinline__ air_cuda_output(const air_cuda_product &product, int64_t first_row, int64_t first_column)
        : p(product), row(first_row), column(first_column), first(air_cuda_head_out(p) + column * p.out_stride + row),
          rows((int)min(p.rows - row, (int64_t)AIR_CUDA_WARP_SIDE)), columns((int)min(p.n - column, (int64_t)AIR_CUDA_WARP_SIDE))
    {
    }

    /* As air_cuda_place deals them out. */
    static __device__ __forceinline__ int row_of(int r) { return 8 * r; }
    static __device__ __forceinline__ int column_of(int c) { return c / 2 * 8 + c % 2; }
    __device__ __forceinline__ bool has(int r, int c) const { return row_of(r) < rows && column_of(c) < columns; }

    /* The results as they are, or added to what is there: those of two columns are on their way before one is written. */
    template <bool ADDS> __device__ __forceinline__ void set(const air_cuda_results &sum) const
    {
        float *to = first;
        AIR_CUDA_UNROLL
        for (int pair = 0; pair < AIR_CUDA_EACH_COLUMNS; pair += 2) {
            float *const of[2] = {to, to + p.out_stride};
            float y[2][AIR_CUDA_EACH_ROWS];
            AIR_CUDA_UNROLL
            for (int i = 0; i < 2 * AIR_CUDA_EACH_ROWS; i++) {
                int r = i % AIR_CUDA_EACH_ROWS, c = i / AIR_CUDA_EACH_ROWS;
                y[c][r] = sum[r][pair + c];
                if (ADDS && has(r, pair + c)) y[c][r] = __fadd_rn(of[c][row_of(r)], y[c][r]);
            }
            AIR_CUDA_UNROLL
            for (int i = 0; i < 2 * AIR_CUDA_EACH_ROWS; i++) {
                int r = i % AIR_CUDA_EACH_ROWS, c = i / AIR_CUDA_EACH_ROWS;
                if (has(r, pair + c)) of[c][row_of(r)] = y[c][r];
            }
            to += column_of(2) * p.out_stride;
            air_keep(to);
        }
    }

    /* Whatever the epilogue, a column at a time: 32 times all that it may be would be more instructions than all the others. Results move
     * up, since an index that is no constant would put them in memory. */
    __device__ __forceinline__ void fold(air_cuda_results &sum) const
    {
        float *to = first;
        AIR_CUDA_UNROLL_BY(1)
        for (int c = 0; c < AIR_CUDA_EACH_COLUMNS; c++) {
            float held[AIR_CUDA_EACH_ROWS];
            AIR_CUDA_UNROLL
            for (int r = 0; r < AIR_CUDA_EACH_ROWS; r++) held[r] = has(r, c) ? air_cuda_held(p.epilogue, to + row_of(r)) : 0.0f;
            AIR_CUDA_UNROLL
            for (int r = 0; r < AIR_CUDA_EACH_ROWS; r++) {
                const float *bias = p.bias ? p.bias + row + row_of(r) : nullptr;
                if (has(r, c)) to[row_of(r)] = air_cuda_folded(sum[r][0], bias, p.epilogue, held[r]);
                AIR_CUDA_UNROLL
                for (int i = 1; i < AIR_CUDA_EACH_COLUMNS; i++) sum[r][i - 1] = sum[r][i];
            }
            to += (column_of(c + 1) - column_of(c)) * p.out_stride;
        }
    }
};

/* A thread's results to their places. What they are folded into the output by is asked once. */
template <int COLUMNS>
static __device__ __forceinline__ void air_cuda_finish_tile(const air_cuda_product &p, const air_cuda_corner<COLUMNS> &corner,
                                                            const air_cuda_place &at, air_cuda_results &sum)
{
    const air_cuda_epilogue &e = p.epilogue;
    const air_cuda_output out(p, corner.row + at.row_of(0), corner.column + at.column_of(0));
    const bool is_plain = !p.bias && e.scale == 0.0f && e.clamp == 0.0f && e.softcap == 0.0f;
    if (is_plain && e.kind == AIR_EPILOGUE_ADD) out.set<true>(sum);
    else if (is_plain && e.kind == AIR_EPILOGUE_SET && e.activation == AIR_ACTIVATION_NONE) out.set<false>(sum);
    else out.fold(sum);
}

static inline cudaError_t air_cuda_attribute(cudaDeviceAttr attribute, int *value)
{
    int device;
    cudaError_t error = cudaGetDevice(&device);
    return error == cudaSuccess ? cudaDeviceGetAttribute(value, attribute, device) : error;
}

/* Whether tiles of 128 columns, which are for tensor cores, are as many as a device takes at a time: fewer are better cut smaller. */
static inline cudaError_t air_cuda_wants_wide_tiles(const void *kernel, const air_cuda_product &p, bool *wants)
{
    int processors = 0;
    cudaError_t error = air_cuda_attribute(cudaDevAttrMultiProcessorCount, &processors);
    *wants = error == cudaSuccess && p.n > 64 && air_cuda_tile<128>::tiles(p) * air_cuda_heads(p) >= air_cuda_tile<128>::BLOCKS * processors;
    return *wants ? air_compiled_at_least(kernel, 75, wants) : error;
}

template <int COLUMNS, class... A>
static cudaError_t air_cuda_launch_tiles(void (*kernel)(A...), const air_cuda_product &p, size_t shared, cudaStream_t stream, A... arguments)
{
    typedef air_cuda_tile<COLUMNS> tile;
    if (tile::tiles(p) > INT32_MAX) return cudaErrorInvalidValue;
    cudaError_t error = cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    if (error != cudaSuccess) return error;
    return air_launch(kernel, dim3((unsigned)tile::tiles(p), 1, air_cuda_heads(p)), dim3(tile::THREADS), shared, stream, arguments...);
}

#endif
