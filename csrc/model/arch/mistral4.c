/* Mistral Small 4: DeepSeek V2's layers, whose scores grow with the position, by the original context. */
#include "model/arch.h"

const air_arch air_arch_mistral4 = {
    .name = "mistral4",
    .latent = 1,
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NORMAL,
    .temper = {.in_all = 1},
    .experts = {.gating = AIR_GATING_SOFTMAX, .normalise = 1},
};
