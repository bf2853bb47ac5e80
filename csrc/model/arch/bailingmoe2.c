/* Ling and Ring 2.0: norms on the heads of q and k, a part of each rotated, the first layers dense, then experts as DeepSeek-V3 routes
 * them, and a shared one. Layers behind the last, which foretell more than one token, are left out. */
#include "model/arch.h"

const air_arch air_arch_bailingmoe2 = {
    .name = "bailingmoe2",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NEOX,
    .qk_norm = AIR_QK_NORM_PER_HEAD,
    .experts = {.gating = AIR_GATING_SIGMOID},
};
