/* Hunyuan A13b: Llama's layer with RMS norms on the heads of q and k after their rotation, experts for a feed-forward, and a shared one. */
#include "model/arch.h"

const air_arch air_arch_hunyuan_moe = {
    .name = "hunyuan-moe",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NEOX,
    .qk_norm = AIR_QK_NORM_PER_HEAD,
    .qk_norm_after_rope = 1,
    .qkv_bias = AIR_BIAS_OPTIONAL,
    .experts = {.gating = AIR_GATING_SOFTMAX, .normalise = 1},
};
