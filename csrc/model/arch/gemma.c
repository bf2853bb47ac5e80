/* Gemma (arXiv 2403.08295): Llama's layer gated by GELU, heads of a size of their own, and an embedding that is scaled. The converter
 * adds the norms' 1 to their weights. */
#include "model/arch.h"

const air_arch air_arch_gemma = {
    .name = "gemma",
    .activation = AIR_ACTIVATION_GELU,
    .rope = AIR_ROPE_NEOX,
    .embed_scale = AIR_EMBED_SCALE_ROOT,
};
