/* The largest logit of each row, and what its probability is relative to: greedy tokens are chosen where the logits are, and 12 bytes of
 * each row come down instead of four for every word of the vocabulary. Parts of a row by a block each, then the parts' results by one. */
#include <climits>

#include "cuda/kernels.h"
#include "cuda/lanes.cuh"

namespace {

constexpr int THREADS = 256, PARTS = AIR_DEVICE_CHOICE_PARTS;
static_assert(PARTS % AIR_CUDA_WARP == 0, "a thread for each part, in whole warps");
static_assert(sizeof(air_device_choice_part) == 16, "parts of a row are read as one");

struct greatest {
    float x;
    int at; /* the first of equals */
};

__device__ __forceinline__ greatest greater(greatest a, greatest b)
{
    return b.x > a.x || (b.x == a.x && b.at < a.at) ? b : a;
}

/* Over all threads of a block, whole warps, to each of them. */
template <int WARPS> __device__ __forceinline__ greatest block_greatest(greatest g)
{
    AIR_SHARED(float, xs, [WARPS]);
    AIR_SHARED(int, ats, [WARPS]);
    AIR_CUDA_UNROLL
    for (int apart = AIR_CUDA_WARP / 2; apart > 0; apart /= 2) {
        greatest other = {__shfl_xor_sync(AIR_CUDA_ALL_LANES, g.x, apart), __shfl_xor_sync(AIR_CUDA_ALL_LANES, g.at, apart)};
        g = greater(g, other);
    }
    if (threadIdx.x % AIR_CUDA_WARP == 0) xs[threadIdx.x / AIR_CUDA_WARP] = g.x, ats[threadIdx.x / AIR_CUDA_WARP] = g.at;
    __syncthreads();
    g = {xs[0], ats[0]};
    for (int w = 1; w < WARPS; w++) g = greater(g, {xs[w], ats[w]});
    return g;
}

template <int WARPS> __device__ __forceinline__ float block_sum(float x)
{
    AIR_SHARED(float, sums, [WARPS]);
    x = air_lanes_sum(x);
    __syncthreads();
    if (threadIdx.x % AIR_CUDA_WARP == 0) sums[threadIdx.x / AIR_CUDA_WARP] = x;
    __syncthreads();
    float sum = 0.0f;
    for (int w = 0; w < WARPS; w++) sum += sums[w];
    return sum;
}

__global__ void __launch_bounds__(THREADS) choose_in_part(const float *logits, int n, int each, air_device_choice_part *parts)
{
    const float *x = logits + (size_t)blockIdx.y * n;
    int first = (int)blockIdx.x * each, end = min(first + each, n);
    greatest g = {-INFINITY, INT_MAX};
    float wrong = 0.0f, sum = 0.0f;
    for (int i = first + (int)threadIdx.x; i < end; i += THREADS) {
        if (!(fabsf(x[i]) < INFINITY)) wrong = 1.0f;
        if (x[i] > g.x) g = {x[i], i};
    }
    g = block_greatest<THREADS / AIR_CUDA_WARP>(g);
    for (int i = first + (int)threadIdx.x; i < end; i += THREADS) sum += expf(x[i] - g.x);
    sum = block_sum<THREADS / AIR_CUDA_WARP>(sum);
    wrong = block_sum<THREADS / AIR_CUDA_WARP>(wrong);
    if (threadIdx.x == 0) parts[blockIdx.y * PARTS + blockIdx.x] = {g.x, sum, g.at, wrong > 0.0f};
}

__global__ void __launch_bounds__(PARTS) choose_of_parts(const air_device_choice_part *parts, air_choice *out)
{
    air_device_choice_part mine = parts[blockIdx.x * PARTS + threadIdx.x];
    greatest g = block_greatest<PARTS / AIR_CUDA_WARP>({mine.max, mine.token});
    float sum = block_sum<PARTS / AIR_CUDA_WARP>(mine.token == INT_MAX ? 0.0f : mine.sum * expf(mine.max - g.x));
    float wrong = block_sum<PARTS / AIR_CUDA_WARP>(mine.wrong ? 1.0f : 0.0f);
    if (threadIdx.x == 0) out[blockIdx.x] = {wrong > 0.0f ? -1 : g.at, g.x, g.x + logf(sum)};
}

} // namespace

cudaError_t air_cuda_choose(const float *logits, int64_t rows, int64_t n, void *scratch, air_choice *out, cudaStream_t stream)
{
    if (rows < 1 || rows > UINT16_MAX || n < 1 || n > INT_MAX / 2) return cudaErrorInvalidValue;
    air_device_choice_part *parts = (air_device_choice_part *)scratch;
    int each = (int)((n + PARTS - 1) / PARTS);
    cudaError_t error = air_launch(choose_in_part, dim3(PARTS, (unsigned)rows), dim3(THREADS), 0, stream, logits, (int)n, each, parts);
    if (error) return error;
    return air_launch(choose_of_parts, dim3((unsigned)rows), dim3(PARTS), 0, stream, parts, out);
}
