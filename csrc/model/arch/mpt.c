/* MPT: ALiBi, layer norms without biases, a plain feed-forward. */
#include "model/arch.h"

/* Files of models that know positions in another way do not say this. */
static void adjust(air_hparams *hp) { hp->alibi = 0; }

const air_arch air_arch_mpt = {
    .name = "mpt",
    .norm = AIR_NORM_LAYER,
    .norm_bias = AIR_BIAS_OPTIONAL,
    .positions = AIR_POSITIONS_ALIBI,
    .ffn = AIR_FFN_PLAIN,
    .activation = AIR_ACTIVATION_GELU_ERF,
    .qkv_bias = AIR_BIAS_OPTIONAL,
    .attention_out_bias = AIR_BIAS_OPTIONAL,
    .ffn_bias = AIR_BIAS_OPTIONAL,
    .adjust = adjust,
};
