/* Gated feed-forward (SwiGLU, arXiv 2002.05202): x += Wdown · (silu(Wgate n) * (Wup n)), n = norm(x). */
#include "model/arch.h"

static void product(air_builder *b, int32_t layer, int32_t in, int32_t out, int64_t rows, int64_t cols, const char *weight,
                    const char *bias, air_epilogue epilogue, air_activation activation)
{
    air__emit(b, (air_op){.kind = AIR_OP_PRODUCT, .layer = layer, .in = in, .in2 = AIR_NONE, .out = out,
                          .weight = air__matrix(b, rows, cols, "feed_forward_length and embedding_length", weight, layer),
                          .bias = air__bias(b, b->arch->ffn_bias, rows, bias, layer), .epilogue = epilogue, .activation = activation});
}

void air__block_ffn(air_builder *b, int32_t layer, int32_t x)
{
    int64_t e = b->hp->n_embd, f = b->hp->n_ff;
    int32_t n = air__block_norm(b, layer, x, "blk.%d.ffn_norm.weight");
    int32_t h = air__buffer(b, "ffn", f, AIR_ROWS_ALL);
    product(b, layer, n, h, f, e, "blk.%d.ffn_gate.weight", "blk.%d.ffn_gate.bias", AIR_EPILOGUE_SET, AIR_ACTIVATION_NONE);
    product(b, layer, n, h, f, e, "blk.%d.ffn_up.weight", "blk.%d.ffn_up.bias", AIR_EPILOGUE_GATED, AIR_ACTIVATION_SILU);
    product(b, layer, h, x, e, f, "blk.%d.ffn_down.weight", "blk.%d.ffn_down.bias", AIR_EPILOGUE_ADD, AIR_ACTIVATION_NONE);
}
