/* Granite 3 and 4, dense: Llama's layer with factors on the embedding, the scores, what blocks add, and the logits (divided). */
#include "model/arch.h"

const air_arch air_arch_granite = {
    .name = "granite",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NORMAL,
    .rope_by_key = 1,
    .qkv_bias = AIR_BIAS_OPTIONAL,
    .attention_out_bias = AIR_BIAS_OPTIONAL,
    .ffn_bias = AIR_BIAS_OPTIONAL,
    .logit_scale = AIR_LOGIT_SCALE_DIVIDES,
};
