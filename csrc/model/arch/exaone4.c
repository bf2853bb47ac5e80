/* EXAONE 4 (arXiv 2507.11407): norms behind each block instead of before, and on the heads of q and k. The 32b model has windows in three
 * of four layers and rotates only those. */
#include "model/arch.h"

const air_arch air_arch_exaone4 = {
    .name = "exaone4",
    .norm_place = AIR_NORM_AFTER,
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NEOX,
    .rope_layers = AIR_ROPE_IN_WINDOWED,
    .qk_norm = AIR_QK_NORM_PER_HEAD,
    .window_period = 4,
};
