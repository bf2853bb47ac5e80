/* A layer of a decoder: attention and feed-forward, one after the other or side by side, and the residual that both add to. */
#include "model/arch.h"

static const char *ffn_norm_name(const air_builder *b) { return b->arch->ffn_norm ? b->arch->ffn_norm : "blk.%d.ffn_norm"; }

static void mix(air_builder *b, int32_t layer, int32_t in, int32_t x)
{
    int attends = b->hp->layers[layer].kv_heads > 0;
    if (attends) air__block_attention(b, layer, in, x);
    if (!attends || b->arch->mixer_beside) air__block_recurrent(b, layer, in, x);
}

/* Attention and feed-forward of the same row (GPT-J's parallel layers): each by a norm of its own where the file has two. */
static void parallel(air_builder *b, int32_t layer, int32_t x)
{
    int32_t shared = air__block_norm(b, layer, x, AIR_NONE, "blk.%d.attn_norm"), attention = shared, ffn = shared;
    if (air__has(b, "blk.%d.attn_norm_2.weight", layer)) attention = air__block_norm(b, layer, x, AIR_NONE, "blk.%d.attn_norm_2");
    if (air__has(b, "blk.%d.ffn_norm.weight", layer)) ffn = air__block_norm(b, layer, x, AIR_NONE, "blk.%d.ffn_norm");
    mix(b, layer, attention, x);
    air__block_ffn(b, layer, ffn, x);
}

static void one_block(air_builder *b, int32_t layer, int32_t x)
{
    int32_t in = air__block_norm(b, layer, x, AIR_NONE, "blk.%d.attn_norm");
    if (b->hp->layers[layer].n_ff) air__block_ffn(b, layer, in, x);
    else mix(b, layer, in, x);
}

void air__block_layer(air_builder *b, int32_t layer, int32_t x)
{
    if (b->arch->layers_of_one) {
        one_block(b, layer, x);
        return;
    }
    int by_norm = b->arch->order == AIR_ORDER_BY_NORM && !air__has(b, "blk.%d.ffn_norm.weight", layer);
    if (b->hp->parallel || by_norm) {
        parallel(b, layer, x);
        return;
    }
    int before = b->arch->norm_place == AIR_NORM_BEFORE || b->arch->norm_place == AIR_NORM_AROUND;
    int normed = before && (layer || !b->arch->first_norm_optional || air__has(b, "blk.%d.attn_norm.weight", layer));
    mix(b, layer, normed ? air__block_norm(b, layer, x, AIR_NONE, "blk.%d.attn_norm") : x, x);
    air__block_ffn(b, layer, before ? air__block_norm(b, layer, x, AIR_NONE, ffn_norm_name(b)) : x, x);
}

/* --- the residual --- */

static int normed_before_added(const air_builder *b)
{
    return b->arch->norm_place == AIR_NORM_AFTER || b->arch->norm_place == AIR_NORM_AROUND;
}

int32_t air__block_result(air_builder *b, int32_t x)
{
    return normed_before_added(b) ? air__buffer(b, "block", b->hp->n_embd, AIR_ROWS_ALL) : x;
}

/* Jina's model of code adds a layer's input twice, with a norm of its own for it, and has norms of q and k. */
static void refuse_second_norm(air_builder *b, int32_t layer)
{
    if (b->arch->norm_place != AIR_NORM_OF_SUM || !air__has(b, "blk.%d.attn_norm_2.weight", layer)) return;
    b->status = air_fail(b->err, AIR_E_UNSUPPORTED, "blk.%d.attn_norm_2.weight, a second norm behind attention, is unsupported in %s",
                         (int)layer, b->hp->arch);
}

void air__block_join(air_builder *b, int32_t layer, int32_t result, int32_t x, air_block_kind of)
{
    static const char *const after[] = {"blk.%d.post_attention_norm", "blk.%d.post_ffw_norm"};
    static const char *const of_sum[] = {"blk.%d.attn_output_norm", "blk.%d.layer_output_norm"};
    if (b->arch->norm_place == AIR_NORM_OF_SUM) (void)air__block_norm(b, layer, x, x, of_sum[of]);
    refuse_second_norm(b, layer);
    if (!normed_before_added(b)) return;
    (void)air__block_norm(b, layer, result, result, after[of]);
    air__emit(b, (air_op){.kind = AIR_OP_ADD, .layer = layer, .in = result, .in2 = AIR_NONE, .out = x, .weight = AIR_NONE,
                          .bias = AIR_NONE});
}

void air__block_residual(air_builder *b, int32_t layer, int32_t x, air_op product, air_block_kind of)
{
    product.kind = AIR_OP_PRODUCT;
    product.layer = layer;
    product.in2 = AIR_NONE;
    product.scale = b->hp->residual_scale == 1 ? 0 : (float)b->hp->residual_scale;
    product.out = air__block_result(b, x);
    product.epilogue = product.out == x ? AIR_EPILOGUE_ADD : AIR_EPILOGUE_SET;
    air__emit(b, product);
    air__block_join(b, layer, product.out, x, of);
}
