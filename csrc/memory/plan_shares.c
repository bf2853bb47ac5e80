/* Who computes which products: tiles dealt to devices, and the CPU's share. */
#include "backend/host_share.h"
#include "memory/budget.h"
#include "memory/plan_internal.h"
#include "memory/tiles.h"

enum {
    SHARE_WINS = 20, /* one part in so many of a pass is what a CPU's share must win to be taken */
    MEMORY_SHARE = 4, /* of what memory gives, what the CPU has at least of it while devices read too */
};

/* --- sizes --- */

static uint64_t largest_tile_rows(const air_program *program, uint64_t tile_bytes)
{
    int64_t most = 1;
    for (int32_t i = 0; i < program->n_ops; i++) {
        if (program->ops[i].kind != AIR_OP_PRODUCT) continue;
        int64_t rows = air__tile_rows(&program->weights[program->ops[i].weight], tile_bytes);
        most = rows > most ? rows : most;
    }
    return (uint64_t)most;
}

static int cpu_may_share(const air_plan_request *r) { return r->device.budget && (r->cpu_share < 0 || r->cpu_share > 0); }

int air__plan_shares_products(const air_plan_request *r) { return r->device.budget && (r->n_helpers || cpu_may_share(r)); }

/* Results of one column are what must fit, and those of all columns of a pass are as much as is ever needed. */
void air__plan_part_sizes(air_plan *p, const air_plan_request *r)
{
    if (!air__plan_shares_products(r)) return;
    uint64_t column = largest_tile_rows(r->program, p->tile_bytes) * sizeof(float);
    uint64_t rows = air_min_u64(AIR__PROMPT_ROWS, (uint64_t)(r->max_rows ? r->max_rows : p->n_ctx));
    uint64_t columns = r->n_helpers ? rows : air_min_u64(rows, AIR_SHARE_COLUMNS);
    uint64_t most = air_min_u64(air__times(column, columns), air_max_u64(column, AIR_DEVICE_PART_MOST));
    p->n_helpers = r->n_helpers;
    p->part_bytes = air_round_up(most, AIR_DEVICE_ALIGN);
    p->device_part_bytes = p->part_bytes * AIR_DEVICE_PARTS * (uint64_t)(r->n_helpers + cpu_may_share(r));
    if (cpu_may_share(r))
        p->share_bytes = air_host_share_bytes(r->program, r->threads) + air_device_host_share_bytes(r->program, p->part_bytes);
}

static uint64_t helper_left(const air_plan *p, int32_t i)
{
    const air_plan_helper *h = &p->helpers[i];
    return air__less(h->budget, air__plus(h->fixed, air__plus(h->buffer_bytes, p->part_bytes)));
}

air_status air__plan_helper_sizes(air_plan *p, const air_plan_request *r, uint64_t ring, air_error *err)
{
    for (int32_t i = 0; i < p->n_helpers; i++) {
        air_plan_helper *h = &p->helpers[i];
        *h = (air_plan_helper){.budget = r->helpers[i].budget, .fixed = r->helpers[i].fixed};
        h->buffer_bytes = air_device_input_bytes(r->program, p->max_rows);
        if (helper_left(p, i) >= ring) continue;
        uint64_t needs = air__plus(h->fixed, air__plus(h->buffer_bytes, p->part_bytes + ring));
        return air_fail(err, AIR_E_BUDGET, "max_vram %.1f MiB of device %d of %d is too small by %.1f MiB: context and small weights %.1f, "
                        "activations %.1f, ring %.1f; raise it, or leave that device out",
                        air_mib(h->budget), (int)i + 2, (int)p->n_helpers + 1, (double)air_tenths_up(needs - h->budget) / 10,
                        air_mib(h->fixed), air_mib(h->buffer_bytes + p->part_bytes), air_mib(ring));
    }
    return AIR_OK;
}

/* --- tiles that stay on devices --- */

static uint64_t device_memory_of_all(const air_plan *p)
{
    uint64_t all = 0;
    for (int32_t i = 0; i < p->n_tiles; i++) all += air_tile_device_memory(&p->tiles[i]);
    return all;
}

static uint64_t weight_of(const air_plan *p, int32_t first, int32_t end)
{
    uint64_t bytes = 0;
    for (int32_t i = first; i < end; i++) bytes += p->tiles[p->priority[i]].bytes;
    return bytes;
}

/* To device 0 what own bytes hold, then to each helper, less a ring each; where that is more than all tiles, in proportion. */
static void deal(air_plan *p, uint64_t own, uint64_t ring, uint64_t all)
{
    uint64_t sum = own;
    for (int32_t i = 0; i < p->n_helpers; i++) sum = air__plus(sum, air__less(helper_left(p, i), ring));
    double part = sum > all ? (double)all / (double)sum : 1;
    uint64_t mine = part < 1 ? air_min_u64(own, (uint64_t)((double)own * part) + p->tile_bytes) : own;
    int32_t at = air__plan_prefix(p, 0, mine, air_tile_device_memory, &p->device_pin_bytes);
    p->shares[0] = (air_share){.n_tiles = at, .device = 0, .stays = 1};
    for (int32_t i = 0; i < p->n_helpers; i++) {
        air_plan_helper *h = &p->helpers[i];
        uint64_t left = air__less(helper_left(p, i), ring);
        if (part < 1) left = air_min_u64(left, (uint64_t)((double)left * part) + p->tile_bytes);
        int32_t end = air__plan_prefix(p, at, left, air_tile_device_memory, &h->pin_bytes);
        h->n_tiles = end - at;
        h->weight_bytes = weight_of(p, at, end);
        p->shares[1 + i] = (air_share){.n_tiles = h->n_tiles, .device = i + 1, .stays = 1};
        at = end;
    }
    p->n_shares = 1 + p->n_helpers;
    p->n_device_tiles = at;
}

/* What one device holds alone it computes alone: handing over costs more than a second one saves where nothing streams. */
void air__plan_deal_tiles(air_plan *p, uint64_t left, uint64_t ring)
{
    uint64_t all = device_memory_of_all(p);
    if (left >= all) p->n_helpers = 0;
    deal(p, left, 0, all);
    if (p->n_device_tiles < p->n_tiles) {
        deal(p, air__less(left, ring), ring, all);
        p->device_ring_bytes = ring;
        for (int32_t i = 0; i < p->n_helpers; i++) p->helpers[i].ring_bytes = ring;
    }
    p->device_weight_bytes = weight_of(p, 0, p->n_device_tiles);
}

/* --- the CPU's share --- */

/* Seconds that the CPU takes for a tile; 0: not known. */
static double host_tile_seconds(const air_plan_request *r, const air_tile *tile)
{
    const air_bandwidths *b = &r->bandwidths;
    uint32_t type = r->program->weights[tile->weight].type;
    double rate = type < AIR_TYPE_COUNT && b->product[type] > 0 ? b->product[type] : b->memory;
    double beside = b->memory - air__link_rate(r);
    if (beside < b->memory / MEMORY_SHARE) beside = b->memory / MEMORY_SHARE;
    if (b->memory > 0 && beside < rate) rate = beside;
    return rate > 0 ? (double)tile->bytes / rate : 0;
}

double air__host_share_seconds(const air_plan_request *r, const air_plan *p)
{
    double seconds = 0;
    int32_t end = p->n_device_tiles + p->n_host_tiles, ops = 0;
    for (int32_t i = p->n_device_tiles; i < end; i++) seconds += host_tile_seconds(r, &p->tiles[p->priority[i]]);
    for (int32_t i = 0; i < r->program->n_ops; i++) ops += r->program->ops[i].kind == AIR_OP_PRODUCT;
    return seconds + r->bandwidths.handover_s * (double)(p->n_host_tiles < ops ? p->n_host_tiles : ops);
}

static void set_host_tiles(air_plan *p, int32_t n)
{
    p->n_host_tiles = n;
    p->host_weight_bytes = weight_of(p, p->n_device_tiles, p->n_device_tiles + n);
}

/* The number of tiles at which the CPU takes as long as the link, or none where something else bounds a pass before that. */
static void choose_host_tiles(air_plan *p, const air_plan_request *r, uint64_t pinned)
{
    double alone = air_plan_predict(r, p, pinned, 1);
    int32_t most = p->n_tiles - p->n_device_tiles, low = 0, high = most;
    if (air__link_rate(r) <= 0 || r->bandwidths.memory <= 0) return;
    while (low < high) { /* the CPU's time grows with n, the link's shrinks */
        int32_t middle = low + (high - low) / 2;
        set_host_tiles(p, middle + 1);
        if (air__host_share_seconds(r, p) < air__link_seconds(r, p, 1)) low = middle + 1;
        else high = middle;
    }
    set_host_tiles(p, low);
    double best = air_plan_predict(r, p, pinned, 1);
    if (!(best < alone - alone / SHARE_WINS)) set_host_tiles(p, 0);
}

static void take_host_tiles(air_plan *p, double share)
{
    double all = (double)(p->weight_bytes - p->device_weight_bytes), taken = 0;
    int32_t n = 0;
    while (p->n_device_tiles + n < p->n_tiles && taken < share * all) taken += (double)p->tiles[p->priority[p->n_device_tiles + n++]].bytes;
    set_host_tiles(p, n);
}

/* --- links --- */

double air__link_rate(const air_plan_request *r) { return r->bandwidths.link * (1 + r->n_helpers); }

/* What streams, to every device as much: links are taken to be alike. */
static void deal_links(air_plan *p)
{
    int32_t at = p->n_device_tiles + p->n_host_tiles, devices = p->n_helpers + 1, first = at;
    for (int32_t d = 0; d < devices; d++) {
        int32_t end = first + (int32_t)((int64_t)(p->n_tiles - first) * (d + 1) / devices);
        p->shares[p->n_shares++] = (air_share){.n_tiles = end - at, .device = d};
        if (d) {
            p->helpers[d - 1].linked_tiles = end - at;
            p->helpers[d - 1].linked_bytes = weight_of(p, at, end);
        }
        at = end;
    }
}

void air__plan_share_rest(air_plan *p, const air_plan_request *r, uint64_t pinned)
{
    if (p->n_device_tiles < p->n_tiles && cpu_may_share(r)) {
        if (r->cpu_share < 0) choose_host_tiles(p, r, pinned);
        else take_host_tiles(p, r->cpu_share);
    }
    if (p->n_host_tiles) p->shares[p->n_shares++] = (air_share){.n_tiles = p->n_host_tiles, .device = AIR_NONE};
    else p->share_bytes = 0; /* pins have it */
    deal_links(p);
}
