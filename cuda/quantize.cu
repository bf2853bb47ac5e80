/* Activations in 8 bits: eight lanes for each group of 32, or a warp where float4 cannot be read. Reads 4 bytes and writes 1.25 of an element; the vectors of a pass are small
 * beside the weights they meet. */
#include "cuda/quantize.cuh"

enum { WARPS = 8, PLACE = 256 };

static size_t placed(int64_t bytes)
{
    return ((size_t)bytes + PLACE - 1) / PLACE * PLACE;
}

size_t air_cuda_q8_bytes(int64_t k, int64_t n)
{
    return placed(n * k) + placed(n * k / AIR_Q8_SUM_GROUP * 2) + placed(n * k / AIR_Q8_GROUP * 4);
}

air_cuda_q8 air_cuda_q8_place(void *memory, int64_t k, int64_t n)
{
    char *p = (char *)memory;
    char *sums = p + placed(n * k), *scale = sums + placed(n * k / AIR_Q8_SUM_GROUP * 2);
    return {(int8_t *)p, (int16_t *)sums, (float *)scale};
}

static __global__ void __launch_bounds__(32 * WARPS) quantize(const float *x, int64_t groups, air_cuda_q8 out)
{
    int64_t group = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    if (group < groups) air_cuda_quantize_group(x[group * AIR_Q8_GROUP + threadIdx.x % 32], out, group);
}

static __global__ void __launch_bounds__(32 * WARPS) quantize_quads(const float *x, int64_t n, air_cuda_q8 out)
{
    int64_t at = ((int64_t)blockIdx.x * (32 * WARPS) + threadIdx.x) * 4;
    air_let_next_begin();
    air_await_previous();
    float4 mine = at < n ? *reinterpret_cast<const float4 *>(x + at) : make_float4(0, 0, 0, 0);
    air_cuda_quantize_quad(mine, out, at, at < n);
}

/* A warp for each group of 32. */
static __global__ void __launch_bounds__(32 * WARPS) quantize_parts(const float *x, air_cuda_parts from, int64_t k, int64_t n, int64_t groups,
                                                                    air_cuda_q8 out)
{
    int64_t group = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32, in_column = k / AIR_Q8_GROUP;
    air_let_next_begin();
    air_await_previous();
    if (group >= groups) return;
    int64_t column = group / in_column, part = column / n, row = column % n;
    const float *of = x + row * from.width + from.first + part * from.step + group % in_column * AIR_Q8_GROUP;
    air_cuda_quantize_group(of[threadIdx.x % 32], out, group);
}

cudaError_t air_cuda_quantize_parts(const float *x, air_cuda_parts from, int64_t k, int64_t parts, int64_t n, air_cuda_q8 out,
                                    cudaStream_t stream)
{
    if (k < 1 || n < 1 || parts < 1 || k % AIR_Q8_GROUP || from.first < 0) return cudaErrorInvalidValue;
    if (from.first + (parts - 1) * from.step + k > from.width) return cudaErrorInvalidValue;
    int64_t groups = parts * n * (k / AIR_Q8_GROUP);
    return air_launch_early(quantize_parts, dim3((unsigned)((groups + WARPS - 1) / WARPS)), dim3(32 * WARPS), 0, stream, x, from, k, n, groups,
                            out);
}

cudaError_t air_cuda_quantize(const float *x, int64_t k, int64_t n, air_cuda_q8 out, cudaStream_t stream)
{
    if (k < 1 || n < 1 || k % AIR_Q8_GROUP) return cudaErrorInvalidValue;
    int64_t groups = n * (k / AIR_Q8_GROUP), quads = groups * (AIR_Q8_GROUP / 4);
    if ((uintptr_t)x % sizeof(float4) == 0)
        return air_launch_early(quantize_quads, dim3((unsigned)((quads + 32 * WARPS - 1) / (32 * WARPS))), dim3(32 * WARPS), 0, stream, x,
                                quads * 4, out);
    return air_launch(quantize, dim3((unsigned)((groups + WARPS - 1) / WARPS)), dim3(32 * WARPS), 0, stream, x, groups, out);
}

int air_cuda_compiled_for(void) { return air_compiled_for((const void *)quantize); }
