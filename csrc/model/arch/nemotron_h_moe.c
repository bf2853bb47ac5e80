/* Nemotron 3 (Nano, Super): Nemotron-H's layers with experts of squared ReLUs, which read a narrower row where the file has matrices to
 * and from it. */
#include "model/arch.h"

const air_arch air_arch_nemotron_h_moe = {
    .name = "nemotron_h_moe",
    .layers_of_one = 1,
    .mixer = AIR_MIXER_STATE_SPACE,
    .no_rope_period = 1,
    .ffn = AIR_FFN_PLAIN,
    .activation = AIR_ACTIVATION_RELU2,
    .qkv_bias = AIR_BIAS_OPTIONAL,
    .attention_out_bias = AIR_BIAS_OPTIONAL,
    .ffn_bias = AIR_BIAS_OPTIONAL,
    .experts = {.gating = AIR_GATING_SIGMOID, .normalise = 1},
};
