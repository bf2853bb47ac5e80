/* Command R and R+: attention and feed-forward side by side of one layer norm without bias, adjacent pairs, logits that are scaled; R+
 * has layer norms on the heads of q and k. */
#include "model/arch.h"

const air_arch air_arch_command_r = {
    .name = "command-r",
    .norm = AIR_NORM_LAYER,
    .order = AIR_ORDER_PARALLEL,
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NORMAL,
    .qkv_bias = AIR_BIAS_OPTIONAL,
    .qk_norm = AIR_QK_NORM_PER_HEAD_OWN,
    .logit_scale = AIR_LOGIT_SCALE_MULTIPLIES,
};
