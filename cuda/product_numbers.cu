/* Products of weights that are plain numbers. */
#include "cuda/formats/numbers.cuh"
#include "cuda/product.cuh"

AIR_CUDA_PRODUCT(F32, air_cuda_numbers<air_cuda_f32>)
AIR_CUDA_PRODUCT(F16, air_cuda_numbers<air_cuda_f16>)
AIR_CUDA_PRODUCT(BF16, air_cuda_numbers<air_cuda_bf16>)
