/* Qwen2 and 2.5 (arXiv 2407.10671): Llama's layer with biases on q, k and v, and rope over halves. */
#include "model/arch.h"

const air_arch air_arch_qwen2 = {
    .name = "qwen2",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NEOX,
    .qkv_bias = AIR_BIAS_REQUIRED,
};
