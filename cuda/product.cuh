/* cuda/product.cuh: the product of packed rows with 1 to 8 columns, one template for every format.
 *
 * A row is a sequence of pieces (formats/format.cuh, numbers.cuh). Piece p belongs to lane p % 32 of part p / 32 % 4 of the row, and each
 * part's lane adds its own in order. A row's sum is the four parts' of a lane, one after the other, then those of the lanes, by
 * halves. Whether one warp takes all parts or four warps one each, and how many rows they take side by side, does not show in the bits.
 *
 *   parts     0        1        2        3        0        1  …
 *   pieces    0 … 31   32 … 63  64 … 95  96 … 127 128 …
 *
 * Weights are read once for all columns, activations once for ROWS rows, through the L1 cache: they are the same for all rows. Bound: the
 * memory's bandwidth for weights; with 8 columns of 4-bit weights issuing instructions is nearly as long on the widest memories. */
#ifndef AIR_CUDA_PRODUCT_CUH
#define AIR_CUDA_PRODUCT_CUH

#include "cuda/epilogue.cuh"
#include "cuda/kernels.h"
#include "cuda/scalar.cuh"

enum {
    AIR_CUDA_WARPS = 4,        /* in a block, and parts of a row */
    AIR_CUDA_CHUNK = 32 * AIR_CUDA_WARPS,
    AIR_CUDA_LINE = 128,       /* bytes of a cache */
    AIR_CUDA_MOST_COLUMNS = 8, /* at once */
    AIR_CUDA_FEW_ROWS = 2048,   /* fewer keep no device busy with a warp for each two */
    AIR_CUDA_MANY_ROWS = 16384, /* of so many it takes longer to join four warps' sums than to make them */
    AIR_CUDA_TABLE_BLOCKS = 2048, /* at most, where each begins with a table's copy */
    AIR_CUDA_MOST_GRID_Y = 65535,
};

/* COLUMNS at once; ROWS side by side in a thread; WARPS to each row, 1 or 4. ALIGNED: as formats say, or 1.
 *
 * How many registers is left to the compiler: any bound on them made it spill on some device. */
template <int columns, int rows, int warps> struct air_cuda_shape {
    static constexpr int COLUMNS = columns, ROWS = rows, WARPS = warps, PARTS = AIR_CUDA_WARPS / warps, VALUES = columns * rows;
};

static __device__ __forceinline__ float air_cuda_sum_of_lanes(float v)
{
    AIR_CUDA_UNROLL
    for (int apart = 16; apart; apart /= 2) v = __fadd_rn(v, __shfl_xor_sync(~0u, v, apart));
    return v;
}

/* Of matrices of heads, blocks in z have one each: its first row among all, and its first column. */
static __device__ __forceinline__ int64_t air_cuda_head_row(const air_cuda_product &p) { return blockIdx.z * p.rows; }
static __device__ __forceinline__ int64_t air_cuda_head_column(const air_cuda_product &p) { return blockIdx.z * p.head_columns; }
static __device__ __forceinline__ float *air_cuda_head_out(const air_cuda_product &p) { return p.out + blockIdx.z * p.head_out; }
static inline unsigned air_cuda_heads(const air_cuda_product &p) { return p.heads > 1 ? (unsigned)p.heads : 1; }

/* A row's result to its place. */
static __device__ __forceinline__ void air_cuda_finish(const air_cuda_product &p, int64_t row, int64_t column, float y)
{
    if (row >= p.rows || column >= p.n) return;
    float *out = air_cuda_head_out(p) + column * p.out_stride + row;
    *out = air_cuda_folded(y, p.bias ? p.bias + row : nullptr, p.epilogue, air_cuda_held(p.epilogue, out));
}

/* What a thread keeps while it walks along ROWS rows. Rows and columns too many are the last one again, and not written. */
template <class F, class S, int ALIGNED> struct air_cuda_walk {
    const air_cuda_product &p;
    const void *table;
    const uint8_t *row[S::ROWS];
    int64_t column[S::COLUMNS];
    float sum[S::PARTS][S::VALUES];

    __device__ __forceinline__ air_cuda_walk(const air_cuda_product &product, const void *grid, int64_t first_row, int64_t first_column)
        : p(product), table(grid)
    {
        AIR_CUDA_UNROLL
        for (int r = 0; r < S::ROWS; r++) row[r] = p.w + (air_cuda_head_row(p) + min(first_row + r, p.rows - 1)) * (int64_t)p.row_bytes;
        AIR_CUDA_UNROLL
        for (int c = 0; c < S::COLUMNS; c++) column[c] = air_cuda_head_column(p) + min(first_column + c, p.n - 1);
        AIR_CUDA_UNROLL
        for (int i = 0; i < S::PARTS * S::VALUES; i++) sum[i / S::VALUES][i % S::VALUES] = 0;
    }

    __device__ __forceinline__ void step(int part, int at)
    {
        typename F::piece w[S::ROWS];
        AIR_CUDA_UNROLL
        for (int r = 0; r < S::ROWS; r++) F::template load<ALIGNED>(w[r], p, row[r], at, table);
        AIR_CUDA_UNROLL
        for (int c = 0; c < S::COLUMNS; c++) {
            typename F::column x;
            F::fetch(x, p, column[c], at);
            AIR_CUDA_UNROLL
            for (int r = 0; r < S::ROWS; r++) {
                float *y = &sum[part][c * S::ROWS + r];
                *y = F::dot(w[r], x, *y);
            }
        }
    }

    /* Asks for the bytes that the warp begins with, while it may not read the activations yet. Asking for what follows them as well would
     * cost the L2 cache more than it saves: 20 % of a large matrix in Q8_0 on an H200. */
    __device__ __forceinline__ void ask(int first, int pieces) const
    {
        int lane = (int)(threadIdx.x % 32), begin = first - lane;
        if (begin >= pieces) return;
        int64_t end = F::place(min(begin + 32 * S::PARTS, pieces));
        for (int64_t mine = F::place(begin) + lane * AIR_CUDA_LINE; mine < end; mine += 32 * AIR_CUDA_LINE) {
            AIR_CUDA_UNROLL
            for (int r = 0; r < S::ROWS; r++) air_prefetch_l2(row[r] + mine);
        }
    }

    /* All pieces of the parts from first / 32 on, first being the thread's first piece. Several parts have whole chunks without a
     * question, so that one's loads need not wait for another's. */
    __device__ __forceinline__ void run(int first, int pieces)
    {
        int at = first;
        if constexpr (S::PARTS == 1) {
            AIR_CUDA_UNROLL_BY(1)
            for (; at < pieces; at += AIR_CUDA_CHUNK) step(0, at);
        } else {
            for (; at - first + AIR_CUDA_CHUNK <= pieces; at += AIR_CUDA_CHUNK) {
                AIR_CUDA_UNROLL
                for (int part = 0; part < S::PARTS; part++) step(part, at + 32 * part);
            }
            AIR_CUDA_UNROLL
            for (int part = 0; part < S::PARTS; part++) {
                if (at + 32 * part < pieces) step(part, at + 32 * part);
            }
        }
    }
};

/* One warp has all parts: lane i finishes value i. */
template <class W, class S>
static __device__ __forceinline__ void air_cuda_join_own(const W &walk, int64_t first_row, int64_t first_column)
{
    int lane = (int)(threadIdx.x % 32);
    float mine = 0;
    AIR_CUDA_UNROLL
    for (int i = 0; i < S::VALUES; i++) {
        float y = walk.sum[0][i];
        AIR_CUDA_UNROLL
        for (int part = 1; part < S::PARTS; part++) y = __fadd_rn(y, walk.sum[part][i]);
        y = air_cuda_sum_of_lanes(y);
        if (lane == i) mine = y;
    }
    if (lane < S::VALUES) air_cuda_finish(walk.p, first_row + lane % S::ROWS, first_column + lane / S::ROWS, mine);
}

/* Each warp has one part: through shared memory, then the values are dealt to the warps. Free of bank conflicts: by lanes. */
template <class W, class S>
static __device__ __forceinline__ void air_cuda_join_parts(const W &walk, int64_t first_row, int64_t first_column)
{
    int lane = (int)(threadIdx.x % 32), warp = (int)(threadIdx.x / 32);
    AIR_SHARED(float, parts, [AIR_CUDA_WARPS][S::VALUES][32]);
    AIR_CUDA_UNROLL
    for (int i = 0; i < S::VALUES; i++) parts[warp][i][lane] = walk.sum[0][i];
    __syncthreads();
    for (int i = warp; i < S::VALUES; i += AIR_CUDA_WARPS) {
        float y = parts[0][i][lane];
        AIR_CUDA_UNROLL
        for (int part = 1; part < AIR_CUDA_WARPS; part++) y = __fadd_rn(y, parts[part][i][lane]);
        y = air_cuda_sum_of_lanes(y);
        if (lane == 0) air_cuda_finish(walk.p, first_row + i % S::ROWS, first_column + i / S::ROWS, y);
    }
    __syncthreads();
}

/* The format's table in shared memory, or NULL. */
template <class F> static __device__ __forceinline__ const void *air_cuda_shared_table(const air_cuda_product &p)
{
    if constexpr (F::TABLE == 0) return nullptr;
    else {
        AIR_SHARED(uint4, table, [F::TABLE / 16]);
        const uint4 *from = static_cast<const uint4 *>(F::table(p));
        for (int i = (int)threadIdx.x; i < F::TABLE / 16; i += (int)blockDim.x) table[i] = __ldg(from + i);
        __syncthreads();
        return table;
    }
}

template <class F, class S, int ALIGNED>
static __global__ void __launch_bounds__(AIR_CUDA_CHUNK) air_cuda_product_kernel(const air_cuda_product p, int pieces)
{
    const int lane = (int)(threadIdx.x % 32), warp = (int)(threadIdx.x / 32);
    const int side = S::WARPS == 1 ? warp : 0, first = S::WARPS == 1 ? lane : (int)threadIdx.x;
    const int64_t in_block = AIR_CUDA_WARPS / S::WARPS * S::ROWS, first_column = (int64_t)blockIdx.y * S::COLUMNS;
    air_let_next_begin();
    const void *table = air_cuda_shared_table<F>(p);

    for (int64_t row = blockIdx.x * in_block; row < p.rows; row += gridDim.x * in_block) {
        typedef air_cuda_walk<F, S, ALIGNED> walk_type;
        walk_type walk(p, table, row + side * S::ROWS, first_column);
        walk.ask(first, pieces);
        air_await_previous();
        walk.run(first, pieces);
        if constexpr (S::WARPS == 1) air_cuda_join_own<walk_type, S>(walk, row + side * S::ROWS, first_column);
        else air_cuda_join_parts<walk_type, S>(walk, row, first_column);
    }
}

template <class F, class S, int ALIGNED> static cudaError_t air_cuda_product_start(const air_cuda_product &p, cudaStream_t stream)
{
    int64_t in_block = AIR_CUDA_WARPS / S::WARPS * S::ROWS, blocks = (p.rows + in_block - 1) / in_block;
    if (F::TABLE && blocks > AIR_CUDA_TABLE_BLOCKS) blocks = AIR_CUDA_TABLE_BLOCKS;
    if (blocks > INT32_MAX) return cudaErrorInvalidValue;
    dim3 grid((unsigned)blocks, (unsigned)((p.n + S::COLUMNS - 1) / S::COLUMNS), air_cuda_heads(p));
    return air_launch_early(air_cuda_product_kernel<F, S, ALIGNED>, grid, dim3(AIR_CUDA_CHUNK), 0, stream, p, (int)F::pieces(p.k));
}

/* Whether a warp takes rows by itself: four would have too little to do each. Measured on an H200, as the shapes were. */
static inline bool air_cuda_takes_one_warp(int64_t rows, int64_t pieces)
{
    return rows >= AIR_CUDA_FEW_ROWS && (pieces < AIR_CUDA_CHUNK || (pieces == AIR_CUDA_CHUNK && rows >= AIR_CUDA_MANY_ROWS));
}

/* n columns, at most 8 or a multiple of 8. */
template <class F> static cudaError_t air_cuda_product_columns(const air_cuda_product &p, cudaStream_t stream)
{
    constexpr int A = F::ALIGN;
    if (((uintptr_t)p.w | p.row_bytes) % A) return air_cuda_product_start<F, air_cuda_shape<1, 1, 4>, 1>(p, stream);
    if (p.n == 1)
        return air_cuda_takes_one_warp(p.rows, F::pieces(p.k)) ? air_cuda_product_start<F, air_cuda_shape<1, 2, 1>, A>(p, stream)
                                                                : air_cuda_product_start<F, air_cuda_shape<1, 2, 4>, A>(p, stream);
    if (p.n == 2) return air_cuda_product_start<F, air_cuda_shape<2, 2, 4>, A>(p, stream);
    if (p.n <= 4) return air_cuda_product_start<F, air_cuda_shape<4, 2, 4>, A>(p, stream);
    return air_cuda_product_start<F, air_cuda_shape<8, F::SIDE_BY_SIDE, 4>, A>(p, stream);
}

/* The columns from first on, n of them. */
static inline air_cuda_product air_cuda_some_columns(const air_cuda_product &p, int64_t first, int64_t n)
{
    air_cuda_product some = p;
    some.n = n;
    some.out += first * p.out_stride;
    some.x = p.x ? p.x + first * p.k : nullptr;
    some.q8.q += first * p.k;
    some.q8.sums += first * p.k / AIR_Q8_SUM_GROUP;
    some.q8.scale += first * p.k / AIR_Q8_GROUP;
    return some;
}

/* All columns: as many eights as a grid takes, then those left over. */
template <class F> static cudaError_t air_cuda_product_of(const air_cuda_product &p, cudaStream_t stream)
{
    const int64_t most = AIR_CUDA_MOST_GRID_Y / AIR_CUDA_MOST_COLUMNS * AIR_CUDA_MOST_COLUMNS;
    if (!F::takes(p.k) || F::pieces(p.k) > INT32_MAX - AIR_CUDA_CHUNK) return cudaErrorInvalidValue;
    for (int64_t first = 0; first < p.n;) {
        int64_t n = min(p.n - first, most);
        if (n > AIR_CUDA_MOST_COLUMNS) n -= n % AIR_CUDA_MOST_COLUMNS;
        cudaError_t e = air_cuda_product_columns<F>(air_cuda_some_columns(p, first, n), stream);
        if (e != cudaSuccess) return e;
        first += n;
    }
    return cudaSuccess;
}

#endif
