/* MiniCPM (arXiv 2404.06395): Llama's layer with factors on the embedding, what blocks add, and the logits (divided). Files from
 * before these were written have those of its first models. */
#include <math.h>

#include "model/arch.h"

static void adjust(air_hparams *hp)
{
    hp->embedding_scale = 12;
    hp->residual_scale = 1.4 / sqrt((double)hp->n_layers);
    hp->logit_scale = 256 / (double)hp->n_embd;
}

const air_arch air_arch_minicpm = {
    .name = "minicpm",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NORMAL,
    .attention_out_bias = AIR_BIAS_OPTIONAL,
    .logit_scale = AIR_LOGIT_SCALE_DIVIDES,
    .adjust = adjust,
};
