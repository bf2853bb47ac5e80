/* cuda/epilogue.cuh: the end of a product, the same arithmetic wherever it is done. */
#ifndef AIR_CUDA_EPILOGUE_CUH
#define AIR_CUDA_EPILOGUE_CUH

#include "cuda/kernels.h"

/* The activations of ops.h. */
static __device__ __forceinline__ float air_cuda_activated(float x, air_activation f)
{
    if (f == AIR_ACTIVATION_SILU) return __fdividef(x, __fadd_rn(1.0f, expf(-x)));
    /* 0.5 (1 + tanh u) is 1 / (1 + exp(-2u)), in which nothing is left of two numbers that are nearly alike. */
    if (f == AIR_ACTIVATION_GELU) return __fdividef(x, __fadd_rn(1.0f, expf(-1.5957691f * fmaf(0.044715f * x * x, x, x))));
    if (f == AIR_ACTIVATION_GELU_ERF) return 0.5f * x * erfcf(-0.70710678f * x);
    if (f == AIR_ACTIVATION_RELU2) return x < 0.0f ? 0.0f : x * x;
    if (f == AIR_ACTIVATION_SIGMOID) return __fdividef(1.0f, __fadd_rn(1.0f, expf(-x)));
    if (f == AIR_ACTIVATION_SWIGLU_OAI) {
        float m = x > 7.0f ? 7.0f : x;
        return __fdividef(m, __fadd_rn(1.0f, expf(-1.702f * m)));
    }
    return x;
}

/* What becomes of the number that a gate is multiplied with. */
static __device__ __forceinline__ float air_cuda_raised(float x, air_activation f)
{
    if (f == AIR_ACTIVATION_SWIGLU_OAI) return __fadd_rn(x > 7.0f ? 7.0f : x < -7.0f ? -7.0f : x, 1.0f);
    return x;
}

/* What an output held, where the epilogue reads it. */
static __device__ __forceinline__ float air_cuda_held(const air_cuda_epilogue &e, const float *out)
{
    return e.kind == AIR_EPILOGUE_SET ? 0.0f : *out;
}

/* A product's result folded into what its output held. */
static __device__ __forceinline__ float air_cuda_folded(float y, const float *bias, const air_cuda_epilogue &e, float held)
{
    if (bias) y = __fadd_rn(y, __ldg(bias));
    if (e.scale != 0.0f) y = __fmul_rn(y, e.scale);
    if (e.clamp != 0.0f) y = y > e.clamp ? e.clamp : y < -e.clamp ? -e.clamp : y;
    if (e.softcap != 0.0f) y = e.softcap * tanhf(y / e.softcap);
    if (e.kind == AIR_EPILOGUE_ADD) return __fadd_rn(held, y);
    if (e.kind == AIR_EPILOGUE_GATED) return __fmul_rn(air_cuda_activated(held, e.activation), air_cuda_raised(y, e.activation));
    return air_cuda_activated(y, e.activation);
}

#endif
