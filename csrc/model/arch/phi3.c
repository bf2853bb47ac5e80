/* Phi-3, 3.5 and Phi-4 (arXiv 2404.14219): Llama's layer with q, k and v in one tensor, gate and up in another; all layers with a
 * window where the file has one; long contexts by two sets of factors (longrope). */
#include "model/arch.h"

const air_arch air_arch_phi3 = {
    .name = "phi3",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NEOX,
    .window_period = 1,
};
