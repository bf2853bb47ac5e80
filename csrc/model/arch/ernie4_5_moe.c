/* ERNIE 4.5's mixtures: Llama's layer, the first ones dense, then experts by a softmax, to which a bias is added for the choice, and shared
 * ones. */
#include "model/arch.h"

const air_arch air_arch_ernie4_5_moe = {
    .name = "ernie4_5-moe",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NORMAL,
    .qkv_bias = AIR_BIAS_OPTIONAL,
    .attention_out_bias = AIR_BIAS_OPTIONAL,
    .experts = {.gating = AIR_GATING_SOFTMAX, .normalise = 1},
};
