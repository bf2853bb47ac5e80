/* Granite 4's hybrids: Granite's layer, with or without experts, whose attention, without rotation, is in few layers; Mamba-2 in the
 * others. */
#include "model/arch.h"

const air_arch air_arch_granitehybrid = {
    .name = "granitehybrid",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NORMAL,
    .rope_by_key = 1,
    .mixer = AIR_MIXER_STATE_SPACE,
    .attention_out_bias = AIR_BIAS_OPTIONAL,
    .qkv_bias = AIR_BIAS_OPTIONAL,
    .ffn_bias = AIR_BIAS_OPTIONAL,
    .logit_scale = AIR_LOGIT_SCALE_DIVIDES,
    .experts = {.gating = AIR_GATING_SOFTMAX, .normalise = 1},
};
