/* Norms of whole rows by weights of the file: RMS norms (arXiv 1910.07467) or layer norms (arXiv 1607.06450), as the architecture has. */
#include <stdio.h>

#include "model/arch.h"

int32_t air__block_norm(air_builder *b, int32_t layer, int32_t in, int32_t out, const char *name)
{
    int64_t width = b->hp->n_embd;
    const air_arch *arch = b->arch;
    char weight[64], bias[64];
    (void)snprintf(weight, sizeof weight, "%s.weight", name);
    (void)snprintf(bias, sizeof bias, "%s.bias", name);
    air_op op = {.kind = arch->norm == AIR_NORM_RMS ? AIR_OP_RMS_NORM : AIR_OP_LAYER_NORM, .layer = layer, .in = in, .in2 = AIR_NONE,
                 .weight = AIR_NONE, .bias = AIR_NONE, .eps = (float)b->hp->norm_eps};
    if (!air__has(b, weight, layer) && air__has(b, name, layer)) (void)snprintf(weight, sizeof weight, "%s", name);
    if (arch->norm != AIR_NORM_LAYER_PLAIN) op.weight = air__vector(b, AIR_REQUIRED, width, "embedding_length", weight, layer);
    if (arch->norm == AIR_NORM_LAYER) op.bias = air__bias(b, arch->norm_bias, width, bias, layer);
    op.out = out == AIR_NONE ? air__buffer(b, "norm", width, air__buffer_rows(b, in)) : out;
    air__emit(b, op);
    return op.out;
}
