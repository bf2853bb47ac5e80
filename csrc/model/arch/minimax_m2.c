/* MiniMax M2: norms of all heads of q and k together, a part of each head rotated, experts by sigmoids, with a bias for the choice. */
#include "model/arch.h"

const air_arch air_arch_minimax_m2 = {
    .name = "minimax-m2",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NEOX,
    .qk_norm = AIR_QK_NORM_WHOLE,
    .experts = {.gating = AIR_GATING_SIGMOID, .normalise = 1},
};
