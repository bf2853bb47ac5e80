/* Mixtures of experts, beside their products: which experts a row goes to, and the sum of what they make of it. A few hundred numbers a
 * row each: what counts is that they end soon, and that a row's bits depend on no other row. */
#include "cuda/kernels.h"
#include "cuda/lanes.cuh"

namespace {

constexpr int THREADS = 128, WARPS = THREADS / AIR_CUDA_WARP;
constexpr int SUM_THREADS = 256;

/* --- routing: a block for each row --- */

struct route_arguments {
    const float *logits, *bias;
    float *out;
    int experts, used, groups, groups_used;
    air_gating gating;
    bool normalise;
    float scale;
};

/* What of two numbers is greater is as a number without sign; what is none is less than all, and 0 is nobody's. */
__device__ __forceinline__ uint32_t key_of(float x)
{
    uint32_t bits;
    if (x != x) return 1;
    if (x == 0.0f) x = 0.0f; /* whatever its sign */
    memcpy(&bits, &x, sizeof bits);
    return bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
}

/* How many of n keys come before the i-th: greater ones, and of equals those before it. */
__device__ __forceinline__ int rank_of(const uint32_t *keys, int n, int i)
{
    uint32_t mine = keys[i];
    int before = 0;
    for (int j = 0; j < n; j++) before += keys[j] > mine || (keys[j] == mine && j < i);
    return before;
}

/* Over the block, in one order; all threads come here, once for each `parts`. */
__device__ __forceinline__ float block_sum(float x, float *parts)
{
    x = air_lanes_sum(x);
    if (threadIdx.x % AIR_CUDA_WARP == 0) parts[threadIdx.x / AIR_CUDA_WARP] = x;
    __syncthreads();
    float sum = 0.0f;
    for (int w = 0; w < WARPS; w++) sum += parts[w];
    return sum;
}

__device__ __forceinline__ float block_max(float x, float *parts)
{
    x = air_lanes_max(x);
    if (threadIdx.x % AIR_CUDA_WARP == 0) parts[threadIdx.x / AIR_CUDA_WARP] = x;
    __syncthreads();
    float most = parts[0];
    for (int w = 1; w < WARPS; w++) most = fmaxf(most, parts[w]);
    return most;
}

/* values [n], of which each thread has every THREADS-th, become a softmax. */
__device__ __forceinline__ void softmax(float *values, int n)
{
    AIR_SHARED(float, maxima, [WARPS]);
    AIR_SHARED(float, sums, [WARPS]);
    float most = -INFINITY, sum = 0.0f;
    for (int i = (int)threadIdx.x; i < n; i += THREADS) most = fmaxf(most, values[i]);
    most = block_max(most, maxima);
    for (int i = (int)threadIdx.x; i < n; i += THREADS) {
        values[i] = expf(values[i] - most);
        sum += values[i];
    }
    sum = block_sum(sum, sums);
    for (int i = (int)threadIdx.x; i < n; i += THREADS) values[i] /= sum;
}

__device__ __forceinline__ float biased(const route_arguments &a, const float *values, int i)
{
    return a.bias ? values[i] + a.bias[i] : values[i];
}

/* A group's largest, or where a bias is in them its two largest. */
__device__ __forceinline__ float group_score(const route_arguments &a, const float *values, int first, int end)
{
    float one = -INFINITY, two = -INFINITY;
    for (int i = first; i < end; i++) {
        float x = biased(a, values, i);
        if (x > one) two = one, one = x;
        else if (x > two) two = x;
    }
    return a.bias ? one + two : one;
}

/* Keys of all experts but those of the best groups become nobody's. */
__device__ __forceinline__ void keep_groups(const route_arguments &a, const float *values, uint32_t *keys, uint32_t *scores)
{
    int each = a.experts / a.groups;
    for (int g = (int)threadIdx.x; g < a.groups; g += THREADS) scores[g] = key_of(group_score(a, values, g * each, (g + 1) * each));
    __syncthreads();
    for (int i = (int)threadIdx.x; i < a.experts; i += THREADS)
        if (rank_of(scores, a.groups, i / each) >= a.groups_used) keys[i] = 0;
    __syncthreads();
}

/* Of the i-th logit in a softmax over it and those after it, in the order of keys, that are near it (SparseMixer, op.h). */
__device__ __forceinline__ float weight_among_near(const float *logits, const uint32_t *keys, int n, int i)
{
    uint32_t mine = keys[i];
    float most = logits[i], sum = 0.0f;
    for (int j = 0; j < n; j++) {
        float size = fmaxf(fabsf(logits[j]), most);
        bool before = keys[j] > mine || (keys[j] == mine && j < i);
        if (!before && !((most - logits[j]) / size > AIR_SPARSE_MIXER_NEAR)) sum += expf(logits[j] - most);
    }
    return 1.0f / sum;
}

/* The chosen experts' weights [used], once all of them are there. */
__device__ __forceinline__ void weigh(const route_arguments &a, float *weights, float *out)
{
    if (a.gating == AIR_GATING_CHOSEN) {
        softmax(weights, a.used);
        __syncthreads();
    }
    float sum = 0.0f;
    for (int j = 0; j < a.used; j++) sum += weights[j];
    for (int j = (int)threadIdx.x; j < a.used; j += THREADS)
        out[j] = (a.normalise ? weights[j] / (sum + 1e-20f) : weights[j]) * a.scale;
}

__global__ void __launch_bounds__(THREADS) route(route_arguments a)
{
    AIR_SHARED(float, values, [AIR_EXPERTS_MOST]);
    AIR_SHARED(uint32_t, keys, [AIR_EXPERTS_MOST]);
    AIR_SHARED(uint32_t, scores, [AIR_EXPERTS_MOST]);
    AIR_SHARED(float, weights, [AIR_EXPERTS_MOST]);
    AIR_SHARED(uint8_t, chosen, [AIR_EXPERTS_MOST]);
    const float *logits = a.logits + (int64_t)blockIdx.x * a.experts;
    float *out = a.out + (int64_t)blockIdx.x * 2 * a.used;
    for (int i = (int)threadIdx.x; i < a.experts; i += THREADS)
        values[i] = a.gating == AIR_GATING_SIGMOID ? 1.0f / (1.0f + expf(-logits[i])) : logits[i];
    if (a.gating == AIR_GATING_SOFTMAX) softmax(values, a.experts);
    for (int i = (int)threadIdx.x; i < a.experts; i += THREADS) keys[i] = key_of(biased(a, values, i));
    __syncthreads();
    if (a.groups > 1) keep_groups(a, values, keys, scores);
    for (int i = (int)threadIdx.x; i < a.experts; i += THREADS) chosen[i] = rank_of(keys, a.experts, i) < a.used;
    __syncthreads();
    for (int i = (int)threadIdx.x; i < a.experts; i += THREADS) {
        if (!chosen[i]) continue;
        int at = 0;
        for (int j = 0; j < i; j++) at += chosen[j];
        out[at] = (float)i;
        weights[at] = a.gating == AIR_GATING_SPARSE_MIXER ? weight_among_near(values, keys, a.experts, i) : values[i];
    }
    __syncthreads();
    weigh(a, weights, out + a.used);
}

/* --- sums --- */

struct mix_arguments {
    const float *results, *routing;
    const int32_t *place;
    float *out;
    int64_t width;
    int used;
    bool adds, weighed;
};

/* Block x has row x; a thread an element. */
__global__ void __launch_bounds__(SUM_THREADS) mix(mix_arguments a)
{
    int64_t row = blockIdx.x;
    const float *weights = a.routing + row * 2 * a.used + a.used;
    const int32_t *place = a.place + row * a.used;
    for (int64_t i = (int64_t)blockIdx.y * SUM_THREADS + threadIdx.x; i < a.width; i += (int64_t)gridDim.y * SUM_THREADS) {
        float sum = 0.0f, *to = a.out + row * a.width + i;
        for (int j = 0; j < a.used; j++) sum = fmaf(a.weighed ? 1.0f : weights[j], a.results[place[j] * a.width + i], sum);
        *to = a.adds ? *to + sum : sum;
    }
}

struct weigh_arguments {
    float *x;
    const float *routing;
    const int32_t *sent, *place;
    int64_t first, width;
    int used;
};

/* Block x has time first + x that a row was sent to an expert: one of its row's, whose number says which weight. */
__global__ void __launch_bounds__(SUM_THREADS) weigh_times(weigh_arguments a)
{
    int64_t time = a.first + blockIdx.x, row = a.sent[time];
    int which = 0;
    while (which < a.used - 1 && a.place[row * a.used + which] != time) which++;
    float by = a.routing[(2 * row + 1) * a.used + which], *x = a.x + (int64_t)blockIdx.x * a.width;
    for (int64_t i = (int64_t)blockIdx.y * SUM_THREADS + threadIdx.x; i < a.width; i += (int64_t)gridDim.y * SUM_THREADS) x[i] *= by;
}

__global__ void __launch_bounds__(SUM_THREADS) add_gated(float *y, const float *x, const float *gate, int64_t width)
{
    int64_t row = blockIdx.x;
    float by = 1.0f / (1.0f + expf(-gate[row]));
    for (int64_t i = (int64_t)blockIdx.y * SUM_THREADS + threadIdx.x; i < width; i += (int64_t)gridDim.y * SUM_THREADS)
        y[row * width + i] = fmaf(by, x[row * width + i], y[row * width + i]);
}

dim3 grid_of(int64_t rows, int64_t width)
{
    constexpr int64_t MOST = 65535;
    int64_t blocks = (width + SUM_THREADS - 1) / SUM_THREADS;
    return dim3((unsigned)rows, (unsigned)(blocks < MOST ? blocks : MOST));
}

} // namespace

cudaError_t air_cuda_route(const air_mixture *m, const float *logits, const float *bias, int64_t rows, float *out, cudaStream_t stream)
{
    int grouped = m->n_groups > 1, chosen_from = grouped ? m->n_experts / m->n_groups * m->groups_used : m->n_experts;
    if (rows < 1 || m->n_experts < 1 || m->n_experts > AIR_EXPERTS_MOST || m->n_used < 1 || m->n_used > chosen_from)
        return cudaErrorInvalidValue;
    if (grouped && (m->n_experts % m->n_groups || m->groups_used > m->n_groups)) return cudaErrorInvalidValue;
    route_arguments a = {logits, bias, out, m->n_experts, m->n_used, m->n_groups, m->groups_used, m->gating, m->normalise != 0, m->scale};
    return air_launch(route, dim3((unsigned)rows), dim3(THREADS), 0, stream, a);
}

cudaError_t air_cuda_mix(const air_cuda_mixed *m, cudaStream_t stream)
{
    if (m->rows < 1 || m->width < 1 || m->used < 1) return cudaErrorInvalidValue;
    mix_arguments a = {m->results, m->routing, m->place, m->out, m->width, (int)m->used, m->adds, m->weighed};
    return air_launch(mix, grid_of(m->rows, m->width), dim3(SUM_THREADS), 0, stream, a);
}

cudaError_t air_cuda_weigh(float *x, const air_cuda_mixed *m, const int32_t *sent, int64_t first, int64_t n, cudaStream_t stream)
{
    if (n < 1 || m->width < 1 || m->used < 1 || first < 0) return cudaErrorInvalidValue;
    weigh_arguments a = {x, m->routing, sent, m->place, first, m->width, (int)m->used};
    return air_launch(weigh_times, grid_of(n, m->width), dim3(SUM_THREADS), 0, stream, a);
}

cudaError_t air_cuda_add_gated(float *y, const float *x, const float *gate, int64_t rows, int64_t width, cudaStream_t stream)
{
    if (rows < 1 || width < 1) return cudaErrorInvalidValue;
    return air_launch(add_gated, grid_of(rows, width), dim3(SUM_THREADS), 0, stream, y, x, gate, width);
}
