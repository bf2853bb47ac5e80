/* engine/state.h: the state of sequences, in ref-counted blocks (engine/blocks.h): K and V of 64 positions each, and, where layers are
 * recurrent, one with their state at the sequence's end.
 *
 * Every layer of a sequence advances together, so one count serves them all. A block with more than one owner is copied before it is
 * written. A recurrent state is never written again once a batch has ended: the next batch makes a new one from it, so that a batch that
 * fails leaves it as it was, and forks share it. It cannot be cut either: one before the last prompt's last token is kept beside it, which
 * is as far as a sequence goes back, or else to its beginning. What a sequence holds is changed only by whoever uses that sequence; where
 * it lies may change between two passes. */
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
    air_block *recurrent;  /* after length positions; NULL after none, and where no layer is recurrent */
    air_block *kept;       /* after kept_length of them; NULL: there is none */
    int64_t kept_length;
    air_block *next, *next_kept; /* what these will be when the batch has succeeded */
    int64_t next_kept_length;
    air_block *reached;    /* which of them the batch's last pass ended with; NULL before its first */
};

/* Blocks that must be made (new ones, and the copy of a shared one about to be written) to hold length tokens. */
int64_t air__sequence_missing(const air_sequence *s, int64_t length);
/* Makes them and room for the token ids; moves as for air__block_new. On failure the sequence is as before. Errors: AIR_E_NOMEM,
 * AIR_E_BUDGET, those of the backend. */
air_status air__sequence_extend(air_sequence *s, int64_t length, int moves, air_error *err);
/* Drops what length does not need, and what a batch has begun; shorter than it was, the sequence goes back to air__sequence_reach. */
void air__sequence_cut(air_sequence *s, int64_t length);
/* The length that it would have then: `length` itself, or less where layers are recurrent. */
int64_t air__sequence_reach(const air_sequence *s, int64_t length);
/* A batch has succeeded: n tokens, which are in the list, are the sequence's. */
void air__sequence_advance(air_sequence *s, int64_t n);

/* --- the engine's thread, between passes --- */

/* What a pass does with a sequence: positions [first, end) are written, those before are read. The recurrent state after `keep` of them is
 * kept, where that is within. */
typedef struct air_state_use { air_sequence *sequence; int64_t first, end, keep; } air_state_use;

/* Begins a count; then the blocks that a pass of this use too would have beyond those counted, and of these *written. Nothing moves. */
void air__state_count(air_state_pool *pool);
int64_t air__state_count_more(const air_state_use *use, int64_t *written);

/* Extends the sequences to a pass's end and makes it their state's turn: what it writes is in the memory that it writes to, of the rest
 * as much as there is room for, away lists what is not. Tables are right until the next call. Errors: AIR_E_NOMEM, AIR_E_BUDGET where
 * more is away than a pass can read, those of the backend; sequences may have been extended all the same. */
air_status air__state_settle(air_state_pool *pool, const air_state_use *uses, int32_t n, air_error *err);

/* recurrent.c. Blocks of recurrent state that a batch takes which keeps one after so many positions; those that a pass writes, made and in
 * the memory that it writes to; its spans, whose rows begin with `row`, of AIR_RECURRENT_SPANS at most. Errors: as of settle. */
int64_t air__recurrent_missing(const air_sequence *s, int64_t keep);
int64_t air__recurrent_of_pass(const air_state_use *use); /* blocks that it reads and writes */
air_status air__recurrent_settle(air_state_pool *pool, const air_state_use *use, air_error *err);
int32_t air__recurrent_spans(const air_state_use *use, int64_t row, air_recurrent_span *out);
/* With a sequence's recurrent state: what of a batch was begun is dropped; another sequence gets its own; it goes back to `length`, to
 * which it can. */
void air__recurrent_forget(air_sequence *s);
void air__recurrent_share(air_sequence *to, const air_sequence *from);
void air__recurrent_back(air_sequence *s, int64_t length);

/* AIR_E_CLOSED if another caller uses it. */
air_status air__sequence_take(air_sequence *s, air_error *err);
void air__sequence_release(air_sequence *s);

AIR_END_C
#endif
