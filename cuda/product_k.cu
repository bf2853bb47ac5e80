/* Products of the K formats and the ternary ones. */
#include "cuda/formats/k.cuh"
#include "cuda/prompt.cuh"

AIR_CUDA_PACKED_PRODUCT(Q2_K, air_cuda_q2_k)
AIR_CUDA_PACKED_PRODUCT(Q3_K, air_cuda_q3_k)
AIR_CUDA_PACKED_PRODUCT(Q4_K, air_cuda_q4_k)
AIR_CUDA_PACKED_PRODUCT(Q5_K, air_cuda_q5_k)
AIR_CUDA_PACKED_PRODUCT(Q6_K, air_cuda_q6_k)
AIR_CUDA_PACKED_PRODUCT(TQ1_0, air_cuda_tq1_0)
AIR_CUDA_PACKED_PRODUCT(TQ2_0, air_cuda_tq2_0)
