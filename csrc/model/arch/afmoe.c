/* Arcee's Trinity: norms before and behind each block, a gate of what heads attend, windows in three of four layers, which alone are
 * rotated, and experts beside one for all rows. */
#include "model/arch.h"

const air_arch air_arch_afmoe = {
    .name = "afmoe",
    .norm_place = AIR_NORM_AROUND,
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NEOX,
    .rope_layers = AIR_ROPE_IN_WINDOWED,
    .embed_scale = AIR_EMBED_SCALE_ROOT,
    .qk_norm = AIR_QK_NORM_PER_HEAD,
    .attention_gate = 1,
    .window_period = 4,
    .experts = {.gating = AIR_GATING_SIGMOID, .normalise = 1},
};
