/* Ministral 3 and what followed Mistral Small 3.1: Llama's layer, whose scores grow with the position, by the original context. */
#include "model/arch.h"

const air_arch air_arch_mistral3 = {
    .name = "mistral3",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NORMAL,
    .temper = {.in_all = 1},
};
