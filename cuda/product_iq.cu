/* Products of the formats with codebooks, and of IQ4_XS. */
#include "cuda/formats/iq.cuh"
#include "cuda/prompt.cuh"

AIR_CUDA_PACKED_PRODUCT(IQ1_S, air_cuda_iq1_s)
AIR_CUDA_PACKED_PRODUCT(IQ1_M, air_cuda_iq1_m)
AIR_CUDA_PACKED_PRODUCT(IQ2_XXS, air_cuda_iq2_xxs)
AIR_CUDA_PACKED_PRODUCT(IQ2_XS, air_cuda_iq2_xs)
AIR_CUDA_PACKED_PRODUCT(IQ2_S, air_cuda_iq2_s)
AIR_CUDA_PACKED_PRODUCT(IQ3_XXS, air_cuda_iq3_xxs)
AIR_CUDA_PACKED_PRODUCT(IQ3_S, air_cuda_iq3_s)
AIR_CUDA_PACKED_PRODUCT(IQ4_XS, air_cuda_iq4_xs)
