/* Grouped-query attention (arXiv 2305.13245), of positions by rotation (arXiv 2104.09864) unless the model knows them otherwise:
 * x += Wo · attention(rope(Wq in), rope(Wk in), Wv in). */
#include "model/arch.h"

/* q, k or v: rows of a matrix of its own, or some of those of one that holds all three. */
typedef struct projection {
    const char *weight, *bias, *norm;
    int64_t first, rows; /* first: where they are held together */
    int32_t heads;
    const char *why;
} projection;

static int32_t project(air_builder *b, int32_t layer, int32_t in, const projection *p, int64_t fused)
{
    const char *why = "head_count and head_count_kv x head sizes, embedding_length";
    air_part part = {p->first, p->rows, fused};
    int32_t out = air__buffer(b, "attention", p->rows, AIR_ROWS_ALL);
    air_op op = {.kind = AIR_OP_PRODUCT, .layer = layer, .in = in, .in2 = AIR_NONE, .out = out, .epilogue = AIR_EPILOGUE_SET,
                 .clamp = (float)b->hp->clamp_kqv};
    op.weight = fused ? air__matrix_part(b, part, b->hp->n_embd, why, "blk.%d.attn_qkv.weight", layer)
                      : air__matrix(b, p->rows, b->hp->n_embd, p->why, p->weight, layer);
    op.bias = fused ? air__bias_part(b, b->arch->qkv_bias, part, "blk.%d.attn_qkv.bias", layer)
                    : air__bias(b, b->arch->qkv_bias, p->rows, p->bias, layer);
    air__emit(b, op);
    return out;
}

static void norm(air_builder *b, int32_t layer, int32_t buffer, const projection *p)
{
    air_qk_norm kind = b->arch->qk_norm;
    int64_t dim = b->hp->key_dim;
    air_op op = {.kind = b->arch->norm == AIR_NORM_RMS ? AIR_OP_RMS_NORM : AIR_OP_LAYER_NORM, .layer = layer, .in = buffer,
                 .in2 = AIR_NONE, .out = buffer, .bias = AIR_NONE, .heads = p->heads, .eps = (float)b->hp->norm_eps};
    if (kind == AIR_QK_NORM_NONE || b->hp->no_qk_norm || (kind == AIR_QK_NORM_PLAIN && !b->hp->layers[layer].rotated)) return;
    op.weight = AIR_NONE;
    if (kind == AIR_QK_NORM_PER_HEAD_OPTIONAL) op.weight = air__vector(b, AIR_OPTIONAL, dim, "head size", p->norm, layer);
    if (kind == AIR_QK_NORM_PER_HEAD) op.weight = air__vector(b, AIR_REQUIRED, dim, "head size", p->norm, layer);
    if (kind == AIR_QK_NORM_PER_HEAD_OWN) op.weight = air__vectors(b, AIR_OPTIONAL, p->heads, dim, "head size, heads", p->norm, layer);
    if (kind == AIR_QK_NORM_WHOLE) op.weight = air__vector(b, AIR_REQUIRED, p->heads * dim, "heads x head size", p->norm, layer);
    if (kind != AIR_QK_NORM_WHOLE) op.head_dim = b->hp->key_dim;
    if (op.weight != AIR_NONE || kind == AIR_QK_NORM_PLAIN) air__emit(b, op);
}

static void rotate(air_builder *b, int32_t layer, int32_t buffer, const projection *p)
{
    if (!b->hp->layers[layer].rotated) return;
    air__emit(b, (air_op){.kind = AIR_OP_ROPE, .layer = layer, .in = buffer, .in2 = AIR_NONE, .out = buffer, .weight = AIR_NONE,
                          .bias = AIR_NONE, .heads = p->heads, .head_dim = b->hp->key_dim, .rope = air__rope_of(b, layer)});
}

void air__block_temper(air_builder *b, int32_t layer, int32_t q)
{
    const air_temper *t = &b->hp->temper;
    if (t->scale == 0 || (!t->in_all && b->hp->layers[layer].rotated)) return;
    air__emit(b, (air_op){.kind = AIR_OP_TEMPER, .layer = layer, .in = q, .in2 = AIR_NONE, .out = q, .weight = AIR_NONE, .bias = AIR_NONE,
                          .scale = (float)t->scale, .shift = t->shift, .period = (int32_t)t->length});
}

/* q or k as scores are made of. */
static void place(air_builder *b, int32_t layer, int32_t buffer, const projection *p)
{
    if (!b->arch->qk_norm_after_rope) norm(b, layer, buffer, p);
    rotate(b, layer, buffer, p);
    if (b->arch->qk_norm_after_rope) norm(b, layer, buffer, p);
}

/* Of each head a part of both: its query, or what is behind it. */
static int32_t half_of(air_builder *b, int32_t layer, int32_t both, int32_t heads, int32_t which)
{
    int32_t dim = b->hp->key_dim, out = air__buffer(b, which ? "gate" : "query", (int64_t)heads * dim, AIR_ROWS_ALL);
    air__emit(b, (air_op){.kind = AIR_OP_COPY, .layer = layer, .in = both, .in2 = AIR_NONE, .out = out, .weight = AIR_NONE,
                          .bias = AIR_NONE, .heads = heads, .head_dim = dim, .from = {which * dim, 2 * dim}, .to = {0, dim}});
    return out;
}

void air__block_attention(air_builder *b, int32_t layer, int32_t in, int32_t x)
{
    const air_hparams *hp = b->hp;
    if (b->arch->latent) {
        air__block_latent_attention(b, layer, in, x);
        return;
    }
    int32_t heads = hp->layers[layer].heads, kv = hp->layers[layer].kv_heads;
    int64_t q_rows = (int64_t)heads * hp->key_dim, k_rows = (int64_t)kv * hp->key_dim, v_rows = (int64_t)kv * hp->value_dim;
    int gated = b->arch->gated_attention;
    const projection of_q = {"blk.%d.attn_q.weight", "blk.%d.attn_q.bias", "blk.%d.attn_q_norm.weight", 0, gated ? 2 * q_rows : q_rows,
                             heads, gated ? "twice head_count x head size, embedding_length" : "head_count x head size, embedding_length"};
    const projection of_k = {"blk.%d.attn_k.weight", "blk.%d.attn_k.bias", "blk.%d.attn_k_norm.weight", q_rows, k_rows, kv,
                             "head_count_kv x head size, embedding_length"};
    const projection of_v = {"blk.%d.attn_v.weight", "blk.%d.attn_v.bias", NULL, q_rows + k_rows, v_rows, kv,
                             "head_count_kv x value head size, embedding_length"};
    const projection of_gate = {"blk.%d.attn_gate.weight", "blk.%d.attn_gate.bias", NULL, 0, (int64_t)heads * hp->value_dim,
                                heads, "head_count x value head size, embedding_length"};
    int64_t fused = air__has(b, "blk.%d.attn_qkv.weight", layer) ? q_rows + k_rows + v_rows : 0;
    int32_t q = project(b, layer, in, &of_q, fused), k = project(b, layer, in, &of_k, fused), v = project(b, layer, in, &of_v, fused);
    int32_t gate = gated ? half_of(b, layer, q, heads, 1) : AIR_NONE;
    if (gated) q = half_of(b, layer, q, heads, 0);
    if (b->arch->attention_gate) gate = project(b, layer, in, &of_gate, 0);
    place(b, layer, q, &of_q);
    air__block_temper(b, layer, q);
    place(b, layer, k, &of_k);
    air__emit(b, (air_op){.kind = AIR_OP_STORE, .layer = layer, .in = k, .in2 = v, .out = AIR_NONE, .weight = AIR_NONE,
                          .bias = AIR_NONE});

    int64_t width = (int64_t)heads * hp->value_dim;
    int32_t a = air__buffer(b, "attended", width, AIR_ROWS_ALL);
    int32_t sinks = AIR_NONE;
    if (b->arch->sinks) sinks = air__vector(b, AIR_REQUIRED, heads, "head_count", "blk.%d.attn_sinks.weight", layer);
    air__emit(b, (air_op){.kind = AIR_OP_ATTENTION, .layer = layer, .in = q, .in2 = AIR_NONE, .out = a, .weight = AIR_NONE,
                          .bias = sinks, .heads = heads, .head_dim = hp->key_dim, .scale = (float)hp->attention_scale});
    if (gate != AIR_NONE)
        air__emit(b, (air_op){.kind = AIR_OP_MULTIPLY, .layer = layer, .in = gate, .in2 = AIR_NONE, .out = a, .weight = AIR_NONE,
                              .bias = AIR_NONE, .activation = AIR_ACTIVATION_SIGMOID});
    air_op out = {.in = a};
    out.weight = air__matrix(b, hp->n_embd, width, "embedding_length, head_count x value head size", "blk.%d.attn_output.weight", layer);
    out.bias = air__bias(b, b->arch->attention_out_bias, hp->n_embd, "blk.%d.attn_output.bias", layer);
    air__block_residual(b, layer, x, out, AIR_BLOCK_ATTENTION);
}
