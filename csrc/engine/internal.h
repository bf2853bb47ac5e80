/* engine/internal.h: inside the engine: what engine.c (life), batch.c (callers) and pass.c (the engine's thread) share. */
#ifndef AIR_ENGINE_INTERNAL_H
#define AIR_ENGINE_INTERNAL_H

#include "backend/device.h"
#include "backend/host_share.h"
#include "engine/engine.h"
#include "engine/state.h"
#include "platform/threads.h"

AIR_BEGIN_C

typedef enum air_batch_phase { AIR_BATCH_QUEUED, AIR_BATCH_RUNNING, AIR_BATCH_ENDED } air_batch_phase;

struct air_batch {
    air_engine *engine;
    air_batch *next;             /* in the queue; under the engine's lock, like phase */
    air_batch_phase phase;
    air_status status;
    air_error error;
    AIR_ATOMIC(int) cancel;
    AIR_ATOMIC(int32_t) layers_done, passes_done, n_passes;

    air_batch_item *items;       /* tokens point into token_ids, sampling into samplings */
    air_sampling *samplings;
    int32_t n_items;
    int keep_hidden, walk, samples;
    int64_t n_candidates;        /* that come of each wanted row from a device; 0: none */
    int32_t *token_ids, *positions, *sequences, *wanted; /* [rows], [rows], [rows], [n_wanted] */
    uint8_t *roles, *types;      /* [rows] */
    uint8_t *whole;              /* [n_wanted]: whether logits has that row; of the CPU's it has all */
    int64_t rows, n_wanted, n_whole;
    air_state_view *states;      /* [n_items]: those of the present pass are right */
    air_adapted *adapted;        /* [n_items] */
    int adapts;                  /* whether any has an adapter */
    air_adapter_room hold, held; /* to be made, with no items; what of the budgets it holds when it has ended */
    uint64_t floats;             /* likewise, to be made as well */
    air_state_use *uses;         /* [n_items]: of the present pass, its first ones */
    float *logits, *hidden;      /* [n_whole][n_vocab], [n_wanted][n_embd]; made by the engine's thread */
    air_candidate *candidates;   /* [n_wanted][n_candidates], likewise */
    float *log_sums;             /* [n_wanted], beside candidates */
    uint64_t logit_bytes;        /* reserved for all of them */
    int32_t *sampled;            /* [n_items] */
    float *logprobs;
    air_batch_cost cost;         /* written by the engine's thread */
};

/* What a batch holds is the caller's from now on, to be released. */
air_adapter_room air__batch_take_hold(air_batch *batch);
/* Gives a room back to the budgets. */
void air__adapter_room_release(air_engine *engine, const air_adapter_room *room);

struct air_engine {
    const air_gguf_set *set;
    air_model *model;
    air_plan_request request;    /* what the plan was made from; predictions are asked of it */
    air_plan *plan;
    air_budget budget;
    air_budget device_budget;    /* of memory that is the device's own: state and activations are there; limit 0 where there is none */
    air_source **sources;        /* [set->parts] */
    air_pager *pager;
    const air_backend_api *api;
    air_backend *backend;
    air_host_share *host_share;  /* NULL where the plan has none */
    air_state_pool pool;
    const air_ops *ops;          /* for sampling */
    void *sample_scratch;
    uint64_t process;            /* that opened the engine: another one is a forked child */

    uint64_t max_pins, pin_target;
    uint64_t all_pins;           /* memory that every tile pinned takes, and every expert */
    uint64_t experts_least;      /* without which none runs */
    int64_t rows_cap, wanted_cap, rank_cap; /* what the backend is reserved for */
    uint64_t activation_bytes, device_activation_bytes;
    uint64_t staging_bytes;      /* booked of the plan's */

    air_timeline *timeline;
    AIR_ATOMIC(uint64_t) timeline_bytes; /* of its log; 0: there is none */
    AIR_ATOMIC(uint64_t) timeline_booked; /* of that in the budget: by the first batch that finds it, for which pins give way */
    uint64_t timeline_due;       /* what the present batch books: another profile may begin while it makes room */
    air_timeline_figures timeline_figures; /* under lock, like who has begun one: what changes is what there was at its begin */
    air_pager_stats timeline_before;

    air_thread *thread;
    air_mutex lock;              /* queue, phases, stats */
    air_cond wake, ended;
    air_batch *first, *last, *running;
    air_engine_adapter *adapters; /* those in a device's memory; under lock */
    AIR_ATOMIC(int) closing;
    air_engine_stats stats;
    AIR_ATOMIC(uint64_t) *layer_ns;     /* of the last pass, [n_layers + 1] */
    uint64_t *stall_before, *last_busy, *last_stall;
};

/* Whether passes are computed by a device with memory of its own. */
static inline int air__engine_on_device(const air_engine *engine) { return engine->plan->device_budget != 0; }
/* How many of the largest logits a device gives of rows that are sampled so; 0: all come. */
static inline int64_t air__engine_candidates(const air_engine *engine, const air_sampling *sampling)
{
    if (!air__engine_on_device(engine)) return 0;
    return air_device_candidates(air_sampling_candidates(sampling, air_model_program(engine->model)->n_vocab));
}
/* After how many positions an item's recurrent state is kept, so that its prompt can be answered again; 0: it is not. */
static inline int64_t air__batch_keeps(const air_batch_item *item)
{
    return item->n_prompt - 1 > item->sequence->length ? item->n_prompt - 1 : 0;
}
/* The largest rank of adapters in a device's memory, 0: there are none. */
int64_t air__engine_rank(air_engine *engine);
/* AIR_E_CLOSED in a forked child or while closing. */
air_status air__engine_usable(air_engine *engine, air_error *err);
/* The engine's thread: runs a batch from room-making to sampling; sequences advance on success only. */
air_status air__batch_run(air_engine *engine, air_batch *batch, air_error *err);
/* Before the first batch: gives weights the room that a batch of one row leaves, so that they can be read ahead. A device gets its memory
 * for passes now. Errors: those of the backend's reserve. */
air_status air__expect_one_row(air_engine *engine, air_error *err);
/* timeline.c. What a batch is to book of the log, seen before it makes room; books that. Notes what the engine's thread did. */
void air__timeline_see(air_engine *engine);
air_status air__timeline_book(air_engine *engine, air_error *err);
void air__timeline_note(air_engine *engine, air_event_kind kind, uint64_t begin_ns, uint64_t end_ns, int64_t number);
void air__timeline_note_device(air_engine *engine, uint64_t begin_ns);
/* Under the lock. Who calls it wakes those that wait for engine->ended afterwards, so that they do not wake up to wait for the lock. */
void air__batch_end(air_batch *batch, air_status status);

AIR_END_C
#endif
