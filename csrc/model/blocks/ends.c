/* The two ends of a decoder: tokens to embedding rows, and the last hidden state of the wanted rows to logits. */
#include "model/arch.h"

int32_t air__block_embed(air_builder *b)
{
    int32_t x = air__buffer(b, "x", b->hp->n_embd, AIR_ROWS_ALL);
    air__emit(b, (air_op){.kind = AIR_OP_EMBED, .layer = AIR_NONE, .in = AIR_NONE, .in2 = AIR_NONE, .out = x, .scale = 1.0f,
                          .weight = air__table(b, b->hp->n_vocab, b->hp->n_embd, "token_embd.weight"), .bias = AIR_NONE});
    return x;
}

void air__block_head(air_builder *b, int32_t x)
{
    const air_hparams *hp = b->hp;
    int32_t last = air__buffer(b, "last", hp->n_embd, AIR_ROWS_WANTED);
    air__emit(b, (air_op){.kind = AIR_OP_SELECT, .layer = AIR_NONE, .in = x, .in2 = AIR_NONE, .out = last, .weight = AIR_NONE,
                          .bias = AIR_NONE});
    b->hidden = air__block_norm(b, AIR_NONE, last, "output_norm.weight");
    /* A file without an output matrix ties it to the embedding: the same bytes, streamed as a matrix. */
    const char *name = hp->tied_output ? "token_embd.weight" : "output.weight";
    b->logits = air__buffer(b, "logits", hp->n_vocab, AIR_ROWS_WANTED);
    air__emit(b, (air_op){.kind = AIR_OP_PRODUCT, .layer = AIR_NONE, .in = b->hidden, .in2 = AIR_NONE, .out = b->logits,
                          .weight = air__matrix(b, hp->n_vocab, hp->n_embd, "vocabulary, embedding_length", name, AIR_NONE),
                          .bias = AIR_NONE, .epilogue = AIR_EPILOGUE_SET});
}
