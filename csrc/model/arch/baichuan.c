/* Baichuan and Baichuan 2 (arXiv 2309.10305): Llama's layer; the 13b models know positions by the distance alone (ALiBi), which only
 * their number of layers says. */
#include "model/arch.h"

static void adjust(air_hparams *hp)
{
    if (hp->n_layers == 40) hp->positions = AIR_POSITIONS_ALIBI;
}

const air_arch air_arch_baichuan = {
    .name = "baichuan",
    .activation = AIR_ACTIVATION_SILU,
    .rope = AIR_ROPE_NORMAL,
    .adjust = adjust,
};
