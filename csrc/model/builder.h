/* model/builder.h: what a recipe writes a program with.
 *
 * Lives only while a model is opened. The first failure is kept (status, error) and makes every later call do nothing, so recipes read
 * straight down. Lists grow on the heap; air__builder_finish moves them into the model's arena. */
#ifndef AIR_MODEL_BUILDER_H
#define AIR_MODEL_BUILDER_H

#include "backend/op.h"
#include "base/arena.h"
#include "gguf/gguf.h"
#include "model/model.h"

AIR_BEGIN_C

typedef struct air_arch air_arch;

typedef struct air_buffer_life { int32_t first, last; /* ops that write it first and use it last */ } air_buffer_life;

typedef struct air_builder {
    const air_gguf *gguf;
    const air_arch *arch;
    const air_hparams *hp;
    air_op *ops;
    air_weight *weights;
    air_buffer_desc *buffers;
    air_buffer_life *lives;
    int32_t n_ops, n_weights, n_buffers;
    int32_t cap_ops, cap_weights, cap_buffers;
    int32_t logits, hidden;
    air_mixture *mixtures; /* [n_layers], NULL while no layer has experts */
    air_recurrent_shape *recurrent; /* likewise, while none is recurrent */
    air_status status;
    air_error *err;
} air_builder;

typedef enum air_presence { AIR_REQUIRED, AIR_OPTIONAL } air_presence;
typedef enum air_bias { AIR_BIAS_NONE, AIR_BIAS_OPTIONAL /* where the file has it */, AIR_BIAS_REQUIRED } air_bias;

/* The tensor named by format and layer, as a weight of the program; why says in a message what its shape follows from. A wrong
 * shape, a type that cannot be a matrix, or a required tensor's absence is a failure; an optional one's gives AIR_NONE. */
int32_t air__matrix(air_builder *b, int64_t rows, int64_t cols, const char *why, const char *format, int32_t layer);
int32_t air__vector(air_builder *b, air_presence presence, int64_t elements, const char *why, const char *format, int32_t layer);
int32_t air__bias(air_builder *b, air_bias kind, int64_t elements, const char *format, int32_t layer);
int32_t air__table(air_builder *b, int64_t rows, int64_t cols, const char *why, const char *name);
/* n vectors of a tensor of two dimensions, one after the other. */
int32_t air__vectors(air_builder *b, air_presence presence, int64_t n, int64_t elements, const char *why, const char *format,
                     int32_t layer);
/* Rows first to first + n of a tensor that holds several matrices, `all` rows together; of a vector, elements. */
typedef struct air_part { int64_t first, n, all; } air_part;
int32_t air__matrix_part(air_builder *b, air_part part, int64_t cols, const char *why, const char *format, int32_t layer);
int32_t air__bias_part(air_builder *b, air_bias kind, air_part part, const char *format, int32_t layer);
int air__has(air_builder *b, const char *format, int32_t layer);

/* All heads' matrices of one kind, rows × cols each, as one matrix. */
int32_t air__head_matrices(air_builder *b, int64_t heads, int64_t rows, int64_t cols, const char *why, const char *format, int32_t layer);
/* All experts' matrices of one kind, n of rows × cols. */
int32_t air__expert_matrices(air_builder *b, int64_t n, int64_t rows, int64_t cols, const char *format, int32_t layer);
/* The layer's mixture, to be filled; NULL after a failure. */
air_mixture *air__mixture(air_builder *b, int32_t layer);

/* The layer's recurrent state, to be shaped; NULL after a failure. */
air_recurrent_shape *air__recurrent(air_builder *b, int32_t layer);

int32_t air__buffer(air_builder *b, const char *name, int64_t width, air_rows rows);
air_rows air__buffer_rows(const air_builder *b, int32_t buffer);
/* Appends an op and notes the lives of its buffers. */
void air__emit(air_builder *b, air_op op);

/* Lays buffers out (those whose lives do not meet share memory) and moves everything into arena. */
void air__builder_finish(air_builder *b, air_arena *arena, air_program *program);
void air__builder_deinit(air_builder *b);

/* hparams.c, rope.c */
/* layers go to the arena. */
air_status air__hparams_read(const air_gguf *gguf, const air_arch *arch, air_arena *arena, air_hparams *hp, air_error *err);
void air__ropes_read(air_builder *b, air_arena *arena, air_program *program);
/* Which of the program's ropes a layer has. */
int32_t air__rope_of(const air_builder *b, int32_t layer);
/* Formats ARCH.suffix, the key of a hyperparameter. */
typedef struct air_key { char text[128]; } air_key;
air_key air__key(const air_hparams *hp, const char *suffix);

AIR_END_C
#endif
