/* The sizes of a plan: ring, context, rows, and which weights stay where; refusals that say what would do. */
#include <stdio.h>

#include "base/alloc.h"
#include "memory/budget.h"
#include "memory/mixtures.h"
#include "memory/plan_internal.h"
#include "memory/tiles.h"

enum {
    MIB = 1 << 20,
    DEFAULT_CONTEXT = 4096,
    TEXTS_ROWS = 4096, /* of several texts that share a pass, where each must be in one */
    DEFAULT_BLOCK = 2 * MIB, /* near the best of most SSDs when nobody measured */
    DEFAULT_DEPTH = 4,
    TILE_LEAST = 32 * 1024,
    RING_GRANULE = 64 * 1024,
    BLOCK_MOST = 64 * MIB,
    FIXED_VARIES = 256 * 1024, /* and a little of what it is; as seen of CPython and a tokenizer */
    KEPT_ROWS_MOST = 2048, KEPT_ROWS_SHARE = 1024, /* tokens of a text come again and again, and from so many nearly all */
    BLOCK_LEAST = 128 * 1024, /* smaller reads cost more in calls than they win in overlap */
};

#define BUDGET_MOST (UINT64_C(1) << 50) /* that advice goes up to */

const char *air_io_name(air_io_mode mode)
{
    static const char *const names[AIR_IO_COUNT] = {[AIR_IO_AUTO] = "auto", [AIR_IO_DIRECT] = "direct", [AIR_IO_MMAP] = "mmap"};
    return (unsigned)mode < AIR_IO_COUNT ? names[mode] : "unknown";
}

/* --- the memories --- */

uint64_t air__blocks(int64_t positions) { return air_ceil_div((uint64_t)positions, AIR_BLOCK_POSITIONS); }

uint64_t air__state_bytes(const air__memory *m, int64_t positions)
{
    return air__times(m->state_per_block, air__less(air_min_u64(air__blocks(positions), m->end_block), m->first_block));
}

static uint64_t host_activations(const air_plan_request *r, int64_t rows, int64_t n_ctx)
{
    (void)n_ctx;
    return r->pass_bytes(r->program, rows, 1, r->threads);
}

static air__memory host_memory(const air_plan_request *r, const air_plan *p)
{
    int device = r->device.budget > 0;
    uint64_t experts = p->io == AIR_IO_DIRECT ? air__experts_least(r->program, AIR_PLAN_GRANULE) : 0;
    return (air__memory){
        .where = AIR__HOST, .option = "max_ram",
        .fixed_name = device ? "driver, tokenizer and small weights" : "tokenizer and small weights",
        .budget = r->budget, .reach = r->reach, .fixed = air__plus(r->fixed, p->share_bytes), .logits = p->logit_bytes,
        .gather = p->gather_bytes + p->staging_bytes,
        .mapped = p->io == AIR_IO_MMAP && r->io == AIR_IO_AUTO ? r->file_bytes : 0, /* asked for by name, it is extra */
        .recurrent = device ? 0 : r->recurrent,
        .state_per_block = !device ? r->state_per_block : p->away_blocks ? r->device.away_per_block : 0,
        .first_block = p->away_blocks ? air__blocks(p->n_ctx) - (uint64_t)p->away_blocks - 1 : 0, /* one more is on its way */
        .end_block = UINT64_MAX, .activations = device ? air__device_host_activations : host_activations,
        .ring = p->ring_bytes, .weights_least = p->ring_bytes + experts, .experts_least = experts, .ring_always = device,
        .tile = air__tile_in_ram,
        .rows_most = INT64_MAX,
    };
}

int air__plan_memories(const air_plan_request *r, const air_plan *p, air__memory out[AIR__MEMORIES])
{
    int n = 0;
    if (r->device.budget) out[n++] = air__device_memory(r, p);
    out[n++] = host_memory(r, p);
    return n;
}

/* All but weights, with so many positions of a context of n_ctx. */
static uint64_t used(const air_plan_request *r, const air__memory *m, int64_t positions, int64_t rows, int64_t n_ctx)
{
    uint64_t fixed = air__plus(m->fixed, air__plus(m->logits, air__plus(m->gather, m->shuttle)));
    uint64_t state = air__plus(m->recurrent, air__state_bytes(m, positions));
    return air__plus(air__plus(fixed, state), m->activations(r, rows, n_ctx));
}

/* Of a pass. Where rows see what comes later, all of a sequence are in one. */
static int64_t rows_least(const air_plan_request *r, int64_t n_ctx) { return r->program->bidirectional && n_ctx > 1 ? n_ctx : 1; }

/* What else there is beside the state of a context of n_ctx, in the smallest passes. */
static uint64_t beside_state(const air_plan_request *r, const air__memory *m, int64_t n_ctx)
{
    return air__plus(used(r, m, 0, rows_least(r, n_ctx), n_ctx), air__plus(m->weights_least, m->mapped));
}

/* To run the smallest passes in a full context of n_ctx. */
static uint64_t needed(const air_plan_request *r, const air__memory *m, int64_t n_ctx)
{
    return air__plus(beside_state(r, m, n_ctx), air__state_bytes(m, n_ctx));
}

/* --- tiles and ring --- */

uint64_t air__largest_tile(const air_program *program, uint64_t tile_bytes)
{
    uint64_t most = 0;
    for (int32_t i = 0; i < program->n_ops; i++) {
        if (program->ops[i].kind != AIR_OP_PRODUCT) continue;
        const air_weight *weight = &program->weights[program->ops[i].weight];
        most = air_max_u64(most, (uint64_t)air__tile_rows(weight, tile_bytes) * weight->row_bytes);
    }
    return most;
}

/* Memory that the largest tile takes: on both sides it may share a granule with its neighbours. */
static uint64_t place_of_largest(const air_plan_request *r, uint64_t tile_bytes)
{
    uint64_t most = air__largest_tile(r->program, tile_bytes);
    return most ? air_round_up(most, AIR_PLAN_GRANULE) + AIR_PLAN_GRANULE : 0;
}

static uint64_t matrix_bytes(const air_program *program)
{
    uint64_t bytes = 0;
    for (int32_t i = 0; i < program->n_ops; i++)
        if (program->ops[i].kind == AIR_OP_PRODUCT) bytes += program->weights[program->ops[i].weight].bytes;
    return bytes;
}

static void choose_reads(air_plan *p, const air_plan_request *r)
{
    p->disk_rate = r->bandwidths.disk;
    p->depth = r->bandwidths.depth > 0 ? r->bandwidths.depth : DEFAULT_DEPTH;
    if (p->depth > AIR_DEPTH_MOST) p->depth = AIR_DEPTH_MOST;
    p->block_bytes = r->bandwidths.block_bytes ? r->bandwidths.block_bytes : DEFAULT_BLOCK;
    p->block_bytes = air_round_up(air_min_u64(p->block_bytes, BLOCK_MOST), AIR_PLAN_GRANULE);
}

/* A ring of an eighth of what is there, 8 MiB or twice the reads in flight at most; tiles of a quarter of the ring, and of what a
 * device has for its own ring. */
static air_status choose_ring(air_plan *p, const air_plan_request *r, air_error *err)
{
    uint64_t ring = r->ring_bytes, device_most = r->device.budget ? air__device_tile_most(r) : UINT64_MAX;
    if (air__plan_shares_products(r)) device_most = air_min_u64(device_most, AIR__TILE_SHARED);
    if (!ring) {
        air__memory host = host_memory(r, p);
        uint64_t there = air__less(r->budget, used(r, &host, 1, 1, 1)), wanted = air_ring_wanted(p->block_bytes, p->depth);
        if (r->device.budget) wanted = air_max_u64(wanted, air__device_ring_wanted());
        ring = air_min_u64(wanted, air_min_u64(there / 8, matrix_bytes(r->program) / 4));
    }
    uint64_t share = air_min_u64(air__less(ring / AIR_RING_TILES, 2 * AIR_PLAN_GRANULE), device_most);
    p->tile_bytes = r->tile_bytes ? r->tile_bytes : air_max_u64(air_min_u64(AIR__TILE_MOST, share), r->ring_bytes ? 1 : TILE_LEAST);

    uint64_t least = air__times(AIR_RING_TILES, place_of_largest(r, p->tile_bytes));
    if (r->ring_bytes && ring < least)
        return air_fail(err, AIR_E_ARGUMENT, "a ring of %llu bytes does not hold %d tiles of the largest matrix, %llu bytes",
                        (unsigned long long)ring, AIR_RING_TILES, (unsigned long long)least);
    p->ring_bytes = r->ring_bytes ? ring : air_round_up(air_max_u64(ring, least), RING_GRANULE);
    uint64_t block = air_round_down(p->ring_bytes / 2 / (uint64_t)p->depth, AIR_PLAN_GRANULE);
    p->block_bytes = air_min_u64(p->block_bytes, air_max_u64(block, BLOCK_LEAST));
    if (r->device.budget) p->staging_bytes = air_device_staging_bytes(air__largest_tile(r->program, p->tile_bytes));
    return AIR_OK;
}

/* --- what to do where that is not enough --- */

static air_status solve_sizes(air_plan *p, const air_plan_request *r, air__where *refused, air_error *err);

/* What the caller holds differs from one start to the next: its allocator's arenas, what it had touched before. */
static uint64_t fixed_varies(const air__memory *m) { return FIXED_VARIES + m->fixed / 64; }

/* Whether this memory is no reason to refuse; another one may be, which is a refusal of its own. */
static int works(const air_plan_request *r, const air__memory *m, uint64_t fixed)
{
    air_plan p;
    air__where refused = AIR__MEMORIES;
    air_plan_request changed = *r;
    *(m->where == AIR__DEVICE ? &changed.device.fixed : &changed.fixed) = fixed;
    air_status st = solve_sizes(&p, &changed, &refused, NULL);
    return !st || (st == AIR_E_BUDGET && refused != m->where);
}

static int works_with(const air_plan_request *r, const air__memory *m, uint64_t budget_tenths)
{
    air_plan_request changed = *r;
    *(m->where == AIR__DEVICE ? &changed.device.budget : &changed.budget) = air_from_tenths(budget_tenths);
    return works(&changed, m, m->fixed) && works(&changed, m, air__plus(m->fixed, fixed_varies(m)));
}

/* A budget in tenths of MiB that works, the next time too; hardly a smaller one does. Rings grow with the budget, so it is more than what
 * lacks. 0: none does. */
static uint64_t budget_that_works(const air_plan_request *r, const air__memory *m)
{
    if (m->budget > BUDGET_MOST) return 0;
    uint64_t low = m->budget / MIB * 10, high = low + 1;
    while (!works_with(r, m, high)) {
        if (high > BUDGET_MOST / MIB * 10) return 0;
        low = high;
        high *= 2;
    }
    while (high - low > 1) {
        uint64_t middle = low + (high - low) / 2;
        if (works_with(r, m, middle)) high = middle;
        else low = middle;
    }
    return high;
}

/* budget: in tenths of MiB, one that works; 0: none does. */
static void advise(const air__memory *m, const char *lower, uint64_t budget, char *text, size_t n)
{
    double enough = (double)budget / 10;
    if (budget && (!m->reach || air_from_tenths(budget) <= m->reach))
        (void)snprintf(text, n, "%s%sraise %s to %.1f MiB or more", lower, *lower ? " or " : "", m->option, enough);
    else if (*lower) (void)snprintf(text, n, "%s", lower);
    else if (budget) (void)snprintf(text, n, "%.1f MiB would do, but only %.1f MiB can be had here", enough, air_mib(m->reach));
    else (void)snprintf(text, n, "no %s is enough for that", m->option);
}

/* The largest multiple of 64 positions, at most most, that fits beside reserve; 0 if none does. */
static int64_t context_that_fits(const air_plan_request *r, const air__memory *m, int64_t most, uint64_t reserve)
{
    int64_t low = 0, high = most / AIR_BLOCK_POSITIONS;
    while (low < high) {
        int64_t middle = high - (high - low) / 2;
        if (air__plus(needed(r, m, middle * AIR_BLOCK_POSITIONS), reserve) <= m->budget) low = middle;
        else high = middle - 1;
    }
    return low * AIR_BLOCK_POSITIONS;
}

/* What lies in a memory, as far as anything of it does. */
static void list_parts(const air_plan_request *r, const air__memory *m, int64_t n_ctx, char *text, size_t n)
{
    char state[128] = "", logits[32] = "", recurrent[48] = "";
    if (m->recurrent) (void)snprintf(recurrent, sizeof recurrent, "recurrent state %.1f, ", air_mib(m->recurrent));
    if (m->state_per_block)
        (void)snprintf(state, sizeof state, "KV cache %.1f MiB (n_ctx %lld), %s", air_mib(air__state_bytes(m, n_ctx)), (long long)n_ctx,
                       recurrent);
    if (m->logits) (void)snprintf(logits, sizeof logits, "logits %.1f, ", air_mib(m->logits));
    (void)snprintf(text, n, "%sactivations %.1f%s, %s%s %.1f, %s %.1f", state, air_mib(m->activations(r, rows_least(r, n_ctx), n_ctx)),
                   *state ? "" : " MiB", logits, m->experts_least ? "ring and experts" : "ring",
                   air_mib(air__plus(m->weights_least, m->gather)), m->fixed_name, air_mib(m->fixed));
}

static air_status too_small(const air_plan_request *r, const air__memory *m, int64_t n_ctx, air_error *err)
{
    if (!err) return AIR_E_BUDGET;
    uint64_t budget = budget_that_works(r, m), enough = budget ? air_from_tenths(budget) : needed(r, m, n_ctx);
    char lower[48] = "", advice[128], parts[320];
    air_plan_request shorter = *r;
    shorter.n_ctx = m->state_per_block ? context_that_fits(r, m, n_ctx, fixed_varies(m)) : 0;
    if (shorter.n_ctx && works(&shorter, m, air__plus(m->fixed, fixed_varies(m))))
        (void)snprintf(lower, sizeof lower, "lower n_ctx to %lld", (long long)shorter.n_ctx);
    advise(m, lower, budget, advice, sizeof advice);
    list_parts(r, m, n_ctx, parts, sizeof parts);
    return air_fail(err, AIR_E_BUDGET, "%s %.1f MiB is too small by %.1f MiB: %s; %s", m->option, air_mib(m->budget),
                    (double)air_tenths_up(air__less(enough, m->budget)) / 10, parts, advice);
}

/* --- context --- */

static int64_t default_context(const air_plan_request *r)
{
    return r->n_ctx_trained > 0 && r->n_ctx_trained < DEFAULT_CONTEXT ? r->n_ctx_trained : DEFAULT_CONTEXT;
}

/* What a context we choose leaves for the rows of prompts, of which choose_rows takes a quarter. */
static uint64_t reserve_for_rows(const air_plan_request *r, const air__memory *m)
{
    int64_t rows = default_context(r) < AIR__PROMPT_ROWS ? default_context(r) : AIR__PROMPT_ROWS;
    uint64_t wanted = air__times(AIR__ROWS_SHARE, m->activations(r, rows, default_context(r)));
    return air_min_u64(wanted, air__less(m->budget, needed(r, m, 0)) / 4);
}

/* Lowers the plan's n_ctx to what this memory has room for, where the request leaves it to us. */
static air_status choose_context(air_plan *p, const air_plan_request *r, const air__memory *m, air_error *err)
{
    uint64_t reserve = r->n_ctx ? 0 : reserve_for_rows(r, m);
    if (air__plus(needed(r, m, p->n_ctx), reserve) <= m->budget) return AIR_OK;
    if (r->n_ctx) return needed(r, m, p->n_ctx) > m->budget ? too_small(r, m, p->n_ctx, err) : AIR_OK;
    int64_t fits = context_that_fits(r, m, p->n_ctx, reserve);
    int64_t least = p->n_ctx < AIR_BLOCK_POSITIONS ? p->n_ctx : AIR_BLOCK_POSITIONS;
    if (needed(r, m, least) > m->budget) return too_small(r, m, least, err);
    p->n_ctx = fits > least ? fits : least;
    return AIR_OK;
}

/* --- rows of a pass --- */

/* A prompt is read in as few passes as a quarter of what pins could have allows: one row in memory saves a part of a read of all
 * weights, so that share pays many times over; in host memory pins come back when the prompt is done. */
static air_status choose_rows(air_plan *p, const air_plan_request *r, const air__memory *m, air_error *err)
{
    int64_t least = rows_least(r, p->n_ctx), most = r->program->bidirectional ? TEXTS_ROWS : p->n_ctx;
    uint64_t left = air__less(m->budget, air__less(needed(r, m, p->n_ctx), m->activations(r, least, p->n_ctx)));
    if (!r->max_rows) {
        int64_t low = least, high = p->max_rows ? p->max_rows : m->rows_most;
        if (high > most) high = most;
        if (high < least) high = least;
        while (low < high) {
            int64_t middle = high - (high - low) / 2;
            if (m->activations(r, middle, p->n_ctx) <= left / AIR__ROWS_SHARE) low = middle;
            else high = middle - 1;
        }
        p->max_rows = low;
    }
    uint64_t full = m->activations(r, p->max_rows, p->n_ctx);
    if (full <= left) return AIR_OK;
    if (!err) return AIR_E_BUDGET;
    char advice[128];
    advise(m, "lower max_rows or n_ctx", budget_that_works(r, m), advice, sizeof advice);
    return air_fail(err, AIR_E_BUDGET,
                    "%s %.1f MiB: passes of %lld rows take %.1f MiB of activations, %.1f MiB are left beside a full context of "
                    "%lld; %s",
                    m->option, air_mib(m->budget), (long long)p->max_rows, air_mib(full), air_mib(left), (long long)p->n_ctx, advice);
}

/* --- which weights stay --- */

/* Memory of weights that stay beside so many positions and rows: of tiles, and of experts, which have what tiles leave. */
typedef struct kept { uint64_t tiles, experts; } kept;

static kept keep(const air_plan *p, const air_plan_request *r, const air__memory *m, int64_t positions, int64_t rows)
{
    kept k;
    uint64_t left = air__less(m->budget, used(r, m, positions, rows, p->n_ctx));
    int32_t end = air__plan_prefix(p, p->n_device_tiles, air__less(left, m->experts_least), m->tile, &k.tiles);
    if (end < p->n_tiles || m->ring_always) { /* else nothing streams: no ring */
        left = air__less(left, m->ring);
        (void)air__plan_prefix(p, p->n_device_tiles, air__less(left, m->experts_least), m->tile, &k.tiles);
    }
    k.experts = air__experts_fit(r->program, AIR_PLAN_GRANULE, air__less(left, k.tiles));
    return k;
}

static void choose_device_tiles(air_plan *p, const air_plan_request *r, const air__memory *m)
{
    uint64_t left = air__less(m->budget, used(r, m, p->n_ctx, p->max_rows, p->n_ctx));
    air__plan_deal_tiles(p, r, air__less(left, m->experts_least), m->ring);
    left = air__less(left, p->device_pin_bytes + p->device_ring_bytes + p->device_graph_bytes);
    p->device_expert_bytes = air_min_u64(left, air__experts_memory(r->program, AIR_DEVICE_ALIGN));
}

/* Returns pins and experts beside a pass of max_rows rows. Copies for a device are made for that many once and for all. */
static uint64_t choose_pins(air_plan *p, const air_plan_request *r, const air__memory *m)
{
    int64_t rows = r->device.budget ? p->max_rows : 1;
    if (p->io == AIR_IO_MMAP) return 0;
    kept empty = keep(p, r, m, 1, rows), full = keep(p, r, m, p->n_ctx, rows), prompt = keep(p, r, m, p->max_rows, p->max_rows);
    p->pin_bytes = empty.tiles;
    p->pin_bytes_full = full.tiles;
    p->expert_bytes = empty.experts;
    p->expert_bytes_full = full.experts;
    return prompt.tiles + prompt.experts;
}

/* --- the plan --- */

/* A file is mapped by itself only where all of it and all else fit the budget, and the machine has that much. A device's weights are
 * not in the page cache's way: they are read once, and copied from page-locked memory. */
static air_io_mode choose_io(const air_plan_request *r, const air_plan *p)
{
    if (r->io != AIR_IO_AUTO) return r->io;
    if (r->device.budget) return AIR_IO_DIRECT;
    air__memory host = host_memory(r, p);
    uint64_t full = air__plus(needed(r, &host, r->n_ctx ? r->n_ctx : default_context(r)), r->file_bytes);
    return full <= r->budget && r->file_bytes <= r->available ? AIR_IO_MMAP : AIR_IO_DIRECT;
}

static air_status check_request(const air_plan_request *r, air_error *err)
{
    if (r->n_ctx < 0 || (r->n_ctx_trained > 0 && r->n_ctx > r->n_ctx_trained))
        return air_fail(err, AIR_E_ARGUMENT, "n_ctx %lld is not within 1 to %lld, the length the model was trained for",
                        (long long)r->n_ctx, (long long)r->n_ctx_trained);
    if (r->max_rows < 0 || r->max_rows > INT32_MAX)
        return air_fail(err, AIR_E_ARGUMENT, "max_rows %lld is not within 1 to %d", (long long)r->max_rows, INT32_MAX);
    return AIR_OK;
}

static void note_sizes(air_plan *p, const air_plan_request *r, const air__memory *m)
{
    uint64_t state = air__state_bytes(m, p->n_ctx);
    p->recurrent_bytes = r->recurrent;
    uint64_t one = m->activations(r, 1, p->n_ctx), full = m->activations(r, p->max_rows, p->n_ctx);
    if (m->where == AIR__HOST) {
        p->state_bytes_full = state;
        p->activation_bytes = one;
        p->activation_bytes_full = full;
    } else {
        p->device_state_bytes = state;
        p->device_activation_bytes = one;
        p->device_activation_bytes_full = full;
    }
}

/* All but tiles and pins, so what can be too large; allocates nothing. *refused: whose budget an AIR_E_BUDGET is about. */
static air_status solve_sizes(air_plan *p, const air_plan_request *r, air__where *refused, air_error *err)
{
    *p = (air_plan){.budget = r->budget, .fixed = r->fixed, .device_budget = r->device.budget, .max_rows = r->max_rows,
                    .state_type = r->state_type};
    if (r->device.budget) p->device_fixed = r->device.fixed;
    p->n_ctx = r->n_ctx ? r->n_ctx : default_context(r);
    if (r->program->bidirectional && r->max_rows && p->n_ctx > r->max_rows) p->n_ctx = r->max_rows;
    p->logit_bytes = (uint64_t)r->program->n_vocab * sizeof(float);
    air__plan_experts(p, r->program);
    choose_reads(p, r);
    p->io = choose_io(r, p); /* before there is a ring: a mapping needs none */
    if (p->io == AIR_IO_DIRECT) {
        uint64_t rows, row = air__table_row(r->program, &rows);
        p->kept_rows = row ? (int64_t)air_min_u64(air_min_u64(rows, KEPT_ROWS_MOST), r->budget / KEPT_ROWS_SHARE / row) : 0;
        p->gather_bytes = (uint64_t)p->depth * air__small_memory(r->program, AIR_PLAN_GRANULE) + (uint64_t)p->kept_rows * row;
    }
    air_status st = choose_ring(p, r, err);
    if (p->io == AIR_IO_MMAP) p->ring_bytes = 0;
    air__plan_part_sizes(p, r);

    air__memory memories[AIR__MEMORIES];
    int n = air__plan_memories(r, p, memories);
    if (n > 1) {
        air__plan_away(p, r, &memories[0], air__less(memories[0].budget, beside_state(r, &memories[0], p->n_ctx)));
        n = air__plan_memories(r, p, memories);
    }
    for (int i = 0; i < n && !st; i++) {
        *refused = memories[i].where;
        st = choose_context(p, r, &memories[i], err);
        if (!st) st = choose_rows(p, r, &memories[i], err);
    }
    for (int i = 0; i < n && !st; i++) note_sizes(p, r, &memories[i]);
    *refused = st ? *refused : AIR__MEMORIES;
    return st ? st : air__plan_helper_sizes(p, r, memories[0].ring, err);
}

air_status air_plan_make(air_plan **out, const air_plan_request *request, air_error *err)
{
    *out = NULL;
    air_status st = check_request(request, err);
    if (st) return st;
    air_plan *p = air_calloc(1, sizeof *p);
    if (!p) return air_fail(err, AIR_E_NOMEM, "plan: %zu bytes", sizeof *p);
    air__where refused;
    st = solve_sizes(p, request, &refused, err);
    if (!st) st = air__plan_tiles(p, request->program, air__plan_small_first(request), err);
    if (st) goto fail;
    air__memory memories[AIR__MEMORIES];
    int n = air__plan_memories(request, p, memories);
    if (n > 1) {
        air_plan_request decides = *request;
        if (request->deciding.devices[0].memory > 0) decides.bandwidths = request->deciding;
        choose_device_tiles(p, &decides, &memories[0]);
        (void)choose_pins(p, request, &memories[1]);
        air__plan_share_rest(p, &decides, p->pin_bytes);
        n = air__plan_memories(request, p, memories);
    }
    uint64_t prompt_pins = choose_pins(p, request, &memories[n - 1]);
    p->device_expert_hit = air__expert_device_share(request, p);
    p->expert_hit = air__expert_share(request, p, p->expert_bytes);
    air__plan_times(p, request, prompt_pins);
    *out = p;
    return AIR_OK;

fail:
    air_plan_free(p);
    return st;
}

void air_plan_free(air_plan *plan)
{
    if (!plan) return;
    air_free(plan->tiles);
    air_free(plan->priority);
    air_free(plan->rank);
    air_free(plan);
}
