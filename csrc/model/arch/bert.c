/* BERT (arXiv 1810.04805) and what came after it: MiniLM, BGE, E5, GTE, RoBERTa, XLM-R: learned positions, a vector for each text of a
 * pair, norms of sums. */
#include "model/arch.h"

const air_arch air_arch_bert = {
    .name = "bert",
    .encoder = 1,
    .norm = AIR_NORM_LAYER,
    .norm_place = AIR_NORM_OF_SUM,
    .norm_bias = AIR_BIAS_REQUIRED,
    .positions = AIR_POSITIONS_LEARNED,
    .embed_norm = 1,
    .ffn = AIR_FFN_PLAIN,
    .activation = AIR_ACTIVATION_GELU_ERF,
    .qkv_bias = AIR_BIAS_OPTIONAL,
    .attention_out_bias = AIR_BIAS_OPTIONAL,
    .ffn_bias = AIR_BIAS_OPTIONAL,
};
