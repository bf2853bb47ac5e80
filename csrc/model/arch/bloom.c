/* BLOOM (arXiv 2211.05100): ALiBi, a norm of the embedding, layer norms, biases everywhere, a plain feed-forward. */
#include "model/arch.h"

const air_arch air_arch_bloom = {
    .name = "bloom",
    .norm = AIR_NORM_LAYER,
    .norm_bias = AIR_BIAS_REQUIRED,
    .positions = AIR_POSITIONS_ALIBI,
    .embed_norm = 1,
    .ffn = AIR_FFN_PLAIN,
    .activation = AIR_ACTIVATION_GELU,
    .qkv_bias = AIR_BIAS_REQUIRED,
    .attention_out_bias = AIR_BIAS_REQUIRED,
    .ffn_bias = AIR_BIAS_REQUIRED,
};
