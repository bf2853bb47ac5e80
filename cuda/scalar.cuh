/* cuda/scalar.cuh: loops unrolled by nvcc, of which the emulation's compilers know nothing. */
#ifndef AIR_CUDA_SCALAR_CUH
#define AIR_CUDA_SCALAR_CUH

#include "cuda/dialect.h"

#if defined(AIR_CUDA_EMULATED)
#define AIR_CUDA_UNROLL
#define AIR_CUDA_UNROLL_BY(n)
#else
#define AIR_CUDA_PRAGMA(text) _Pragma(#text)
#define AIR_CUDA_UNROLL AIR_CUDA_PRAGMA(unroll)
#define AIR_CUDA_UNROLL_BY(n) AIR_CUDA_PRAGMA(unroll n)
#endif

#endif
