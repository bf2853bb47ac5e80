/* ChatGLM 2 to 4 and GLM-4 (arXiv 2406.12793): Llama's layer with half of each head rotated by adjacent pairs, q, k and v in one
 * tensor, gate and up in another. */
#include "model/arch.h"

const air_arch air_arch_chatglm = {
    .name = "chatglm",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NORMAL,
    .qkv_bias = AIR_BIAS_OPTIONAL,
};
