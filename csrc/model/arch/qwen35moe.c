/* Qwen3.5's mixtures: Qwen3-Next's layers. Heads of their delta nets take keys in turn, as files order them. */
#include "model/arch.h"

const air_arch air_arch_qwen35moe = {
    .name = "qwen35moe",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NEOX,
    .qk_norm = AIR_QK_NORM_PER_HEAD,
    .ffn_norm = "blk.%d.post_attention_norm",
    .mixer = AIR_MIXER_DELTA_NET,
    .keys_in_turn = 1,
    .gated_attention = 1,
    .experts = {.gating = AIR_GATING_SOFTMAX, .normalise = 1, .shared_is_gated = 1},
};
