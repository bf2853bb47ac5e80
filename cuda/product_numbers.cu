/* Products of weights that are plain numbers. */
#include "cuda/prompt_numbers.cuh"

AIR_CUDA_NUMBERS_PRODUCT(F32, air_cuda_f32)
AIR_CUDA_NUMBERS_PRODUCT(F16, air_cuda_f16)
AIR_CUDA_NUMBERS_PRODUCT(BF16, air_cuda_bf16)
