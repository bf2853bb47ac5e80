/* Phi-1, 1.5 and 2: attention and feed-forward side by side of one layer norm, biases everywhere, a part of each head rotated. */
#include "model/arch.h"

const air_arch air_arch_phi2 = {
    .name = "phi2",
    .norm = AIR_NORM_LAYER,
    .norm_bias = AIR_BIAS_REQUIRED,
    .order = AIR_ORDER_PARALLEL,
    .rope = AIR_ROPE_NEOX,
    .ffn = AIR_FFN_PLAIN,
    .activation = AIR_ACTIVATION_GELU,
    .qkv_bias = AIR_BIAS_REQUIRED,
    .attention_out_bias = AIR_BIAS_REQUIRED,
    .ffn_bias = AIR_BIAS_REQUIRED,
    .output_bias = AIR_BIAS_REQUIRED,
};
