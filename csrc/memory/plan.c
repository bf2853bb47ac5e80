#include "memory/plan.h"

#include <stdio.h>

#include "base/alloc.h"
#include "memory/budget.h"
#include "memory/tiles.h"

enum {
    MIB = 1 << 20,
    DEFAULT_CONTEXT = 4096,
    PROMPT_ROWS = 512, /* of a pass, as many as a context we choose leaves room for: compute bounds more of them */
    DEFAULT_BLOCK = 2 * MIB, /* near the best of most SSDs when nobody measured */
    DEFAULT_DEPTH = 4,
    TILE_MOST = 32 * MIB,
    TILE_LEAST = 32 * 1024,
    RING_GRANULE = 64 * 1024,
    BLOCK_MOST = 64 * MIB,
    FIXED_VARIES = 256 * 1024, /* and a little of what it is; as seen of CPython and a tokenizer */
    BLOCK_LEAST = 128 * 1024, /* smaller reads cost more in calls than they win in overlap */
};

#define BUDGET_MOST (UINT64_C(1) << 50) /* that advice goes up to */

const char *air_io_name(air_io_mode mode)
{
    static const char *const names[AIR_IO_COUNT] = {[AIR_IO_AUTO] = "auto", [AIR_IO_DIRECT] = "direct", [AIR_IO_MMAP] = "mmap"};
    return (unsigned)mode < AIR_IO_COUNT ? names[mode] : "unknown";
}

/* Sums that cannot wrap: what is absurdly large stays too large to fit. */
static uint64_t plus(uint64_t a, uint64_t b) { return air_add_u64(a, b, &a) ? a : UINT64_MAX; }
static uint64_t times(uint64_t a, uint64_t b) { return air_mul_u64(a, b, &a) ? a : UINT64_MAX; }
static uint64_t less(uint64_t a, uint64_t b) { return a > b ? a - b : 0; }

static uint64_t state_bytes(const air_plan_request *r, int64_t positions)
{
    return times(r->state_per_block, air_ceil_div((uint64_t)positions, AIR_BLOCK_POSITIONS));
}

static uint64_t activation_bytes(const air_plan_request *r, int64_t rows) { return r->pass_bytes(r->program, rows, 1, r->threads); }

/* What remains of the budget when state and activations are as given; the ring is counted unless nothing would stream. */
static uint64_t left_for_pins(const air_plan_request *r, const air_plan *p, uint64_t state, uint64_t activations)
{
    return less(r->budget, plus(plus(r->fixed, p->gather_bytes), plus(p->logit_bytes, plus(state, activations))));
}

/* --- tiles and ring --- */

/* Memory that the largest tile takes: on both sides it may share a granule with its neighbours. */
static uint64_t largest_tile(const air_plan_request *r, uint64_t tile_bytes)
{
    uint64_t most = 0;
    for (int32_t i = 0; i < r->program->n_ops; i++) {
        if (r->program->ops[i].kind != AIR_OP_PRODUCT) continue;
        const air_weight *weight = &r->program->weights[r->program->ops[i].weight];
        most = air_max_u64(most, (uint64_t)air__tile_rows(weight, tile_bytes) * weight->row_bytes);
    }
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
    p->depth = r->bandwidths.depth > 0 ? r->bandwidths.depth : DEFAULT_DEPTH;
    if (p->depth > AIR_DEPTH_MOST) p->depth = AIR_DEPTH_MOST;
    p->block_bytes = r->bandwidths.block_bytes ? r->bandwidths.block_bytes : DEFAULT_BLOCK;
    p->block_bytes = air_round_up(air_min_u64(p->block_bytes, BLOCK_MOST), AIR_PLAN_GRANULE);
}

/* A ring of an eighth of what is there, 8 MiB or twice the reads in flight at most; tiles of a quarter of the ring. */
static air_status choose_ring(air_plan *p, const air_plan_request *r, air_error *err)
{
    uint64_t ring = r->ring_bytes;
    if (!ring) {
        uint64_t there = left_for_pins(r, p, state_bytes(r, 1), p->activation_bytes);
        ring = air_min_u64(air_ring_wanted(p->block_bytes, p->depth), air_min_u64(there / 8, matrix_bytes(r->program) / 4));
    }
    uint64_t share_of_ring = less(ring / AIR_RING_TILES, 2 * AIR_PLAN_GRANULE);
    p->tile_bytes = r->tile_bytes ? r->tile_bytes : air_max_u64(air_min_u64(TILE_MOST, share_of_ring), r->ring_bytes ? 1 : TILE_LEAST);

    uint64_t least = times(AIR_RING_TILES, largest_tile(r, p->tile_bytes));
    if (r->ring_bytes && ring < least)
        return air_fail(err, AIR_E_ARGUMENT, "a ring of %llu bytes does not hold %d tiles of the largest matrix, %llu bytes",
                        (unsigned long long)ring, AIR_RING_TILES, (unsigned long long)least);
    p->ring_bytes = r->ring_bytes ? ring : air_round_up(air_max_u64(ring, least), RING_GRANULE);
    uint64_t share = air_round_down(p->ring_bytes / 2 / (uint64_t)p->depth, AIR_PLAN_GRANULE);
    p->block_bytes = air_min_u64(p->block_bytes, air_max_u64(share, BLOCK_LEAST));
    return AIR_OK;
}

/* --- context --- */

static uint64_t needed(const air_plan_request *r, const air_plan *p, int64_t n_ctx)
{
    uint64_t fixed = plus(plus(r->fixed, plus(p->ring_bytes, p->gather_bytes)), plus(p->logit_bytes, p->activation_bytes));
    uint64_t mapped = p->io == AIR_IO_MMAP && r->io == AIR_IO_AUTO ? r->file_bytes : 0; /* asked for by name, it is extra */
    return plus(plus(fixed, mapped), state_bytes(r, n_ctx));
}

/* The largest multiple of 64 positions, at most most, that fits beside reserve; 0 if none does. */
static int64_t context_that_fits(const air_plan_request *r, const air_plan *p, int64_t most, uint64_t reserve)
{
    uint64_t base = plus(needed(r, p, 0), reserve);
    if (base > r->budget) return 0;
    uint64_t blocks = (uint64_t)most / AIR_BLOCK_POSITIONS;
    if (r->state_per_block) blocks = air_min_u64(blocks, (r->budget - base) / r->state_per_block);
    return (int64_t)blocks * AIR_BLOCK_POSITIONS;
}

/* --- what to do where that is not enough --- */

static air_status solve_sizes(air_plan *p, const air_plan_request *r, air_error *err);

/* What the caller holds differs from one start to the next: its allocator's arenas, what it had touched before. */
static uint64_t fixed_varies(const air_plan_request *r) { return FIXED_VARIES + r->fixed / 64; }

static int works(const air_plan_request *r, uint64_t fixed)
{
    air_plan p;
    air_plan_request changed = *r;
    changed.fixed = fixed;
    return !solve_sizes(&p, &changed, NULL);
}

static int works_with(const air_plan_request *r, uint64_t budget_tenths)
{
    air_plan_request changed = *r;
    changed.budget = air_from_tenths(budget_tenths);
    return works(&changed, r->fixed) && works(&changed, plus(r->fixed, fixed_varies(r)));
}

/* A budget in tenths of MiB that works, the next time too; hardly a smaller one does. Rings grow with the budget, so it is more than what
 * lacks. 0: none does. */
static uint64_t budget_that_works(const air_plan_request *r)
{
    if (r->budget > BUDGET_MOST) return 0;
    uint64_t low = r->budget / MIB * 10, high = low + 1;
    while (!works_with(r, high)) {
        if (high > BUDGET_MOST / MIB * 10) return 0;
        low = high;
        high *= 2;
    }
    while (high - low > 1) {
        uint64_t middle = low + (high - low) / 2;
        if (works_with(r, middle)) high = middle;
        else low = middle;
    }
    return high;
}

/* budget: in tenths of MiB, one that works; 0: none does. */
static void advise(const air_plan_request *r, const char *lower, uint64_t budget, char *text, size_t n)
{
    double enough = (double)budget / 10;
    if (budget && (!r->reach || air_from_tenths(budget) <= r->reach))
        (void)snprintf(text, n, "%s%sraise max_ram to %.1f MiB or more", lower, *lower ? " or " : "", enough);
    else if (*lower) (void)snprintf(text, n, "%s", lower);
    else if (budget) (void)snprintf(text, n, "%.1f MiB would do, but only %.1f MiB can be had here", enough, air_mib(r->reach));
    else (void)snprintf(text, n, "no max_ram is enough for that");
}

static air_status too_small(const air_plan_request *r, const air_plan *p, int64_t n_ctx, air_error *err)
{
    if (!err) return AIR_E_BUDGET;
    uint64_t budget = budget_that_works(r), enough = budget ? air_from_tenths(budget) : needed(r, p, n_ctx);
    char lower[48] = "", advice[128];
    air_plan_request shorter = *r;
    shorter.n_ctx = context_that_fits(r, p, n_ctx, fixed_varies(r));
    if (shorter.n_ctx && works(&shorter, plus(r->fixed, fixed_varies(r))))
        (void)snprintf(lower, sizeof lower, "lower n_ctx to %lld", (long long)shorter.n_ctx);
    advise(r, lower, budget, advice, sizeof advice);
    return air_fail(err, AIR_E_BUDGET,
                    "max_ram %.1f MiB is too small by %.1f MiB: KV cache %.1f MiB (n_ctx %lld), activations %.1f, logits %.1f, "
                    "ring %.1f, tokenizer and small weights %.1f; %s",
                    air_mib(r->budget), (double)air_tenths_up(less(enough, r->budget)) / 10, air_mib(state_bytes(r, n_ctx)),
                    (long long)n_ctx, air_mib(p->activation_bytes), air_mib(p->logit_bytes),
                    air_mib(p->ring_bytes + p->gather_bytes), air_mib(r->fixed), advice);
}

static int64_t default_context(const air_plan_request *r)
{
    return r->n_ctx_trained > 0 && r->n_ctx_trained < DEFAULT_CONTEXT ? r->n_ctx_trained : DEFAULT_CONTEXT;
}

/* What a context we choose leaves for the rows of prompts, of which choose_rows takes a quarter. */
static uint64_t reserve_for_rows(const air_plan_request *r, const air_plan *p)
{
    int64_t rows = default_context(r) < PROMPT_ROWS ? default_context(r) : PROMPT_ROWS;
    return air_min_u64(times(4, activation_bytes(r, rows)), less(r->budget, needed(r, p, 0)) / 4);
}

static air_status choose_context(air_plan *p, const air_plan_request *r, air_error *err)
{
    uint64_t reserve = r->n_ctx ? 0 : reserve_for_rows(r, p);
    p->n_ctx = r->n_ctx ? r->n_ctx : default_context(r);
    if (plus(needed(r, p, p->n_ctx), reserve) > r->budget) {
        int64_t fits = context_that_fits(r, p, p->n_ctx, reserve);
        if (r->n_ctx) return too_small(r, p, p->n_ctx, err);
        int64_t least = p->n_ctx < AIR_BLOCK_POSITIONS ? p->n_ctx : AIR_BLOCK_POSITIONS;
        if (needed(r, p, least) > r->budget) return too_small(r, p, least, err);
        p->n_ctx = fits > least ? fits : least;
    }
    p->state_bytes_full = state_bytes(r, p->n_ctx);
    return AIR_OK;
}

/* --- rows of a pass --- */

/* A prompt is read in as few passes as a quarter of what pins could have allows: one row in memory saves a part of a read of all
 * weights, so that share pays many times over; pins come back when the prompt is done. */
static air_status choose_rows(air_plan *p, const air_plan_request *r, air_error *err)
{
    uint64_t left = less(r->budget, less(needed(r, p, p->n_ctx), p->activation_bytes));
    p->max_rows = r->max_rows;
    if (!p->max_rows) {
        int64_t low = 1, high = p->n_ctx;
        while (low < high) {
            int64_t middle = high - (high - low) / 2;
            if (activation_bytes(r, middle) <= left / 4) low = middle;
            else high = middle - 1;
        }
        p->max_rows = low;
    }
    p->activation_bytes_full = activation_bytes(r, p->max_rows);
    if (p->activation_bytes_full <= left) return AIR_OK;
    if (!err) return AIR_E_BUDGET;
    char advice[128];
    advise(r, "lower max_rows or n_ctx", budget_that_works(r), advice, sizeof advice);
    return air_fail(err, AIR_E_BUDGET,
                    "max_ram %.1f MiB: passes of %lld rows take %.1f MiB of activations, %.1f MiB are left beside a full context of "
                    "%lld; %s",
                    air_mib(r->budget), (long long)p->max_rows, air_mib(p->activation_bytes_full), air_mib(left),
                    (long long)p->n_ctx, advice);
}

/* --- time --- */

/* Bytes per second at which weights of this type go through the kernels, one column; 0: nobody measured anything. */
static double product_rate(const air_bandwidths *b, uint32_t type)
{
    return type < AIR_TYPE_COUNT && b->product[type] > 0 ? b->product[type] : b->memory;
}

static double op_seconds(const air_plan_request *r, const air_op *op, int64_t rows)
{
    const air_program *program = r->program;
    const air_weight *weight = &program->weights[op->weight];
    double bytes = (double)weight->rows * (double)weight->row_bytes, rate = product_rate(&r->bandwidths, weight->type);
    double seconds = rate > 0 ? bytes / rate : 0;
    if (op->out >= 0 && op->out < program->n_buffers && program->buffers[op->out].rows == AIR_ROWS_WANTED) return seconds;
    double columns = weight->type < AIR_TYPE_COUNT ? r->bandwidths.product_columns[weight->type] : 0;
    double many = columns > 0 && rows > 1 ? bytes * (double)rows / columns : 0;
    return many > seconds ? many : seconds;
}

/* Rows of a table come by small reads, depth of them at a time, which the first layer waits for. */
static double gather_seconds(const air_plan_request *r, const air_plan *p, int64_t rows)
{
    return p->io == AIR_IO_DIRECT ? r->bandwidths.latency_s * (double)air_ceil_div((uint64_t)rows, (uint64_t)p->depth) : 0;
}

static double compute_seconds(const air_plan_request *r, const air_plan *p, int64_t rows)
{
    double seconds = r->bandwidths.op_s * r->program->n_ops;
    for (int32_t i = 0; i < r->program->n_ops; i++) {
        if (r->program->ops[i].kind == AIR_OP_PRODUCT) seconds += op_seconds(r, &r->program->ops[i], rows);
        if (r->program->ops[i].kind == AIR_OP_EMBED) seconds += gather_seconds(r, p, rows);
    }
    return seconds;
}

/* Tiles from priority kept on, read in whole granules. B_disk has in it what reads cost beside their bytes, for reads of the probed
 * size; of smaller ones, each beyond as many as those would be costs its latency, shared by those in flight: the ring less a
 * tile that is computed with and one whose place is just being given to the next. */
static double read_seconds(const air_plan_request *r, const air_plan *p, int32_t kept)
{
    const air_bandwidths *b = &r->bandwidths;
    uint64_t reads = 0, bytes = 0, largest = 1;
    for (int32_t i = kept; i < p->n_tiles; i++) {
        uint64_t memory = air_tile_memory(&p->tiles[p->priority[i]], AIR_PLAN_GRANULE);
        reads += air_ceil_div(memory, p->block_bytes);
        bytes += memory;
        largest = air_max_u64(largest, memory);
    }
    double more = b->block_bytes ? (double)reads - (double)bytes / (double)b->block_bytes : 0;
    uint64_t in_flight = less(p->ring_bytes, 2 * largest) / air_min_u64(largest, p->block_bytes);
    double each = b->latency_s / (double)air_max_u64(1, air_min_u64(in_flight, (uint64_t)p->depth));
    return (double)bytes / b->disk + (more > 0 ? more * each : 0);
}

static double disk_seconds(const air_plan_request *r, const air_plan *p, uint64_t pinned)
{
    uint64_t memory, weights;
    if (r->bandwidths.disk <= 0) return 0;
    if (p->io == AIR_IO_MMAP) return r->file_bytes <= r->available ? 0 : (double)p->weight_bytes / r->bandwidths.disk;
    return read_seconds(r, p, air__plan_prefix(p, pinned, &memory, &weights));
}

static double larger(double a, double b) { return a > b ? a : b; }

double air_plan_predict(const air_plan_request *request, const air_plan *plan, uint64_t pinned, int64_t rows)
{
    return larger(disk_seconds(request, plan, pinned), compute_seconds(request, plan, rows));
}

static void predict(air_plan *p, const air_plan_request *r)
{
    p->disk_s = disk_seconds(r, p, p->pin_bytes);
    p->compute_s = compute_seconds(r, p, 1);
    p->pass_s = larger(p->disk_s, p->compute_s);
    p->full_s = air_plan_predict(r, p, p->pin_bytes_full, 1);
    p->disk_bound = p->disk_s > p->compute_s;
}

/* --- pins --- */

static uint64_t pins_in(const air_plan *p, uint64_t left)
{
    uint64_t memory, weights;
    if (p->io == AIR_IO_MMAP) return 0;
    if (air__plan_prefix(p, left, &memory, &weights) == p->n_tiles) return memory; /* nothing streams: no ring */
    (void)air__plan_prefix(p, less(left, p->ring_bytes), &memory, &weights);
    return memory;
}

static void choose_pins(air_plan *p, const air_plan_request *r)
{
    uint64_t block = state_bytes(r, 1);
    p->pin_bytes = pins_in(p, left_for_pins(r, p, block, p->activation_bytes));
    p->pin_bytes_full = pins_in(p, left_for_pins(r, p, p->state_bytes_full, p->activation_bytes));
    uint64_t prompt = pins_in(p, left_for_pins(r, p, state_bytes(r, p->max_rows), p->activation_bytes_full));
    p->prompt_s = air_plan_predict(r, p, prompt, p->max_rows);
}

/* A file is mapped by itself only where all of it and all else fit the budget, and the machine has that much. */
static air_io_mode choose_io(const air_plan_request *r, const air_plan *p)
{
    if (r->io != AIR_IO_AUTO) return r->io;
    uint64_t full = plus(needed(r, p, r->n_ctx ? r->n_ctx : default_context(r)), r->file_bytes);
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

/* All but tiles and pins, so what can be too large; allocates nothing. */
static air_status solve_sizes(air_plan *p, const air_plan_request *r, air_error *err)
{
    *p = (air_plan){.budget = r->budget, .fixed = r->fixed};
    p->logit_bytes = (uint64_t)r->program->n_vocab * sizeof(float);
    p->activation_bytes = activation_bytes(r, 1);
    choose_reads(p, r);
    p->io = choose_io(r, p); /* before there is a ring: a mapping needs none */
    if (p->io == AIR_IO_DIRECT) p->gather_bytes = (uint64_t)p->depth * air__small_memory(r->program, AIR_PLAN_GRANULE);
    air_status st = choose_ring(p, r, err);
    if (p->io == AIR_IO_MMAP) p->ring_bytes = 0;
    if (!st) st = choose_context(p, r, err);
    return st ? st : choose_rows(p, r, err);
}

air_status air_plan_make(air_plan **out, const air_plan_request *request, air_error *err)
{
    *out = NULL;
    air_status st = check_request(request, err);
    if (st) return st;
    air_plan *p = air_calloc(1, sizeof *p);
    if (!p) return air_fail(err, AIR_E_NOMEM, "plan: %zu bytes", sizeof *p);
    st = solve_sizes(p, request, err);
    if (!st) st = air__plan_tiles(p, request->program, err);
    if (st) goto fail;
    choose_pins(p, request);
    predict(p, request);
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
    air_free(plan);
}
