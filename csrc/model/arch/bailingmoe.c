/* Ling and Ling Coder lite and plus (arXiv 2503.05139): Llama's layer, experts by a softmax over all, and shared ones. */
#include "model/arch.h"

const air_arch air_arch_bailingmoe = {
    .name = "bailingmoe",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NORMAL,
    .qkv_bias = AIR_BIAS_OPTIONAL,
    .attention_out_bias = AIR_BIAS_OPTIONAL,
    .experts = {.gating = AIR_GATING_SOFTMAX},
};
