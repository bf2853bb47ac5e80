/* simt/overloads.h: the C++ forms of the runtime's functions that nvcc's cuda_runtime.h adds. */
#ifndef AIR_CUDA_EMU_OVERLOADS_H
#define AIR_CUDA_EMU_OVERLOADS_H

#include "simt/types.h"

template <class T>
cudaError_t cudaMalloc(T **memory, size_t bytes)
{
    return cudaMalloc(reinterpret_cast<void **>(memory), bytes);
}

template <class T>
cudaError_t cudaMallocHost(T **memory, size_t bytes, unsigned = cudaHostAllocDefault)
{
    return cudaMallocHost(reinterpret_cast<void **>(memory), bytes);
}

template <class T>
cudaError_t cudaHostAlloc(T **memory, size_t bytes, unsigned flags)
{
    return cudaHostAlloc(reinterpret_cast<void **>(memory), bytes, flags);
}

template <class... P>
cudaError_t cudaFuncSetAttribute(void (*kernel)(P...), cudaFuncAttribute attribute, int value)
{
    return cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), attribute, value);
}

template <class... P>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, void (*kernel)(P...), int threads, size_t shared_bytes)
{
    return cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, reinterpret_cast<const void *>(kernel), threads, shared_bytes);
}

#endif
