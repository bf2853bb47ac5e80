/* openPangu Embedded: Llama's layer with biases in attention, and rope over halves. */
#include "model/arch.h"

const air_arch air_arch_pangu_embedded = {
    .name = "pangu-embedded",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NEOX,
    .qkv_bias = AIR_BIAS_OPTIONAL,
    .attention_out_bias = AIR_BIAS_REQUIRED,
};
