/* A device's memory as the plan shares it out, and what the device asks of the host's. */
#include "base/alloc.h"
#include "memory/mixtures.h"
#include "memory/plan_internal.h"
#include "memory/tiles.h"

enum { RING_SHARE = 8 }; /* of device memory */

/* Of a text that is read at once all rows may be wanted. */
static int64_t wanted_most(const air_plan_request *r, int64_t rows) { return r->program->bidirectional ? rows : 1; }

static uint64_t device_activations(const air_plan_request *r, int64_t rows, int64_t n_ctx)
{
    return air_device_pass_bytes(r->program, rows, wanted_most(r, rows), n_ctx);
}

uint64_t air__device_host_activations(const air_plan_request *r, int64_t rows, int64_t n_ctx)
{
    return air_device_host_bytes(r->program, rows, wanted_most(r, rows), n_ctx);
}

static uint64_t all_tiles(const air_program *program, uint64_t tile_bytes)
{
    uint64_t bytes = 0;
    for (int32_t i = 0; i < program->n_ops; i++) {
        if (program->ops[i].kind != AIR_OP_PRODUCT) continue;
        const air_weight *w = &program->weights[program->ops[i].weight];
        if (w->rows <= 0) continue;
        uint64_t each = (uint64_t)air__tile_rows(w, tile_bytes), full = (uint64_t)w->rows / each, rest = (uint64_t)w->rows % each;
        bytes += full * air_round_up(each * w->row_bytes, AIR_DEVICE_ALIGN) + air_round_up(rest * w->row_bytes, AIR_DEVICE_ALIGN);
    }
    return bytes;
}

air__memory air__device_memory(const air_plan_request *r, const air_plan *p)
{
    uint64_t ring = AIR_DEVICE_RING_TILES * air_round_up(air__largest_tile(r->program, p->tile_bytes), AIR_DEVICE_ALIGN);
    uint64_t experts = air__experts_least(r->program, AIR_DEVICE_ALIGN);
    return (air__memory){
        .where = AIR__DEVICE, .option = "max_vram", .fixed_name = "device context and small weights",
        .budget = r->device.budget, .reach = r->device.reach, .fixed = air__plus(r->device.fixed, p->device_part_bytes),
        .recurrent = r->recurrent, .state_per_block = r->state_per_block,
        .end_block = p->away_blocks ? air__blocks(p->n_ctx) - (uint64_t)p->away_blocks : UINT64_MAX, .shuttle = p->device_shuttle_bytes,
        .activations = device_activations, .ring = ring,
        .weights_least = air_min_u64(ring, air__plus(all_tiles(r->program, p->tile_bytes), r->device.graph)) + experts,
        .experts_least = experts,
        .tile = air_tile_device_memory,
        .rows_most = AIR__PROMPT_ROWS, /* tiles that are not there for their sake are missed in every pass, prompt or not */
    };
}

/* Each tile costs the device some launches and the link a copy of its own, so tiles are large. */
uint64_t air__device_ring_wanted(void) { return AIR_RING_TILES * ((uint64_t)AIR__TILE_MOST + 2 * AIR_PLAN_GRANULE); }

uint64_t air__device_tile_most(const air_plan_request *r)
{
    int64_t n_ctx = r->n_ctx ? r->n_ctx : 1;
    uint64_t there = air__less(r->device.budget, air__plus(r->device.fixed, device_activations(r, 1, n_ctx)));
    uint64_t state = air__times(r->state_per_block, air__blocks(n_ctx));
    if (r->device.away_per_block) state = air_min_u64(state, there / 2); /* rather than a tiny ring, some of it is away */
    there = air__less(there, air__experts_least(r->program, AIR_DEVICE_ALIGN));
    return air__less(there, state) / RING_SHARE / AIR_DEVICE_RING_TILES;
}

/* Every block that is here costs its own bytes, every other one its share of the shuttle. What is away leaves room for rows of prompts,
 * at least those asked for; for the rows that it then has room for it is the same again. */
void air__plan_away(air_plan *p, const air_plan_request *r, const air__memory *m, uint64_t room)
{
    uint64_t all = air__blocks(p->n_ctx), here = r->state_per_block, away = r->device.shuttle_per_block;
    uint64_t rows = r->max_rows ? air__less(m->activations(r, r->max_rows, p->n_ctx), m->activations(r, 1, p->n_ctx)) : 0;
    if (!r->n_ctx || !r->device.away_per_block || all < 2 || here <= away || air__less(room, rows) >= air__times(all, here)) return;
    uint64_t shuttle = air__times(all, away), left = air__less(room, shuttle);
    if (left < air__plus(rows, here - away)) return; /* not even one block */
    uint64_t wanted = air__times(AIR__ROWS_SHARE, m->activations(r, AIR__PROMPT_ROWS, p->n_ctx));
    uint64_t prompts = air_max_u64(rows, air_min_u64(wanted, left / 4)), blocks = air_max_u64(1, (left - prompts) / (here - away));
    p->away_blocks = (int64_t)(all - air_min_u64(blocks, all - 1));
    p->device_shuttle_bytes = (uint64_t)p->away_blocks * away;
}

/* Those of one product follow each other; each product begins aligned. So they take no more than if every tile did. */
static void place_tiles(const air_plan *plan, const uint8_t *stays, air_kept_tile *out)
{
    uint64_t end = 0;
    int32_t n = 0;
    for (int32_t i = 0; i < plan->n_tiles; i++) {
        const air_tile *tile = &plan->tiles[i];
        if (!stays[i]) continue;
        if (!n || out[n - 1].op != tile->op) end = air_round_up(end, AIR_DEVICE_ALIGN);
        out[n++] = (air_kept_tile){.tile = i, .op = tile->op, .first_row = tile->first_row, .rows = tile->rows, .place = end};
        end += tile->bytes;
    }
}

air_status air_plan_device_places(air_kept_tile **out, int32_t *n, const air_plan *plan, int32_t device, air_error *err)
{
    uint8_t *stays = air_calloc((size_t)plan->n_tiles, 1);
    int32_t first = 0, share = 0;
    for (; plan->shares[share].device != device || !plan->shares[share].stays; share++) first += plan->shares[share].n_tiles;
    *n = plan->shares[share].n_tiles;
    *out = air_calloc((size_t)*n, sizeof **out);
    if (stays && *out) {
        for (int32_t i = first; i < first + *n; i++) stays[plan->priority[i]] = 1;
        place_tiles(plan, stays, *out);
        air_free(stays);
        return AIR_OK;
    }
    air_free(stays);
    air_free(*out);
    *out = NULL;
    return air_fail(err, AIR_E_NOMEM, "plan: places of %d tiles", (int)*n);
}

air_status air_plan_who(int8_t **out, const air_plan *plan, air_error *err)
{
    *out = air_calloc((size_t)plan->n_tiles, sizeof **out);
    if (!*out) return air_fail(err, AIR_E_NOMEM, "plan: who computes %d tiles", (int)plan->n_tiles);
    for (int32_t i = 0, at = 0; i < plan->n_shares; i++)
        for (int32_t end = at + plan->shares[i].n_tiles; at < end; at++) (*out)[plan->priority[at]] = (int8_t)plan->shares[i].device;
    return AIR_OK;
}
