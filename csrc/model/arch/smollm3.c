/* SmolLM3: Llama's layer; every fourth one is not rotated. */
#include "model/arch.h"

const air_arch air_arch_smollm3 = {
    .name = "smollm3",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NORMAL,
    .no_rope_period = 4,
    .qkv_bias = AIR_BIAS_OPTIONAL,
    .attention_out_bias = AIR_BIAS_OPTIONAL,
};
