/* InternLM 2 (arXiv 2403.17297): Llama's layer; the converter takes its one tensor of q, k and v apart. */
#include "model/arch.h"

const air_arch air_arch_internlm2 = {
    .name = "internlm2",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NORMAL,
    .qkv_bias = AIR_BIAS_OPTIONAL,
};
