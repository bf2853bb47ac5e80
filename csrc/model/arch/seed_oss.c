/* Seed-OSS: Llama's layer with biases on q, k and v, rope over halves; the norm before its feed-forward has another name. */
#include "model/arch.h"

const air_arch air_arch_seed_oss = {
    .name = "seed_oss",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NEOX,
    .ffn_norm = "blk.%d.post_attention_norm",
    .qkv_bias = AIR_BIAS_OPTIONAL,
    .attention_out_bias = AIR_BIAS_OPTIONAL,
};
