/* LFM2 (arXiv 2511.23404): attention with norms on q and k in few layers, short convolutions between two gates in the others. */
#include "model/arch.h"

const air_arch air_arch_lfm2 = {
    .name = "lfm2",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NEOX,
    .qk_norm = AIR_QK_NORM_PER_HEAD,
    .mixer = AIR_MIXER_SHORT_CONVOLUTION,
    .output_norm = "token_embd_norm",
};
