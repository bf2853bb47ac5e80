/* ERNIE 4.5, dense: Llama's layer. */
#include "model/arch.h"

const air_arch air_arch_ernie4_5 = {
    .name = "ernie4_5",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NORMAL,
    .qkv_bias = AIR_BIAS_OPTIONAL,
    .attention_out_bias = AIR_BIAS_OPTIONAL,
};
