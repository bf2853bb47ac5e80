/* Gemma 3 (arXiv 2503.19786): norms before and behind each block and on the heads of q and k; of six layers five have a window, with a
 * rope that is never stretched. */
#include <math.h>

#include "model/arch.h"

/* The 27b model's scores are scaled by the width for each head, which is not the size of its heads. */
static void adjust(air_hparams *hp)
{
    if (hp->n_layers == 62) hp->attention_scale = 1 / sqrt((double)(hp->n_embd / hp->heads));
}

const air_arch air_arch_gemma3 = {
    .name = "gemma3",
    .activation = AIR_ACTIVATION_GELU,
    .rope = AIR_ROPE_NEOX,
    .embed_scale = AIR_EMBED_SCALE_ROOT,
    .norm_place = AIR_NORM_AROUND,
    .qk_norm = AIR_QK_NORM_PER_HEAD,
    .window_period = 6,
    .window_rope = AIR_WINDOW_ROPE_UNSCALED,
    .window_rope_base = 10000,
    .adjust = adjust,
};
