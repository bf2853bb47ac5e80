/* Mixture of experts (arXiv 2101.03961, 2401.04088): x += sum of the n_used experts that a router chooses for the row, each
 * Wdown · (f(Wgate in) * (Wup in)), or plain, Wdown · f(Wup in), by their weights; and of one that all rows go to, where there is one. */
#include "model/arch.h"

static int32_t product(air_builder *b, int32_t layer, int32_t in, const char *buffer, int64_t rows, const char *why, const char *weight,
                       int32_t bias)
{
    int32_t out = air__buffer(b, buffer, rows, AIR_ROWS_ALL);
    air__emit(b, (air_op){.kind = AIR_OP_PRODUCT, .layer = layer, .in = in, .in2 = AIR_NONE, .out = out,
                          .weight = air__matrix(b, rows, b->hp->n_embd, why, weight, layer), .bias = bias,
                          .epilogue = AIR_EPILOGUE_SET});
    return out;
}

static void add(air_builder *b, int32_t layer, int32_t in, int32_t gate, int32_t out)
{
    air__emit(b, (air_op){.kind = AIR_OP_ADD, .layer = layer, .in = in, .in2 = gate, .out = out, .weight = AIR_NONE, .bias = AIR_NONE});
}

static air_gating gating_of(const air_builder *b)
{
    const air_expert_hparams *x = &b->hp->experts;
    return x->gating ? (air_gating)(x->gating - 1) : b->arch->experts.gating;
}

/* What made the router's input, if that is an RMS norm of one row. */
static void note_router(air_builder *b, air_mixture *m, const air_op *router)
{
    m->router = AIR_NONE;
    for (int32_t i = b->n_ops; i-- > 0;) {
        const air_op *op = &b->ops[i];
        if (op->out != router->in) continue;
        if (op->kind != AIR_OP_RMS_NORM || op->head_dim || op->weight == AIR_NONE) return;
        m->router = router->weight;
        m->router_bias = router->bias;
        m->norm = op->weight;
        m->norm_eps = op->eps;
        m->residual = op->in;
        return;
    }
}

/* Of each expert's rows. */
static int32_t expert_biases(air_builder *b, int32_t layer, int64_t rows, const char *name)
{
    air_bias kind = b->arch->experts.bias;
    if (kind == AIR_BIAS_NONE) return AIR_NONE;
    return air__vectors(b, kind == AIR_BIAS_REQUIRED ? AIR_REQUIRED : AIR_OPTIONAL, b->hp->experts.n_experts, rows,
                        "the rows of its weight, expert_count", name, layer);
}

/* The last op is its router's product. */
static void fill_mixture(air_builder *b, int32_t layer)
{
    const air_expert_hparams *x = &b->hp->experts;
    int64_t n = x->n_experts, e = x->width;
    int gated = b->arch->ffn == AIR_FFN_GATED;
    air_mixture *m = air__mixture(b, layer);
    if (!m) return;
    air_op router = b->ops[b->n_ops - 1];
    *m = (air_mixture){
        .n_experts = x->n_experts, .n_used = x->n_used, .n_groups = x->n_groups, .groups_used = x->groups_used, .gating = gating_of(b),
        .normalise = x->normalise < 0 ? b->arch->experts.normalise : x->normalise, .n_ff = x->n_ff, .activation = b->hp->activation,
        .weighs_input = b->arch->experts.weighs_input,
        .scale = (float)(x->scale * b->hp->residual_scale),
        .bias = air__vector(b, AIR_OPTIONAL, n, "expert_count", "blk.%d.exp_probs_b.bias", layer),
        .gate = gated ? air__expert_matrices(b, n, x->n_ff, e, "blk.%d.ffn_gate_exps.weight", layer) : AIR_NONE,
        .up = air__expert_matrices(b, n, x->n_ff, e, "blk.%d.ffn_up_exps.weight", layer),
        .down = air__expert_matrices(b, n, e, x->n_ff, "blk.%d.ffn_down_exps.weight", layer),
        .gate_bias = gated ? expert_biases(b, layer, x->n_ff, "blk.%d.ffn_gate_exps.bias") : AIR_NONE,
        .up_bias = expert_biases(b, layer, x->n_ff, "blk.%d.ffn_up_exps.bias"),
        .down_bias = expert_biases(b, layer, e, "blk.%d.ffn_down_exps.bias"),
    };
    note_router(b, m, &router);
}

/* Of experts that all rows go to, one matrix of each kind; with a gate of the row's own, or without. */
static void shared_experts(air_builder *b, int32_t layer, int32_t in, int32_t out)
{
    static const char why[] = "expert_shared_feed_forward_length and embedding_length";
    int64_t f = b->hp->experts.n_ff_shared, e = b->hp->n_embd;
    int32_t gate = AIR_NONE;
    if (b->arch->experts.shared_is_gated)
        gate = product(b, layer, in, "shared_gate", 1, "1, embedding_length", "blk.%d.ffn_gate_inp_shexp.weight", AIR_NONE);
    int gated = b->arch->ffn == AIR_FFN_GATED;
    int32_t h = gated ? product(b, layer, in, "shared", f, why, "blk.%d.ffn_gate_shexp.weight", AIR_NONE)
                      : air__buffer(b, "shared", f, AIR_ROWS_ALL);
    air__emit(b, (air_op){.kind = AIR_OP_PRODUCT, .layer = layer, .in = in, .in2 = AIR_NONE, .out = h, .bias = AIR_NONE,
                          .weight = air__matrix(b, f, e, why, "blk.%d.ffn_up_shexp.weight", layer),
                          .epilogue = gated ? AIR_EPILOGUE_GATED : AIR_EPILOGUE_SET, .activation = b->hp->activation});
    int32_t to = gate == AIR_NONE ? out : air__buffer(b, "shared_out", e, AIR_ROWS_ALL);
    air__emit(b, (air_op){.kind = AIR_OP_PRODUCT, .layer = layer, .in = h, .in2 = AIR_NONE, .out = to, .bias = AIR_NONE,
                          .weight = air__matrix(b, e, f, why, "blk.%d.ffn_down_shexp.weight", layer),
                          .epilogue = gate == AIR_NONE ? AIR_EPILOGUE_ADD : AIR_EPILOGUE_SET,
                          .scale = b->hp->residual_scale == 1 ? 0 : (float)b->hp->residual_scale});
    if (gate != AIR_NONE) add(b, layer, to, gate, out);
}

/* Whether experts read a narrower row, by a matrix; without that they can read but the layer's own. */
static int reads_latent(air_builder *b, int32_t layer)
{
    int64_t width = b->hp->experts.width, e = b->hp->n_embd;
    if (air__has(b, "blk.%d.ffn_latent_down.weight", layer)) return 1;
    if (width != e && !b->status)
        b->status = air_fail(b->err, AIR_E_MODEL, "%s.moe_latent_size %lld is not embedding_length %lld, but there is no "
                             "blk.%d.ffn_latent_down.weight", b->hp->arch, (long long)width, (long long)e, (int)layer);
    return 0;
}

void air__block_experts(air_builder *b, int32_t layer, int32_t in, int32_t x)
{
    const air_expert_hparams *h = &b->hp->experts;
    int32_t bias = air__bias(b, b->arch->experts.bias, h->n_experts, "blk.%d.ffn_gate_inp.bias", layer);
    int32_t logits = product(b, layer, in, "router", h->n_experts, "expert_count, embedding_length", "blk.%d.ffn_gate_inp.weight", bias);
    int32_t routing = air__buffer(b, "routing", 2 * (int64_t)h->n_used, AIR_ROWS_ALL);
    int32_t out = air__block_result(b, x);
    fill_mixture(b, layer);
    int narrower = reads_latent(b, layer);
    int32_t read = narrower ? product(b, layer, in, "latent", h->width, "moe_latent_size, embedding_length",
                                      "blk.%d.ffn_latent_down.weight", AIR_NONE) : in;
    int32_t given = narrower ? air__buffer(b, "latent", h->width, AIR_ROWS_ALL) : out;
    air__emit(b, (air_op){.kind = AIR_OP_ROUTE, .layer = layer, .in = logits, .in2 = AIR_NONE, .out = routing, .weight = AIR_NONE,
                          .bias = AIR_NONE});
    air_epilogue epilogue = out == x ? AIR_EPILOGUE_ADD : AIR_EPILOGUE_SET;
    air__emit(b, (air_op){.kind = AIR_OP_EXPERTS, .layer = layer, .in = read, .in2 = routing, .out = given, .weight = AIR_NONE,
                          .bias = AIR_NONE, .epilogue = narrower ? AIR_EPILOGUE_SET : epilogue});
    if (narrower)
        air__emit(b, (air_op){.kind = AIR_OP_PRODUCT, .layer = layer, .in = given, .in2 = AIR_NONE, .out = out, .bias = AIR_NONE,
                              .weight = air__matrix(b, b->hp->n_embd, h->width, "embedding_length, moe_latent_size",
                                                    "blk.%d.ffn_latent_up.weight", layer), .epilogue = epilogue});
    if (h->n_ff_shared) shared_experts(b, layer, in, out);
    air__block_join(b, layer, out, x, AIR_BLOCK_FFN);
}
