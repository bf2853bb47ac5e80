/* cuda/dialect.h: the one spelling of CUDA that the kernels' sources use; the only CUDA header they include.
 *
 * nvcc takes it for the GPU. Where AIR_CUDA_EMULATED is defined, a C++17 compiler takes the same sources for the CPU
 * (tests/cuda_emu/simt.h), which is how they are tested without a GPU. Host code that no nvcc sees gets the runtime's C API alone.
 *
 *     AIR_SHARED(float, part, [2][32]);            float part[2][32] in shared memory; bare __shared__ is not portable
 *     AIR_DYN_SHARED(float, scores);               float *const scores: the launch's dynamic shared memory
 *     air_launch(kernel, grid, block, bytes, stream, arguments…)   cudaError_t of the launch
 *
 * Inline PTX stands here only, in wrappers that trap on devices older than they need: a kernel that calls one is for those that
 * have it, chosen by the host. No spin-waits, no barriers between blocks. */
#ifndef AIR_CUDA_DIALECT_H
#define AIR_CUDA_DIALECT_H

#include <cstdint>
#include <cstring>

#if defined(AIR_CUDA_EMULATED)

#include "simt.h"

#elif defined(__CUDACC__)

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <utility>

#define AIR_SHARED(type, name, dims) __shared__ type name dims
#define AIR_DYN_SHARED(type, name)                                             \
    extern __shared__ __align__(16) unsigned char air_dynamic_shared_memory[]; \
    type *const name = reinterpret_cast<type *>(air_dynamic_shared_memory)

#if defined(__CUDACC_RTC__) /* which has no host and compiles launchers for the kernels that they name (tests/python/test_cuda_12.py) */
template <class... P, class... A> cudaError_t air_launch(void (*)(P...), dim3, dim3, size_t, cudaStream_t, A &&...) { return cudaSuccess; }
#else
template <class... P, class... A>
inline cudaError_t air_launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream, A &&...arguments)
{
    kernel<<<grid, block, shared_bytes, stream>>>(static_cast<P>(std::forward<A>(arguments))...);
    return cudaGetLastError();
}
#endif

#if defined(__CUDACC_RTC__)
template <class... P, class... A> cudaError_t air_launch_early(void (*)(P...), dim3, dim3, size_t, cudaStream_t, A &&...) { return cudaSuccess; }
#else
/* Whether this thread's launches by air_launch_early may begin before those behind them in the stream have ended: a device's from sm_90 on. */
inline thread_local bool air_launches_early;

template <class... P, class... A>
inline cudaError_t air_launch_early(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream, A &&...arguments)
{
    if (!air_launches_early) return air_launch(kernel, grid, block, shared_bytes, stream, std::forward<A>(arguments)...);
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid, config.blockDim = block, config.dynamicSmemBytes = shared_bytes, config.stream = stream;
    config.attrs = &early, config.numAttrs = 1;
    return cudaLaunchKernelEx(&config, kernel, static_cast<P>(std::forward<A>(arguments))...);
}
#endif

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define AIR_PTX_SM_80(...) __trap()
#else
#define AIR_PTX_SM_80(...) asm volatile(__VA_ARGS__)
#endif
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 750
#define AIR_PTX_SM_75(...) __trap()
#else
#define AIR_PTX_SM_75(...) asm volatile(__VA_ARGS__)
#endif

/* Whether the device has what is from sm_80 on, and from sm_75: for kernels that have another way. */
static __device__ __forceinline__ bool air_is_sm_80()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    return true;
#else
    return false;
#endif
}
static __device__ __forceinline__ bool air_is_sm_75()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 750
    return true;
#else
    return false;
#endif
}

/* In a kernel for air_launch_early: the next one in the stream may begin; and what the ones before it wrote is there. Before the latter
 * nothing may be read that they write, nor anything be written. */
static __device__ __forceinline__ void air_let_next_begin()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}
static __device__ __forceinline__ void air_await_previous()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" : : : "memory");
#endif
}

/* Asks for the line of 128 bytes around p to come to the L2 cache. */
static __device__ __forceinline__ void air_prefetch_l2(const void *p) { asm volatile("prefetch.global.L2 [%0];" : : "l"(p)); }

/* Keeps an address in registers: the compiler is not to compute it again wherever it is used. */
template <class T> static __device__ __forceinline__ void air_keep(T *&p) { asm volatile("" : "+l"(p)); }

static __device__ __forceinline__ unsigned air_shared_address(const void *p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); }

/* Copies from global to shared memory without waiting; both addresses are multiples of the size. From sm_80. */
static __device__ __forceinline__ void air_cp_async4(void *to, const void *from)
{
    AIR_PTX_SM_80("cp.async.ca.shared.global [%0], [%1], 4;" : : "r"(air_shared_address(to)), "l"(from) : "memory");
}
static __device__ __forceinline__ void air_cp_async8(void *to, const void *from)
{
    AIR_PTX_SM_80("cp.async.ca.shared.global [%0], [%1], 8;" : : "r"(air_shared_address(to)), "l"(from) : "memory");
}
static __device__ __forceinline__ void air_cp_async16(void *to, const void *from)
{
    AIR_PTX_SM_80("cp.async.cg.shared.global [%0], [%1], 16;" : : "r"(air_shared_address(to)), "l"(from) : "memory");
}
/* Closes a group of this thread's copies; wait: until at most N groups are pending. Other threads' need a barrier as well. */
static __device__ __forceinline__ void air_cp_async_commit() { AIR_PTX_SM_80("cp.async.commit_group;" : : : "memory"); }
template <int N>
static __device__ __forceinline__ void air_cp_async_wait()
{
    AIR_PTX_SM_80("cp.async.wait_group %0;" : : "n"(N) : "memory");
}

/* D += A · B by a whole warp: A 16 × 16 by rows, B 16 × 8 by columns, halves, summed in float. From sm_75, whose tensor cores take half
 * of k at a time, in the same registers. */
static __device__ __forceinline__ void air_mma_m16n8k16(float d[4], const unsigned a[4], const unsigned b[2])
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
    for (int half = 0; half < 2; half++)
        AIR_PTX_SM_75("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                      : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
#else
    AIR_PTX_SM_80("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                  : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                  : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

/* The same of bytes with signs: A 16 × 16, B 16 × 8, summed in int32, exactly. From sm_75, which takes half of the rows at a time. */
static __device__ __forceinline__ void air_mma_m16n8k16_s8(int d[4], const unsigned a[2], unsigned b)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
    for (int half = 0; half < 2; half++)
        AIR_PTX_SM_75("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};"
                      : "+r"(d[2 * half]), "+r"(d[2 * half + 1])
                      : "r"(a[half]), "r"(b));
#else
    AIR_PTX_SM_80("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                  : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                  : "r"(a[0]), "r"(a[1]), "r"(b));
#endif
}

/* A 16 × 32, B 32 × 8. */
static __device__ __forceinline__ void air_mma_m16n8k32_s8(int d[4], const unsigned a[4], const unsigned b[2])
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
    for (int half = 0; half < 2; half++) air_mma_m16n8k16_s8(d, a + 2 * half, b[half]);
#else
    AIR_PTX_SM_80("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                  : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                  : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

/* Four 8 × 8 matrices of 16-bit elements from shared memory by a whole warp: lane l names row l % 8 of matrix l / 8, 16 bytes at a
 * multiple of 16; r[i] gets elements 2 × (l % 4) and the next of row l / 4 of matrix i, as mma takes them. From sm_75. */
static __device__ __forceinline__ void air_ldmatrix_x4(unsigned r[4], const void *row)
{
    AIR_PTX_SM_75("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                  : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                  : "r"(air_shared_address(row))
                  : "memory");
}

/* The same of the transposed matrices: r[i] gets elements l / 4 of rows 2 × (l % 4) and the next, what mma takes of a B by rows. */
static __device__ __forceinline__ void air_ldmatrix_x4_trans(unsigned r[4], const void *row)
{
    AIR_PTX_SM_75("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                  : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                  : "r"(air_shared_address(row))
                  : "memory");
}

#else

#include <cuda_runtime_api.h>

inline thread_local bool air_launches_early; /* as above */

#endif

/* 10 × the compute capability that the code of a kernel was compiled for which this thread's device runs: what __CUDA_ARCH__ was in it, which
 * is less than the device's where that runs PTX of an older one. 0: there is no code that it could run. */
static inline int air_compiled_for(const void *kernel)
{
    cudaFuncAttributes attributes;
    if (cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess) return attributes.ptxVersion;
    (void)cudaGetLastError();
    return 0;
}

/* Whether that is at least a capability, for who chooses a kernel by it: not to know is a failure, since another one may have other bits. */
static inline cudaError_t air_compiled_at_least(const void *kernel, int capability, bool *is)
{
    cudaFuncAttributes attributes;
    cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
    *is = error == cudaSuccess && attributes.ptxVersion >= capability;
    return error;
}

#endif
