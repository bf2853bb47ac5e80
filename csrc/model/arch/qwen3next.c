/* Qwen3-Next: gated delta nets in three of four layers, attention with a gate of its own in the others; experts, of which one is for all
 * rows, with a gate too. */
#include "model/arch.h"

const air_arch air_arch_qwen3next = {
    .name = "qwen3next",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NEOX,
    .qk_norm = AIR_QK_NORM_PER_HEAD,
    .ffn_norm = "blk.%d.post_attention_norm",
    .mixer = AIR_MIXER_DELTA_NET,
    .gated_attention = 1,
    .experts = {.gating = AIR_GATING_SOFTMAX, .normalise = 1, .shared_is_gated = 1},
};
