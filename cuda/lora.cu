/* What adapters add to products (backend/adapter.h): first A x of every column, times its scale, then B of that to results, which are folded
 * into the output as the product would have done it.
 *
 * Columns have adapters of their own, found by tables in memory: launches name none, so that a captured pass may be launched again with
 * others. Bound: by launches where columns are few; else by reading x, A and B through the L2 cache, a quarter as often as there are columns,
 * since neighbouring ones, rows of one sequence mostly, have the same. A column's sums are added in an order of their own, whatever is
 * beside it. */
#include "cuda/epilogue.cuh"
#include "cuda/scalar.cuh"

namespace {

enum { WARPS = 4, THREADS = 32 * WARPS, RANKS = 4, COLUMNS = 4, ROWS = 256 /* threads of the second */, GRID_MOST = 65535 };

/* What a column has of one weight; rank 0: nothing. */
struct lora {
    const float *a, *b;
    int64_t step;
    float scale;
    int rank;
};

__device__ __forceinline__ lora lora_of(const air_cuda_adapted &a, int64_t column)
{
    int64_t row = a.wanted ? a.wanted[column] : column;
    air_device_adapted of = a.of[a.sequences[row]];
    lora l = {nullptr, nullptr, 0, of.scale, 0};
    if (!of.parts) return l;
    const air_adapter_part *part = of.parts + a.weight;
    l.a = part->a, l.b = part->b, l.step = part->step, l.rank = (int)part->rank;
    return l;
}

/* Of a few columns: each one's, and the largest rank; columns too many are the last one again. */
template <int N> struct group {
    lora of[N];
    int64_t column[N];
    int rank;
    bool alike;

    __device__ __forceinline__ group(const air_cuda_adapted &a, int64_t first, int64_t n) : rank(0), alike(true)
    {
        AIR_CUDA_UNROLL
        for (int c = 0; c < N; c++) {
            column[c] = min(first + c, n - 1);
            of[c] = lora_of(a, column[c]);
            rank = max(rank, of[c].rank);
            alike = alike && of[c].a == of[0].a;
        }
    }
};

/* Sums of a thread: RANKS rows of A with N columns. Rows too many are the last one again. */
template <int N> __device__ __forceinline__ void add_products(const group<N> &g, const float *x, int64_t k, int first_rank, float sum[N][RANKS])
{
    const float *a[RANKS], *xs[N];
    AIR_CUDA_UNROLL
    for (int c = 0; c < N; c++) xs[c] = x + g.column[c] * k;
    if (g.alike) {
        AIR_CUDA_UNROLL
        for (int r = 0; r < RANKS; r++) a[r] = g.of[0].a + min(first_rank + r, g.rank - 1) * k;
        for (int64_t i = threadIdx.x; i < k; i += THREADS) {
            float w[RANKS];
            AIR_CUDA_UNROLL
            for (int r = 0; r < RANKS; r++) w[r] = __ldg(a[r] + i);
            AIR_CUDA_UNROLL
            for (int c = 0; c < N; c++) {
                float v = xs[c][i];
                AIR_CUDA_UNROLL
                for (int r = 0; r < RANKS; r++) sum[c][r] = fmaf(w[r], v, sum[c][r]);
            }
        }
        return;
    }
    AIR_CUDA_UNROLL
    for (int c = 0; c < N; c++) {
        if (g.of[c].rank <= first_rank) continue;
        AIR_CUDA_UNROLL
        for (int r = 0; r < RANKS; r++) a[r] = g.of[c].a + min(first_rank + r, g.of[c].rank - 1) * k;
        for (int64_t i = threadIdx.x; i < k; i += THREADS) {
            float v = xs[c][i];
            AIR_CUDA_UNROLL
            for (int r = 0; r < RANKS; r++) sum[c][r] = fmaf(__ldg(a[r] + i), v, sum[c][r]);
        }
    }
}

template <int N> __device__ __forceinline__ void reduce_group(const air_cuda_adapted &a, const float *x, int64_t k, int64_t n, int64_t first)
{
    AIR_SHARED(float, sums, [WARPS][N * RANKS]);
    const int lane = (int)(threadIdx.x % 32), warp = (int)(threadIdx.x / 32), value = (int)threadIdx.x;
    group<N> g(a, first, n);
    for (int first_rank = (int)blockIdx.y * RANKS; first_rank < g.rank; first_rank += (int)gridDim.y * RANKS) {
        float sum[N][RANKS] = {};
        add_products<N>(g, x, k, first_rank, sum);
        AIR_CUDA_UNROLL
        for (int i = 0; i < N * RANKS; i++) {
            float v = sum[i / RANKS][i % RANKS];
            AIR_CUDA_UNROLL
            for (int apart = 16; apart; apart /= 2) v = __fadd_rn(v, __shfl_xor_sync(~0u, v, apart));
            if (lane == 0) sums[warp][i] = v;
        }
        __syncthreads();
        if (value < N * RANKS) {
            int64_t column = first + value / RANKS;
            int rank = first_rank + value % RANKS;
            lora of = lora_of(a, min(column, n - 1));
            float v = sums[0][value];
            AIR_CUDA_UNROLL
            for (int w = 1; w < WARPS; w++) v = __fadd_rn(v, sums[w][value]);
            if (column < n && rank < of.rank) a.reduced[column * a.rank + rank] = __fmul_rn(v, of.scale);
        }
        __syncthreads();
    }
}

template <int N> __global__ void __launch_bounds__(THREADS) reduce(const air_cuda_adapted a, const float *x, int64_t k, int64_t n)
{
    air_let_next_begin();
    air_await_previous();
    for (int64_t first = (int64_t)blockIdx.x * N; first < n; first += (int64_t)gridDim.x * N) reduce_group<N>(a, x, k, n, first);
}

/* --- B of that --- */

/* Of a row: what is added to its results of N columns, from f.column on. */
template <int N>
__device__ __forceinline__ void expand(const air_cuda_adapted &a, const air_cuda_adapted_part &f, const group<N> &g, int64_t row, float sum[N])
{
    const float *t[N];
    AIR_CUDA_UNROLL
    for (int c = 0; c < N; c++) t[c] = a.reduced + g.column[c] * a.rank;
    if (g.alike) {
        const float *b = g.of[0].b + f.first_row + row;
        for (int r = 0; r < g.rank; r++) {
            float w = __ldg(b + r * g.of[0].step);
            AIR_CUDA_UNROLL
            for (int c = 0; c < N; c++) sum[c] = fmaf(w, t[c][r], sum[c]);
        }
        return;
    }
    AIR_CUDA_UNROLL
    for (int c = 0; c < N; c++) {
        const float *b = g.of[c].b + f.first_row + row;
        for (int r = 0; r < g.of[c].rank; r++) sum[c] = fmaf(__ldg(b + r * g.of[c].step), t[c][r], sum[c]);
    }
}

template <int N> __global__ void __launch_bounds__(ROWS) fold_adapted(const air_cuda_adapted a, const air_cuda_adapted_part f)
{
    const int64_t row = (int64_t)blockIdx.x * ROWS + threadIdx.x;
    air_let_next_begin();
    air_await_previous();
    if (row >= f.rows) return;
    for (int64_t first = (int64_t)blockIdx.y * N; first < f.n; first += (int64_t)gridDim.y * N) {
        group<N> g(a, f.column + first, f.column + f.n);
        float sum[N] = {};
        expand<N>(a, f, g, row, sum);
        AIR_CUDA_UNROLL
        for (int c = 0; c < N; c++) {
            int64_t column = first + c;
            if (column >= f.n) break;
            float *out = f.out + column * f.out_stride + row, y = f.part[column * f.part_stride + row];
            if (g.of[c].rank) y = __fadd_rn(y, sum[c]);
            *out = air_cuda_folded(y, f.bias ? f.bias + row : nullptr, f.epilogue, air_cuda_held(f.epilogue, out));
        }
    }
}

unsigned groups_of(int64_t n, int64_t each)
{
    int64_t groups = (n + each - 1) / each;
    return groups < GRID_MOST ? (unsigned)groups : (unsigned)GRID_MOST;
}

} // namespace

cudaError_t air_cuda_reduce(const air_cuda_adapted *a, const float *x, int64_t k, int64_t n, cudaStream_t stream)
{
    if (k < 1 || n < 1 || a->rank < 1 || a->rank > INT32_MAX - RANKS * GRID_MOST) return cudaErrorInvalidValue;
    unsigned ranks = groups_of(a->rank, RANKS);
    if (n == 1) return air_launch_early(reduce<1>, dim3(1, ranks), dim3(THREADS), 0, stream, *a, x, k, n);
    return air_launch_early(reduce<COLUMNS>, dim3(groups_of(n, COLUMNS), ranks), dim3(THREADS), 0, stream, *a, x, k, n);
}

cudaError_t air_cuda_fold_adapted(const air_cuda_adapted *a, const air_cuda_adapted_part *f, cudaStream_t stream)
{
    int64_t blocks = (f->rows + ROWS - 1) / ROWS;
    if (f->rows < 1 || f->n < 1 || blocks > INT32_MAX) return cudaErrorInvalidValue;
    if (f->n == 1) return air_launch_early(fold_adapted<1>, dim3((unsigned)blocks), dim3(ROWS), 0, stream, *a, *f);
    return air_launch_early(fold_adapted<COLUMNS>, dim3((unsigned)blocks, groups_of(f->n, COLUMNS)), dim3(ROWS), 0, stream, *a, *f);
}
