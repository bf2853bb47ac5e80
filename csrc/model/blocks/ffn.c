/* Feed-forward: gated (arXiv 2002.05202), x += Wdown · (f(Wgate in) * (Wup in)), or plain, x += Wdown · f(Wup in). */
#include "model/arch.h"

static const char why[] = "feed_forward_length and embedding_length";

static void product(air_builder *b, int32_t layer, int32_t in, int32_t out, int32_t weight, int32_t bias, air_epilogue epilogue,
                    air_activation f)
{
    air__emit(b, (air_op){.kind = AIR_OP_PRODUCT, .layer = layer, .in = in, .in2 = AIR_NONE, .out = out, .weight = weight, .bias = bias,
                          .epilogue = epilogue, .activation = f});
}

/* Some files hold the gate's rows before those of up, in one tensor. */
static void gated(air_builder *b, int32_t layer, int32_t in, int32_t h, int64_t f)
{
    int64_t e = b->hp->n_embd;
    air_bias biased = b->arch->ffn_bias;
    int32_t gate, up, gate_bias, up_bias;
    if (air__has(b, "blk.%d.ffn_gate.weight", layer)) {
        gate = air__matrix(b, f, e, why, "blk.%d.ffn_gate.weight", layer);
        gate_bias = air__bias(b, biased, f, "blk.%d.ffn_gate.bias", layer);
        up = air__matrix(b, f, e, why, "blk.%d.ffn_up.weight", layer);
        up_bias = air__bias(b, biased, f, "blk.%d.ffn_up.bias", layer);
    } else {
        const char *both = "gate and up: twice feed_forward_length, embedding_length";
        gate = air__matrix_part(b, (air_part){0, f, 2 * f}, e, both, "blk.%d.ffn_up.weight", layer);
        gate_bias = air__bias_part(b, biased, (air_part){0, f, 2 * f}, "blk.%d.ffn_up.bias", layer);
        up = air__matrix_part(b, (air_part){f, f, 2 * f}, e, both, "blk.%d.ffn_up.weight", layer);
        up_bias = air__bias_part(b, biased, (air_part){f, f, 2 * f}, "blk.%d.ffn_up.bias", layer);
    }
    product(b, layer, in, h, gate, gate_bias, AIR_EPILOGUE_SET, AIR_ACTIVATION_NONE);
    product(b, layer, in, h, up, up_bias, AIR_EPILOGUE_GATED, b->hp->activation);
}

void air__block_ffn(air_builder *b, int32_t layer, int32_t in, int32_t x)
{
    if (b->hp->experts.n_experts && air__has(b, "blk.%d.ffn_gate_inp.weight", layer)) {
        air__block_experts(b, layer, in, x);
        return;
    }
    int64_t e = b->hp->n_embd, f = b->hp->layers[layer].n_ff;
    int32_t h = air__buffer(b, "ffn", f, AIR_ROWS_ALL);
    if (b->arch->ffn == AIR_FFN_GATED) gated(b, layer, in, h, f);
    else
        product(b, layer, in, h, air__matrix(b, f, e, why, "blk.%d.ffn_up.weight", layer),
                air__bias(b, b->arch->ffn_bias, f, "blk.%d.ffn_up.bias", layer), AIR_EPILOGUE_SET, b->hp->activation);
    air_op down = {.in = h};
    down.weight = air__matrix(b, e, f, why, "blk.%d.ffn_down.weight", layer);
    down.bias = air__bias(b, b->arch->ffn_bias, e, "blk.%d.ffn_down.bias", layer);
    air__block_residual(b, layer, x, down, AIR_BLOCK_FFN);
}
