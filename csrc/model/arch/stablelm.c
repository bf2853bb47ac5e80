/* StableLM (arXiv 2402.17834): Llama's layer with layer norms and a part of each head rotated; the 12b model has norms on the heads of
 * q and k, and no norm before its feed-forward, which is computed beside attention. */
#include "model/arch.h"

const air_arch air_arch_stablelm = {
    .name = "stablelm",
    .norm = AIR_NORM_LAYER,
    .norm_bias = AIR_BIAS_REQUIRED,
    .order = AIR_ORDER_BY_NORM,
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NEOX,
    .qkv_bias = AIR_BIAS_OPTIONAL,
    .qk_norm = AIR_QK_NORM_PER_HEAD_OWN,
};
