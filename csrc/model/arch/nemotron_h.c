/* Nemotron-H (arXiv 2504.03624) and Nemotron Nano 2: each layer is one block, Mamba-2, attention without rotation or a feed-forward of
 * squared ReLUs. */
#include "model/arch.h"

const air_arch air_arch_nemotron_h = {
    .name = "nemotron_h",
    .layers_of_one = 1,
    .mixer = AIR_MIXER_STATE_SPACE,
    .no_rope_period = 1,
    .ffn = AIR_FFN_PLAIN,
    .activation = AIR_ACTIVATION_RELU2,
    .qkv_bias = AIR_BIAS_OPTIONAL,
    .attention_out_bias = AIR_BIAS_OPTIONAL,
    .ffn_bias = AIR_BIAS_OPTIONAL,
};
