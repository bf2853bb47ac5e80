/* cuda/epilogue.cuh: the end of a product, the same arithmetic wherever it is done. */
#ifndef AIR_CUDA_EPILOGUE_CUH
#define AIR_CUDA_EPILOGUE_CUH

#include "cuda/kernels.h"

/* A product's result folded into what its output held. */
static __device__ __forceinline__ float air_cuda_folded(float y, const float *bias, air_cuda_epilogue epilogue, float held)
{
    if (bias) y = __fadd_rn(y, __ldg(bias));
    if (epilogue == AIR_CUDA_ADD) y = __fadd_rn(held, y);
    if (epilogue == AIR_CUDA_SWIGLU) y = __fmul_rn(__fdividef(held, __fadd_rn(1.0f, expf(-held))), y);
    return y;
}

#endif
