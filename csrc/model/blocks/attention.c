/* Grouped-query attention with rotary positions (arXiv 2305.13245, 2104.09864):
 * x += Wo · attention(rope(Wq n), rope(Wk n), Wv n), n = norm(x). */
#include <math.h>

#include "model/arch.h"

static int32_t project(air_builder *b, int32_t layer, int32_t in, int64_t rows, const char *why, const char *weight,
                       const char *bias)
{
    int32_t out = air__buffer(b, "attention", rows, AIR_ROWS_ALL);
    air__emit(b, (air_op){.kind = AIR_OP_PRODUCT, .layer = layer, .in = in, .in2 = AIR_NONE, .out = out,
                          .weight = air__matrix(b, rows, b->hp->n_embd, why, weight, layer),
                          .bias = air__bias(b, b->arch->qkv_bias, rows, bias, layer), .epilogue = AIR_EPILOGUE_SET});
    return out;
}

static void norm_and_rotate(air_builder *b, int32_t layer, int32_t buffer, int32_t heads, const char *norm)
{
    const air_hparams *hp = b->hp;
    if (b->arch->qk_norm == AIR_QK_NORM_PER_HEAD)
        air__emit(b, (air_op){.kind = AIR_OP_RMS_NORM, .layer = layer, .in = buffer, .in2 = AIR_NONE, .out = buffer,
                              .weight = air__vector(b, AIR_REQUIRED, hp->key_dim, "head size", norm, layer), .bias = AIR_NONE,
                              .heads = heads, .head_dim = hp->key_dim, .eps = (float)hp->rms_eps});
    air__emit(b, (air_op){.kind = AIR_OP_ROPE, .layer = layer, .in = buffer, .in2 = AIR_NONE, .out = buffer, .weight = AIR_NONE,
                          .bias = AIR_NONE, .heads = heads, .head_dim = hp->key_dim});
}

void air__block_attention(air_builder *b, int32_t layer, int32_t x)
{
    const air_hparams *hp = b->hp;
    int64_t kv = hp->kv_heads, width = (int64_t)hp->heads * hp->value_dim;
    int32_t n = air__block_norm(b, layer, x, "blk.%d.attn_norm.weight");
    int32_t q = project(b, layer, n, (int64_t)hp->heads * hp->key_dim, "head_count x head size, embedding_length",
                        "blk.%d.attn_q.weight", "blk.%d.attn_q.bias");
    int32_t k = project(b, layer, n, kv * hp->key_dim, "head_count_kv x head size, embedding_length", "blk.%d.attn_k.weight",
                        "blk.%d.attn_k.bias");
    int32_t v = project(b, layer, n, kv * hp->value_dim, "head_count_kv x value head size, embedding_length",
                        "blk.%d.attn_v.weight", "blk.%d.attn_v.bias");
    norm_and_rotate(b, layer, q, hp->heads, "blk.%d.attn_q_norm.weight");
    norm_and_rotate(b, layer, k, hp->kv_heads, "blk.%d.attn_k_norm.weight");
    air__emit(b, (air_op){.kind = AIR_OP_STORE, .layer = layer, .in = k, .in2 = v, .out = AIR_NONE, .weight = AIR_NONE,
                          .bias = AIR_NONE});

    int32_t a = air__buffer(b, "attended", width, AIR_ROWS_ALL);
    air__emit(b, (air_op){.kind = AIR_OP_ATTENTION, .layer = layer, .in = q, .in2 = AIR_NONE, .out = a, .weight = AIR_NONE,
                          .bias = AIR_NONE, .heads = hp->heads, .head_dim = hp->key_dim,
                          .scale = (float)(1.0 / sqrt((double)hp->key_dim))});
    air__emit(b, (air_op){.kind = AIR_OP_PRODUCT, .layer = layer, .in = a, .in2 = AIR_NONE, .out = x,
                          .weight = air__matrix(b, hp->n_embd, width, "embedding_length, head_count x value head size",
                                                "blk.%d.attn_output.weight", layer),
                          .bias = air__bias(b, b->arch->attention_out_bias, hp->n_embd, "blk.%d.attn_output.bias", layer),
                          .epilogue = AIR_EPILOGUE_ADD});
}
