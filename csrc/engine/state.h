/* engine/state.h: the K/V state of sequences, in ref-counted blocks of 64 positions (engine/blocks.h).
 *
 * Every layer of a sequence advances together, so one count serves them all. A block with more than one owner is copied before it is
 * written. What a sequence holds is changed only by whoever uses that sequence; where it lies may change between two passes. */
#ifndef AIR_ENGINE_STATE_H
#define AIR_ENGINE_STATE_H

#include "engine/blocks.h"
#include "engine/engine.h"

AIR_BEGIN_C

struct air_sequence {
    air_engine *engine;
    air_state_pool *pool;
    AIR_ATOMIC(int) busy;  /* used by one caller at a time */
    air_adapted adapted;   /* from its first token on */
    int32_t *tokens;
    int64_t length, token_capacity;
    air_block **blocks;    /* cover length positions, and during a pass those it adds */
    int64_t n_blocks, block_capacity;
    void **k, **v;         /* [n_layers][block_capacity]: what a pass reads, once they have been pointed */
    int32_t *away;         /* [block_capacity]: likewise */
    int64_t pointed;       /* blocks for which they are right, unless blocks moved since */
    uint64_t moves;
};

/* Blocks that must be made (new ones, and the copy of a shared one about to be written) to hold length tokens. */
int64_t air__sequence_missing(const air_sequence *s, int64_t length);
/* Makes them and room for the token ids; moves as for air__block_new. On failure the sequence is as before. Errors: AIR_E_NOMEM,
 * AIR_E_BUDGET, those of the backend. */
air_status air__sequence_extend(air_sequence *s, int64_t length, int moves, air_error *err);
/* Drops the blocks that length does not need. */
void air__sequence_cut(air_sequence *s, int64_t length);

/* --- the engine's thread, between passes --- */

/* What a pass does with a sequence: positions [first, end) are written, those before are read. */
typedef struct air_state_use { air_sequence *sequence; int64_t first, end; } air_state_use;

/* Begins a count; then the blocks that a pass of this use too would have beyond those counted, and of these *written. Nothing moves. */
void air__state_count(air_state_pool *pool);
int64_t air__state_count_more(const air_state_use *use, int64_t *written);

/* Extends the sequences to a pass's end and makes it their state's turn: what it writes is in the memory that it writes to, of the rest
 * as much as there is room for, away lists what is not. Tables are right until the next call. Errors: AIR_E_NOMEM, AIR_E_BUDGET where
 * more is away than a pass can read, those of the backend; sequences may have been extended all the same. */
air_status air__state_settle(air_state_pool *pool, const air_state_use *uses, int32_t n, air_error *err);

/* AIR_E_CLOSED if another caller uses it. */
air_status air__sequence_take(air_sequence *s, air_error *err);
void air__sequence_release(air_sequence *s);

AIR_END_C
#endif
