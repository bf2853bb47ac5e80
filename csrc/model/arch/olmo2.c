/* OLMo 2 and 3 (arXiv 2501.00656): norms behind each block instead of before, and on q and k as a whole. OLMo 3 has windows in three
 * of four layers, whose rope is not stretched. */
#include "model/arch.h"

const air_arch air_arch_olmo2 = {
    .name = "olmo2",
    .norm_place = AIR_NORM_AFTER,
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NEOX,
    .qk_norm = AIR_QK_NORM_WHOLE,
    .window_period = 4,
    .window_rope = AIR_WINDOW_ROPE_UNSCALED,
};
