/* What layers have in attention's place that go on from one position to the next with a state of fixed size. */
#include "model/arch.h"

static int32_t product(air_builder *b, int32_t layer, int32_t in, int32_t out, int32_t weight, air_epilogue epilogue)
{
    air__emit(b, (air_op){.kind = AIR_OP_PRODUCT, .layer = layer, .in = in, .in2 = AIR_NONE, .out = out, .weight = weight,
                          .bias = AIR_NONE, .epilogue = epilogue});
    return out;
}

/* LFM2's (Liquid AI's technical report, arXiv 2511.23404): x += Wout · (c * convolution(b * y)), with b, c and y = Win in. */
static void short_convolution(air_builder *b, int32_t layer, int32_t in, int32_t x)
{
    static const char why[] = "three times embedding_length, embedding_length", name[] = "blk.%d.shortconv.in_proj.weight";
    int64_t e = b->hp->n_embd, taps = b->hp->recurrent.taps;
    air_recurrent_shape *shape = air__recurrent(b, layer);
    if (shape) *shape = (air_recurrent_shape){.channels = (int32_t)e, .taps = (int32_t)taps, .rate = AIR_NONE, .step_bias = AIR_NONE,
                                              .skip = AIR_NONE};
    int32_t gated = air__buffer(b, "gated", e, AIR_ROWS_ALL), out = air__buffer(b, "convolved", e, AIR_ROWS_ALL);
    (void)product(b, layer, in, gated, air__matrix_part(b, (air_part){0, e, 3 * e}, e, why, name, layer), AIR_EPILOGUE_SET);
    (void)product(b, layer, in, gated, air__matrix_part(b, (air_part){2 * e, e, 3 * e}, e, why, name, layer), AIR_EPILOGUE_GATED);
    air__emit(b, (air_op){.kind = AIR_OP_CONVOLVE, .layer = layer, .in = gated, .in2 = AIR_NONE, .out = out, .bias = AIR_NONE,
                          .weight = air__vectors(b, AIR_REQUIRED, e, taps, "shortconv.l_cache, embedding_length",
                                                 "blk.%d.shortconv.conv.weight", layer)});
    (void)product(b, layer, in, out, air__matrix_part(b, (air_part){e, e, 3 * e}, e, why, name, layer), AIR_EPILOGUE_GATED);
    int32_t last = air__matrix(b, e, e, "embedding_length", "blk.%d.shortconv.out_proj.weight", layer);
    air__block_residual(b, layer, x, (air_op){.in = out, .weight = last, .bias = AIR_NONE}, AIR_BLOCK_ATTENTION);
}

void air__block_recurrent(air_builder *b, int32_t layer, int32_t in, int32_t x)
{
    switch (b->arch->mixer) {
    case AIR_MIXER_SHORT_CONVOLUTION: short_convolution(b, layer, in, x); break;
    case AIR_MIXER_NONE: break; /* such layers are refused */
    }
}
