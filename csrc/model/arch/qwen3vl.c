/* Qwen 3 VL (arXiv 2511.21631), its text, whose positions in time, height and width are the same: Qwen3's layers. */
#include "model/arch.h"

const air_arch air_arch_qwen3vl = {
    .name = "qwen3vl",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NEOX,
    .qk_norm = AIR_QK_NORM_PER_HEAD,
};
