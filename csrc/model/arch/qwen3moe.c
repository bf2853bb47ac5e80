/* Qwen3's mixtures (arXiv 2505.09388): its layer with experts for a feed-forward, weights of the chosen ones divided by their sum. */
#include "model/arch.h"

const air_arch air_arch_qwen3moe = {
    .name = "qwen3moe",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NEOX,
    .qk_norm = AIR_QK_NORM_PER_HEAD,
    .experts = {.gating = AIR_GATING_SOFTMAX, .normalise = 1},
};
