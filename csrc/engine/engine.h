/* engine/engine.h: one open model that runs passes over the tokens of any sequences.
 *
 * An engine owns model, plan, pager, backend, state pool and a thread of its own that runs one pass at a time. Callers in any threads
 * submit batches; they queue in order of arrival. A sequence belongs to its engine, holds token ids and state blocks, and is used by one
 * caller at a time (AIR_E_CLOSED otherwise). Close sequences before the engine; the engine's close waits for the pass it cancels.
 * It does not wait for callers: submit, wait and cancel may still signal when the pass has seen what they did, so close an engine only
 * when no thread is inside a call with it or a batch of it, and free or detach its batches first.
 * After fork() the child's calls fail with AIR_E_CLOSED. */
#ifndef AIR_ENGINE_ENGINE_H
#define AIR_ENGINE_ENGINE_H

#include "backend/backend.h"
#include "engine/sample.h"
#include "gguf/open.h"
#include "memory/pager.h"
#include "memory/plan.h"
#include "model/model.h"

AIR_BEGIN_C

typedef struct air_engine air_engine;
typedef struct air_sequence air_sequence;
typedef struct air_batch air_batch;

/* A device that computes products beside the first one. */
typedef struct air_engine_helper {
    int32_t device;
    uint64_t max_vram; /* 0: as much as the first has, or where that is 0 too most of what is free */
} air_engine_helper;

typedef struct air_engine_config {
    const air_gguf_set *set;   /* borrowed; outlives the engine */
    uint64_t max_ram;          /* 0: DESIGN's default for this machine; at most air_memory_room, which callers look at before they probe */
    uint64_t fixed_bytes;      /* of it, what the caller already holds (tokenizer, directory …) */
    uint64_t max_vram;         /* of the device's memory; 0: most of what is free there. Without a backend that has some only for plans */
    air_io_mode io;
    int threads;               /* 0: all this process may use */
    int cpu_tier;              /* air_cpu_tier cap; AIR_TIER_COUNT: the best */
    const air_backend_api *backend; /* what computes; NULL: the CPU */
    int32_t device;            /* which of its devices */
    air_engine_helper helpers[AIR_DEVICES_MOST - 1]; /* and others of them */
    int32_t n_helpers;
    double cpu_share;          /* of products beside a device: air_plan_request */
    int64_t n_ctx;             /* 0: min(trained, 4096), lowered to what fits */
    air_state_type state_type; /* AIR_STATE_TYPES: F16, or F32 of what lives for one pass alone, where the model is bidirectional */
    uint64_t ring_bytes, tile_bytes; /* 0: chosen */
    int64_t max_rows;          /* rows of a pass at most; 0: chosen */
    uint64_t max_pins;         /* pins at most; UINT64_MAX: as the plan says */
    int lookahead;             /* whether experts are read by a guess before they are asked for */
    air_bandwidths bandwidths; /* zeros: not probed; the engine probes nothing by itself */
    air_bandwidths deciding;   /* as air_plan_request has them */
    const char *source_spec;   /* tests: air_source_tampered; NULL */
} air_engine_config;

/* Reads nothing but vectors. Errors: those of model, plan and pager. */
air_status air_engine_open(air_engine **out, const air_engine_config *config, air_error *err);
void air_engine_close(air_engine *engine);

/* Fills config's zeros the way open does, and solves its plan, without opening files or allocating what it plans. Needs no device,
 * and takes a max_ram beyond this machine's for that of another one. */
air_status air_engine_plan_only(air_plan **out, const air_engine_config *config, air_error *err);

const air_model *air_engine_model(const air_engine *engine);
const air_plan *air_engine_plan(const air_engine *engine);

typedef struct air_engine_stats { /* since open */
    uint64_t passes, rows;
    uint64_t pass_ns;          /* in passes */
    uint64_t last_pass_ns, last_disk_bytes, last_ram_bytes, last_stall_ns, last_rows;
    air_pager_stats pager;
    uint64_t budget, held, peak_held;
    uint64_t held_by[AIR_HOLD_COUNT];
    double predicted_s;        /* the plan's, for one row with what is pinned now */
    double last_predicted_s;   /* for the last pass as it was */
    int32_t threads;
    const char *kernels;       /* "avx512" … */
} air_engine_stats;
air_engine_stats air_engine_stats_get(air_engine *engine);
/* Per layer of the last pass: busy and stalled ns, [n_layers + 1] each; copies min(n, n_layers + 1). Returns n_layers + 1. */
int32_t air_engine_layer_times(air_engine *engine, uint64_t *busy_ns, uint64_t *stall_ns, int32_t n);

/* The token that a sequence of n tokens gets from such logits [n_vocab], changed by whoever calls: as air_sample chooses it, which finds
 * no history here, so penalties are the caller's. Any thread. Errors: AIR_E_ARGUMENT, AIR_E_NUMERIC, AIR_E_NOMEM. */
air_status air_engine_sample(const air_engine *engine, const air_sampling *sampling, const float *logits, int64_t n, int32_t *token,
                             air_error *err);

/* Rows sent to each expert of a layer since open; copies min(n, n_experts). Returns n_experts, 0 where the layer has none. */
int32_t air_engine_expert_rows(air_engine *engine, int32_t layer, uint64_t *rows, int32_t n);

/* --- the timeline: what each thread does while passes run, for one caller at a time --- */
typedef struct air_timeline_figures { /* what it covers */
    uint64_t begin_ns, end_ns;   /* of air_clock_ns */
    uint64_t disk_bytes, ram_bytes, stall_ns, read_ns; /* that came to the statistics meanwhile: sums over its events say the same */
    uint64_t events, dropped;    /* in it, and for which there was no room */
} air_timeline_figures;

/* Begins one with room for max_events; its memory counts in max_ram from the next batch on, before weights that stay. Errors:
 * AIR_E_CLOSED (another one has not ended), AIR_E_BUDGET, AIR_E_NOMEM, AIR_E_ARGUMENT. */
air_status air_engine_timeline_begin(air_engine *engine, uint64_t max_events, air_error *err);
/* Nothing is noted any more from now on. Waits at most timeout_ns for the pass under way; *done says whether there is none: then the
 * log can be read, until end. Any number of times. Errors: AIR_E_CLOSED (none has begun, or the engine is closing). */
air_status air_engine_timeline_stop(air_engine *engine, uint64_t timeout_ns, int *done, air_timeline_figures *out, air_error *err);
/* After a stop that was done: copies min(n, figures.events) events, each lane's in the order that they ended in. */
void air_engine_timeline_read(air_engine *engine, air_event *events, uint64_t n);
void air_engine_timeline_end(air_engine *engine); /* gives its memory back; another one may begin */

/* A max_ram, above the engine's own, that would hold `blocks` blocks of 64 positions, of so many sequences, beside passes of `rows` rows,
 * `wanted` of which keep their logits, and beside the logits that are kept now; 0: none is known. */
uint64_t air_engine_budget_for(air_engine *engine, int64_t sequences, int64_t blocks, int64_t rows, int64_t wanted);

/* --- sequences --- */
air_status air_sequence_new(air_sequence **out, air_engine *engine, air_error *err);
void air_sequence_free(air_sequence *sequence);
int64_t air_sequence_length(const air_sequence *sequence);          /* tokens whose state is held */
const int32_t *air_sequence_tokens(const air_sequence *sequence);   /* [length]; valid until the next change */
uint64_t air_sequence_bytes(const air_sequence *sequence);          /* state held, shared blocks counted in full */
uint64_t air_sequence_host_bytes(const air_sequence *sequence);     /* of max_ram: where a device computes, what of it lies in RAM */
/* Forgets the tokens from length on. Recurrent layers know no way back but to where their state was kept: then it forgets more, down to
 * what reach says of that length, and air_sequence_length says what is left. */
air_status air_sequence_truncate(air_sequence *sequence, int64_t length, air_error *err);
int64_t air_sequence_reach(const air_sequence *sequence, int64_t length);
/* A second sequence over the same blocks, copied when written. */
air_status air_sequence_fork(air_sequence **out, air_sequence *sequence, air_error *err);
/* Appends n tokens, whose ids and state are copies of those it holds, from the first on, again and again: a long context at once, for
 * measurements, which would else spend minutes on computing one. The state of recurrent layers, which has no length, stays as it is.
 * AIR_E_ARGUMENT unless it holds whole blocks of 64 tokens. */
air_status air_sequence_repeat(air_sequence *sequence, int64_t n, air_error *err);

/* --- adapters: low-rank additions to some weights (backend/adapter.h), for sequences that are to have them --- */
typedef struct air_adapter_matrix { /* for the tensor of that name, [rows][cols]: W + B A, A [rank][cols], B [rows][rank] */
    const char *name;
    int64_t rank, rows, cols;
} air_adapter_matrix;
typedef struct air_engine_adapter air_engine_adapter;

/* What one takes: bytes of max_ram, and of max_vram where a device computes, in whose memory the matrices lie then; its largest rank. */
typedef struct air_adapter_room {
    uint64_t host, device;
    int64_t rank;
} air_adapter_room;
/* That of one of these. Errors: AIR_E_MODEL where it does not fit the model, AIR_E_UNSUPPORTED for tables, vectors, experts. */
air_status air_engine_adapter_room(air_engine *engine, const air_adapter_matrix *matrices, int32_t n, air_adapter_room *out,
                                   air_error *err);
/* All zeros, to be filled. held: an ended batch that has made that room (air_batch_request.hold), which it takes over. Free it
 * after the sequences that have it and before the engine. Errors: those above, AIR_E_NOMEM; of a device AIR_E_DEVICE. */
air_status air_engine_adapter_new(air_engine_adapter **out, air_engine *engine, const air_adapter_matrix *matrices, int32_t n,
                                  air_batch *held, air_error *err);
int32_t air_engine_adapter_count(const air_engine_adapter *adapter);
air_adapter_matrix air_engine_adapter_matrix(const air_engine_adapter *adapter, int32_t i); /* without the name */
/* Copies A [rank][cols] and B [rows][rank] of matrix number i. Errors: AIR_E_CLOSED once a sequence has the adapter; of a device
 * AIR_E_NOMEM, AIR_E_DEVICE, after which what it has of the matrix is undefined. */
air_status air_engine_adapter_fill(air_engine_adapter *adapter, int32_t i, const float *a, const float *b, air_error *err);
void air_engine_adapter_free(air_engine_adapter *adapter);
air_adapter_room air_engine_adapter_held(const air_engine_adapter *adapter);
/* What an empty sequence, and every fork of it, is computed with; NULL: the model alone. AIR_E_ARGUMENT for one with tokens. */
air_status air_sequence_adapt(air_sequence *sequence, air_engine_adapter *adapter, float scale, air_error *err);

/* --- batches: one call's work --- */
typedef struct air_batch_item {
    air_sequence *sequence;
    const int32_t *tokens;        /* appended; copied at submit */
    int64_t n_tokens;
    int64_t want;                 /* logits (and hidden) of the last `want` tokens; 0 to n_tokens */
    int64_t n_first;              /* tokens of the first of two texts: those behind it are of type 1, where the model has types; 0: it
                                   * is one, of type 0 */
    const air_sampling *sampling; /* NULL: none; else samples from the last token's logits */
    int64_t n_prompt;             /* tokens of the sequence, the first ones, that were not generated: for penalties, and rows' roles */
} air_batch_item;

typedef struct air_batch_request {
    const air_batch_item *items;
    int32_t n_items;
    /* air_batch_logits will not be asked for: of rows that are not sampled, or by the few largest, a device keeps them, and where no row is
     * sampled the CPU computes none. */
    int sampled_only;
    int keep_hidden; /* whether air_batch_hidden will be asked for */
    int walk;        /* with no items: a pass with compute left out, what the weights' way into memory takes by itself */
    air_adapter_room hold; /* with no items: weights, and state in a device's memory, give way to so much, which the batch holds of max_ram
                            * and max_vram until it is freed */
    uint64_t floats; /* likewise, and makes memory of so many floats, zeros, which air_batch_logits shows: what is handed out to callers */
} air_batch_request;

/* Checks everything (token ids, context, budget, sequences idle and distinct) and queues. Nothing is computed or changed on failure.
 * Errors: AIR_E_ARGUMENT, AIR_E_CONTEXT (before anything is computed), AIR_E_BUDGET (logits or state: what would fit), AIR_E_CLOSED,
 * AIR_E_UNSUPPORTED: logits, or sampling, of a model that has none. A bidirectional model's sequences are empty before. */
air_status air_batch_submit(air_batch **out, air_engine *engine, const air_batch_request *request, air_error *err);

typedef struct air_progress {
    int32_t layers_done, n_layers; /* of the present pass */
    int32_t passes_done, n_passes; /* a prompt longer than max_rows takes several; 0 while it waits in the queue */
} air_progress;

/* Waits at most timeout_ns. *done says whether the batch has ended; then the status is the batch's. Sequences have advanced on success
 * and are as before on failure. In a forked child it has ended, with AIR_E_CLOSED. */
air_status air_batch_wait(air_batch *batch, uint64_t timeout_ns, int *done, air_progress *progress, air_error *err);
void air_batch_cancel(air_batch *batch); /* soon ends it with AIR_E_CANCELLED; any thread */
/* Of an ended batch; borrowed from it. logits [sum of want][n_vocab] or NULL, hidden [sum of want][n_embd] or NULL, sampled [n_items]
 * (-1 where not asked for), logprobs [n_items]. The engine is done with the floats: the caller may write to them. */
float *air_batch_logits(const air_batch *batch);
float *air_batch_hidden(const air_batch *batch);
const int32_t *air_batch_sampled(const air_batch *batch);
const float *air_batch_logprobs(const air_batch *batch);
int64_t air_batch_rows_kept(const air_batch *batch);
typedef struct air_batch_cost { /* sums over its passes */
    uint64_t passes, pass_ns, disk_bytes, ram_bytes, stall_ns;
    double predicted_s;
} air_batch_cost;
air_batch_cost air_batch_cost_get(const air_batch *batch);
/* Of an ended batch: cuts it from its engine, which may then close; results stay until free. They no longer count in the budget. */
void air_batch_detach(air_batch *batch);
void air_batch_free(air_batch *batch); /* cancels and waits if it has not ended; NULL is legal */

AIR_END_C
#endif
