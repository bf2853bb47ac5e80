/* A layer of a decoder: attention and feed-forward, one after the other or side by side, and the residual that both add to. */
#include "model/arch.h"

static const char *ffn_norm_name(const air_builder *b) { return b->arch->ffn_norm ? b->arch->ffn_norm : "blk.%d.ffn_norm"; }

/* Attention and feed-forward of the same row (GPT-J's parallel layers): each by a norm of its own where the file has two. */
static void parallel(air_builder *b, int32_t layer, int32_t x)
{
    int32_t shared = air__block_norm(b, layer, x, AIR_NONE, "blk.%d.attn_norm"), attention = shared, ffn = shared;
    if (air__has(b, "blk.%d.attn_norm_2.weight", layer)) attention = air__block_norm(b, layer, x, AIR_NONE, "blk.%d.attn_norm_2");
    if (air__has(b, "blk.%d.ffn_norm.weight", layer)) ffn = air__block_norm(b, layer, x, AIR_NONE, "blk.%d.ffn_norm");
    air__block_attention(b, layer, attention, x);
    air__block_ffn(b, layer, ffn, x);
}

void air__block_layer(air_builder *b, int32_t layer, int32_t x)
{
    int by_norm = b->arch->order == AIR_ORDER_BY_NORM && !air__has(b, "blk.%d.ffn_norm.weight", layer);
    if (b->hp->parallel || by_norm) {
        parallel(b, layer, x);
        return;
    }
    int before = b->arch->norm_place != AIR_NORM_AFTER;
    air__block_attention(b, layer, before ? air__block_norm(b, layer, x, AIR_NONE, "blk.%d.attn_norm") : x, x);
    air__block_ffn(b, layer, before ? air__block_norm(b, layer, x, AIR_NONE, ffn_norm_name(b)) : x, x);
}

void air__block_residual(air_builder *b, int32_t layer, int32_t x, air_op product, const char *post_norm)
{
    int after = b->arch->norm_place != AIR_NORM_BEFORE;
    product.kind = AIR_OP_PRODUCT;
    product.layer = layer;
    product.in2 = AIR_NONE;
    product.scale = b->hp->residual_scale == 1 ? 0 : (float)b->hp->residual_scale;
    product.epilogue = after ? AIR_EPILOGUE_SET : AIR_EPILOGUE_ADD;
    product.out = after ? air__buffer(b, "block", b->hp->n_embd, AIR_ROWS_ALL) : x;
    air__emit(b, product);
    if (!after) return;
    (void)air__block_norm(b, layer, product.out, product.out, post_norm);
    air__emit(b, (air_op){.kind = AIR_OP_ADD, .layer = layer, .in = product.out, .in2 = AIR_NONE, .out = x, .weight = AIR_NONE,
                          .bias = AIR_NONE});
}
