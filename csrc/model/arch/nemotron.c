/* Nemotron-4 and Minitron (arXiv 2402.16819): layer norms, whose 1 the converter adds to the weights, half of each head rotated, a
 * plain feed-forward of squared ReLUs. */
#include "model/arch.h"

const air_arch air_arch_nemotron = {
    .name = "nemotron",
    .norm = AIR_NORM_LAYER,
    .norm_bias = AIR_BIAS_REQUIRED,
    .rope = AIR_ROPE_NEOX,
    .ffn = AIR_FFN_PLAIN,
    .activation = AIR_ACTIVATION_RELU2,
    .qkv_bias = AIR_BIAS_OPTIONAL,
    .attention_out_bias = AIR_BIAS_OPTIONAL,
    .ffn_bias = AIR_BIAS_OPTIONAL,
};
