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

/* Mamba-2's (arXiv 2405.21060): of Win in the gate z, the channels of values, keys and queries (x, B and C), which are convolved, and each
 * head's step; x += Wout · norm(recurrence * f(z)), the norm by groups that share keys, of files that have it. */
static void state_space(air_builder *b, int32_t layer, int32_t in, int32_t x)
{
    static const char why[] = "ssm.inner_size, ssm.group_count x ssm.state_size and ssm.time_step_rank", name[] = "blk.%d.ssm_in.weight";
    const air_recurrent_hparams *h = &b->hp->recurrent;
    int64_t e = b->hp->n_embd, inner = h->inner, channels = inner + 2 * (int64_t)h->key_heads * h->key_dim;
    int64_t all = inner + channels + h->heads;
    int32_t own = h->inner / h->key_heads;
    air_recurrent_shape *shape = air__recurrent(b, layer);
    if (!shape) return;
    *shape = (air_recurrent_shape){
        .channels = (int32_t)channels, .taps = h->taps, .kind = AIR_RECURRENCE_STATE_SPACE, .heads = h->heads, .key_heads = h->key_heads,
        .key_dim = h->key_dim, .value_dim = h->inner / h->heads, .v = 0, .k = h->inner, .q = h->inner + h->key_heads * h->key_dim,
        .rate = air__vectors(b, AIR_REQUIRED, h->heads, 1, "ssm.time_step_rank", "blk.%d.ssm_a", layer),
        .step_bias = air__vector(b, AIR_REQUIRED, h->heads, "ssm.time_step_rank", "blk.%d.ssm_dt.bias", layer),
        .skip = air__vectors(b, AIR_REQUIRED, h->heads, 1, "ssm.time_step_rank", "blk.%d.ssm_d", layer),
    };
    int32_t z = air__buffer(b, "gate", inner, AIR_ROWS_ALL), mixed = air__buffer(b, "mixed", channels, AIR_ROWS_ALL);
    int32_t steps = air__buffer(b, "steps", h->heads, AIR_ROWS_ALL), seen = air__buffer(b, "convolved", channels, AIR_ROWS_ALL);
    int32_t out = air__buffer(b, "recurrent", inner, AIR_ROWS_ALL);
    (void)product(b, layer, in, z, air__matrix_part(b, (air_part){0, inner, all}, e, why, name, layer), AIR_EPILOGUE_SET);
    (void)product(b, layer, in, mixed, air__matrix_part(b, (air_part){inner, channels, all}, e, why, name, layer), AIR_EPILOGUE_SET);
    (void)product(b, layer, in, steps, air__matrix_part(b, (air_part){inner + channels, h->heads, all}, e, why, name, layer),
                  AIR_EPILOGUE_SET);
    air__emit(b, (air_op){.kind = AIR_OP_CONVOLVE, .layer = layer, .in = mixed, .in2 = AIR_NONE, .out = seen,
                          .activation = AIR_ACTIVATION_SILU,
                          .weight = air__vectors(b, AIR_REQUIRED, channels, h->taps, "ssm.conv_kernel, the channels of ssm_in",
                                                 "blk.%d.ssm_conv1d.weight", layer),
                          .bias = air__bias(b, AIR_BIAS_OPTIONAL, channels, "blk.%d.ssm_conv1d.bias", layer)});
    air__emit(b, (air_op){.kind = AIR_OP_SCAN, .layer = layer, .in = seen, .in2 = steps, .out = out, .weight = AIR_NONE, .bias = AIR_NONE});
    air__emit(b, (air_op){.kind = AIR_OP_MULTIPLY, .layer = layer, .in = z, .in2 = AIR_NONE, .out = out, .weight = AIR_NONE,
                          .bias = AIR_NONE, .activation = AIR_ACTIVATION_SILU});
    if (air__has(b, "blk.%d.ssm_norm.weight", layer))
        air__emit(b, (air_op){.kind = AIR_OP_RMS_NORM, .layer = layer, .in = out, .in2 = AIR_NONE, .out = out, .bias = AIR_NONE,
                              .head_dim = own, .heads = h->key_heads, .eps = (float)b->hp->norm_eps,
                              .weight = air__vectors(b, AIR_REQUIRED, h->key_heads, own, "ssm.group_count, ssm.inner_size",
                                                     "blk.%d.ssm_norm.weight", layer)});
    int32_t last = air__matrix(b, e, inner, "embedding_length, ssm.inner_size", "blk.%d.ssm_out.weight", layer);
    air__block_residual(b, layer, x, (air_op){.in = out, .weight = last, .bias = AIR_NONE}, AIR_BLOCK_ATTENTION);
}

/* Steps of one kind, b or a, to their place beside those of the other. */
static void place_steps(air_builder *b, int32_t layer, int32_t half, int32_t steps, int32_t which)
{
    int32_t heads = b->hp->recurrent.heads;
    air__emit(b, (air_op){.kind = AIR_OP_COPY, .layer = layer, .in = half, .in2 = AIR_NONE, .out = steps, .weight = AIR_NONE,
                          .bias = AIR_NONE, .heads = 1, .head_dim = heads, .from = {0, heads}, .to = {which * heads, 2 * heads}});
}

static int32_t half_of_steps(air_builder *b, int32_t layer, int32_t in, const char *weight)
{
    int64_t heads = b->hp->recurrent.heads;
    return product(b, layer, in, air__buffer(b, "half", heads, AIR_ROWS_ALL),
                   air__matrix(b, heads, b->hp->n_embd, "ssm.time_step_rank, embedding_length", weight, layer), AIR_EPILOGUE_SET);
}

static void steps_of(air_builder *b, int32_t layer, int32_t in, int32_t steps)
{
    int64_t rows = 2 * (int64_t)b->hp->recurrent.heads;
    if (b->arch->keys_in_turn) {
        int32_t beta = half_of_steps(b, layer, in, "blk.%d.ssm_beta.weight");
        int32_t alpha = half_of_steps(b, layer, in, "blk.%d.ssm_alpha.weight");
        place_steps(b, layer, beta, steps, 0);
        place_steps(b, layer, alpha, steps, 1);
        return;
    }
    (void)product(b, layer, in, steps, air__matrix(b, rows, b->hp->n_embd, "twice ssm.time_step_rank, embedding_length",
                                                   "blk.%d.ssm_ba.weight", layer), AIR_EPILOGUE_SET);
}

/* A gated delta net (arXiv 2412.06464), of Win in queries, keys and values of heads, which are convolved, a gate z, and each head's steps:
 * x += Wout · (norm(recurrence) * f(z)), the norm of each head. */
static void delta_net(air_builder *b, int32_t layer, int32_t in, int32_t x)
{
    static const char why[] = "ssm.group_count x ssm.state_size twice and ssm.inner_size, embedding_length";
    const air_recurrent_hparams *h = &b->hp->recurrent;
    int64_t e = b->hp->n_embd, inner = h->inner, keys = (int64_t)h->key_heads * h->key_dim, channels = inner + 2 * keys;
    air_recurrent_shape *shape = air__recurrent(b, layer);
    if (!shape) return;
    *shape = (air_recurrent_shape){
        .channels = (int32_t)channels, .taps = h->taps, .kind = AIR_RECURRENCE_DELTA, .heads = h->heads, .key_heads = h->key_heads,
        .key_dim = h->key_dim, .value_dim = h->inner / h->heads, .q = 0, .k = (int32_t)keys, .v = (int32_t)(2 * keys),
        .rate = air__vector(b, AIR_REQUIRED, h->heads, "ssm.time_step_rank", "blk.%d.ssm_a", layer),
        .step_bias = air__vector(b, AIR_REQUIRED, h->heads, "ssm.time_step_rank", "blk.%d.ssm_dt.bias", layer),
        .in_turn = b->arch->keys_in_turn, .skip = AIR_NONE, .eps = 1e-6f, /* the models' own, whatever their norms have */
    };
    int32_t mixed = air__buffer(b, "mixed", channels, AIR_ROWS_ALL), z = air__buffer(b, "gate", inner, AIR_ROWS_ALL);
    int32_t steps = air__buffer(b, "steps", 2 * h->heads, AIR_ROWS_ALL), seen = air__buffer(b, "convolved", channels, AIR_ROWS_ALL);
    int32_t out = air__buffer(b, "recurrent", inner, AIR_ROWS_ALL);
    (void)product(b, layer, in, mixed, air__matrix(b, channels, e, why, "blk.%d.attn_qkv.weight", layer), AIR_EPILOGUE_SET);
    (void)product(b, layer, in, z, air__matrix(b, inner, e, "ssm.inner_size, embedding_length", "blk.%d.attn_gate.weight", layer),
                  AIR_EPILOGUE_SET);
    steps_of(b, layer, in, steps);
    air__emit(b, (air_op){.kind = AIR_OP_CONVOLVE, .layer = layer, .in = mixed, .in2 = AIR_NONE, .out = seen, .bias = AIR_NONE,
                          .activation = AIR_ACTIVATION_SILU,
                          .weight = air__vectors(b, AIR_REQUIRED, channels, h->taps, "ssm.conv_kernel, the rows of attn_qkv",
                                                 "blk.%d.ssm_conv1d.weight", layer)});
    air__emit(b, (air_op){.kind = AIR_OP_SCAN, .layer = layer, .in = seen, .in2 = steps, .out = out, .weight = AIR_NONE, .bias = AIR_NONE});
    air__emit(b, (air_op){.kind = AIR_OP_RMS_NORM, .layer = layer, .in = out, .in2 = AIR_NONE, .out = out, .bias = AIR_NONE,
                          .heads = h->heads, .head_dim = h->inner / h->heads, .eps = (float)b->hp->norm_eps,
                          .weight = air__vector(b, AIR_REQUIRED, h->inner / h->heads, "ssm.inner_size / ssm.time_step_rank",
                                                "blk.%d.ssm_norm.weight", layer)});
    air__emit(b, (air_op){.kind = AIR_OP_MULTIPLY, .layer = layer, .in = z, .in2 = AIR_NONE, .out = out, .weight = AIR_NONE,
                          .bias = AIR_NONE, .activation = AIR_ACTIVATION_SILU});
    int32_t last = air__matrix(b, e, inner, "embedding_length, ssm.inner_size", "blk.%d.ssm_out.weight", layer);
    air__block_residual(b, layer, x, (air_op){.in = out, .weight = last, .bias = AIR_NONE}, AIR_BLOCK_ATTENTION);
}

void air__block_recurrent(air_builder *b, int32_t layer, int32_t in, int32_t x)
{
    switch (b->arch->mixer) {
    case AIR_MIXER_SHORT_CONVOLUTION: short_convolution(b, layer, in, x); break;
    case AIR_MIXER_STATE_SPACE: state_space(b, layer, in, x); break;
    case AIR_MIXER_DELTA_NET: delta_net(b, layer, in, x); break;
    case AIR_MIXER_NONE: break; /* such layers are refused */
    }
}
