/* Nomic's BERT (arXiv 2402.01613): rotary positions and a gated feed-forward. */
#include "model/arch.h"

const air_arch air_arch_nomic_bert = {
    .name = "nomic-bert",
    .encoder = 1,
    .norm = AIR_NORM_LAYER,
    .norm_place = AIR_NORM_OF_SUM,
    .norm_bias = AIR_BIAS_REQUIRED,
    .rope = AIR_ROPE_NEOX,
    .embed_norm = 1,
    .activation = AIR_ACTIVATION_SILU,
    .qkv_bias = AIR_BIAS_OPTIONAL,
    .attention_out_bias = AIR_BIAS_OPTIONAL,
    .ffn_bias = AIR_BIAS_OPTIONAL,
};
