/* Granite 3's mixtures: Granite's layer with experts for a feed-forward, weights by a softmax over the chosen ones. */
#include "model/arch.h"

const air_arch air_arch_granitemoe = {
    .name = "granitemoe",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NORMAL,
    .qkv_bias = AIR_BIAS_OPTIONAL,
    .attention_out_bias = AIR_BIAS_OPTIONAL,
    .logit_scale = AIR_LOGIT_SCALE_DIVIDES,
    .experts = {.gating = AIR_GATING_SOFTMAX, .normalise = 1},
};
