#include "memory/tiles.h"

#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"

int64_t air__tile_rows(const air_weight *weight, uint64_t tile_bytes)
{
    uint64_t rows = (uint64_t)weight->rows;
    uint64_t most = weight->row_bytes ? tile_bytes / weight->row_bytes : rows;
    if (most >= rows) return weight->rows;
    uint64_t step = most >= 16 ? 16 : most >= 8 ? 8 : 1;
    most = air_max_u64(most / step * step, 1);
    /* Equal parts: a short last tile would cost a whole turn of the readers and of the compute threads. */
    uint64_t parts = air_ceil_div(rows, most);
    uint64_t each = air_ceil_div(air_ceil_div(rows, parts), step) * step;
    return (int64_t)air_min_u64(each, most);
}

static int is_product(const air_op *op) { return op->kind == AIR_OP_PRODUCT; }

static uint64_t count_tiles(const air_program *program, uint64_t tile_bytes)
{
    uint64_t n = 0;
    for (int32_t i = 0; i < program->n_ops; i++) {
        if (!is_product(&program->ops[i])) continue;
        const air_weight *weight = &program->weights[program->ops[i].weight];
        if (weight->rows > 0) n += air_ceil_div((uint64_t)weight->rows, (uint64_t)air__tile_rows(weight, tile_bytes));
    }
    return n;
}

static void cut_weight(air_plan *plan, const air_program *program, int32_t op)
{
    int32_t number = program->ops[op].weight;
    const air_weight *weight = &program->weights[number];
    int64_t each = air__tile_rows(weight, plan->tile_bytes);
    for (int64_t row = 0; row < weight->rows; row += each) {
        int64_t rows = weight->rows - row < each ? weight->rows - row : each;
        plan->tiles[plan->n_tiles++] = (air_tile){
            .weight = number,
            .op = op,
            .first_row = row,
            .rows = rows,
            .part = weight->part,
            .offset = weight->offset + (uint64_t)row * weight->row_bytes,
            .bytes = (uint64_t)rows * weight->row_bytes,
        };
    }
    plan->weight_bytes += (uint64_t)weight->rows * weight->row_bytes;
}

/* The numbers below n in the order of their reversed bits: every prefix is spread evenly over [0, n). */
static void spread(int32_t *out, int32_t n)
{
    int bits = 0;
    while (((int64_t)1 << bits) < n) bits++;
    int32_t at = 0;
    for (int64_t i = 0; i < (int64_t)1 << bits; i++) {
        int64_t reversed = 0;
        for (int b = 0; b < bits; b++) reversed |= ((i >> b) & 1) << (bits - 1 - b);
        if (reversed < n) out[at++] = (int32_t)reversed;
    }
}

static void rank_tiles(air_plan *plan)
{
    for (int32_t i = 0; i < plan->n_tiles; i++) plan->rank[plan->priority[i]] = i;
}

/* Of all tiles those of smaller matrices first, as they are in that order: of matrices below half of what the one that a byte is in has on
 * average. */
static void put_small_first(air_plan *plan, const air_program *program)
{
    double squares = 0;
    int32_t *order = plan->rank, at = 0; /* which is not needed yet */
    for (int32_t i = 0; i < plan->n_tiles; i++)
        squares += (double)plan->tiles[i].bytes * (double)program->weights[plan->tiles[i].weight].bytes;
    double small = squares / (double)air_max_u64(plan->weight_bytes, 1) / 2;
    for (int large = 0; large < 2; large++)
        for (int32_t i = 0; i < plan->n_tiles; i++)
            if (((double)program->weights[plan->tiles[plan->priority[i]].weight].bytes >= small) == large) order[at++] = plan->priority[i];
    memcpy(plan->priority, order, (size_t)at * sizeof *order);
}

void air__plan_spread(air_plan *plan, int32_t first, int32_t end)
{
    int32_t *numbers = plan->rank + plan->n_tiles, n = 0;
    for (int32_t i = 0; i < plan->n_tiles; i++)
        if (plan->rank[i] >= first && plan->rank[i] < end) numbers[n++] = i;
    spread(plan->priority + first, n);
    for (int32_t i = first; i < end; i++) plan->priority[i] = numbers[plan->priority[i]];
    rank_tiles(plan);
}

air_status air__plan_tiles(air_plan *plan, const air_program *program, int small_first, air_error *err)
{
    uint64_t n = count_tiles(program, plan->tile_bytes);
    if (n > INT32_MAX / 2)
        return air_fail(err, AIR_E_ARGUMENT, "tiles of %llu bytes are %llu tiles, too many", (unsigned long long)plan->tile_bytes,
                        (unsigned long long)n);
    plan->tiles = air_calloc((size_t)n, sizeof *plan->tiles);
    plan->priority = air_calloc((size_t)n, sizeof *plan->priority);
    plan->rank = air_calloc(2 * (size_t)n, sizeof *plan->rank);
    if (!plan->tiles || !plan->priority || !plan->rank) return air_fail(err, AIR_E_NOMEM, "plan: %llu tiles", (unsigned long long)n);
    for (int32_t i = 0; i < program->n_ops; i++)
        if (is_product(&program->ops[i])) cut_weight(plan, program, i);
    spread(plan->priority, plan->n_tiles);
    if (small_first) put_small_first(plan, program);
    rank_tiles(plan);
    return AIR_OK;
}

uint64_t air__small_memory(const air_program *program, uint64_t granule)
{
    uint64_t most = 0;
    for (int32_t i = 0; i < program->n_weights; i++) {
        const air_weight *w = &program->weights[i];
        if (w->use == AIR_WEIGHT_MATRIX) continue;
        uint64_t bytes = w->use == AIR_WEIGHT_TABLE ? w->row_bytes : (uint64_t)w->rows * w->row_bytes;
        most = air_max_u64(most, air_round_up(bytes, granule) + granule);
    }
    return most;
}

uint64_t air__table_row(const air_program *program, uint64_t *rows)
{
    uint64_t most = 0;
    *rows = 0;
    for (int32_t i = 0; i < program->n_weights; i++) {
        const air_weight *w = &program->weights[i];
        if (w->use != AIR_WEIGHT_TABLE) continue;
        most = air_max_u64(most, air_round_up(w->row_bytes, sizeof(uint64_t)) + 2 * sizeof(int32_t));
        *rows = air_max_u64(*rows, (uint64_t)w->rows);
    }
    return most;
}

int32_t air__plan_prefix(const air_plan *plan, int32_t first, uint64_t bytes, uint64_t (*takes)(const air_tile *tile), uint64_t *memory)
{
    int32_t n = first;
    *memory = 0;
    for (; n < plan->n_tiles; n++) {
        uint64_t more = takes(&plan->tiles[plan->priority[n]]);
        if (more > bytes - *memory) break;
        *memory += more;
    }
    return n;
}
