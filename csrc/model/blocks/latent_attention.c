/* Multi-head latent attention (arXiv 2405.04434): the state holds for each position one vector that all heads share, of which the first
 * kv_rank elements, normed, are what keys and values are made of, and the others a key that is rotated.
 *
 * Neither is ever made. A score q · (Wk c) is (Wk^T q) · c, and a sum of values Wv (sum of c): so q goes through its head's Wk^T before,
 * and what attention gives through its head's Wv after. What is left is attention with one K/V head, whose values are the first elements of
 * its keys. */
#include "model/arch.h"

typedef struct sizes {
    int32_t heads, rank, rope, plain, value, key; /* plain: of a head's q what is not rotated; key: of the state */
} sizes;

static sizes sizes_of(const air_builder *b, int32_t layer)
{
    const air_hparams *hp = b->hp;
    return (sizes){
        .heads = hp->layers[layer].heads, .rank = hp->latent.kv_rank, .rope = hp->rope_dims, .plain = hp->latent.key_dim - hp->rope_dims,
        .value = hp->latent.value_dim, .key = hp->key_dim,
    };
}

static int32_t product(air_builder *b, int32_t layer, int32_t in, const char *buffer, int32_t weight, int64_t rows)
{
    int32_t out = air__buffer(b, buffer, rows, AIR_ROWS_ALL);
    air__emit(b, (air_op){.kind = AIR_OP_PRODUCT, .layer = layer, .in = in, .in2 = AIR_NONE, .out = out, .weight = weight, .bias = AIR_NONE,
                          .epilogue = AIR_EPILOGUE_SET});
    return out;
}

/* Of the first `width` elements of a row. */
static void norm(air_builder *b, int32_t layer, int32_t buffer, int32_t width, int32_t row, const char *why, const char *name)
{
    air__emit(b, (air_op){.kind = AIR_OP_RMS_NORM, .layer = layer, .in = buffer, .in2 = AIR_NONE, .out = buffer, .bias = AIR_NONE,
                          .weight = air__vector(b, AIR_REQUIRED, width, why, name, layer), .heads = 1, .head_dim = width,
                          .from = {0, row}, .eps = (float)b->hp->norm_eps});
}

static void rotate(air_builder *b, int32_t layer, int32_t buffer, int32_t heads, const sizes *s)
{
    air__emit(b, (air_op){.kind = AIR_OP_ROPE, .layer = layer, .in = buffer, .in2 = AIR_NONE, .out = buffer, .weight = AIR_NONE,
                          .bias = AIR_NONE, .heads = heads, .head_dim = s->rope, .from = {s->rank, s->key},
                          .rope = air__rope_of(b, layer)});
}

/* What q is made of where that is not the layer's input, AIR_NONE. */
static int32_t query_latent(air_builder *b, int32_t layer, int32_t in)
{
    int64_t rank = b->hp->latent.q_rank;
    if (!air__has(b, "blk.%d.attn_q_a.weight", layer)) return AIR_NONE;
    int32_t weight = air__matrix(b, rank, b->hp->n_embd, "attention.q_lora_rank, embedding_length", "blk.%d.attn_q_a.weight", layer);
    return product(b, layer, in, "q_latent", weight, rank);
}

/* [heads][plain | rope] */
static int32_t queries(air_builder *b, int32_t layer, int32_t in, int32_t latent, const sizes *s)
{
    int64_t rows = (int64_t)s->heads * (s->plain + s->rope);
    int32_t rank = b->hp->latent.q_rank;
    if (latent == AIR_NONE) {
        const char *why = "head_count x attention.key_length_mla, embedding_length";
        return product(b, layer, in, "q", air__matrix(b, rows, b->hp->n_embd, why, "blk.%d.attn_q.weight", layer), rows);
    }
    norm(b, layer, latent, rank, rank, "attention.q_lora_rank", "blk.%d.attn_q_a_norm.weight");
    const char *why = "head_count x attention.key_length_mla, attention.q_lora_rank";
    return product(b, layer, latent, "q", air__matrix(b, rows, rank, why, "blk.%d.attn_q_b.weight", layer), rows);
}

static int32_t keys(air_builder *b, int32_t layer, int32_t in, const sizes *s)
{
    const char *why = "attention.kv_lora_rank + rope.dimension_count, embedding_length";
    return product(b, layer, in, "latent", air__matrix(b, s->key, b->hp->n_embd, why, "blk.%d.attn_kv_a_mqa.weight", layer), s->key);
}

static void store(air_builder *b, int32_t layer, int32_t k, const sizes *s)
{
    norm(b, layer, k, s->rank, s->key, "attention.kv_lora_rank", "blk.%d.attn_kv_a_norm.weight");
    rotate(b, layer, k, 1, s);
    air__emit(b, (air_op){.kind = AIR_OP_STORE, .layer = layer, .in = k, .in2 = AIR_NONE, .out = AIR_NONE, .weight = AIR_NONE,
                          .bias = AIR_NONE});
}

/* [heads][rank | rope]: what a head's scores are, with the state. */
static int32_t absorb_keys(air_builder *b, int32_t layer, int32_t q, const sizes *s)
{
    int32_t out = air__buffer(b, "absorbed", (int64_t)s->heads * s->key, AIR_ROWS_ALL), each = s->plain + s->rope;
    air__emit(b, (air_op){.kind = AIR_OP_COPY, .layer = layer, .in = q, .in2 = AIR_NONE, .out = out, .weight = AIR_NONE, .bias = AIR_NONE,
                          .heads = s->heads, .head_dim = s->rope, .from = {s->plain, each}, .to = {s->rank, s->key}});
    rotate(b, layer, out, s->heads, s);
    int32_t weight = air__head_matrices(b, s->heads, s->rank, s->plain, "attention.key_length_mla - rope.dimension_count, "
                                        "attention.kv_lora_rank, head_count", "blk.%d.attn_k_b.weight", layer);
    air__emit(b, (air_op){.kind = AIR_OP_PRODUCT, .layer = layer, .in = q, .in2 = AIR_NONE, .out = out, .weight = weight, .bias = AIR_NONE,
                          .heads = s->heads, .from = {0, each}, .to = {0, s->key}, .epilogue = AIR_EPILOGUE_SET});
    return out;
}

static int32_t attend(air_builder *b, int32_t layer, int32_t q, const sizes *s)
{
    int32_t sum = air__buffer(b, "attended", (int64_t)s->heads * s->rank, AIR_ROWS_ALL);
    int32_t out = air__buffer(b, "values", (int64_t)s->heads * s->value, AIR_ROWS_ALL);
    air__emit(b, (air_op){.kind = AIR_OP_ATTENTION, .layer = layer, .in = q, .in2 = AIR_NONE, .out = sum, .weight = AIR_NONE,
                          .bias = AIR_NONE, .heads = s->heads, .head_dim = s->key, .scale = (float)b->hp->attention_scale});
    int32_t weight = air__head_matrices(b, s->heads, s->value, s->rank, "attention.kv_lora_rank, attention.value_length_mla, head_count",
                                        "blk.%d.attn_v_b.weight", layer);
    air__emit(b, (air_op){.kind = AIR_OP_PRODUCT, .layer = layer, .in = sum, .in2 = AIR_NONE, .out = out, .weight = weight,
                          .bias = AIR_NONE, .heads = s->heads, .from = {0, s->rank}, .to = {0, s->value}, .epilogue = AIR_EPILOGUE_SET});
    return out;
}

void air__block_latent_attention(air_builder *b, int32_t layer, int32_t in, int32_t x)
{
    sizes s = sizes_of(b, layer);
    int32_t latent = query_latent(b, layer, in), q = AIR_NONE;
    if (latent == AIR_NONE) q = queries(b, layer, in, latent, &s);
    int32_t k = keys(b, layer, in, &s); /* products of one input are side by side */
    store(b, layer, k, &s);
    if (latent != AIR_NONE) q = queries(b, layer, in, latent, &s);
    air__block_temper(b, layer, q);
    int32_t a = attend(b, layer, absorb_keys(b, layer, q, &s), &s);
    air_op out = {.in = a, .bias = AIR_NONE};
    out.weight = air__matrix(b, b->hp->n_embd, (int64_t)s.heads * s.value, "embedding_length, head_count x attention.value_length_mla",
                             "blk.%d.attn_output.weight", layer);
    air__block_residual(b, layer, x, out, AIR_BLOCK_ATTENTION);
}
