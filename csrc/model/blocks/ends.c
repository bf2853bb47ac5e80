/* The two ends of a decoder: tokens to embedding rows, and the last hidden state of the wanted rows to logits. */
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

int32_t air__block_embed(air_builder *b)
{
    int32_t x = air__buffer(b, "x", b->hp->n_embd, AIR_ROWS_ALL);
    air__emit(b, (air_op){.kind = AIR_OP_EMBED, .layer = AIR_NONE, .in = AIR_NONE, .in2 = AIR_NONE, .out = x,
                          .scale = (float)b->hp->embedding_scale,
                          .weight = air__table(b, b->hp->n_vocab, b->hp->n_embd, "embedding_length, vocabulary", "token_embd.weight"),
                          .bias = AIR_NONE});
    if (b->hp->positions == AIR_POSITIONS_LEARNED) add_positions(b, x);
    if (b->arch->embed_norm) (void)air__block_norm(b, AIR_NONE, x, x, "token_embd_norm");
    return x;
}

void air__block_head(air_builder *b, int32_t x)
{
    const air_hparams *hp = b->hp;
    int32_t last = air__buffer(b, "last", hp->n_embd, AIR_ROWS_WANTED);
    air__emit(b, (air_op){.kind = AIR_OP_SELECT, .layer = AIR_NONE, .in = x, .in2 = AIR_NONE, .out = last, .weight = AIR_NONE,
                          .bias = AIR_NONE});
    b->hidden = air__block_norm(b, AIR_NONE, last, AIR_NONE, "output_norm");
    /* A file without an output matrix ties it to the embedding: the same bytes, streamed as a matrix. */
    const char *name = hp->tied_output ? "token_embd.weight" : "output.weight";
    b->logits = air__buffer(b, "logits", hp->n_vocab, AIR_ROWS_WANTED);
    air__emit(b, (air_op){.kind = AIR_OP_PRODUCT, .layer = AIR_NONE, .in = b->hidden, .in2 = AIR_NONE, .out = b->logits,
                          .weight = air__matrix(b, hp->n_vocab, hp->n_embd, "vocabulary, embedding_length", name, AIR_NONE),
                          .bias = air__bias(b, b->arch->output_bias, hp->n_vocab, "output.bias", AIR_NONE),
                          .epilogue = AIR_EPILOGUE_SET, .scale = hp->logit_scale == 1 ? 0 : (float)hp->logit_scale,
                          .softcap = (float)hp->logit_softcap});
}
