/* Gemma 2 (arXiv 2408.00118): norms before and behind each block, every other layer with a window, soft caps on scores and logits.
 * Files from before the window and the caps were written have those of all its models. */
#include <math.h>

#include "model/arch.h"

/* The 27b model's scores are scaled by the width for each head, which is not the size of its heads. */
static void adjust(air_hparams *hp)
{
    if (hp->n_layers == 46) hp->attention_scale = 1 / sqrt((double)(hp->n_embd / hp->heads));
}

const air_arch air_arch_gemma2 = {
    .name = "gemma2",
    .activation = AIR_ACTIVATION_GELU,
    .rope = AIR_ROPE_NEOX,
    .embed_scale = AIR_EMBED_SCALE_ROOT,
    .norm_place = AIR_NORM_AROUND,
    .window_period = 2,
    .window = 4096,
    .attention_softcap = 50,
    .logit_softcap = 30,
    .adjust = adjust,
};
