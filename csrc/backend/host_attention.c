/* Attention on the CPU: jobs are the heads of some rows, and where those are few, segments of positions of them. */
#include "backend/host.h"

#include <stdatomic.h>

enum { JOBS = 4 }; /* for each thread, so that threads end together: with fewer jobs of whole rows, rows are split */

static int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }

/* --- memory: totals of what is split, and of each thread's rows otherwise; whose turn it is --- */

static int64_t split_most(int threads) { return (int64_t)threads * JOBS; }

static int64_t heads_most(const air_program *p)
{
    int64_t most = AIR__ATTENTION_HEADS;
    for (int32_t i = 0; i < p->n_layers; i++)
        if (p->attention[i].kv_heads) most = max64(most, p->attention[i].heads / p->attention[i].kv_heads);
    return most;
}

size_t air__attention_totals(const air_program *p, int threads) { return (size_t)((split_most(threads) + threads) * heads_most(p)); }

size_t air__attention_turns(int threads) { return (size_t)split_most(threads); }

static air_attention_total *totals_of(const air_backend *h, int64_t i) { return h->totals + i * heads_most(h->program); }

/* --- jobs --- */

static int64_t positions_of(const air_pass *p)
{
    int32_t last = 0;
    for (int64_t r = 0; r < p->rows; r++) last = p->positions[r] > last ? p->positions[r] : last;
    return last + 1;
}

/* Query heads of a unit, when there would be so many units and segments of whole groups: each part of a group reads its K/V head anew,
 * so that it is only cut where threads would have nothing to do. */
static int64_t heads_of_unit(int64_t group, int64_t jobs, int64_t threads)
{
    enum { LEAST = 4 };
    int64_t parts = min64((threads + jobs - 1) / jobs, (group + LEAST - 1) / LEAST), heads = (group + parts - 1) / parts;
    return parts > 1 ? min64(group, (heads + LEAST - 1) / LEAST * LEAST) : group;
}

/* As many rows in a job as one call may take, but jobs for all threads. */
void air__attention_begin(air_backend *h)
{
    const air_attention_shape *a = &h->program->attention[h->stage->layer];
    air__attention_jobs *j = &h->attention;
    j->positions = positions_of(h->pass);
    int64_t segments = (j->positions - 1) / AIR_SEGMENT_POSITIONS + 1;
    int64_t group = a->heads / a->kv_heads, most = max64(1, AIR__ATTENTION_HEADS / group);
    j->rows = max64(1, min64(most, h->pass->rows * a->kv_heads * segments / split_most(h->threads)));
    int64_t groups = (h->pass->rows + j->rows - 1) / j->rows * a->kv_heads;
    j->heads = heads_of_unit(group, groups * segments, h->threads);
    j->parts = (group + j->heads - 1) / j->heads;
    j->units = groups * j->parts;
    j->segments = segments;
    j->split = segments > 1 && j->units < split_most(h->threads);
    for (int64_t i = 0; j->split && i < j->units; i++) atomic_store_explicit(&h->turns[i], 0, memory_order_relaxed);
    air_pool_job_reset(&h->job, j->split ? j->units * segments : j->units);
}

/* Waits until a unit's segments before this one have been merged; 0 when the pass has ended. They were begun before. */
static int wait_turn(air_backend *h, int64_t unit, int64_t segment)
{
    for (;;) {
        uint32_t seen = air_gate_read(&h->merged);
        if (atomic_load_explicit(&h->turns[unit], memory_order_acquire) == segment) return 1;
        if (air__host_cancelled(h)) return 0;
        air_gate_wait(&h->merged, seen, h->pool);
    }
}

static void end_turn(air_backend *h, int64_t unit, int64_t segment)
{
    atomic_store_explicit(&h->turns[unit], (int32_t)segment + 1, memory_order_release);
    air_gate_count(&h->merged);
}

/* which: of the K/V heads' parts. */
static air_attention_args arguments(const air_backend *h, const air_op *op, int64_t row, int64_t rows, int64_t which)
{
    const air_attention_shape *a = &h->program->attention[op->layer];
    const air_state_view *view = &h->pass->states[h->pass->sequences[row]];
    air_state_type type = h->pass->state_type;
    int64_t group = a->heads / a->kv_heads, kv_head = which / h->attention.parts, before = which % h->attention.parts * h->attention.heads;
    int64_t head = kv_head * group + before, q_stride = (int64_t)a->heads * a->key_dim;
    int64_t out_stride = (int64_t)a->heads * a->value_dim;
    return (air_attention_args){
        .q = air__host_buffer(h, op->in) + row * q_stride + head * a->key_dim,
        .out = air__host_buffer(h, op->out) + row * out_stride + head * a->value_dim,
        .k_blocks = (const void *const *)view->k + op->layer * view->stride,
        .v_blocks = (const void *const *)view->v + op->layer * view->stride,
        .k_offset = (size_t)kv_head * air_state_head_bytes(type, a->key_dim),
        .v_offset = (size_t)kv_head * air_state_head_bytes(type, a->value_dim),
        .type = type,
        .rows = rows, .q_stride = q_stride, .out_stride = out_stride,
        .positions = h->pass->positions[row] + 1,
        .window = a->window ? a->window : INT64_MAX, .chunk = a->chunk, .ahead = a->ahead, .stored = view->end,
        .slopes = a->slopes ? a->slopes + head : NULL,
        .sinks = op->bias == AIR_NONE ? NULL : h->feed->vectors[op->bias] + head,
        .group = min64(h->attention.heads, group - before), .head_dim = a->key_dim, .value_dim = a->value_dim,
        .values_in_keys = a->values_in_keys,
        .scale = op->scale, .softcap = a->softcap,
    };
}

/* How many of the rows from row on, before end, follow each other in a sequence. */
static int64_t rows_together(const air_pass *p, int64_t row, int64_t end)
{
    int64_t next = row + 1;
    while (next < end && p->sequences[next] == p->sequences[row] && p->positions[next] == p->positions[next - 1] + 1) next++;
    return next - row;
}

/* Segments [first, last) of a unit: a K/V head of some rows. 0 when the pass has ended. */
static int attend(air_backend *h, int64_t unit, int64_t first, int64_t last, air_attention_total *totals, float *scratch)
{
    const air_op *op = &h->program->ops[h->stage->first];
    int64_t of_rows = h->program->attention[op->layer].kv_heads * h->attention.parts, row = unit / of_rows * h->attention.rows;
    int64_t end = min64(row + h->attention.rows, h->pass->rows);
    for (int64_t rows; row < end; row += rows) {
        rows = rows_together(h->pass, row, end);
        air_attention_args args = arguments(h, op, row, rows, unit % of_rows);
        args.scratch = scratch;
        args.totals = totals;
        totals += rows * args.group;
        int64_t begin = air_attention_first(&args, 0) / AIR_SEGMENT_POSITIONS;
        int64_t finish = (air_attention_end(&args, rows - 1) - 1) / AIR_SEGMENT_POSITIONS + 1;
        for (args.segment = max64(first, begin); args.segment < min64(last, finish); args.segment++) {
            h->ops->attention(&args);
            if (h->attention.split && !wait_turn(h, unit, args.segment)) return 0;
            h->ops->attention_merge(&args);
        }
    }
    return 1;
}

/* Threads take the units' first segments, then their second ones …: those before are done when a thread is to merge, or nearly so. */
void air__attention_run(air_backend *h, int index)
{
    const air__attention_jobs *j = &h->attention;
    float *scratch = air__host_scratch(h, index);
    for (int64_t i; (i = air_pool_job_take(&h->job)) >= 0 && !air__host_cancelled(h);) {
        if (!j->split) {
            attend(h, i, 0, j->segments, totals_of(h, split_most(h->threads) + index), scratch);
            continue;
        }
        int64_t unit = i % j->units, segment = i / j->units;
        if (!attend(h, unit, segment, segment + 1, totals_of(h, unit), scratch) || !wait_turn(h, unit, segment)) break;
        end_turn(h, unit, segment);
    }
    if (air__host_cancelled(h)) air_gate_count(&h->merged); /* who waits for a turn of ours looks again */
}
