/* Hunyuan, dense (0.5b to 7b): Llama's layer with RMS norms on the heads of q and k after their rotation. */
#include "model/arch.h"

const air_arch air_arch_hunyuan_dense = {
    .name = "hunyuan-dense",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NEOX,
    .qk_norm = AIR_QK_NORM_PER_HEAD,
    .qk_norm_after_rope = 1,
    .qkv_bias = AIR_BIAS_OPTIONAL,
};
