/* engine/blocks.h: the blocks of state of all sequences, and where each lies.
 *
 * A block holds 64 positions of all layers, each layer's K and V apart inside it (kernels/state.h), or in one place for all of them where a
 * program is bidirectional; or the recurrent state of a sequence at one position, of all layers (backend/op.h). It is ref-counted: forks
 * share it.
 * Where a device computes, a block is at home in the device's memory, or, when that is full, in pages of the host, locked if that can be
 * had; passes only read such blocks, a layer at a time (backend.h). Blocks come and go on any thread. Only the engine's thread, between
 * passes, moves them: out, those used longest ago and of those the oldest positions first; in, what a pass writes, then as much of what it
 * reads as there is room for. The lock orders moving and copying. */
#ifndef AIR_ENGINE_BLOCKS_H
#define AIR_ENGINE_BLOCKS_H

#include "backend/backend.h"
#include "memory/budget.h"
#include "platform/threads.h"

AIR_BEGIN_C

/* Of recurrent state, of a sequence that reads a prompt: the one it has, the next one, and one to go back to. */
enum { AIR__RECURRENT_BLOCKS = 3 };

typedef enum air_state_kind { AIR_STATE_PAGED, AIR_STATE_RECURRENT, AIR_STATE_KINDS } air_state_kind;

typedef struct air_block {
    AIR_ATOMIC(int32_t) owners;
    air_state_kind kind;
    char *memory;
    air_state_home home;
    int64_t number;        /* among those of its sequences: positions from 64 * number on; PAGED */
    uint64_t used;         /* when a pass had it last, by the pool's clock; one more: it writes it */
    uint64_t counted;      /* likewise, by air__pool_count */
    int32_t slot;          /* among the pool's away, -1: none */
    struct air_block *previous, *next; /* of all there are */
} air_block;

typedef struct air_state_pool {
    const air_backend_api *api;
    air_backend *backend;
    air_budget *budget;      /* of the memory that state_alloc gives */
    air_budget *host_budget; /* of blocks that lie in the host's instead; NULL: none do */
    air_state_type type;
    int32_t n_layers;
    size_t block_bytes[AIR_STATE_KINDS]; /* as budget counts them; RECURRENT: 0 where the model has no such state */
    size_t state_bytes[AIR_STATE_KINDS]; /* of a block in use, whole pages: as host_budget counts them */
    AIR_ATOMIC(int64_t) here[AIR_STATE_KINDS], away_held[AIR_STATE_KINDS]; /* blocks of either home, spare ones too; set under the lock */
    size_t *offsets;         /* [n_layers][2]: K and V inside a block */
    int64_t away_most;       /* blocks in the host's memory that a pass can read */

    air_mutex lock;          /* of the list, of homes, and of memory that is copied */
    air_block *first;
    air_block *spare;        /* RECURRENT, of nobody: every step of a sequence takes one and gives one back */
    int64_t n_spare, spare_most;
    uint64_t clock, counts;  /* the engine's thread's */
    uint64_t moves;          /* likewise: how often a block changed its memory */
    air_state_away *away;    /* [n_away], of the present pass */
    int64_t n_away, away_capacity;
} air_state_pool;

air_status air__state_pool_init(air_state_pool *pool, const air_program *program, air_state_type type, air_error *err);
void air__state_pool_deinit(air_state_pool *pool);
uint64_t air__state_block_bytes(const air_program *program, air_state_type type);
uint64_t air__recurrent_block_bytes(const air_program *program); /* 0 where there is no such state */

/* A block of one owner, its contents undefined. On the engine's thread (moves nonzero) in the memory that passes write, others moving out
 * for it; else where there is room. Errors: AIR_E_NOMEM, AIR_E_BUDGET, those of the backend. */
air_status air__block_new(air_state_pool *pool, air_state_kind kind, int64_t number, int moves, air_block **out, air_error *err);
void air__block_drop(air_state_pool *pool, air_block *block); /* one owner's part in it */
air_status air__block_copy(air_state_pool *pool, air_block *to, const air_block *from, air_error *err);
uint64_t air__block_host_bytes(air_state_pool *pool, const air_block *block); /* of max_ram */

/* --- the engine's thread, between passes --- */

/* Moves a block in that lies in the host's memory, others that were used before `since` out for it. *moved: 0 where there is no room. */
air_status air__block_bring(air_state_pool *pool, air_block *block, uint64_t since, int *moved, air_error *err);
/* Moves blocks out until those in the device's memory take no more than so many bytes. */
air_status air__pool_shrink(air_state_pool *pool, uint64_t bytes, air_error *err);
/* How many spare blocks may be: those that a batch of so many sequences takes and gives back. */
void air__pool_keep_spare(air_state_pool *pool, int64_t most);
int64_t air__pool_spare(air_state_pool *pool); /* there are; others may come, none goes */
/* Notes a block that the next pass reads where it is in the host's memory, once. AIR_E_NOMEM. */
air_status air__pool_note_away(air_state_pool *pool, air_block *block, air_error *err);

AIR_END_C
#endif
