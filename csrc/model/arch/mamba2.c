/* Mamba-2 (arXiv 2405.21060): layers of a state space alone. */
#include "model/arch.h"

const air_arch air_arch_mamba2 = {
    .name = "mamba2",
    .layers_of_one = 1,
    .mixer = AIR_MIXER_STATE_SPACE,
    .no_rope_period = 1,
};
