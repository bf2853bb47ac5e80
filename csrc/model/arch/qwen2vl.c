/* Qwen 2 and 2.5 VL (arXiv 2409.12191), their text, whose positions in time, height and width are the same: Qwen2's layers. */
#include "model/arch.h"

const air_arch air_arch_qwen2vl = {
    .name = "qwen2vl",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NEOX,
    .qkv_bias = AIR_BIAS_REQUIRED,
};
