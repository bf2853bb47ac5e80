/* Qwen3.5, dense: Qwen3-Next's layers without experts. Heads of its delta nets take keys in turn, as files order them. */
#include "model/arch.h"

const air_arch air_arch_qwen35 = {
    .name = "qwen35",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NEOX,
    .qk_norm = AIR_QK_NORM_PER_HEAD,
    .ffn_norm = "blk.%d.post_attention_norm",
    .mixer = AIR_MIXER_DELTA_NET,
    .keys_in_turn = 1,
    .gated_attention = 1,
};
