/* Falcon (arXiv 2311.16867): attention and feed-forward side by side of one layer norm, or of one each (40b and 180b). */
#include "model/arch.h"

const air_arch air_arch_falcon = {
    .name = "falcon",
    .norm = AIR_NORM_LAYER,
    .norm_bias = AIR_BIAS_REQUIRED,
    .order = AIR_ORDER_PARALLEL,
    .rope = AIR_ROPE_NEOX,
    .ffn = AIR_FFN_PLAIN,
    .activation = AIR_ACTIVATION_GELU_ERF,
    .qkv_bias = AIR_BIAS_OPTIONAL,
    .attention_out_bias = AIR_BIAS_OPTIONAL,
    .ffn_bias = AIR_BIAS_OPTIONAL,
};
