/* Jais 2: layer norms, a plain feed-forward of squared ReLUs, biases everywhere but in the output. */
#include "model/arch.h"

const air_arch air_arch_jais2 = {
    .name = "jais2",
    .norm = AIR_NORM_LAYER,
    .norm_bias = AIR_BIAS_REQUIRED,
    .rope = AIR_ROPE_NEOX,
    .ffn = AIR_FFN_PLAIN,
    .activation = AIR_ACTIVATION_RELU2,
    .qkv_bias = AIR_BIAS_OPTIONAL,
    .attention_out_bias = AIR_BIAS_REQUIRED,
    .ffn_bias = AIR_BIAS_REQUIRED,
};
