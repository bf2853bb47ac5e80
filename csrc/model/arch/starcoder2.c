/* StarCoder 2 (arXiv 2402.19173): layer norms, biases everywhere, a plain feed-forward. */
#include "model/arch.h"

const air_arch air_arch_starcoder2 = {
    .name = "starcoder2",
    .norm = AIR_NORM_LAYER,
    .norm_bias = AIR_BIAS_REQUIRED,
    .rope = AIR_ROPE_NEOX,
    .ffn = AIR_FFN_PLAIN,
    .activation = AIR_ACTIVATION_GELU,
    .qkv_bias = AIR_BIAS_REQUIRED,
    .attention_out_bias = AIR_BIAS_REQUIRED,
    .ffn_bias = AIR_BIAS_REQUIRED,
};
