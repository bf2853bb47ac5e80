/* GPT-NeoX and Pythia (arXiv 2204.06745, 2304.01373): attention and feed-forward side by side, each of a layer norm of its own, or one
 * after the other, as the file says; a part of each head rotated. */
#include "model/arch.h"

const air_arch air_arch_gptneox = {
    .name = "gptneox",
    .norm = AIR_NORM_LAYER,
    .norm_bias = AIR_BIAS_REQUIRED,
    .order = AIR_ORDER_BY_KEY,
    .rope = AIR_ROPE_NEOX,
    .ffn = AIR_FFN_PLAIN,
    .activation = AIR_ACTIVATION_GELU_ERF,
    .qkv_bias = AIR_BIAS_REQUIRED,
    .attention_out_bias = AIR_BIAS_REQUIRED,
    .ffn_bias = AIR_BIAS_REQUIRED,
};
