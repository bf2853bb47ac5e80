/* Nomic's BERT with experts (arXiv 2502.07972): rotary positions, a plain feed-forward, and experts in every second layer. */
#include "model/arch.h"

const air_arch air_arch_nomic_bert_moe = {
    .name = "nomic-bert-moe",
    .encoder = 1,
    .norm = AIR_NORM_LAYER,
    .norm_place = AIR_NORM_OF_SUM,
    .norm_bias = AIR_BIAS_REQUIRED,
    .rope = AIR_ROPE_NEOX,
    .embed_norm = 1,
    .ffn = AIR_FFN_PLAIN,
    .activation = AIR_ACTIVATION_GELU_ERF,
    .qkv_bias = AIR_BIAS_OPTIONAL,
    .attention_out_bias = AIR_BIAS_OPTIONAL,
    .ffn_bias = AIR_BIAS_OPTIONAL,
    .experts = {.gating = AIR_GATING_SOFTMAX},
};
