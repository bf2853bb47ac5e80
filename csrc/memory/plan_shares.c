/* Who computes which products: tiles dealt to devices, and the CPU's share. */
#include <math.h>

#include "backend/host_share.h"
#include "memory/budget.h"
#include "memory/plan_internal.h"
#include "memory/tiles.h"

enum {
    TILES_TOGETHER = 4, /* neighbours that the CPU computes in one turn, if all are its */
    SHARE_WINS = 20, /* one part in so many of a pass is what a CPU's share must win to be taken */
    MEMORY_SHARE = 4, /* of what memory gives, what the CPU has at least of it while devices read too */
};

/* --- sizes --- */

/* Rows of the largest group of so many tiles that follow each other in a matrix. */
static uint64_t largest_rows(const air_program *program, uint64_t tile_bytes, int32_t together)
{
    int64_t most = 1;
    for (int32_t i = 0; i < program->n_ops; i++) {
        if (program->ops[i].kind != AIR_OP_PRODUCT) continue;
        const air_weight *weight = &program->weights[program->ops[i].weight];
        int64_t rows = air__tile_rows(weight, tile_bytes) * together;
        if (rows > weight->rows) rows = weight->rows;
        most = rows > most ? rows : most;
    }
    return (uint64_t)most;
}

static int cpu_may_share(const air_plan_request *r) { return r->device.budget && (r->cpu_share < 0 || r->cpu_share > 0); }

/* A product that is all in VRAM costs the CPU no hand-over: so small matrices are to be there, and the CPU has much of few. Several devices
 * compute at the same time, and are to have some of each. */
int air__plan_small_first(const air_plan_request *r) { return cpu_may_share(r) && !r->n_helpers; }

int air__plan_shares_products(const air_plan_request *r) { return r->device.budget && (r->n_helpers || cpu_may_share(r)); }

/* Results of one column are what must fit, and those of all columns of a pass are as much as is ever needed. */
void air__plan_part_sizes(air_plan *p, const air_plan_request *r)
{
    if (!air__plan_shares_products(r)) return;
    uint64_t column = largest_rows(r->program, p->tile_bytes, cpu_may_share(r) ? TILES_TOGETHER : 1) * sizeof(float);
    uint64_t rows = air_min_u64(AIR__PROMPT_ROWS, (uint64_t)(r->max_rows ? r->max_rows : p->n_ctx));
    uint64_t columns = r->n_helpers ? rows : air_min_u64(rows, AIR_SHARE_COLUMNS);
    uint64_t most = air_min_u64(air__times(column, columns), air_max_u64(column, AIR_DEVICE_PART_MOST));
    p->n_helpers = r->n_helpers;
    p->part_bytes = air_round_up(most, AIR_DEVICE_ALIGN);
    p->device_part_bytes = p->part_bytes * AIR_DEVICE_PARTS * (uint64_t)r->n_helpers;
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

/* What a device can take on while others do: as much in some seconds as its link brings and it computes with, after what it is busy with
 * already, and no more than it holds. What is not known bounds nothing. */
typedef struct capacity { double link, device, busy, most; } capacity;

static double takes(const capacity *c, double seconds)
{
    double bytes = fmin(fmin(c->link * seconds, c->device * (seconds - c->busy)), c->most);
    return bytes > 0 ? bytes : 0;
}

static double all_take(const capacity c[], int32_t n, double seconds)
{
    double bytes = 0;
    for (int32_t i = 0; i < n; i++) bytes += takes(&c[i], seconds);
    return bytes;
}

/* The parts of so many bytes with which all are done at the same time, as far as they can be. */
static void balance(const capacity c[], int32_t n, double bytes, double parts[])
{
    enum { HALVINGS = 60 };
    double low = 0, high = 1e-6;
    while (all_take(c, n, high) < bytes && high < 1e18) high *= 2;
    for (int i = 0; i < HALVINGS; i++) {
        double middle = low + (high - low) / 2;
        if (all_take(c, n, middle) < bytes) low = middle;
        else high = middle;
    }
    for (int32_t i = 0; i < n; i++) parts[i] = takes(&c[i], high);
}

static capacity capacity_of(const air_plan_request *r, const air_plan *p, int32_t device, double most)
{
    double per_byte = air__device_per_byte(r, p, device, 1);
    return (capacity){.link = INFINITY, .device = per_byte > 0 ? 1 / per_byte : INFINITY, .busy = air__device_beside(r, p, device),
                      .most = most};
}

static int knows_devices(const air_plan_request *r) { return air__rates_of_device(r, 0)->memory > 0; }

/* Of tiles that all devices hold together, with room to spare: what each is to have of them, in its memory. */
static void deal_by_rates(const air_plan *p, const air_plan_request *r, uint64_t room[], uint64_t all)
{
    capacity c[AIR_DEVICES_MOST];
    double parts[AIR_DEVICES_MOST], sum = 0;
    for (int32_t i = 0; i <= p->n_helpers; i++) sum += (double)room[i];
    for (int32_t i = 0; i <= p->n_helpers; i++) {
        c[i] = capacity_of(r, p, i, (double)room[i]);
        parts[i] = (double)room[i] / sum * (double)all;
    }
    if (knows_devices(r)) balance(c, p->n_helpers + 1, (double)all, parts);
    for (int32_t i = 0; i <= p->n_helpers; i++) /* and what rounding to whole tiles takes; next to nothing is nothing */
        room[i] = parts[i] < (double)p->tile_bytes / 2 ? 0 : air_min_u64(room[i], (uint64_t)parts[i] + p->tile_bytes);
}

/* To device 0 what own bytes hold, then to each helper, less a ring each; where that is more than all tiles, so that they are done at the
 * same time. */
static void deal(air_plan *p, const air_plan_request *r, uint64_t own, uint64_t ring, uint64_t all)
{
    uint64_t room[AIR_DEVICES_MOST] = {own}, sum = own;
    for (int32_t i = 0; i < p->n_helpers; i++) {
        room[i + 1] = air__less(helper_left(p, i), ring);
        sum = air__plus(sum, room[i + 1]);
    }
    if (sum > all && p->n_helpers) deal_by_rates(p, r, room, all);
    int32_t at = air__plan_prefix(p, 0, room[0], air_tile_device_memory, &p->device_pin_bytes);
    p->shares[0] = (air_share){.n_tiles = at, .device = 0, .stays = 1};
    for (int32_t i = 0; i < p->n_helpers; i++) {
        air_plan_helper *h = &p->helpers[i];
        int32_t end = air__plan_prefix(p, at, room[i + 1], air_tile_device_memory, &h->pin_bytes);
        h->n_tiles = end - at;
        h->weight_bytes = weight_of(p, at, end);
        p->shares[1 + i] = (air_share){.n_tiles = h->n_tiles, .device = i + 1, .stays = 1};
        at = end;
    }
    p->n_device_tiles = at;
}

/* What one device holds alone it computes alone: handing over costs more than a second one saves where nothing streams. */
void air__plan_deal_tiles(air_plan *p, const air_plan_request *r, uint64_t left, uint64_t ring)
{
    uint64_t all = device_memory_of_all(p);
    int alone = left >= air__plus(all, r->device.graph);
    if (alone) {
        p->n_helpers = 0;
        p->device_graph_bytes = r->device.graph;
    }
    deal(p, r, alone || p->n_helpers ? left : air__less(left, r->device.graph), 0, all);
    if (p->n_device_tiles < p->n_tiles) {
        deal(p, r, air__less(left, ring), ring, all);
        p->device_ring_bytes = ring;
        for (int32_t i = 0; i < p->n_helpers; i++) p->helpers[i].ring_bytes = ring;
    }
    p->device_weight_bytes = weight_of(p, 0, p->n_device_tiles);
}

/* --- links --- */

/* Where the next tiles end that are so many bytes, give or take half of one. */
static int32_t end_of(const air_plan *p, int32_t at, double bytes)
{
    double taken = 0;
    while (at < p->n_tiles) {
        double more = (double)p->tiles[p->priority[at]].bytes;
        if (taken + more / 2 > bytes) break;
        taken += more;
        at++;
    }
    return at;
}

/* What each is to have of bytes that stream: while others stream too, and beside what it holds. */
static void parts_of_links(const air_plan *p, const air_plan_request *r, double bytes, double parts[])
{
    capacity c[AIR_DEVICES_MOST];
    int32_t n = p->n_helpers + 1;
    uint64_t kept = p->device_weight_bytes;
    for (int32_t i = n - 1; i >= 0; i--) {
        uint64_t here = i ? p->helpers[i - 1].weight_bytes : kept;
        kept -= i ? here : 0;
        c[i] = capacity_of(r, p, i, INFINITY);
        if (air__link_rate(r, i) > 0) c[i].link = air__link_rate(r, i);
        if (isfinite(c[i].device)) c[i].busy += (double)here / c[i].device;
        parts[i] = bytes / n;
    }
    if (air__link_rate(r, 0) > 0) balance(c, n, bytes, parts);
}

static void deal_links(air_plan *p, const air_plan_request *r)
{
    double parts[AIR_DEVICES_MOST], taken = 0;
    int32_t at = p->n_device_tiles + p->n_host_tiles, first = at;
    parts_of_links(p, r, (double)weight_of(p, at, p->n_tiles), parts);
    for (int32_t d = 0; d <= p->n_helpers; d++) {
        taken += parts[d];
        int32_t end = d < p->n_helpers ? end_of(p, first, taken) : p->n_tiles;
        p->shares[p->n_shares++] = (air_share){.n_tiles = end - at, .device = d};
        if (d) {
            p->helpers[d - 1].linked_tiles = end - at;
            p->helpers[d - 1].linked_bytes = weight_of(p, at, end);
        }
        at = end;
    }
}

/* --- the CPU's share --- */

/* Of all links; 0: not known. */
static double link_rates(const air_plan_request *r)
{
    double sum = 0;
    for (int32_t i = 0; i <= r->n_helpers; i++) sum += air__link_rate(r, i);
    return sum;
}

/* Seconds that the CPU takes for a tile; 0: not known. */
static double host_tile_seconds(const air_plan_request *r, const air_tile *tile)
{
    const air_bandwidths *b = &r->bandwidths;
    uint32_t type = r->program->weights[tile->weight].type;
    double rate = type < AIR_TYPE_COUNT && b->product[type] > 0 ? b->product[type] : b->memory;
    double beside = b->memory - link_rates(r);
    if (beside < b->memory / MEMORY_SHARE) beside = b->memory / MEMORY_SHARE;
    if (b->memory > 0 && beside < rate) rate = beside;
    return rate > 0 ? (double)tile->bytes / rate : 0;
}

static int is_host_tile(const air_plan *p, int32_t tile)
{
    return p->rank[tile] >= p->n_device_tiles && p->rank[tile] < p->n_device_tiles + p->n_host_tiles;
}

/* Every op needs what came before it. So the CPU waits while the devices compute ops of which it has no tile, and all that is no product;
 * and for a hand-over, there and back, in each of its own: its threads' turn, which begins and ends with one of theirs, is in that. */
double air__host_share_seconds(const air_plan_request *r, const air_plan *p)
{
    double seconds = air__device_beside(r, p, 0), per_byte = air__device_per_byte(r, p, 0, 1) / (1 + p->n_helpers);
    double handover = air__rates_of_device(r, 0)->handover_s + r->bandwidths.op_s;
    for (int32_t i = 0, next; i < p->n_tiles; i = next) {
        double host = 0, bytes = 0;
        for (next = i; next < p->n_tiles && p->tiles[next].op == p->tiles[i].op; next++) {
            if (is_host_tile(p, next)) host += host_tile_seconds(r, &p->tiles[next]);
            bytes += (double)p->tiles[next].bytes;
        }
        seconds += host > 0 ? host + handover : per_byte * bytes;
    }
    return seconds;
}

/* The first n tiles that no device holds are the CPU's, and the rest is dealt to the links. */
static void set_host_tiles(air_plan *p, const air_plan_request *r, int32_t n)
{
    p->n_host_tiles = n;
    p->host_weight_bytes = weight_of(p, p->n_device_tiles, p->n_device_tiles + n);
    p->n_shares = 1 + p->n_helpers;
    if (n) p->shares[p->n_shares++] = (air_share){.n_tiles = n, .device = AIR_NONE};
    deal_links(p, r);
}

/* The number of tiles at which the CPU takes as long as the links, or none where something else bounds a pass before that. */
static void choose_host_tiles(air_plan *p, const air_plan_request *r, uint64_t pinned)
{
    double alone = air_plan_predict(r, p, pinned, 1);
    int32_t most = p->n_tiles - p->n_device_tiles, low = 0, high = most;
    if (link_rates(r) <= 0 || r->bandwidths.memory <= 0) return;
    while (low < high) { /* the CPU's time grows with n, the link's shrinks */
        int32_t middle = low + (high - low) / 2;
        set_host_tiles(p, r, middle + 1);
        if (air__host_share_seconds(r, p) < air__link_seconds(r, p, 1)) low = middle + 1;
        else high = middle;
    }
    set_host_tiles(p, r, low);
    double best = air_plan_predict(r, p, pinned, 1);
    if (!(best < alone - alone / SHARE_WINS)) set_host_tiles(p, r, 0);
}

static void take_host_tiles(air_plan *p, const air_plan_request *r)
{
    double all = (double)(p->weight_bytes - p->device_weight_bytes), taken = 0;
    int32_t n = 0;
    while (p->n_device_tiles + n < p->n_tiles && taken < r->cpu_share * all)
        taken += (double)p->tiles[p->priority[p->n_device_tiles + n++]].bytes;
    set_host_tiles(p, r, n);
}

void air__plan_share_rest(air_plan *p, const air_plan_request *r, uint64_t pinned)
{
    uint64_t memory;
    if (air__plan_small_first(r))
        air__plan_spread(p, p->n_device_tiles, air__plan_prefix(p, p->n_device_tiles, pinned, air__tile_in_ram, &memory));
    set_host_tiles(p, r, 0);
    if (p->n_device_tiles < p->n_tiles && cpu_may_share(r)) {
        if (r->cpu_share < 0) choose_host_tiles(p, r, pinned);
        else take_host_tiles(p, r);
    }
    if (!p->n_host_tiles) p->share_bytes = 0; /* pins have it */
}
