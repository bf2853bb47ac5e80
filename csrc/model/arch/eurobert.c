/* EuroBERT (arXiv 2503.05500): Llama's layer, read from both ends. */
#include "model/arch.h"

const air_arch air_arch_eurobert = {
    .name = "eurobert",
    .encoder = 1,
    .rope = AIR_ROPE_NEOX,
    .activation = AIR_ACTIVATION_SILU,
};
