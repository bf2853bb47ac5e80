/* Command R7B and Command A (arXiv 2504.00698): as Command R, with windows in three of four layers; only those are rotated. */
#include "model/arch.h"

const air_arch air_arch_cohere2 = {
    .name = "cohere2",
    .norm = AIR_NORM_LAYER,
    .order = AIR_ORDER_PARALLEL,
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NORMAL,
    .qkv_bias = AIR_BIAS_OPTIONAL,
    .window_period = 4,
    .rope_layers = AIR_ROPE_IN_WINDOWED,
    .logit_scale = AIR_LOGIT_SCALE_MULTIPLIES,
};
