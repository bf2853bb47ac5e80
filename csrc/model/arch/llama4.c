/* Llama 4, its text: three of four layers rotate and see the chunk of 8192 positions that they are in, the fourth neither, and its scores
 * grow with the position; experts in every layer or every other one, whose input is weighed, and one for all rows. */
#include "model/arch.h"

/* Maverick, of 128 experts, has no norms on q and k. */
static void adjust(air_hparams *hp)
{
    hp->no_qk_norm = hp->experts.n_experts == 128;
}

const air_arch air_arch_llama4 = {
    .name = "llama4",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NORMAL,
    .rope_layers = AIR_ROPE_IN_WINDOWED,
    .qk_norm = AIR_QK_NORM_PLAIN,
    .qk_norm_after_rope = 1,
    .window_period = 4,
    .window = 8192,
    .chunked = 1,
    .temper = {.scale = 0.1, .length = 8192, .shift = 1},
    .experts = {.gating = AIR_GATING_SIGMOID, .weighs_input = 1, .has_shared = 1},
    .adjust = adjust,
};
