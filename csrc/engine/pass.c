/* What the engine's thread does with a batch: make room, run it in passes of at most max_rows rows, sample, let sequences advance. */
#include <stdatomic.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "backend/device.h"
#include "engine/internal.h"
#include "platform/clock.h"

static int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

/* --- room: state, activations and logits come before pinned weights --- */

typedef struct room {
    uint64_t state, logits, activations; /* state: beside what there is, of max_ram */
    uint64_t device_activations;
    uint64_t device_state; /* without which a pass cannot run: of the longest sequence, what cannot be read where it is away */
    int64_t blocks;        /* to be made */
    int64_t recurrent;     /* blocks of recurrent state, likewise, but for spare ones */
    int64_t batch_blocks;  /* of its sequences, when it is done; shared ones count for each */
    int64_t batch_recurrent; /* likewise, while it runs */
    int64_t rows, wanted;  /* of the largest pass */
    int64_t rows_cap, wanted_cap; /* that the backend is to be reserved for: at least those */
    int64_t rank;          /* likewise, of adapters in the device's memory */
} room;

/* A device's memory for passes is made once, for the plan's rows, and again only where more are wanted: giving it back and taking it
 * costs more than a small pass. EXACT: what the batch needs alone, where that does not fit, or leaves too little for the batch's state. */
typedef enum room_kind { SPARE, EXACT } room_kind;

static int64_t wanted_in(const air_batch *b, int64_t first, int64_t rows)
{
    int64_t n = 0;
    for (int64_t i = 0; i < b->n_wanted; i++) n += b->wanted[i] >= first && b->wanted[i] < first + rows;
    return n;
}

static void pass_memory(const air_engine *e, room *r, room_kind kind)
{
    const air_program *p = air_model_program(e->model);
    r->rows_cap = r->rows;
    r->wanted_cap = r->wanted;
    if (!air__engine_on_device(e)) {
        r->activations = e->api->pass_bytes(p, r->rows, r->wanted, e->request.threads);
        return;
    }
    if (kind == SPARE) {
        r->rows_cap = e->plan->max_rows;
        r->wanted_cap = max64(1, max64(r->wanted, e->wanted_cap));
    }
    r->activations = air_device_host_bytes(p, r->rows_cap, r->wanted_cap, e->plan->n_ctx);
    r->device_activations = air_device_pass_bytes(p, r->rows_cap, r->wanted_cap, e->plan->n_ctx);
    if (!r->rank) return;
    r->device_activations += air_device_allocation(air_device_adapting_of(p, r->rows_cap, r->rank).total);
    if (e->plan->device_graph_bytes) r->device_activations += air_device_adapting_graph_bytes(p);
}

/* A device's passes may begin at any row, and those of whole texts at any text. */
static int64_t wanted_within(const air_batch *b, int64_t rows)
{
    int64_t most = 0;
    for (int64_t i = 0, first = 0; i < b->n_wanted; i++) {
        while (b->wanted[i] - b->wanted[first] >= rows) first++;
        if (i - first + 1 > most) most = i - first + 1;
    }
    return most;
}

static void passes_of(const air_engine *e, const air_batch *b, room *r, room_kind kind)
{
    int anywhere = air__engine_on_device(e) || air_model_program(e->model)->bidirectional;
    r->wanted = anywhere ? wanted_within(b, r->rows) : 0;
    for (int64_t first = 0; first < b->rows; first += r->rows) {
        int64_t wanted = wanted_in(b, first, r->rows);
        if (wanted > r->wanted) r->wanted = wanted;
    }
    pass_memory(e, r, kind);
}

/* Of the device's memory, what state and activations of passes share. */
static uint64_t device_left(const air_engine *e)
{
    uint64_t others = atomic_load(&e->device_budget.total) - e->device_activation_bytes;
    return e->device_budget.limit - (others - atomic_load(&e->device_budget.held[AIR_HOLD_STATE]));
}

static int device_fits(const air_engine *e, const room *r)
{
    return !air__engine_on_device(e) || r->device_state + r->device_activations <= device_left(e);
}

/* Blocks that the device can hold beside the activations of these passes, and so many of recurrent state. */
static int64_t device_blocks(const air_engine *e, uint64_t activations, int64_t recurrent)
{
    uint64_t left = device_left(e), others = activations + (uint64_t)recurrent * e->pool.block_bytes[AIR_STATE_RECURRENT];
    return left > others ? (int64_t)((left - others) / e->pool.block_bytes[AIR_STATE_PAGED]) : 0;
}

static int64_t recurrent_blocks(const air_engine *e) { return e->pool.block_bytes[AIR_STATE_RECURRENT] ? AIR__RECURRENT_BLOCKS : 0; }

static void state_of_items(air_engine *e, const air_batch *b, room *r)
{
    int64_t longest = 0;
    for (int32_t i = 0; i < b->n_items; i++) {
        int64_t length = b->items[i].sequence->length + b->items[i].n_tokens;
        int64_t blocks = (int64_t)air_ceil_div((uint64_t)length, AIR_BLOCK_POSITIONS);
        r->blocks += air__sequence_missing(b->items[i].sequence, length);
        r->recurrent += air__recurrent_missing(b->items[i].sequence, air__batch_keeps(&b->items[i]));
        r->batch_recurrent += recurrent_blocks(e);
        r->batch_blocks += blocks;
        if (blocks > longest) longest = blocks;
    }
    r->recurrent -= min64(r->recurrent, air__pool_spare(&e->pool));
    int64_t least = longest - e->pool.away_most;
    r->device_state = (uint64_t)(least > 1 ? least : 1) * e->pool.block_bytes[AIR_STATE_PAGED] +
                      (uint64_t)recurrent_blocks(e) * e->pool.block_bytes[AIR_STATE_RECURRENT];
}

/* What the device does not hold is away, and while blocks change places one more. */
static uint64_t host_state(const air_engine *e, const room *r)
{
    const uint64_t *bytes = e->pool.block_bytes;
    if (!air__engine_on_device(e))
        return (uint64_t)r->blocks * bytes[AIR_STATE_PAGED] + (uint64_t)r->recurrent * bytes[AIR_STATE_RECURRENT];
    const air_state_pool *pool = &e->pool;
    int64_t away = atomic_load(&pool->away_held[AIR_STATE_PAGED]), all = away + atomic_load(&pool->here[AIR_STATE_PAGED]) + r->blocks;
    if (!bytes[AIR_STATE_RECURRENT]) {
        int64_t here = device_blocks(e, r->device_activations, 0);
        return all > here && all - here + 1 > away ? (uint64_t)(all - here + 1 - away) * pool->state_bytes[AIR_STATE_PAGED] : 0;
    }
    /* Which of either kind goes is not known: as many bytes as go where K and V do alone, and a block of the other kind. */
    int64_t recurrent = atomic_load(&pool->here[AIR_STATE_RECURRENT]) + atomic_load(&pool->away_held[AIR_STATE_RECURRENT]) + r->recurrent;
    uint64_t held = atomic_load(&e->budget.held[AIR_HOLD_STATE]), left = device_left(e);
    left = left > r->device_activations ? left - r->device_activations : 0;
    uint64_t need = (uint64_t)all * bytes[AIR_STATE_PAGED] + (uint64_t)recurrent * bytes[AIR_STATE_RECURRENT];
    if (need <= left) return 0;
    need += bytes[AIR_STATE_PAGED] + bytes[AIR_STATE_RECURRENT] - left;
    return need > held ? need - held : 0;
}

static int64_t longest_item(const air_batch *b)
{
    int64_t longest = 0;
    for (int32_t i = 0; i < b->n_items; i++) longest = max64(longest, b->items[i].n_tokens);
    return longest;
}

enum { SHARE_LEAST = 16 }; /* of the plan's rows: each pass reads all weights, so that smaller ones would take for ever */

static room room_for(air_engine *e, const air_batch *b, room_kind kind)
{
    const air_program *p = air_model_program(e->model);
    room r = {.rows = min64(b->rows, e->plan->max_rows), .rank = air__engine_rank(e)};
    int64_t least = max64(e->plan->max_rows / SHARE_LEAST, p->bidirectional ? longest_item(b) : 1);
    state_of_items(e, b, &r);
    passes_of(e, b, &r, kind);
    while (kind == EXACT && r.rows > least && !device_fits(e, &r)) { /* many wanted rows: their logits are the device's too for a while */
        r.rows = max64(least, (r.rows + 1) / 2);
        passes_of(e, b, &r, kind);
    }
    r.state = host_state(e, &r);
    uint64_t row = air_device_candidate_bytes(1, b->n_candidates), others;
    if (b->keep_hidden) row += (uint64_t)p->n_embd * sizeof(float);
    int fits = air_mul_u64((uint64_t)b->n_wanted, row, &others);
    fits = fits && air_mul_u64((uint64_t)b->n_whole, (uint64_t)p->n_vocab * sizeof(float), &r.logits);
    if (!fits || !air_add_u64(r.logits, others, &r.logits)) r.logits = UINT64_MAX;
    return r;
}

/* Whether some state of the batch would not be in the device's memory, so that it takes several passes, or state has to come. */
static int is_crowded(const air_engine *e, const room *r)
{
    return air__engine_on_device(e) && r->batch_blocks > device_blocks(e, r->device_activations, r->batch_recurrent);
}

/* The numbers alone: what helps depends on what the caller's caller has in hand. */
static air_status refuse(const air_engine *e, const room *r, uint64_t held, uint64_t need, air_error *err)
{
    uint64_t all;
    if (!air_add_u64(held, need, &all)) all = UINT64_MAX;
    return air_fail(err, AIR_E_BUDGET,
                    "max_ram %.1f MiB is too small by %.1f MiB: in use %.1f, this call needs KV cache %.1f, logits %.1f, activations %.1f",
                    air_mib(e->budget.limit), (double)air_tenths_up(all - e->budget.limit) / 10, air_mib(held), air_mib(r->state),
                    air_mib(r->logits), air_mib(r->activations));
}

uint64_t air_engine_budget_for(air_engine *e, int64_t sequences, int64_t blocks, int64_t rows, int64_t wanted)
{
    enum { TRIES = 64 }; /* rings and passes grow with the budget, by less than half of it */
    const air_program *program = air_model_program(e->model);
    air_plan_request r = e->request;
    uint64_t state, logits, recurrent, need = 0;
    uint64_t per_block = air__engine_on_device(e) ? e->pool.state_bytes[AIR_STATE_PAGED] : r.state_per_block;
    if (air__engine_on_device(e)) {
        int64_t here = device_blocks(e, e->plan->device_activation_bytes_full, sequences * recurrent_blocks(e));
        blocks = blocks > here ? blocks - here + 1 : 0;
    }
    if (!air_mul_u64((uint64_t)blocks, per_block, &state) ||
        !air_mul_u64((uint64_t)wanted, (uint64_t)program->n_vocab * sizeof(float), &logits) ||
        !air_mul_u64((uint64_t)sequences, r.recurrent, &recurrent) || !air_add_u64(state, recurrent, &state))
        return 0;
    r.n_ctx = e->plan->n_ctx;
    for (int i = 0; i < TRIES; i++) {
        r.budget = air_from_tenths(air_tenths_up(air_max_u64(need, e->plan->budget)) + 1);
        air_plan *p;
        if (air_plan_make(&p, &r, NULL)) return 0;
        room pass = {.rows = min64(rows, p->max_rows), .wanted = wanted, .rank = air__engine_rank(e)};
        pass_memory(e, &pass, EXACT);
        uint64_t passes = pass.activations;
        uint64_t others = r.fixed + p->ring_bytes + p->gather_bytes + p->staging_bytes + atomic_load(&e->budget.held[AIR_HOLD_LOGITS]) +
                          atomic_load(&e->budget.held[AIR_HOLD_ADAPTERS]);
        air_plan_free(p);
        if (!air_add_u64(state, logits, &need) || !air_add_u64(need, passes + others, &need) || need > INT64_MAX) return 0;
        if (need <= r.budget) return r.budget;
    }
    return 0;
}

/* Pins give way to what this batch needs, and come back when it needs less. Small changes upward are not worth a reshuffle. */
static air_status set_pins(air_engine *e, uint64_t target, air_error *err)
{
    target = air_min_u64(target, e->max_pins);
    if (target == e->pin_target || (target > e->pin_target && target - e->pin_target < e->plan->tile_bytes && target != e->max_pins))
        return AIR_OK;
    air_status st = air_pager_set_pins(e->pager, target, err);
    if (!st) e->pin_target = target;
    return st;
}

/* Weights of a device stay, so its state and activations have what the plan left for them. */
static air_status device_room(const air_engine *e, const room *r, air_error *err)
{
    uint64_t limit = e->device_budget.limit, left = device_left(e), need = r->device_state + r->device_activations;
    if (device_fits(e, r)) return AIR_OK;
    return air_fail(err, AIR_E_BUDGET,
                    "max_vram %.1f MiB is too small by %.1f MiB: in use %.1f, of that weights %.1f; this call needs KV cache %.1f, "
                    "activations %.1f for passes of %lld rows, of %lld of which the logits are wanted; ask for fewer logits, "
                    "or open the model with a larger n_ctx or max_vram",
                    air_mib(limit), (double)air_tenths_up(need - left) / 10, air_mib(limit - left),
                    air_mib(e->plan->device_pin_bytes + e->plan->device_expert_bytes), air_mib(r->device_state),
                    air_mib(r->device_activations), (long long)r->rows, (long long)r->wanted);
}

/* Of the host's memory: held by others than weights and activations; what this batch needs; the ring, and the least for weights. */
typedef struct host_room {
    uint64_t others, need, ring, least;
} host_room;

static host_room host_room_of(const air_engine *e, const room *r)
{
    air_pager_stats weights = air_pager_stats_get(e->pager);
    uint64_t pinned = atomic_load(&e->budget.held[AIR_HOLD_PINS]) + atomic_load(&e->budget.held[AIR_HOLD_EXPERTS]);
    host_room h = {.ring = weights.ring_bytes};
    h.others = atomic_load(&e->budget.total) - pinned - weights.ring_held - e->activation_bytes;
    h.others += e->timeline_due;
    if (!air_add_u64(r->state + r->activations, r->logits, &h.need)) h.need = UINT64_MAX;
    h.least = weights.ring_bytes + e->experts_least;
    if (!e->plan->n_device_tiles) h.least = air_min_u64(h.least, e->all_pins);
    return h;
}

static int host_fits(const air_engine *e, const host_room *h)
{
    return h->need <= e->budget.limit && h->others + h->least <= e->budget.limit - h->need;
}

/* What the rest leaves goes to weights: all of them pinned, and then no ring; else the ring, and pins. A device's own weights come
 * through the ring, so there it stays until they have. */
static air_status make_room(air_engine *e, const room *r, air_error *err)
{
    host_room h = host_room_of(e, r);
    air_status st = device_room(e, r, err);
    if (st) return st;
    if (!host_fits(e, &h)) return refuse(e, r, h.others + h.least, h.need, err);
    uint64_t left = e->budget.limit - h.others - h.need;
    int all = left >= e->all_pins && !e->plan->n_device_tiles;
    return set_pins(e, all ? UINT64_MAX : left - h.ring, err);
}

static air_status reserve_activations(air_engine *e, const room *r, air_error *err)
{
    if (r->rows_cap == e->rows_cap && r->wanted_cap == e->wanted_cap && r->rank == e->rank_cap) return AIR_OK;
    air_budget_release(&e->budget, AIR_HOLD_ACTIVATIONS, e->activation_bytes);
    air_budget_release(&e->device_budget, AIR_HOLD_ACTIVATIONS, e->device_activation_bytes);
    e->activation_bytes = e->device_activation_bytes = 0;
    e->rows_cap = e->wanted_cap = -1; /* after a failure below the old memory is there but not booked: the next batch books anew */
    air_status st = air_budget_reserve(&e->budget, AIR_HOLD_ACTIVATIONS, r->activations, err);
    if (st) return st;
    e->activation_bytes = r->activations;
    st = air_budget_reserve(&e->device_budget, AIR_HOLD_ACTIVATIONS, r->device_activations, err);
    if (st) return st;
    e->device_activation_bytes = r->device_activations;
    st = e->api->reserve(e->backend, r->rows_cap, r->wanted_cap, r->rank, err);
    if (st) return st;
    e->rows_cap = r->rows_cap;
    e->wanted_cap = r->wanted_cap;
    e->rank_cap = r->rank;
    return AIR_OK;
}

air_status air__expect_one_row(air_engine *e, air_error *err)
{
    room r = {.rows = 1, .wanted = 1, .blocks = 1, .logits = e->plan->logit_bytes};
    if (e->pool.block_bytes[AIR_STATE_RECURRENT]) r.recurrent = AIR__RECURRENT_BLOCKS;
    pass_memory(e, &r, SPARE);
    r.state = host_state(e, &r);
    if (make_room(e, &r, NULL)) return AIR_OK; /* where there is none, the batch says so */
    return air__engine_on_device(e) ? reserve_activations(e, &r, err) : AIR_OK;
}

static air_status make_logits(air_engine *e, air_batch *b, const room *r, air_error *err)
{
    const air_program *p = air_model_program(e->model);
    if (!b->n_wanted) return AIR_OK;
    air_status st = air_budget_reserve(&e->budget, AIR_HOLD_LOGITS, r->logits, err);
    if (st) return st;
    b->logit_bytes = r->logits;
    if (b->n_whole) b->logits = air_malloc((size_t)(b->n_whole * p->n_vocab) * sizeof *b->logits);
    if (b->n_candidates) b->candidates = air_malloc((size_t)(b->n_wanted * b->n_candidates) * sizeof *b->candidates);
    if (b->n_candidates) b->log_sums = air_malloc((size_t)b->n_wanted * sizeof *b->log_sums);
    if (b->keep_hidden) b->hidden = air_malloc((size_t)(b->n_wanted * p->n_embd) * sizeof *b->hidden);
    int few = !b->n_candidates || (b->candidates && b->log_sums);
    if ((b->logits || !b->n_whole) && few && (b->hidden || !b->keep_hidden)) return AIR_OK;
    return air_fail(err, AIR_E_NOMEM, "batch: %llu bytes of logits", (unsigned long long)r->logits);
}

/* --- passes --- */

/* Of the item that a row is of, its rows from that one on, as a pass that has room for `most` of them uses it. */
static air_state_use use_from(const air_batch *b, int64_t row, int64_t most)
{
    const air_batch_item *item = &b->items[b->sequences[row]];
    int64_t first = b->positions[row], left = item->sequence->length + item->n_tokens - first;
    return (air_state_use){.sequence = item->sequence, .first = first, .end = first + min64(left, most), .keep = air__batch_keeps(item)};
}

/* Of items that are in the pass with all their rows, and blocks, of which the device can hold so many; one is at least, as a plan's passes
 * have room for the longest. */
static int64_t rows_of_whole(const air_batch *b, int64_t first, int64_t most, int64_t blocks)
{
    int64_t rows = 0;
    for (int32_t i = b->sequences[first]; i < b->n_items; i++) {
        int64_t n = b->items[i].n_tokens;
        blocks -= (int64_t)air_ceil_div((uint64_t)n, AIR_BLOCK_POSITIONS);
        if (rows && (rows + n > most || blocks < 0)) break;
        rows += n;
    }
    return rows;
}

/* Rows of the pass from row `first` on, at least one: as many as may be, but no more than write and read state that the device can hold
 * or have on its way. */
static int64_t rows_of_pass(air_engine *e, const air_batch *b, int64_t first, int64_t most)
{
    most = min64(most, b->rows - first);
    int64_t here = air__engine_on_device(e) ? device_blocks(e, e->device_activation_bytes, 0) : INT64_MAX;
    if (air_model_program(e->model)->bidirectional) return rows_of_whole(b, first, most, here);
    if (!air__engine_on_device(e)) return most;
    int64_t reach = here + e->pool.away_most, rows = 0;
    air__state_count(&e->pool);
    while (rows < most) {
        air_state_use use = use_from(b, first + rows, most - rows);
        int64_t taken = (int64_t)air_ceil_div((uint64_t)air__recurrent_of_pass(&use) * e->pool.block_bytes[AIR_STATE_RECURRENT],
                                              e->pool.block_bytes[AIR_STATE_PAGED]);
        int64_t end = use.end, written, more = air__state_count_more(&use, &written);
        here -= taken;
        reach -= taken;
        for (; use.end > use.first && (written > here || more > reach); written--, more--)
            use.end = (use.end - 1) / AIR_BLOCK_POSITIONS * AIR_BLOCK_POSITIONS;
        if (use.end > use.first) rows += use.end - use.first;
        if (use.end < end) break;
        here -= written;
        reach -= more;
    }
    return rows ? rows : 1;
}

static air_status settle_state(air_engine *e, air_batch *b, int64_t first, int64_t rows, air_error *err)
{
    int32_t n = 0;
    for (int64_t row = first; row < first + rows; n++) {
        b->uses[n] = use_from(b, row, first + rows - row);
        row += b->uses[n].end - b->uses[n].first;
    }
    air_status st = air__state_settle(&e->pool, b->uses, n, err);
    int64_t row = 0;
    for (int32_t i = 0; i < n; i++) {
        const air_sequence *s = b->uses[i].sequence;
        air_state_view *view = &b->states[b->sequences[first] + i];
        *view = (air_state_view){.k = s->k, .v = s->v, .stride = s->block_capacity, .end = b->uses[i].end, .away = s->away};
        if (!st) view->n_spans = air__recurrent_spans(&b->uses[i], row, view->spans);
        row += b->uses[i].end - b->uses[i].first;
    }
    return st;
}

static void note_pass(air_engine *e, air_batch *b, const air_pager_stats *before, uint64_t started, uint64_t ended, int64_t rows)
{
    uint64_t ns = ended - started, pinned = before->pinned_bytes + before->expert_bytes;
    air_pager_stats now = air_pager_stats_get(e->pager);
    const uint64_t *stall = air_pager_layer_stall(e->pager);
    int32_t n = air_model_program(e->model)->n_layers + 1;
    if (air__engine_on_device(e)) air__timeline_note_device(e, started);
    air_mutex_lock(&e->lock);
    air_engine_stats *s = &e->stats;
    s->passes++;
    s->rows += (uint64_t)rows;
    s->pass_ns += ns;
    s->last_pass_ns = ns;
    s->last_rows = (uint64_t)rows;
    s->last_disk_bytes = now.disk_bytes - before->disk_bytes;
    s->last_ram_bytes = now.ram_bytes - before->ram_bytes;
    s->last_stall_ns = now.stall_ns - before->stall_ns;
    s->last_predicted_s = air_plan_predict(&e->request, e->plan, pinned, rows);
    for (int32_t i = 0; i < n; i++) {
        e->last_stall[i] = stall[i] - e->stall_before[i];
        uint64_t layer = atomic_load(&e->layer_ns[i]);
        e->last_busy[i] = layer > e->last_stall[i] ? layer - e->last_stall[i] : 0;
    }
    b->cost.passes++;
    b->cost.pass_ns += ns;
    b->cost.disk_bytes += s->last_disk_bytes;
    b->cost.ram_bytes += s->last_ram_bytes;
    b->cost.stall_ns += s->last_stall_ns;
    b->cost.predicted_s += s->last_predicted_s;
    air_mutex_unlock(&e->lock);
}

/* Of wanted rows [first, first + n), those whose logits are kept. */
static int64_t whole_in(const air_batch *b, int64_t first, int64_t n)
{
    int64_t rows = 0;
    for (int64_t i = first; i < first + n; i++) rows += b->whole[i];
    return rows;
}

/* What the backend has given back: pins may have it in the next batch. */
static void release_staging(air_engine *e)
{
    if (!e->staging_bytes || !e->api->staging_bytes || e->api->staging_bytes(e->backend)) return;
    air_budget_release(&e->budget, AIR_HOLD_FIXED, e->staging_bytes);
    e->staging_bytes = 0;
}

/* Rows [first, first + rows) of the batch; wanted: which of its wanted rows come first in them. */
static air_status run_pass(air_engine *e, air_batch *b, int64_t first, int64_t rows, int64_t wanted_first, air_error *err)
{
    const air_program *p = air_model_program(e->model);
    int64_t n_wanted = wanted_in(b, first, rows);
    int32_t *wanted = b->wanted + wanted_first; /* numbers within the pass while it runs */
    for (int64_t i = 0; i < n_wanted; i++) wanted[i] -= (int32_t)first;
    memcpy(e->stall_before, air_pager_layer_stall(e->pager), (size_t)(p->n_layers + 1) * sizeof *e->stall_before);
    for (int32_t i = 0; i <= p->n_layers; i++) atomic_store(&e->layer_ns[i], 0);
    atomic_store(&b->layers_done, 0);
    air_status st = settle_state(e, b, first, rows, err);
    air_pass pass = {
        .rows = rows, .tokens = b->token_ids + first, .positions = b->positions + first, .sequences = b->sequences + first,
        .roles = b->roles + first, .types = b->types + first,
        .states = b->states, .adapted = b->adapts ? b->adapted : NULL,
        .away = e->pool.away, .n_away = e->pool.n_away, .state_type = e->pool.type,
        .wanted = wanted, .n_wanted = n_wanted,
        .logits = whole_in(b, wanted_first, n_wanted) ? b->logits + whole_in(b, 0, wanted_first) * p->n_vocab : NULL,
        .whole = b->whole + wanted_first,
        .candidates = b->candidates ? b->candidates + wanted_first * b->n_candidates : NULL,
        .log_sums = b->log_sums ? b->log_sums + wanted_first : NULL,
        .n_candidates = b->n_candidates,
        .hidden = b->hidden ? b->hidden + wanted_first * p->n_embd : NULL,
        .cancel = &b->cancel, .layers_done = &b->layers_done, .layer_ns = e->layer_ns,
        .timeline = e->timeline,
    };
    int asked = n_wanted && (pass.logits || pass.n_candidates);
    air_pager_begin(e->pager, asked ? AIR_PAGER_LOGITS : AIR_PAGER_NO_LOGITS);
    air_pager_stats before = air_pager_stats_get(e->pager);
    uint64_t started = air_clock_ns();
    if (!st) st = e->api->run(e->backend, &pass, air_pager_feed(e->pager), err);
    if (!st) st = air_pager_check(e->pager, err);
    uint64_t ended = air_clock_ns();
    air__timeline_note(e, AIR_EVENT_PASS, started, ended, rows);
    if (st) air_pager_rewind(e->pager);
    else note_pass(e, b, &before, started, ended, rows);
    if (!st) air_pager_trim(e->pager);
    if (!st) release_staging(e);
    for (int64_t i = 0; i < n_wanted; i++) wanted[i] += (int32_t)first;
    return st;
}

static air_status run_passes(air_engine *e, air_batch *b, int64_t max_rows, air_error *err)
{
    int64_t wanted = 0;
    int32_t n = 0;
    for (int64_t first = 0; first < b->rows; n++) first += rows_of_pass(e, b, first, max_rows);
    atomic_store(&b->n_passes, n);
    for (int64_t first = 0, rows; first < b->rows; first += rows) {
        rows = rows_of_pass(e, b, first, max_rows);
        air_status st = run_pass(e, b, first, rows, wanted, err);
        if (st) return st;
        wanted += wanted_in(b, first, rows);
        atomic_fetch_add(&b->passes_done, 1);
    }
    return AIR_OK;
}

/* Every span of a pass, given back at once. Pins stay as the last batch left them. */
static air_status walk_weights(air_engine *e, air_batch *b, air_error *err)
{
    const air_feed *feed = air_pager_feed(e->pager);
    air_pager_begin(e->pager, AIR_PAGER_LOGITS);
    air_pager_stats before = air_pager_stats_get(e->pager);
    uint64_t started = air_clock_ns();
    air_status st = AIR_OK;
    for (int32_t i = 0; i < e->plan->n_tiles && !st; i++) {
        air_span span;
        st = feed->next(feed->self, &span, err);
        if (!st) feed->release(feed->self, &span);
    }
    if (!st) st = air_pager_check(e->pager, err);
    uint64_t ended = air_clock_ns();
    air__timeline_note(e, AIR_EVENT_PASS, started, ended, 0);
    if (st) air_pager_rewind(e->pager);
    else note_pass(e, b, &before, started, ended, 0);
    return st;
}

/* Weights give way for good, until whoever has the batch lets go. what: it is for, as messages have it. */
static air_status hold_memory(air_engine *e, air_holder holder, const char *what, uint64_t bytes, air_error *err)
{
    room r = {.activations = e->activation_bytes, .device_activations = e->device_activation_bytes, .logits = bytes};
    host_room h = host_room_of(e, &r);
    if (!host_fits(e, &h))
        return air_fail(err, AIR_E_BUDGET,
                        "max_ram %.1f MiB is too small for %s of %.1f MiB: in use %.1f, of which weights need %.1f",
                        air_mib(e->budget.limit), what, (double)air_tenths_up(bytes) / 10,
                        air_mib(h.others + h.least + e->activation_bytes), air_mib(h.least));
    air_status st = make_room(e, &r, err);
    return st ? st : air_budget_reserve(&e->budget, holder, bytes, err);
}

/* Of a device's memory: beside it the smallest passes that prompts are cut into must have room, with a block of state; where texts are read
 * at once, the largest. What there is of state and activations gives way to it; a later batch makes room for what it needs. */
static air_status hold_on_device(air_engine *e, const air_adapter_room *adapter, air_error *err)
{
    int64_t rows = air_model_program(e->model)->bidirectional ? e->plan->max_rows : max64(1, e->plan->max_rows / SHARE_LEAST);
    room r = {.rows = rows, .wanted = 1, .rank = max64(adapter->rank, air__engine_rank(e))};
    pass_memory(e, &r, EXACT);
    uint64_t least = r.device_activations + e->pool.block_bytes[AIR_STATE_PAGED] +
                     (uint64_t)recurrent_blocks(e) * e->pool.block_bytes[AIR_STATE_RECURRENT];
    uint64_t limit = e->device_budget.limit, left = device_left(e);
    if (least > left || adapter->device > left - least)
        return air_fail(err, AIR_E_BUDGET,
                        "max_vram %.1f MiB is too small by %.1f MiB for an adapter of %.1f MiB: in use %.1f, of that weights %.1f; beside "
                        "it passes of %lld rows need %.1f; open the model with a larger max_vram, or with a larger n_ctx, which leaves "
                        "more room beside weights",
                        air_mib(limit), (double)air_tenths_up(least + adapter->device - left) / 10,
                        (double)air_tenths_up(adapter->device) / 10, air_mib(limit - left),
                        air_mib(e->plan->device_pin_bytes + e->plan->device_expert_bytes), (long long)rows, air_mib(least));
    air_status st = AIR_OK;
    if (air_budget_left(&e->device_budget) < adapter->device) {
        st = reserve_activations(e, &r, err);
        if (!st) st = air__pool_shrink(&e->pool, left - r.device_activations - adapter->device, err);
    }
    return st ? st : air_budget_reserve(&e->device_budget, AIR_HOLD_ADAPTERS, adapter->device, err);
}

static air_status hold_for_adapter(air_engine *e, air_batch *b, air_error *err)
{
    air_status st = hold_memory(e, AIR_HOLD_ADAPTERS, "an adapter", b->hold.host, err);
    if (!st) b->held.host = b->hold.host;
    if (st || !b->hold.device) return st;
    st = hold_on_device(e, &b->hold, err);
    if (!st) b->held = b->hold;
    return st;
}

static air_status make_floats(air_engine *e, air_batch *b, air_error *err)
{
    uint64_t bytes;
    if (!air_mul_u64(b->floats, sizeof(float), &bytes)) bytes = UINT64_MAX;
    air_status st = hold_memory(e, AIR_HOLD_LOGITS, "results", bytes, err);
    if (st) return st;
    b->logit_bytes = bytes;
    b->logits = air_calloc((size_t)b->floats, sizeof *b->logits);
    return b->logits ? AIR_OK : air_fail(err, AIR_E_NOMEM, "results: %llu bytes", (unsigned long long)bytes);
}

/* Appends the tokens and samples; lengths change only when every item has succeeded. */
static air_status sample_items(air_engine *e, air_batch *b, air_error *err)
{
    int64_t n_vocab = air_model_program(e->model)->n_vocab, wanted = 0;
    for (int32_t i = 0; i < b->n_items; i++) {
        air_batch_item *item = &b->items[i];
        air_sequence *s = item->sequence;
        memcpy(s->tokens + s->length, item->tokens, (size_t)item->n_tokens * sizeof *s->tokens);
        wanted += item->want;
        if (!item->sampling) continue;
        int64_t row = wanted - 1;
        int few = air__engine_candidates(e, item->sampling) != 0;
        air_sample_args args = {
            .sampling = item->sampling, .ops = e->ops, .n_vocab = n_vocab,
            .logits = few ? NULL : b->logits + whole_in(b, 0, row) * n_vocab,
            .candidates = few ? b->candidates + row * b->n_candidates : NULL, .log_sum = few ? b->log_sums[row] : 0,
            .history = s->tokens, .n = s->length + item->n_tokens, .n_prompt = item->n_prompt, .scratch = e->sample_scratch,
        };
        air_status st = air_sample(&args, &b->sampled[i], &b->logprobs[i], err);
        if (st) return st;
    }
    for (int32_t i = 0; i < b->n_items; i++) air__sequence_advance(b->items[i].sequence, b->items[i].n_tokens);
    return AIR_OK;
}

air_status air__batch_run(air_engine *e, air_batch *b, air_error *err)
{
    if (atomic_load(&b->cancel)) return air_fail(err, AIR_E_CANCELLED, "cancelled before it began");
    air_pager_set_cancel(e->pager, &b->cancel);
    if (b->walk) return walk_weights(e, b, err);
    air__timeline_see(e);
    if (b->hold.host) return hold_for_adapter(e, b, err);
    if (b->floats) return make_floats(e, b, err);
    air__pool_keep_spare(&e->pool, air__engine_on_device(e) ? 0 : b->n_items); /* a device keeps what is given back by itself */
    room r = room_for(e, b, SPARE);
    host_room h = host_room_of(e, &r);
    if (!device_fits(e, &r) || !host_fits(e, &h) || is_crowded(e, &r)) r = room_for(e, b, EXACT);
    air_status st = make_room(e, &r, err);
    if (!st && air__engine_on_device(e)) st = air__pool_shrink(&e->pool, device_left(e) - r.device_activations, err);
    if (!st) st = air__timeline_book(e, err);
    if (!st) st = reserve_activations(e, &r, err);
    if (!st) st = make_logits(e, b, &r, err);
    if (!st) st = run_passes(e, b, r.rows, err);
    uint64_t begin = air_timeline_on(e->timeline) ? air_clock_ns() : 0;
    if (!st) st = sample_items(e, b, err);
    if (!st && begin) air__timeline_note(e, AIR_EVENT_SAMPLE, begin, air_clock_ns(), b->n_items);
    if (st)
        for (int32_t i = 0; i < b->n_items; i++) air__sequence_cut(b->items[i].sequence, b->items[i].sequence->length);
    return st;
}
