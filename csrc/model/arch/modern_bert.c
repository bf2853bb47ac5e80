/* ModernBERT (arXiv 2412.13663): of three layers two have a window, with a rope of their own; layer norms before the blocks, without
 * biases, but for the first layer's attention, which the embedding's norm serves. */
#include "model/arch.h"

const air_arch air_arch_modern_bert = {
    .name = "modern-bert",
    .encoder = 1,
    .norm = AIR_NORM_LAYER,
    .first_norm_optional = 1,
    .rope = AIR_ROPE_NEOX,
    .embed_norm = 1,
    .window_period = 3,
    .window_first_sees_all = 1,
    .window_rope = AIR_WINDOW_ROPE_UNSCALED,
    .activation = AIR_ACTIVATION_GELU_ERF,
    .activation_by_key = 1,
};
