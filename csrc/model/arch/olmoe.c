/* OLMoE (arXiv 2409.02060): Llama's layer with norms over the whole of q and k, rope over halves, and experts for a feed-forward. */
#include "model/arch.h"

const air_arch air_arch_olmoe = {
    .name = "olmoe",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NEOX,
    .qk_norm = AIR_QK_NORM_WHOLE,
    .experts = {.gating = AIR_GATING_SOFTMAX, .normalise = 0},
};
