/* Products of the formats with one scale to 16 or 32 weights. */
#include "cuda/formats/legacy.cuh"
#include "cuda/prompt.cuh"

AIR_CUDA_PACKED_PRODUCT(Q4_0, air_cuda_q4_0)
AIR_CUDA_PACKED_PRODUCT(Q4_1, air_cuda_q4_1)
AIR_CUDA_PACKED_PRODUCT(Q5_0, air_cuda_q5_0)
AIR_CUDA_PACKED_PRODUCT(Q5_1, air_cuda_q5_1)
AIR_CUDA_PACKED_PRODUCT(Q8_0, air_cuda_q8_0)
AIR_CUDA_PACKED_PRODUCT(IQ4_NL, air_cuda_iq4_nl)
AIR_CUDA_PACKED_PRODUCT(MXFP4, air_cuda_mxfp4)
AIR_CUDA_PACKED_PRODUCT(NVFP4, air_cuda_nvfp4)
