/* Jina's BERT (arXiv 2310.19923): ALiBi to both sides, a feed-forward gated by GELU. */
#include "model/arch.h"

const air_arch air_arch_jina_bert_v2 = {
    .name = "jina-bert-v2",
    .encoder = 1,
    .norm = AIR_NORM_LAYER,
    .norm_place = AIR_NORM_OF_SUM,
    .norm_bias = AIR_BIAS_REQUIRED,
    .positions = AIR_POSITIONS_ALIBI,
    .embed_norm = 1,
    .activation = AIR_ACTIVATION_GELU_ERF,
    .qkv_bias = AIR_BIAS_OPTIONAL,
    .attention_out_bias = AIR_BIAS_OPTIONAL,
    .ffn_bias = AIR_BIAS_OPTIONAL,
};
