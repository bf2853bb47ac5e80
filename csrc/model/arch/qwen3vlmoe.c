/* Qwen 3 VL's mixtures, their text: the layers of Qwen3's mixtures. */
#include "model/arch.h"

const air_arch air_arch_qwen3vlmoe = {
    .name = "qwen3vlmoe",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NEOX,
    .qk_norm = AIR_QK_NORM_PER_HEAD,
    .experts = {.gating = AIR_GATING_SOFTMAX, .normalise = 1},
};
