/* What is done to each row of the activations: norms, rotation, the choice of rows. All of it is small beside the products: what counts
 * is that it takes little time until it begins and ends, so a row is spread over as many threads as it can keep busy. */
#include "cuda/epilogue.cuh"
#include "cuda/lanes.cuh"
#include "cuda/quantize.cuh"

namespace {

constexpr int THREADS = 256;         /* of a block, unless a group takes more */
constexpr int THREADS_MOST = 1024;
constexpr int QUAD = 4;              /* elements that a thread reads at once */
constexpr int64_t GRID_MOST = 65535; /* in y */

/* Whether rows of so many elements at p are rows of float4. */
bool in_quads(const void *p, int64_t width) { return width % QUAD == 0 && (uintptr_t)p % sizeof(float4) == 0; }

/* Elements at to at + 3, zeros from n on. */
__device__ __forceinline__ float4 load_quad(const float *x, int at, int n, bool quads)
{
    if (quads) return *(const float4 *)(x + at);
    return make_float4(x[at], at + 1 < n ? x[at + 1] : 0.0f, at + 2 < n ? x[at + 2] : 0.0f, at + 3 < n ? x[at + 3] : 0.0f);
}

/* --- RMS norm: blocks of [groups][threads of a group], by the size of a group alone --- */

struct norm_arguments {
    const float *x, *weight;
    float *y;
    int64_t groups;
    int group;
    float eps;
    bool quads; /* x, y and weight are */
    air_cuda_q8 q8;
};

/* Over the threads of a group, blockDim.x of them, which are whole warps. All threads of the block come here. */
__device__ __forceinline__ float group_sum(float x)
{
    AIR_SHARED(float, sums, [THREADS_MOST / AIR_CUDA_WARP]);
    int warps = (int)blockDim.x / AIR_CUDA_WARP, first = (int)threadIdx.y * warps;
    x = air_lanes_sum(x);
    if (threadIdx.x % AIR_CUDA_WARP == 0) sums[first + (int)threadIdx.x / AIR_CUDA_WARP] = x;
    __syncthreads();
    float sum = 0.0f;
    for (int w = 0; w < warps; w++) sum += sums[first + w];
    return sum;
}

__device__ __forceinline__ float sum_of_squares(const norm_arguments &a, const float *x)
{
    float sum = 0.0f;
    for (int at = (int)threadIdx.x * QUAD; at < a.group; at += (int)blockDim.x * QUAD) {
        float4 v = load_quad(x, at, a.group, a.quads);
        sum = fmaf(v.x, v.x, sum), sum = fmaf(v.y, v.y, sum), sum = fmaf(v.z, v.z, sum), sum = fmaf(v.w, v.w, sum);
    }
    return sum;
}

__device__ __forceinline__ void scale_quads(const norm_arguments &a, int64_t start, float scale)
{
    for (int at = (int)threadIdx.x * QUAD; at < a.group; at += (int)blockDim.x * QUAD) {
        float4 v = *(const float4 *)(a.x + start + at), w = a.weight ? *(const float4 *)(a.weight + at) : make_float4(1, 1, 1, 1);
        *(float4 *)(a.y + start + at) = make_float4(v.x * scale * w.x, v.y * scale * w.y, v.z * scale * w.z, v.w * scale * w.w);
    }
}

/* An element for each lane; with the 8-bit form a warp holds a group of it. */
__device__ __forceinline__ void scale_elements(const norm_arguments &a, int64_t start, float scale)
{
    for (int at = (int)threadIdx.x; at < a.group; at += (int)blockDim.x) {
        float y = a.x[start + at] * scale * (a.weight ? a.weight[at] : 1.0f);
        a.y[start + at] = y;
        if (a.q8.q) air_cuda_quantize_group(y, a.q8, (start + at) / AIR_Q8_GROUP);
    }
}

__global__ void __launch_bounds__(THREADS_MOST) rms_norm(norm_arguments a)
{
    int64_t group = (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
    bool mine = group < a.groups;
    float sum = group_sum(mine ? sum_of_squares(a, a.x + group * a.group) : 0.0f);
    if (!mine) return;
    float scale = 1.0f / sqrtf(sum / (float)a.group + a.eps);
    if (a.quads && !a.q8.q) scale_quads(a, group * a.group, scale);
    else scale_elements(a, group * a.group, scale);
}

/* --- rotation: a thread for each pair --- */

struct rope_arguments {
    float *x;
    const float *cos, *sin;
    int heads, head_dim, pairs, step, apart; /* from one pair to the next, from its first to its second */
};

__global__ void __launch_bounds__(THREADS) rope(rope_arguments a)
{
    int i = (int)(blockIdx.y * THREADS + threadIdx.x), head = i / a.pairs, pair = i % a.pairs;
    if (head >= a.heads) return;
    int64_t row = blockIdx.x, angle = row * a.pairs + pair;
    float *first = a.x + (row * a.heads + head) * a.head_dim + pair * a.step, *second = first + a.apart;
    float x = *first, y = *second, c = a.cos[angle], s = a.sin[angle];
    *first = x * c - y * s;
    *second = x * s + y * c;
}

/* --- choice of rows --- */

__global__ void __launch_bounds__(THREADS) choose(const float *in, const int32_t *wanted, int64_t width, float *out, bool quads)
{
    const float *from = in + wanted[blockIdx.x] * width;
    float *to = out + blockIdx.x * width;
    int64_t first = (int64_t)blockIdx.y * THREADS + threadIdx.x, step = (int64_t)gridDim.y * THREADS;
    if (quads)
        for (int64_t i = first; i < width / QUAD; i += step) ((float4 *)to)[i] = ((const float4 *)from)[i];
    else
        for (int64_t i = first; i < width; i += step) to[i] = from[i];
}

/* --- results from elsewhere --- */

__global__ void __launch_bounds__(THREADS) fold_part(const float *part, int64_t rows, const float *bias, air_cuda_epilogue epilogue, float *out,
                                                     int64_t out_stride)
{
    int64_t row = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (row >= rows) return;
    float *to = out + blockIdx.y * out_stride + row;
    *to = air_cuda_folded(part[blockIdx.y * rows + row], bias ? bias + row : nullptr, epilogue, *to);
}

} // namespace

cudaError_t air_cuda_fold(const float *part, int64_t rows, int64_t n, const float *bias, air_cuda_epilogue epilogue, float *out,
                          int64_t out_stride, cudaStream_t stream)
{
    if (rows < 1 || n < 1 || n > GRID_MOST) return cudaErrorInvalidValue;
    return air_launch(fold_part, dim3((unsigned)((rows + THREADS - 1) / THREADS), (unsigned)n), dim3(THREADS), 0, stream, part, rows, bias,
                      epilogue, out, out_stride);
}

cudaError_t air_cuda_rms_norm(const float *x, const float *weight, float *y, int64_t rows, int64_t width, int64_t group, float eps,
                              air_cuda_q8 q8, cudaStream_t stream)
{
    if (rows < 1 || group < 1 || width < 1 || width % group || group > INT32_MAX / 2) return cudaErrorInvalidValue;
    if (q8.q && group % AIR_Q8_GROUP) return cudaErrorInvalidValue;
    bool quads = in_quads(x, group) && in_quads(y, group) && in_quads(weight, group);
    int64_t groups = rows * (width / group), wide = ((group + QUAD - 1) / QUAD + AIR_CUDA_WARP - 1) / AIR_CUDA_WARP * AIR_CUDA_WARP;
    unsigned threads = (unsigned)(wide < THREADS_MOST ? wide : THREADS_MOST), at_once = threads < THREADS ? THREADS / threads : 1;
    norm_arguments a = {x, weight, y, groups, (int)group, eps, quads, q8};
    return air_launch(rms_norm, dim3((unsigned)((groups + at_once - 1) / at_once)), dim3(threads, at_once), 0, stream, a);
}

cudaError_t air_cuda_rope(float *x, int64_t rows, int64_t heads, int64_t head_dim, int64_t pairs, air_rope_pairs kind, const float *cos,
                          const float *sin, cudaStream_t stream)
{
    int64_t blocks = (heads * pairs + THREADS - 1) / THREADS;
    if (rows < 1 || heads < 1 || pairs < 1 || 2 * pairs > head_dim || blocks > GRID_MOST) return cudaErrorInvalidValue;
    bool normal = kind == AIR_ROPE_NORMAL;
    rope_arguments a = {x, cos, sin, (int)heads, (int)head_dim, (int)pairs, normal ? 2 : 1, normal ? 1 : (int)pairs};
    return air_launch(rope, dim3((unsigned)rows, (unsigned)blocks), dim3(THREADS), 0, stream, a);
}

cudaError_t air_cuda_select(const float *in, const int32_t *wanted, int64_t n, int64_t width, float *out, cudaStream_t stream)
{
    if (n < 1 || width < 1) return cudaErrorInvalidValue;
    int64_t each = (width + THREADS * QUAD - 1) / (THREADS * QUAD), blocks = each < GRID_MOST ? each : GRID_MOST;
    return air_launch(choose, dim3((unsigned)n, (unsigned)blocks), dim3(THREADS), 0, stream, in, wanted, width, out,
                      in_quads(in, width) && in_quads(out, width));
}
