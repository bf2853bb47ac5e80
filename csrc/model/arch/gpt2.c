/* GPT-2: learned positions, layer norms, biases everywhere, a plain feed-forward. */
#include "model/arch.h"

const air_arch air_arch_gpt2 = {
    .name = "gpt2",
    .norm = AIR_NORM_LAYER,
    .norm_bias = AIR_BIAS_REQUIRED,
    .positions = AIR_POSITIONS_LEARNED,
    .ffn = AIR_FFN_PLAIN,
    .activation = AIR_ACTIVATION_GELU,
    .qkv_bias = AIR_BIAS_REQUIRED,
    .attention_out_bias = AIR_BIAS_REQUIRED,
    .ffn_bias = AIR_BIAS_REQUIRED,
};
