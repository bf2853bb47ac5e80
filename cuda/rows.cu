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

/* --- norms: blocks of [groups][threads of a group], by the size of a group alone --- */

struct norm_arguments {
    const float *x, *weight, *bias;
    float *y;
    int64_t groups;
    int group, turn; /* after how many groups weight and bias begin again */
    /* Groups that are not side by side: so many in a row of `width`, 0 where they are; where the first begins, and from one to the next. */
    int in_row, first, step, width;
    float eps;
    bool quads; /* x, y, weight and bias are */
    air_cuda_q8 q8;
};

__device__ __forceinline__ int64_t start_of(const norm_arguments &a, int64_t group)
{
    return a.in_row ? group / a.in_row * a.width + a.first + group % a.in_row * a.step : group * a.group;
}

/* Over the threads of a group, blockDim.x of them, which are whole warps. All threads of the block come here, once for each `sums`. */
__device__ __forceinline__ float group_sum(float x, float *sums)
{
    int warps = (int)blockDim.x / AIR_CUDA_WARP, first = (int)threadIdx.y * warps;
    x = air_lanes_sum(x);
    if (threadIdx.x % AIR_CUDA_WARP == 0) sums[first + (int)threadIdx.x / AIR_CUDA_WARP] = x;
    __syncthreads();
    float sum = 0.0f;
    for (int w = 0; w < warps; w++) sum += sums[first + w];
    return sum;
}

__device__ __forceinline__ float sum_of_elements(const norm_arguments &a, const float *x)
{
    float sum = 0.0f;
    for (int at = (int)threadIdx.x * QUAD; at < a.group; at += (int)blockDim.x * QUAD) {
        float4 v = load_quad(x, at, a.group, a.quads);
        sum += v.x, sum += v.y, sum += v.z, sum += v.w;
    }
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

/* Of differences from the mean. */
__device__ __forceinline__ float sum_of_squares_from(const norm_arguments &a, const float *x, float mean)
{
    float sum = 0.0f;
    for (int at = (int)threadIdx.x; at < a.group; at += (int)blockDim.x) sum = fmaf(x[at] - mean, x[at] - mean, sum);
    return sum;
}

/* An element for each lane; with the 8-bit form a warp holds a group of it. */
__device__ __forceinline__ void scale_elements(const norm_arguments &a, int64_t start, const float *weight, const float *bias, float mean,
                                               float scale)
{
    for (int at = (int)threadIdx.x; at < a.group; at += (int)blockDim.x) {
        float y = (a.x[start + at] - mean) * scale * (weight ? weight[at] : 1.0f);
        if (bias) y += bias[at];
        a.y[start + at] = y;
        if (a.q8.q) air_cuda_quantize_group(y, a.q8, (start + at) / AIR_Q8_GROUP);
    }
}

/* Of groups of up to QUADS float4 for each thread, which it reads once; weights while the kernel before this one still runs. The same
 * arithmetic as norm. */
template <int QUADS> __global__ void __launch_bounds__(THREADS_MOST) norm_in_registers(norm_arguments a)
{
    AIR_SHARED(float, sums, [THREADS_MOST / AIR_CUDA_WARP]);
    int64_t group = (int64_t)blockIdx.x * blockDim.y + threadIdx.y, start = start_of(a, group);
    bool mine = group < a.groups;
    const float *weight = a.weight && mine ? a.weight + group % a.turn * a.group : nullptr;
    float4 x[QUADS], w[QUADS];
    air_let_next_begin();
    AIR_CUDA_UNROLL
    for (int i = 0; i < QUADS; i++) {
        int at = ((int)threadIdx.x + i * (int)blockDim.x) * QUAD;
        w[i] = weight && at < a.group ? __ldg((const float4 *)(weight + at)) : make_float4(1, 1, 1, 1);
    }
    air_await_previous();
    float sum = 0.0f;
    AIR_CUDA_UNROLL
    for (int i = 0; i < QUADS; i++) {
        int at = ((int)threadIdx.x + i * (int)blockDim.x) * QUAD;
        x[i] = mine && at < a.group ? *(const float4 *)(a.x + start + at) : make_float4(0, 0, 0, 0);
        sum = fmaf(x[i].x, x[i].x, sum), sum = fmaf(x[i].y, x[i].y, sum), sum = fmaf(x[i].z, x[i].z, sum), sum = fmaf(x[i].w, x[i].w, sum);
    }
    float scale = 1.0f / sqrtf(group_sum(sum, sums) / (float)a.group + a.eps);
    AIR_CUDA_UNROLL
    for (int i = 0; i < QUADS; i++) {
        int at = ((int)threadIdx.x + i * (int)blockDim.x) * QUAD;
        bool has = mine && at < a.group;
        float4 y = make_float4(x[i].x * scale * w[i].x, x[i].y * scale * w[i].y, x[i].z * scale * w[i].z, x[i].w * scale * w[i].w);
        if (has) *(float4 *)(a.y + start + at) = y;
        if (a.q8.q) air_cuda_quantize_quad(y, a.q8, start + at, has);
    }
}

template <bool CENTERS> __global__ void __launch_bounds__(THREADS_MOST) norm(norm_arguments a)
{
    AIR_SHARED(float, sums, [THREADS_MOST / AIR_CUDA_WARP]);
    AIR_SHARED(float, squares, [THREADS_MOST / AIR_CUDA_WARP]);
    int64_t group = (int64_t)blockIdx.x * blockDim.y + threadIdx.y, start = start_of(a, group);
    bool mine = group < a.groups;
    float mean = 0.0f, sum;
    if constexpr (CENTERS) {
        mean = group_sum(mine ? sum_of_elements(a, a.x + start) : 0.0f, sums) / (float)a.group;
        sum = group_sum(mine ? sum_of_squares_from(a, a.x + start, mean) : 0.0f, squares);
    } else {
        sum = group_sum(mine ? sum_of_squares(a, a.x + start) : 0.0f, sums);
    }
    if (!mine) return;
    float scale = 1.0f / sqrtf(sum / (float)a.group + a.eps);
    int64_t of_weight = group % a.turn * a.group;
    const float *weight = a.weight ? a.weight + of_weight : nullptr, *bias = a.bias ? a.bias + of_weight : nullptr;
    scale_elements(a, start, weight, bias, mean, scale);
}

/* --- sums --- */

__global__ void __launch_bounds__(THREADS) add(float *y, const float *x, int64_t n)
{
    air_let_next_begin();
    air_await_previous();
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += (int64_t)gridDim.x * THREADS) y[i] += x[i];
}

/* --- parts of rows --- */

__global__ void __launch_bounds__(THREADS) copy_parts(float *y, air_cuda_parts to, const float *x, air_cuda_parts from, int64_t parts,
                                                      int64_t each)
{
    int64_t row = blockIdx.x, n = parts * each;
    for (int64_t i = (int64_t)blockIdx.y * THREADS + threadIdx.x; i < n; i += (int64_t)gridDim.y * THREADS) {
        int64_t part = i / each, at = i % each;
        y[row * to.width + to.first + part * to.step + at] = x[row * from.width + from.first + part * from.step + at];
    }
}

/* --- vectors of the rows' types --- */

__global__ void __launch_bounds__(THREADS) add_type(float *y, const float *vectors, const int32_t *types, int64_t width)
{
    const float *x = vectors + types[blockIdx.x] * width;
    y += blockIdx.x * width;
    for (int64_t i = (int64_t)blockIdx.y * THREADS + threadIdx.x; i < width; i += (int64_t)gridDim.y * THREADS) y[i] += x[i];
}

/* --- scores that grow with the position: a row of x by its own --- */

struct temper_arguments {
    float *x;
    const int32_t *positions;
    int64_t width;
    int shift, period;
    float scale;
};

__global__ void __launch_bounds__(THREADS) temper(temper_arguments a)
{
    int64_t periods = ((int64_t)a.positions[blockIdx.x] + a.shift) / a.period;
    float by = __fadd_rn(1.0f, __fmul_rn(a.scale, log1pf((float)periods))), *x = a.x + blockIdx.x * a.width;
    for (int64_t i = (int64_t)blockIdx.y * THREADS + threadIdx.x; i < a.width; i += (int64_t)gridDim.y * THREADS) x[i] = __fmul_rn(x[i], by);
}

/* --- rotation: a thread for each pair --- */

struct rope_arguments {
    float *x;
    const float *cos, *sin;
    air_cuda_parts at;
    int heads, pairs, step, apart; /* from one pair to the next, from its first to its second */
};

__global__ void __launch_bounds__(THREADS) rope(rope_arguments a)
{
    int i = (int)(blockIdx.y * THREADS + threadIdx.x), head = i / a.pairs, pair = i % a.pairs;
    air_let_next_begin();
    air_await_previous();
    if (head >= a.heads) return;
    int64_t row = blockIdx.x, angle = row * a.pairs + pair;
    float *first = a.x + row * a.at.width + a.at.first + head * a.at.step + pair * a.step, *second = first + a.apart;
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

__global__ void __launch_bounds__(THREADS) fold_part(air_cuda_folding f)
{
    int64_t row = (int64_t)blockIdx.x * THREADS + threadIdx.x, of_all = f.first_row + row;
    if (row >= f.rows) return;
    int64_t at = f.head_rows ? of_all / f.head_rows * f.head_out + of_all % f.head_rows : row;
    float *to = f.out + blockIdx.y * f.out_stride + at;
    *to = air_cuda_folded(f.part[blockIdx.y * f.rows + row], f.bias ? f.bias + row : nullptr, f.epilogue, air_cuda_held(f.epilogue, to));
}

} // namespace

cudaError_t air_cuda_fold(const air_cuda_folding *f, cudaStream_t stream)
{
    if (f->rows < 1 || f->n < 1 || f->n > GRID_MOST || (f->head_rows && f->bias)) return cudaErrorInvalidValue;
    return air_launch(fold_part, dim3((unsigned)((f->rows + THREADS - 1) / THREADS), (unsigned)f->n), dim3(THREADS), 0, stream, *f);
}

/* Groups that are not side by side. */
static bool takes_apart(const air_cuda_norm *n)
{
    return n->first >= 0 && n->step > 0 && n->first < n->width && n->width <= INT32_MAX && !n->q8.q
        && n->first + (n->width - 1 - n->first) / n->step * n->step + n->group <= n->width;
}

cudaError_t air_cuda_norm_run(const air_cuda_norm *n, cudaStream_t stream)
{
    int64_t group = n->group;
    if (n->rows < 1 || group < 1 || n->width < 1 || group > INT32_MAX / 2) return cudaErrorInvalidValue;
    if (n->step ? !takes_apart(n) : n->width % group != 0) return cudaErrorInvalidValue;
    if ((n->q8.q && group % AIR_Q8_GROUP) || (n->bias && !n->centers)) return cudaErrorInvalidValue;
    if ((n->weight || n->bias) && n->weights != group && (n->step || n->weights != n->width)) return cudaErrorInvalidValue;
    bool quads = in_quads(n->x, group) && in_quads(n->y, group) && in_quads(n->weight, group);
    if (n->step) quads = quads && n->first % QUAD == 0 && n->step % QUAD == 0 && n->width % QUAD == 0;
    int64_t in_row = n->step ? (n->width - 1 - n->first) / n->step + 1 : n->width / group;
    int64_t groups = n->rows * in_row, turn = n->weights > group ? n->weights / group : 1;
    int64_t wide = ((group + QUAD - 1) / QUAD + AIR_CUDA_WARP - 1) / AIR_CUDA_WARP * AIR_CUDA_WARP;
    unsigned threads = (unsigned)(wide < THREADS_MOST ? wide : THREADS_MOST), at_once = threads < THREADS ? THREADS / threads : 1;
    norm_arguments a = {n->x, n->weight, n->bias, n->y, groups, (int)group, (int)turn, 0, 0, 0, 0, n->eps, quads, n->q8};
    if (n->step) a.in_row = (int)in_row, a.first = (int)n->first, a.step = (int)n->step, a.width = (int)n->width;
    dim3 grid((unsigned)((groups + at_once - 1) / at_once)), block(threads, at_once);
    void (*in_registers)(norm_arguments) = group <= QUAD * THREADS_MOST         ? norm_in_registers<1>
                                         : group <= 2 * QUAD * THREADS_MOST     ? norm_in_registers<2>
                                         : group <= 4 * QUAD * THREADS_MOST     ? norm_in_registers<4>
                                                                                : nullptr;
    if (!n->centers && quads && in_registers) return air_launch_early(in_registers, grid, block, 0, stream, a);
    return air_launch(n->centers ? norm<true> : norm<false>, grid, block, 0, stream, a);
}

cudaError_t air_cuda_add(float *y, const float *x, int64_t n, cudaStream_t stream)
{
    if (n < 1) return cudaErrorInvalidValue;
    int64_t blocks = (n + THREADS - 1) / THREADS;
    return air_launch_early(add, dim3((unsigned)(blocks < GRID_MOST ? blocks : GRID_MOST)), dim3(THREADS), 0, stream, y, x, n);
}

cudaError_t air_cuda_copy(float *y, air_cuda_parts to, const float *x, air_cuda_parts from, int64_t rows, int64_t parts, int64_t each,
                          cudaStream_t stream)
{
    if (rows < 1 || parts < 1 || each < 1) return cudaErrorInvalidValue;
    int64_t across = (parts * each + THREADS - 1) / THREADS, blocks = across < GRID_MOST ? across : GRID_MOST;
    return air_launch(copy_parts, dim3((unsigned)rows, (unsigned)blocks), dim3(THREADS), 0, stream, y, to, x, from, parts, each);
}

cudaError_t air_cuda_add_type(float *y, const float *vectors, const int32_t *types, int64_t rows, int64_t width, cudaStream_t stream)
{
    if (rows < 1 || width < 1) return cudaErrorInvalidValue;
    int64_t each = (width + THREADS - 1) / THREADS, blocks = each < GRID_MOST ? each : GRID_MOST;
    return air_launch(add_type, dim3((unsigned)rows, (unsigned)blocks), dim3(THREADS), 0, stream, y, vectors, types, width);
}

cudaError_t air_cuda_rope(float *x, air_cuda_parts at, int64_t rows, int64_t heads, int64_t pairs, air_rope_pairs kind, const float *cos,
                          const float *sin, cudaStream_t stream)
{
    int64_t blocks = (heads * pairs + THREADS - 1) / THREADS, end = at.first + (heads - 1) * at.step + 2 * pairs;
    if (rows < 1 || heads < 1 || pairs < 1 || 2 * pairs > at.step || at.first < 0 || end > at.width || blocks > GRID_MOST)
        return cudaErrorInvalidValue;
    bool normal = kind == AIR_ROPE_NORMAL;
    rope_arguments a = {x, cos, sin, at, (int)heads, (int)pairs, normal ? 2 : 1, normal ? 1 : (int)pairs};
    return air_launch_early(rope, dim3((unsigned)rows, (unsigned)blocks), dim3(THREADS), 0, stream, a);
}

cudaError_t air_cuda_temper(float *x, const int32_t *positions, int64_t rows, int64_t width, int32_t shift, int32_t period, float scale,
                            cudaStream_t stream)
{
    if (rows < 1 || width < 1 || shift < 0 || period < 1) return cudaErrorInvalidValue;
    int64_t each = (width + THREADS - 1) / THREADS, blocks = each < GRID_MOST ? each : GRID_MOST;
    return air_launch(temper, dim3((unsigned)rows, (unsigned)blocks), dim3(THREADS), 0, stream,
                      temper_arguments{x, positions, width, shift, period, scale});
}

cudaError_t air_cuda_select(const float *in, const int32_t *wanted, int64_t n, int64_t width, float *out, cudaStream_t stream)
{
    if (n < 1 || width < 1) return cudaErrorInvalidValue;
    int64_t each = (width + THREADS * QUAD - 1) / (THREADS * QUAD), blocks = each < GRID_MOST ? each : GRID_MOST;
    return air_launch(choose, dim3((unsigned)n, (unsigned)blocks), dim3(THREADS), 0, stream, in, wanted, width, out,
                      in_quads(in, width) && in_quads(out, width));
}
