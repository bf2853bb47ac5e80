/* DeepSeek MoE (arXiv 2401.06066): Llama's layer, the first ones dense, then experts by a softmax over all, and shared ones. */
#include "model/arch.h"

const air_arch air_arch_deepseek = {
    .name = "deepseek",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NORMAL,
    .experts = {.gating = AIR_GATING_SOFTMAX},
};
