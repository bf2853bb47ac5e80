/* simt.h: CUDA's device dialect for a C++17 compiler, what cuda/dialect.h includes where AIR_CUDA_EMULATED is defined.
 *
 * Kernels run on the CPU, in simt/engine.h's engine; runtime.h has the emulated runtime and what a test sets. Spelled here as in
 * CUDA, each part in its own header. Missing on purpose: bare __shared__, spin-waits, grid-wide barriers, inline PTX. An intrinsic
 * that is merely not here yet is a line in simt/intrinsics.h or simt/half.h and one in test_simt.cu. */
#ifndef AIR_CUDA_EMU_SIMT_H
#define AIR_CUDA_EMU_SIMT_H

#include <cstdint>
#include <cstring>

#include "simt/half.h"
#include "simt/intrinsics.h"
#include "simt/launch.h"
#include "simt/overloads.h"
#include "simt/tensor.h"
#include "simt/types.h"
#include "simt/warp.h"

#endif
