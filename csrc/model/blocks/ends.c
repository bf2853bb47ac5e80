/* The two ends of a model: tokens to embedding rows, and the last hidden state of the wanted rows to logits, or a classifier's scores, or
 * no further. */
#include "model/arch.h"

/* Learned positions: a row for each is added. */
static void add_positions(air_builder *b, int32_t x)
{
    int32_t rows = air__buffer(b, "positions", b->hp->n_embd, AIR_ROWS_ALL);
    air__emit(b, (air_op){.kind = AIR_OP_EMBED_POSITION, .layer = AIR_NONE, .in = AIR_NONE, .in2 = AIR_NONE, .out = rows,
                          .weight = air__table(b, b->hp->n_ctx_trained, b->hp->n_embd, "embedding_length, context_length",
                                               "position_embd.weight"),
                          .bias = AIR_NONE});
    air__emit(b, (air_op){.kind = AIR_OP_ADD, .layer = AIR_NONE, .in = rows, .in2 = AIR_NONE, .out = x, .weight = AIR_NONE,
                          .bias = AIR_NONE});
}

/* Which of a pair of texts a token is in: a vector for each of the two. */
static void add_types(air_builder *b, int32_t x)
{
    air__emit(b, (air_op){.kind = AIR_OP_ADD_TYPE, .layer = AIR_NONE, .in = x, .in2 = AIR_NONE, .out = x, .bias = AIR_NONE,
                          .weight = air__vectors(b, AIR_REQUIRED, b->hp->n_types, b->hp->n_embd, "embedding_length", "token_types.weight",
                                                 AIR_NONE)});
}

int32_t air__block_embed(air_builder *b)
{
    int32_t x = air__buffer(b, "x", b->hp->n_embd, AIR_ROWS_ALL);
    air__emit(b, (air_op){.kind = AIR_OP_EMBED, .layer = AIR_NONE, .in = AIR_NONE, .in2 = AIR_NONE, .out = x,
                          .scale = (float)b->hp->embedding_scale,
                          .weight = air__table(b, b->hp->n_vocab, b->hp->n_embd, "embedding_length, vocabulary", "token_embd.weight"),
                          .bias = AIR_NONE});
    if (b->hp->n_types) add_types(b, x);
    if (b->hp->positions == AIR_POSITIONS_LEARNED) add_positions(b, x);
    if (b->arch->embed_norm) (void)air__block_norm(b, AIR_NONE, x, x, "token_embd_norm");
    return x;
}

static int32_t wanted_product(air_builder *b, int32_t in, const char *buffer, int64_t rows, int64_t cols, const char *why,
                              const char *weight, air_op how)
{
    how.kind = AIR_OP_PRODUCT;
    how.layer = how.in2 = AIR_NONE;
    how.in = in;
    how.out = air__buffer(b, buffer, rows, AIR_ROWS_WANTED);
    how.weight = air__matrix(b, rows, cols, why, weight, AIR_NONE);
    how.epilogue = AIR_EPILOGUE_SET;
    air__emit(b, how);
    return how.out;
}

/* Matrices behind the last norm, of EmbeddingGemma: the mean of what they give is what they give of the mean. */
static int32_t dense(air_builder *b, int32_t in)
{
    int64_t e = b->hp->n_embd, between = b->hp->n_dense;
    if (!between) return in;
    const air_op plain = {.bias = AIR_NONE};
    int32_t wide = wanted_product(b, in, "dense", between, e, "its own rows, embedding_length", "dense_2.weight", plain);
    return wanted_product(b, wide, "dense", e, between, "embedding_length, the rows of dense_2", "dense_3.weight", plain);
}

/* One layer, tanh(W x + b), where there is one, and another. */
static void classifier(air_builder *b)
{
    int64_t e = b->hp->n_embd, labels = b->hp->n_labels;
    int32_t x = b->hidden;
    if (air__has(b, "cls.weight", AIR_NONE)) {
        air_op how = {.bias = air__bias(b, AIR_BIAS_OPTIONAL, e, "cls.bias", AIR_NONE), .softcap = 1}; /* 1 tanh(r / 1) */
        x = wanted_product(b, x, "classifier", e, e, "embedding_length twice", "cls.weight", how);
    }
    air_op how = {.bias = air__bias(b, AIR_BIAS_OPTIONAL, labels, "cls.output.bias", AIR_NONE)};
    b->logits = wanted_product(b, x, "scores", labels, e, "labels, embedding_length", "cls.output.weight", how);
}

void air__block_head(air_builder *b, int32_t x)
{
    const air_hparams *hp = b->hp;
    int32_t last = air__buffer(b, "last", hp->n_embd, AIR_ROWS_WANTED);
    air__emit(b, (air_op){.kind = AIR_OP_SELECT, .layer = AIR_NONE, .in = x, .in2 = AIR_NONE, .out = last, .weight = AIR_NONE,
                          .bias = AIR_NONE});
    const char *name_of_norm = b->arch->output_norm ? b->arch->output_norm : "output_norm";
    int normed = b->arch->norm_place == AIR_NORM_OF_SUM; /* by the last layer */
    b->hidden = dense(b, normed ? last : air__block_norm(b, AIR_NONE, last, AIR_NONE, name_of_norm));
    if (hp->n_labels) classifier(b);
    if (hp->n_labels || !hp->foretells) return;
    /* A file without an output matrix ties it to the embedding: the same bytes, streamed as a matrix. */
    const char *name = hp->tied_output ? "token_embd.weight" : "output.weight";
    air_op how = {.bias = air__bias(b, b->arch->output_bias, hp->n_vocab, "output.bias", AIR_NONE),
                  .scale = hp->logit_scale == 1 ? 0 : (float)hp->logit_scale, .softcap = (float)hp->logit_softcap};
    b->logits = wanted_product(b, b->hidden, "logits", hp->n_vocab, hp->n_embd, "vocabulary, embedding_length", name, how);
}
