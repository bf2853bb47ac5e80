/* K-EXAONE: norms before each block, windows in three of four layers, which alone are rotated, and experts with one for all rows. */
#include "model/arch.h"

const air_arch air_arch_exaone_moe = {
    .name = "exaone-moe",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NEOX,
    .rope_layers = AIR_ROPE_IN_WINDOWED,
    .qk_norm = AIR_QK_NORM_PER_HEAD,
    .window_period = 4,
    .experts = {.gating = AIR_GATING_SIGMOID, .normalise = 1},
};
