/* RMS norm (arXiv 1910.07467) of a whole row by a weight of the file. */
#include "model/arch.h"

int32_t air__block_norm(air_builder *b, int32_t layer, int32_t in, const char *weight)
{
    int32_t w = air__vector(b, AIR_REQUIRED, b->hp->n_embd, "embedding_length", weight, layer);
    int32_t out = air__buffer(b, "norm", b->hp->n_embd, air__buffer_rows(b, in));
    air__emit(b, (air_op){.kind = AIR_OP_RMS_NORM, .layer = layer, .in = in, .in2 = AIR_NONE, .out = out, .weight = w,
                          .bias = AIR_NONE, .eps = (float)b->hp->rms_eps});
    return out;
}
