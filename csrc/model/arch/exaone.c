/* EXAONE 3 and 3.5 (arXiv 2408.03541): Llama's layer, rope over halves. */
#include "model/arch.h"

const air_arch air_arch_exaone = {
    .name = "exaone",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NEOX,
};
