/* GLM-4-0414: Llama's layer with norms behind each block too, half of each head rotated by adjacent pairs, gate and up in one tensor. */
#include "model/arch.h"

const air_arch air_arch_glm4 = {
    .name = "glm4",
    .norm_place = AIR_NORM_AROUND,
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NORMAL,
    .qkv_bias = AIR_BIAS_OPTIONAL,
};
