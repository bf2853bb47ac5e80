/* gpt-oss (arXiv 2508.10925): every other layer with a window, attention sinks, biases everywhere, experts chosen by their logits, whose
 * gates are clamped. Its yarn is not cut to whole pairs. */
#include "model/arch.h"

const air_arch air_arch_gpt_oss = {
    .name = "gpt-oss",
    .ffn_norm = "blk.%d.post_attention_norm",
    .activation = AIR_ACTIVATION_SWIGLU_OAI,
    .rope = AIR_ROPE_NEOX,
    .yarn_between_pairs = 1,
    .window_period = 2,
    .sinks = 1,
    .qkv_bias = AIR_BIAS_REQUIRED,
    .attention_out_bias = AIR_BIAS_REQUIRED,
    .experts = {.gating = AIR_GATING_CHOSEN, .bias = AIR_BIAS_REQUIRED},
};
