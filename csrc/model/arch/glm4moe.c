/* GLM-4.5 (arXiv 2508.06471): Llama's layer with biases on q, k and v, half of each head rotated, the first layers dense, then experts as
 * DeepSeek-V3 routes them, and a shared one. Layers behind the last, which foretell more than one token, are left out. */
#include "model/arch.h"

const air_arch air_arch_glm4moe = {
    .name = "glm4moe",
    .ffn_norm = "blk.%d.post_attention_norm",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NEOX,
    .qk_norm = AIR_QK_NORM_PER_HEAD_OPTIONAL,
    .qkv_bias = AIR_BIAS_OPTIONAL,
    .experts = {.gating = AIR_GATING_SIGMOID, .normalise = 1},
};
