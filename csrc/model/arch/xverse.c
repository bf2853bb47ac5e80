/* XVERSE: Llama's layer. */
#include "model/arch.h"

const air_arch air_arch_xverse = {
    .name = "xverse",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NORMAL,
};
