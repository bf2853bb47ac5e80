/* Qwen1.5's and 2's mixtures (arXiv 2407.10671): Qwen2's layer with experts for a feed-forward, and one for all rows with a gate of its
 * own. */
#include "model/arch.h"

const air_arch air_arch_qwen2moe = {
    .name = "qwen2moe",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NEOX,
    .qkv_bias = AIR_BIAS_REQUIRED,
    .experts = {.gating = AIR_GATING_SOFTMAX, .normalise = 0, .shared_is_gated = 1},
};
