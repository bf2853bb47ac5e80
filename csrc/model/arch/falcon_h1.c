/* Falcon-H1 (arXiv 2507.22448): in every layer attention and Mamba-2 side by side, of the same norm of the row. What the models multiply
 * their activations by is in the files' weights. */
#include "model/arch.h"

const air_arch air_arch_falcon_h1 = {
    .name = "falcon-h1",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NEOX,
    .mixer = AIR_MIXER_STATE_SPACE,
    .mixer_beside = 1,
    .qkv_bias = AIR_BIAS_OPTIONAL,
    .attention_out_bias = AIR_BIAS_OPTIONAL,
    .ffn_bias = AIR_BIAS_OPTIONAL,
};
