/* engine/state.h: the K/V state of sequences, in ref-counted blocks of 64 positions.
 *
 * A block holds 64 positions of all layers, each layer's K and V apart inside it: every layer of a sequence advances together, so
 * one count serves them all. A block with more than one owner is copied before it is written. Blocks come and go on any thread; what a
 * sequence holds is changed only by whoever uses that sequence. */
#ifndef AIR_ENGINE_STATE_H
#define AIR_ENGINE_STATE_H

#include "backend/backend.h"
#include "engine/engine.h"
#include "memory/budget.h"

AIR_BEGIN_C

typedef struct air_block {
    AIR_ATOMIC(int32_t) owners;
    char *memory;
} air_block;

typedef struct air_state_pool {
    const air_backend_api *api;
    air_backend *backend;
    air_budget *budget;
    air_state_type type;
    int32_t n_layers;
    size_t block_bytes;    /* whole pages */
    size_t *offsets;       /* [n_layers][2]: K and V inside a block */
} air_state_pool;

air_status air__state_pool_init(air_state_pool *pool, const air_program *program, air_state_type type, air_error *err);
void air__state_pool_deinit(air_state_pool *pool);
uint64_t air__state_block_bytes(const air_program *program, air_state_type type);

struct air_sequence {
    air_engine *engine;
    air_state_pool *pool;
    AIR_ATOMIC(int) busy;  /* used by one caller at a time */
    int32_t *tokens;
    int64_t length, token_capacity;
    air_block **blocks;    /* cover length positions, and during a pass those it adds */
    int64_t n_blocks, block_capacity;
    void **k, **v;         /* [n_layers][block_capacity]: what a pass reads */
};

/* Blocks that must be made (new ones, and the copy of a shared one about to be written) to hold length tokens. */
int64_t air__sequence_missing(const air_sequence *s, int64_t length);
/* Makes them and room for the token ids. On failure the sequence is as before. Errors: AIR_E_NOMEM, AIR_E_BUDGET. */
air_status air__sequence_extend(air_sequence *s, int64_t length, air_error *err);
/* Drops the blocks that length does not need. */
void air__sequence_cut(air_sequence *s, int64_t length);
/* AIR_E_CLOSED if another caller uses it. */
air_status air__sequence_take(air_sequence *s, air_error *err);
void air__sequence_release(air_sequence *s);

AIR_END_C
#endif
