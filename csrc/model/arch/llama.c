/* Llama 1 to 3.x (arXiv 2302.13971, 2407.21783) and what files call "llama": Mistral, TinyLlama, SmolLM, Yi …: RMS norm before each
 * block, rope over adjacent pairs (the converter permutes q and k for it), grouped-query attention, SwiGLU. Some files bring biases. */
#include "model/arch.h"

const air_arch air_arch_llama = {
    .name = "llama",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NORMAL,
    .qkv_bias = AIR_BIAS_OPTIONAL,
    .attention_out_bias = AIR_BIAS_OPTIONAL,
    .ffn_bias = AIR_BIAS_OPTIONAL,
    .experts = {.gating = AIR_GATING_SOFTMAX, .normalise = 1}, /* Mixtral */
};
