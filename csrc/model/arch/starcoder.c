/* StarCoder and SantaCoder (arXiv 2305.06161): GPT-2's layer with one head of keys and values for all queries. */
#include "model/arch.h"

const air_arch air_arch_starcoder = {
    .name = "starcoder",
    .norm = AIR_NORM_LAYER,
    .norm_bias = AIR_BIAS_REQUIRED,
    .positions = AIR_POSITIONS_LEARNED,
    .ffn = AIR_FFN_PLAIN,
    .activation = AIR_ACTIVATION_GELU,
    .qkv_bias = AIR_BIAS_REQUIRED,
    .attention_out_bias = AIR_BIAS_REQUIRED,
    .ffn_bias = AIR_BIAS_REQUIRED,
};
