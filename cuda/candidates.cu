/* The largest logits of each row, in order, and what their probabilities are relative to: tokens that these few decide are drawn from
 * them, the greedy one from the first, and 12 bytes or a KiB of each row come down instead of four for every word of the vocabulary.
 *
 *     logits  | part of 2048 | part of 2048 | …     a block each: its K best, and its sum of exponents
 *     lists   | K | K | K | …                       2048 numbers of them at a time, by a block each, until one list is left
 *
 * A block sorts runs of K, one half of them falling, the other rising, and then halves their number again and again: of one of each kind
 * the greater of every two numbers are the K greatest, and lie so that log2(K) steps put them in order. With K = 1 that is a tree of
 * maxima. Sums have one order whatever K is. */
#include <climits>

#include "cuda/kernels.h"
#include "cuda/lanes.cuh"

namespace {

constexpr int THREADS = 256, PART = AIR_DEVICE_CANDIDATE_PART;
static_assert((AIR_DEVICE_CANDIDATES & (AIR_DEVICE_CANDIDATES - 1)) == 0 && PART % (2 * AIR_DEVICE_CANDIDATES) == 0, "lists halve");

/* A logit and its place as one number: of two the greater is the greater logit, or the first of equals. 0 is nobody's: less than all. */
__device__ __forceinline__ uint64_t key_of(float x, int at)
{
    uint32_t bits;
    if (x == 0.0f) x = 0.0f; /* whatever its sign */
    memcpy(&bits, &x, sizeof bits);
    bits ^= bits >> 31 ? 0xffffffffu : 0x80000000u;
    return (uint64_t)bits << 32 | (0xffffffffu - (uint32_t)at);
}

__device__ __forceinline__ air_candidate candidate_of(uint64_t key)
{
    if (key == 0) return {-1, 0.0f};
    uint32_t bits = (uint32_t)(key >> 32);
    bits ^= bits >> 31 ? 0x80000000u : 0xffffffffu;
    air_candidate c;
    c.token = (int)(0xffffffffu - (uint32_t)key);
    memcpy(&c.logit, &bits, sizeof bits);
    return c;
}

template <int K> __device__ __forceinline__ int room_for(int n)
{
    int room = K;
    while (room < n) room *= 2;
    return room;
}

/* A step of a bitonic sort: pairs of numbers `apart`, a power of two; those that begin before `half` fall, the others rise, unless runs of
 * `turn` take turns. Up to a warp's distance a warp has the same 64 numbers in all steps that follow, and waits for nobody else. */
__device__ __forceinline__ void order(uint64_t *keys, int n, int apart, int half, int turn)
{
    for (int p = (int)threadIdx.x; p < n / 2; p += THREADS) {
        int i = 2 * p - (p & (apart - 1)), j = i + apart;
        uint64_t a = keys[i], b = keys[j];
        bool falls = turn ? !(i & turn) : i < half;
        if (falls == (a < b)) keys[i] = b, keys[j] = a;
    }
    if (apart > AIR_CUDA_WARP || apart == 1) __syncthreads();
    else __syncwarp();
}

/* Runs of K numbers, the first half of them falling, the others rising; a single one falls. */
template <int K> __device__ __forceinline__ void sort_runs(uint64_t *keys, int n)
{
    for (int run = 2; run <= K; run *= 2)
        for (int apart = run / 2; apart > 0; apart /= 2) order(keys, n, apart, n > K ? n / 2 : n, run < K ? run : 0);
}

/* The K largest of such runs, falling. */
template <int K> __device__ __forceinline__ void merge_runs(uint64_t *keys, int n)
{
    for (n /= 2; n >= K; n /= 2) {
        for (int i = (int)threadIdx.x; i < n; i += THREADS)
            if (keys[i + n] > keys[i]) keys[i] = keys[i + n];
        __syncthreads();
        for (int apart = K / 2; apart > 0; apart /= 2) order(keys, n, apart, n > K ? n / 2 : n, 0);
    }
}

/* Over all threads of a block. */
__device__ __forceinline__ float block_sum(float x)
{
    AIR_SHARED(float, sums, [THREADS / AIR_CUDA_WARP]);
    x = air_lanes_sum(x);
    if (threadIdx.x % AIR_CUDA_WARP == 0) sums[threadIdx.x / AIR_CUDA_WARP] = x;
    __syncthreads();
    float sum = 0.0f;
    for (int w = 0; w < THREADS / AIR_CUDA_WARP; w++) sum += sums[w];
    return sum;
}

/* Block x has part x of row y. */
template <int K>
__global__ void __launch_bounds__(THREADS) best_of_part(const float *logits, int n, uint64_t *lists, air_device_candidate_part *parts)
{
    AIR_SHARED(uint64_t, keys, [PART]);
    int first = (int)blockIdx.x * PART, count = min(PART, n - first), room = room_for<K>(count), wrong = 0;
    const float *x = logits + (size_t)blockIdx.y * n + first;
    for (int i = (int)threadIdx.x; i < room; i += THREADS) {
        float mine = i < count ? x[i] : 0.0f;
        wrong |= !(fabsf(mine) < INFINITY);
        keys[i] = i < count ? key_of(mine, first + i) : 0;
    }
    wrong = __syncthreads_or(wrong);
    sort_runs<K>(keys, room);
    merge_runs<K>(keys, room);
    float max = candidate_of(keys[0]).logit, sum = 0.0f;
    for (int i = (int)threadIdx.x; i < count; i += THREADS) sum += expf(x[i] - max);
    sum = block_sum(sum);
    size_t part = (size_t)blockIdx.y * gridDim.x + blockIdx.x;
    for (int i = (int)threadIdx.x; i < K; i += THREADS) lists[part * K + i] = keys[i];
    if (threadIdx.x == 0) parts[part] = {max, sum, wrong};
}

/* Block x has the x-th 2048 of row y's n numbers, lists of K; a row's last block hands out the row's. */
template <int K>
__global__ void __launch_bounds__(THREADS) best_of_lists(const uint64_t *lists, int n, uint64_t *better,
                                                         const air_device_candidate_part *parts, int n_parts, air_candidate *out,
                                                         float *log_sums)
{
    AIR_SHARED(uint64_t, keys, [PART]);
    int first = (int)blockIdx.x * PART, count = min(PART, n - first), room = room_for<K>(count), half = room > K ? room / 2 : room;
    const uint64_t *from = lists + (size_t)blockIdx.y * n + first;
    for (int i = (int)threadIdx.x; i < room; i += THREADS) keys[i < half ? i : i ^ (K - 1)] = i < count ? from[i] : 0;
    __syncthreads();
    merge_runs<K>(keys, room);
    if (gridDim.x > 1) {
        for (int i = (int)threadIdx.x; i < K; i += THREADS) better[((size_t)blockIdx.y * gridDim.x + blockIdx.x) * K + i] = keys[i];
        return;
    }
    float max = candidate_of(keys[0]).logit, sum = 0.0f;
    int wrong = 0;
    for (int i = (int)threadIdx.x; i < n_parts; i += THREADS) {
        air_device_candidate_part part = parts[(size_t)blockIdx.y * n_parts + i];
        sum += part.sum * expf(part.max - max);
        wrong |= part.wrong;
    }
    wrong = __syncthreads_or(wrong);
    sum = block_sum(sum);
    for (int i = (int)threadIdx.x; i < K; i += THREADS) out[(size_t)blockIdx.y * K + i] = candidate_of(wrong ? 0 : keys[i]);
    if (threadIdx.x == 0) log_sums[blockIdx.y] = max + logf(sum);
}

template <int K>
cudaError_t of_rows(const float *logits, int64_t rows, int64_t n, uint8_t *scratch, air_candidate *out, float *log_sums,
                    cudaStream_t stream)
{
    air_device_candidate_layout l = air_device_candidate_layout_of(rows, n);
    uint64_t *lists = (uint64_t *)(scratch + l.lists), *better = (uint64_t *)(scratch + l.better);
    air_device_candidate_part *parts = (air_device_candidate_part *)(scratch + l.parts);
    int64_t n_parts = (n + PART - 1) / PART, blocks = n_parts;
    dim3 threads(THREADS), grid((unsigned)blocks, (unsigned)rows);
    cudaError_t error = air_launch(best_of_part<K>, grid, threads, 0, stream, logits, (int)n, lists, parts);
    for (int64_t left = n_parts * K; error == cudaSuccess; left = blocks * K) {
        blocks = (left + PART - 1) / PART;
        grid.x = (unsigned)blocks;
        error = air_launch(best_of_lists<K>, grid, threads, 0, stream, lists, (int)left, better, parts, (int)n_parts, out, log_sums);
        if (blocks == 1) break;
        uint64_t *made = better;
        better = lists;
        lists = made;
    }
    return error;
}

} // namespace

cudaError_t air_cuda_candidates(const float *logits, int64_t rows, int64_t n, int64_t k, void *scratch, air_candidate *out, float *log_sums,
                                cudaStream_t stream)
{
    if (rows < 1 || n < 1 || n > INT_MAX / 2 || (k != 1 && k != AIR_DEVICE_CANDIDATES)) return cudaErrorInvalidValue;
    cudaError_t error = cudaSuccess;
    const int64_t most = AIR_DEVICE_CANDIDATE_ROWS;
    for (int64_t r = 0; r < rows && error == cudaSuccess; r += most) {
        int64_t some = rows - r < most ? rows - r : most;
        auto of = k == 1 ? of_rows<1> : of_rows<AIR_DEVICE_CANDIDATES>;
        error = of(logits + r * n, some, n, (uint8_t *)scratch, out + r * k, log_sums + r, stream);
    }
    return error;
}
