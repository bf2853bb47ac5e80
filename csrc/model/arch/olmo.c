/* OLMo (arXiv 2402.00838): Llama's layer with layer norms that have no weights. */
#include "model/arch.h"

const air_arch air_arch_olmo = {
    .name = "olmo",
    .norm = AIR_NORM_LAYER_PLAIN,
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NORMAL,
};
