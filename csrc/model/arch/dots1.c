/* dots.llm1 (arXiv 2506.05767): Qwen3's layer, the first ones dense, then experts as DeepSeek-V3 routes them, and shared ones. */
#include "model/arch.h"

const air_arch air_arch_dots1 = {
    .name = "dots1",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NEOX,
    .qk_norm = AIR_QK_NORM_PER_HEAD,
    .experts = {.gating = AIR_GATING_SIGMOID},
};
