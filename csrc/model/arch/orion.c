/* Orion (arXiv 2401.12246): Llama's layer with layer norms. */
#include "model/arch.h"

const air_arch air_arch_orion = {
    .name = "orion",
    .norm = AIR_NORM_LAYER,
    .norm_bias = AIR_BIAS_REQUIRED,
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NEOX,
};
