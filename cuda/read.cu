/* Memory that is read and thrown away: how fast that goes is what a probe asks (probe.cu). */
#include "cuda/kernels.h"

namespace {

constexpr int THREADS = 512, UNROLL = 4;

__global__ void __launch_bounds__(THREADS) read_window(const uint4 *from, size_t n, unsigned *out)
{
    size_t step = (size_t)gridDim.x * blockDim.x, at = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    unsigned seen = 0;
    for (; at + (UNROLL - 1) * step < n; at += UNROLL * step)
        for (int i = 0; i < UNROLL; i++) {
            uint4 v = from[at + (size_t)i * step];
            seen ^= v.x ^ v.y ^ v.z ^ v.w;
        }
    for (; at < n; at += step) seen ^= from[at].x;
    if (seen == 0x12345678u) *out = seen; /* so that nothing of it is left out */
}

} // namespace

cudaError_t air_cuda_read(const void *from, size_t bytes, unsigned blocks, unsigned *out, cudaStream_t stream)
{
    return air_launch(read_window, dim3(blocks), dim3(THREADS), 0, stream, (const uint4 *)from, bytes / sizeof(uint4), out);
}
