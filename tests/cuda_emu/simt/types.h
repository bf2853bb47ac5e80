/* simt/types.h: CUDA's vector types, runtime API and qualifiers, for a C++ compiler.
 *
 * From the toolkit's headers where there are any, so that the emulated runtime is held to their prototypes; else, or where
 * AIR_EMU_NO_TOOLKIT is defined, from mini_cuda.h. half and bfloat16 are half.h's in both cases: what the toolkit's headers
 * give to a host compiler differs between versions. */
#ifndef AIR_CUDA_EMU_TYPES_H
#define AIR_CUDA_EMU_TYPES_H

#if !defined(AIR_EMU_NO_TOOLKIT) && __has_include(<cuda_runtime_api.h>)
#include <cuda_runtime_api.h>
#include <vector_functions.h>
#else
#include "mini_cuda.h"
#endif

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __constant__
#undef __launch_bounds__
#undef __forceinline__
#undef __grid_constant__
#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __shared__ write_AIR_SHARED_instead_of_shared  /* does not compile */

/* Where a kernel called: a default argument, so that it is the caller's line whatever the optimiser clones. */
#define AIR_EMU_CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()

#endif
