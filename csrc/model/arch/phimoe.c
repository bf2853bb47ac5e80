/* Phi-3.5 MoE: layer norms, biases in attention and output, ropes with factors for long contexts, two of sixteen experts by SparseMixer. */
#include "model/arch.h"

const air_arch air_arch_phimoe = {
    .name = "phimoe",
    .norm = AIR_NORM_LAYER,
    .norm_bias = AIR_BIAS_REQUIRED,
    .rms_epsilon = 1,
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NEOX,
    .qkv_bias = AIR_BIAS_OPTIONAL,
    .attention_out_bias = AIR_BIAS_OPTIONAL,
    .output_bias = AIR_BIAS_OPTIONAL,
    .experts = {.gating = AIR_GATING_SPARSE_MIXER},
};
