/* Floats as sums of 16-bit numbers, before a product by cuBLAS, and its results as a product's, after it. Both read and write what they are
 * given once or twice, which is small beside the product. */
#include "cuda/epilogue.cuh"

enum { THREADS = 256, GREATEST = 127 + 14 /* of a column of halves, as an exponent */ };

/* A column's greatest magnitude, as bits: NaN above all. All threads of the block come here. */
static __device__ __forceinline__ int greatest_of(const float *x, int64_t k)
{
    AIR_SHARED(int, of_warp, [THREADS / 32]);
    int greatest = 0;
    for (int64_t i = threadIdx.x; i < k; i += THREADS) greatest = max(greatest, __float_as_int(x[i]) & 0x7fffffff);
    for (int apart = 16; apart; apart /= 2) greatest = max(greatest, __shfl_xor_sync(~0u, greatest, apart));
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = greatest;
    __syncthreads();
    for (int i = 0; i < THREADS / 32; i++) greatest = max(greatest, of_warp[i]);
    return greatest;
}

/* The next term of what is left. */
static __device__ __forceinline__ uint16_t take_half(float &rest)
{
    __half half = __float2half_rn(rest);
    uint16_t bits;
    memcpy(&bits, &half, sizeof bits);
    rest = __fsub_rn(rest, __half2float(half));
    return bits;
}

static __device__ __forceinline__ uint16_t take_bfloat(float &rest)
{
    unsigned bits = (unsigned)__float_as_int(rest);
    rest = __fsub_rn(rest, __int_as_float((int)(bits & 0xffff0000u)));
    return (uint16_t)(bits >> 16);
}

/* A block for each column. Halves are of the column times a power of two, the inverse of which is its scale, so that as many as can be are
 * normal numbers; bfloat16, which have float's range, are cut off, so that three are the float itself. */
static __global__ void __launch_bounds__(THREADS) split(const float *x, int64_t k, int64_t n, int terms, uint16_t *out, float *scale)
{
    const int64_t column = blockIdx.x, apart = (int64_t)gridDim.x * k;
    const bool is_there = column < n, is_half = terms == AIR_CUDA_HALF_TERMS;
    const float *from = x + column * k;
    float power = 1, inverse = 1;
    out += column * k;
    if (is_half && is_there) {
        int exponent = min(max(greatest_of(from, k) >> 23, GREATEST - 126), 254);
        power = __int_as_float((GREATEST + 127 - exponent) << 23);
        inverse = __int_as_float((exponent - GREATEST + 127) << 23);
    }
    if (threadIdx.x == 0) scale[column] = inverse;
    for (int64_t i = threadIdx.x; i < k; i += THREADS) {
        float rest = is_there ? __fmul_rn(from[i], power) : 0;
        for (int term = 0; term < terms; term++) out[term * apart + i] = is_half ? take_half(rest) : take_bfloat(rest);
    }
}

cudaError_t air_cuda_split(const float *x, int64_t k, int64_t n, int64_t columns, int terms, uint16_t *out, float *scale,
                           cudaStream_t stream)
{
    return air_launch(split, dim3((unsigned)columns), dim3(THREADS), 0, stream, x, k, n, terms, out, scale);
}

static __global__ void __launch_bounds__(THREADS) joined(const air_cuda_product p, const float *part, int64_t stride, const float *scale)
{
    const int64_t row = (int64_t)blockIdx.x * THREADS + threadIdx.x, column = blockIdx.y;
    if (row >= p.rows) return;
    float *out = p.out + column * p.out_stride + row, y = __fmul_rn(part[column * stride + row], scale[column]);
    *out = air_cuda_folded(y, p.bias ? p.bias + row : nullptr, p.epilogue, air_cuda_held(p.epilogue, out));
}

cudaError_t air_cuda_joined(const air_cuda_product *p, const float *part, int64_t stride, const float *scale, cudaStream_t stream)
{
    dim3 grid((unsigned)((p->rows + THREADS - 1) / THREADS), (unsigned)p->n);
    return air_launch(joined, grid, dim3(THREADS), 0, stream, *p, part, stride, scale);
}
