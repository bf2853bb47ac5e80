/* LFM2's mixtures (8b-A1b, 24b-A2b): LFM2's layers, of which all but the first have experts. */
#include "model/arch.h"

const air_arch air_arch_lfm2moe = {
    .name = "lfm2moe",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NEOX,
    .qk_norm = AIR_QK_NORM_PER_HEAD,
    .mixer = AIR_MIXER_SHORT_CONVOLUTION,
    .output_norm = "token_embd_norm",
    .experts = {.gating = AIR_GATING_SIGMOID, .normalise = 1},
};
