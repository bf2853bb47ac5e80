/* The plan with a device: two memories and their budgets, the link between them, and the time of a pass. */
#include <math.h>

#include "base/alloc.h"
#include "plan_device.h"

static air_error err;

/* Host memory of the tile at a place of the priority order. */
static uint64_t memory_at(const air_plan *p, int32_t n) { return air_tile_memory(&p->tiles[p->priority[n]], AIR_PLAN_GRANULE); }

static uint64_t device_memory_of_all(const air_plan *p)
{
    uint64_t all = 0;
    for (int32_t i = 0; i < p->n_tiles; i++) all += air_tile_device_memory(&p->tiles[i]);
    return all;
}

static void check_figures(const fixture *f, const air_plan_request *r, const air_plan *p)
{
    uint64_t weights = 0, memory = 0, most = 0, largest = 0;
    for (int32_t i = 0; i < p->n_tiles; i++) {
        const air_tile *tile = &p->tiles[p->priority[i]];
        most = air_max_u64(most, air_tile_device_memory(tile));
        largest = air_max_u64(largest, tile->bytes);
        if (i >= p->n_device_tiles) continue;
        weights += tile->bytes;
        memory += air_tile_device_memory(tile);
    }
    CHECK_EQ(p->device_weight_bytes, weights);
    CHECK_EQ(p->device_pin_bytes, memory);
    CHECK_EQ(p->device_ring_bytes, p->n_device_tiles == p->n_tiles ? 0 : AIR_DEVICE_RING_TILES * most);
    CHECK_EQ(p->device_activation_bytes, air_device_pass_bytes(&f->program, 1, 1, p->n_ctx));
    CHECK_EQ(p->device_activation_bytes_full, air_device_pass_bytes(&f->program, p->max_rows, 1, p->n_ctx));
    CHECK_EQ(p->activation_bytes_full, air_device_host_bytes(&f->program, p->max_rows, 1, p->n_ctx));
    CHECK_EQ(p->device_state_bytes, air_ceil_div((uint64_t)p->n_ctx, 64) * r->state_per_block);
    CHECK_EQ(p->state_bytes_full, 0);
    CHECK_EQ(p->staging_bytes, air_device_staging_bytes(largest));
    CHECK(p->staging_bytes >= AIR_DEVICE_STAGING_PIECES && p->staging_bytes <= AIR_DEVICE_STAGING_PIECES * AIR_DEVICE_STAGING_BYTES);
    CHECK(p->max_rows >= 1 && p->max_rows <= p->n_ctx);
    CHECK(p->n_ctx >= 64 && (r->n_ctx || p->n_ctx % 64 == 0 || p->n_ctx == r->n_ctx_trained));
}

/* Neither budget is exceeded, and neither has room for one tile more. */
static void check_budgets(const air_plan_request *r, const air_plan *p)
{
    CHECK(device_used(p) <= r->device.budget);
    CHECK(host_used(p) <= r->budget);
    CHECK_EQ(p->pin_bytes, p->pin_bytes_full);
    int32_t n = p->n_device_tiles;
    if (n == p->n_tiles) return;
    CHECK(device_used(p) + air_tile_device_memory(&p->tiles[p->priority[n]]) > r->device.budget);
    uint64_t pinned = 0;
    for (; n < p->n_tiles && pinned < p->pin_bytes; n++) pinned += memory_at(p, n);
    CHECK_EQ(pinned, p->pin_bytes);
    if (n < p->n_tiles) CHECK(host_used(p) + memory_at(p, n) > r->budget);
}

/* As plans are stored and taken back: the same sizes give the same plan. */
static void check_solved_again(const air_plan_request *r, const air_plan *p)
{
    air_plan_request again = *r;
    air_plan *q;
    again.n_ctx = p->n_ctx;
    again.max_rows = p->max_rows;
    again.tile_bytes = p->tile_bytes;
    again.ring_bytes = p->ring_bytes;
    again.io = p->io;
    REQUIRE(air_plan_make(&q, &again, &err) == AIR_OK);
    CHECK(q->n_device_tiles == p->n_device_tiles && q->pin_bytes == p->pin_bytes && q->device_ring_bytes == p->device_ring_bytes);
    CHECK(q->pass_s == p->pass_s && q->bound == p->bound && q->prompt_s == p->prompt_s && q->block_bytes == p->block_bytes);
    air_plan_free(q);
}

TEST(whatever_the_two_budgets_are_both_hold)
{
    int made = 0, refused = 0, all = 0;
    for (int round = 0; round < 700; round++) {
        fixture f;
        fixture_make(&f, 1 + (int)pick(20), 600);
        uint64_t most = 2 * f.matrix_bytes + 600000, ram = 100000 + pick(most), vram = 100000 + pick(most);
        air_plan_request r = device_request(&f, ram, vram);
        r.io = AIR_IO_AUTO;
        r.fixed = pick(50000);
        r.state_per_block = pick(60000);
        r.n_ctx_trained = 1000;
        if (pick(2)) r.n_ctx = 1 + (int64_t)pick(1000);
        if (r.n_ctx && r.n_ctx < 64) r.n_ctx = 64;
        if (pick(4) == 0) r.max_rows = 1 + (int64_t)pick(60);
        if (pick(4) == 0) r.tile_bytes = 1 + pick(100000);
        air_plan *p;
        air_status st = air_plan_make(&p, &r, &err);
        CHECK(st == AIR_OK || st == AIR_E_BUDGET);
        if (!st) {
            if (r.max_rows && p->max_rows > p->n_ctx) p->max_rows = p->n_ctx; /* as asked for */
            else check_figures(&f, &r, p);
            CHECK_EQ(p->io, AIR_IO_DIRECT);
            check_budgets(&r, p);
            check_solved_again(&r, p);
            CHECK(p->pass_s >= p->device_s && p->pass_s >= p->link_s && p->pass_s >= p->disk_s && p->compute_s == 0);
            made++;
            all += p->n_device_tiles == p->n_tiles;
        } else {
            CHECK(strstr(err.text, "max_vram ") == err.text || strstr(err.text, "max_ram ") == err.text);
            refused++;
        }
        air_plan_free(p);
        fixture_free(&f);
    }
    CHECK(made > 250 && refused > 25 && all > 50);
}

TEST(more_device_memory_is_never_slower_and_holds_more_tiles_of_the_same_order)
{
    fixture f;
    fixture_make(&f, 20, 600);
    air_plan_request r = device_request(&f, 400000, 0);
    r.n_ctx = 256;
    r.max_rows = 8;
    r.tile_bytes = 20000;
    double last = 1e9;
    int32_t tiles = 0;
    for (r.device.budget = 200000; r.device.budget < f.matrix_bytes + 500000; r.device.budget += 9999) {
        air_plan *p;
        if (air_plan_make(&p, &r, &err)) continue;
        CHECK(p->n_device_tiles >= tiles && p->pass_s <= last);
        tiles = p->n_device_tiles;
        last = p->pass_s;
        double more = 1e9;
        uint64_t ram = r.budget;
        for (r.budget = ram; r.budget < f.matrix_bytes; r.budget += f.matrix_bytes / 7) { /* nor is more of the host's */
            air_plan *q;
            REQUIRE(air_plan_make(&q, &r, &err) == AIR_OK);
            CHECK(q->n_device_tiles == tiles && q->pass_s <= more);
            more = q->pass_s;
            air_plan_free(q);
        }
        r.budget = ram;
        air_plan_free(p);
    }
    CHECK(tiles > 100 && last < 1.01 * (double)f.matrix_bytes / 1e11);
    fixture_free(&f);
}

TEST(what_fits_the_device_whole_needs_no_ring_and_crosses_no_link)
{
    fixture f;
    fixture_make(&f, 10, 300);
    air_plan_request r = device_request(&f, 4u << 20, 64u << 20);
    r.n_ctx = 256;
    r.max_rows = 8;
    r.tile_bytes = 20000;
    air_plan *p;
    REQUIRE(air_plan_make(&p, &r, &err) == AIR_OK);
    CHECK(p->n_device_tiles == p->n_tiles && p->device_weight_bytes == p->weight_bytes);
    CHECK(p->device_ring_bytes == 0 && p->pin_bytes == 0 && p->ring_bytes > 0); /* which the tiles come through, once */
    CHECK(p->link_s == 0 && p->disk_s == 0 && p->bound == AIR_BOUND_DEVICE && p->pass_s == p->device_s);
    uint64_t exact = device_used(p), all = device_memory_of_all(p);
    CHECK_EQ(p->device_pin_bytes, all);
    air_plan_free(p);
    r.device.budget = exact;
    REQUIRE(air_plan_make(&p, &r, &err) == AIR_OK);
    CHECK(p->n_device_tiles == p->n_tiles && device_used(p) == exact);
    air_plan_free(p);
    r.device.budget = exact - 1; /* one byte less, and the ring takes the place of some */
    REQUIRE(air_plan_make(&p, &r, &err) == AIR_OK);
    CHECK(p->n_device_tiles < p->n_tiles && p->device_ring_bytes > 0 && p->link_s > 0);
    CHECK(device_used(p) < exact);
    check_budgets(&r, p);
    air_plan_free(p);
    r.device.graph = 5000; /* of passes that are then one launch */
    r.device.budget = exact + 5000;
    REQUIRE(air_plan_make(&p, &r, &err) == AIR_OK);
    CHECK(p->n_device_tiles == p->n_tiles && device_used(p) == exact && p->device_graph_bytes == 5000);
    air_plan_free(p);
    r.device.budget--;
    REQUIRE(air_plan_make(&p, &r, &err) == AIR_OK);
    CHECK(p->n_device_tiles < p->n_tiles && p->device_graph_bytes == 0 && p->device_ring_bytes > 0);
    check_budgets(&r, p);
    air_plan_free(p);
    fixture_free(&f);
}

TEST(a_device_memory_one_byte_too_small_is_refused)
{
    for (int round = 0; round < 50; round++) {
        fixture f;
        fixture_make(&f, 1 + (int)pick(12), 300);
        air_plan_request r = device_request(&f, 16u << 20, 64u << 20);
        r.n_ctx = 64 + (int64_t)pick(190);
        r.max_rows = 1;
        r.tile_bytes = 1 + pick(60000);
        air_plan *p;
        REQUIRE(air_plan_make(&p, &r, &err) == AIR_OK);
        uint64_t most = 0;
        for (int32_t i = 0; i < p->n_tiles; i++) most = air_max_u64(most, air_tile_device_memory(&p->tiles[i]));
        uint64_t rest = p->device_fixed + p->device_state_bytes + p->device_activation_bytes;
        uint64_t weights = air_min_u64(AIR_DEVICE_RING_TILES * most, device_memory_of_all(p)); /* the ring, or all of them in its place */
        air_plan_free(p);
        r.device.budget = rest + weights;
        REQUIRE(air_plan_make(&p, &r, &err) == AIR_OK);
        CHECK(device_used(p) <= r.device.budget && device_used(p) > r.device.budget - most);
        air_plan_free(p);
        r.device.budget--;
        CHECK_EQ(air_plan_make(&p, &r, &err), AIR_E_BUDGET);
        CHECK(p == NULL && strstr(err.text, "max_vram ") == err.text);
        fixture_free(&f);
    }
}

TEST(a_refused_max_vram_says_what_it_lacks_and_what_would_do)
{
    fixture f;
    fixture_make(&f, 10, 300);
    air_plan_request r = device_request(&f, 16u << 20, 40u << 20);
    r.device.fixed = 8 << 20;
    r.state_per_block = 1 << 20;
    r.n_ctx_trained = r.n_ctx = 4096;
    air_plan *p;
    CHECK_EQ(air_plan_make(&p, &r, &err), AIR_E_BUDGET);
    CHECK(strstr(err.text, "max_vram 40.0 MiB is too small by ") == err.text && strstr(err.text, "KV cache 64.0 MiB (n_ctx 4096), "));
    CHECK(strstr(err.text, "activations ") && strstr(err.text, "ring ") && strstr(err.text, "device context and small weights 8.0; "));
    CHECK(strstr(err.text, "logits") == NULL && strstr(err.text, "max_ram") == NULL);
    const char *lower = strstr(err.text, "lower n_ctx to "), *raise = strstr(err.text, "raise max_vram to ");
    REQUIRE(lower != NULL && raise != NULL);
    air_plan_request followed = r;
    followed.n_ctx = strtol(lower + 15, NULL, 10);
    followed.device.budget = r.device.budget;
    double enough = strtod(raise + 18, NULL);
    CHECK_EQ(air_plan_make(&p, &followed, &err), AIR_OK);
    air_plan_free(p);
    followed.n_ctx += 64;
    CHECK_EQ(air_plan_make(&p, &followed, &err), AIR_E_BUDGET);
    followed = r;
    followed.device.budget = (uint64_t)(enough * (1 << 20));
    CHECK_EQ(air_plan_make(&p, &followed, &err), AIR_OK);
    air_plan_free(p);
    followed.device.budget -= 1 << 20; /* varies, and little more */
    CHECK_EQ(air_plan_make(&p, &followed, &err), AIR_E_BUDGET);
    r.device.reach = 64u << 20;
    CHECK_EQ(air_plan_make(&p, &r, &err), AIR_E_BUDGET);
    CHECK(strstr(err.text, "; lower n_ctx to ") && strstr(err.text, "raise") == NULL);
    r.budget = 1; /* too small as well, which is told of next */
    CHECK_EQ(air_plan_make(&p, &r, &err), AIR_E_BUDGET);
    CHECK(strstr(err.text, "max_vram ") == err.text && strstr(err.text, "lower n_ctx to "));
    r.n_ctx = 64;
    CHECK_EQ(air_plan_make(&p, &r, &err), AIR_E_BUDGET);
    CHECK(strstr(err.text, "max_ram 0.0 MiB is too small by ") == err.text && strstr(err.text, ": activations 0."));
    CHECK(strstr(err.text, "KV cache") == NULL && strstr(err.text, "n_ctx") == NULL && strstr(err.text, "raise max_ram to "));
    r.budget = 16u << 20;
    r.max_rows = 60; /* of many floats */
    f.program.row_floats = 1 << 18;
    CHECK_EQ(air_plan_make(&p, &r, &err), AIR_E_BUDGET);
    CHECK(strstr(err.text, "max_vram 40.0 MiB: passes of 60 rows take ") == err.text);
    fixture_free(&f);
}

TEST(advice_about_a_device_works_whatever_the_other_budget)
{
    int refused = 0;
    for (int round = 0; round < 300; round++) {
        fixture f;
        fixture_make(&f, 1 + (int)pick(20), 600);
        air_plan_request r = device_request(&f, 100000 + pick(8u << 20), 100000 + pick(4u << 20));
        r.device.fixed = 1 + pick(4u << 20);
        r.state_per_block = pick(400000);
        r.n_ctx = pick(2) ? 0 : 64 * (1 + (int64_t)pick(4));
        air_plan *p;
        if (air_plan_make(&p, &r, &err) == AIR_E_BUDGET) {
            int device = strstr(err.text, "max_vram ") == err.text;
            const char *raise = strstr(err.text, device ? "raise max_vram to " : "raise max_ram to ");
            REQUIRE(raise != NULL);
            *(device ? &r.device.budget : &r.budget) = (uint64_t)(strtod(strstr(raise, " to ") + 4, NULL) * (1 << 20));
            air_status st = air_plan_make(&p, &r, &err);
            CHECK(!st || (st == AIR_E_BUDGET && strstr(err.text, device ? "max_ram " : "max_vram ") == err.text && device));
            refused++;
        }
        air_plan_free(p);
        fixture_free(&f);
    }
    CHECK(refused > 50);
}

TEST(the_time_of_a_pass_on_a_device_is_the_slowest_of_disk_link_and_device)
{
    fixture f;
    fixture_make(&f, 20, 300);
    air_plan_request r = device_request(&f, 1u << 20, 0);
    r.n_ctx = 64;
    r.max_rows = 4;
    r.tile_bytes = 20000;
    r.device.budget = r.device.fixed + f.matrix_bytes / 3;
    air_plan *p;
    REQUIRE(air_plan_make(&p, &r, &err) == AIR_OK);
    REQUIRE(p->n_device_tiles > 0 && p->pin_bytes > 0 && p->n_device_tiles < p->n_tiles);
    double weights = (double)p->weight_bytes, over = weights - (double)p->device_weight_bytes, streams = 0;
    uint64_t pinned = 0;
    int32_t n = p->n_device_tiles;
    for (; pinned < p->pin_bytes; n++) pinned += memory_at(p, n);
    for (; n < p->n_tiles; n++) streams += (double)memory_at(p, n);
    CHECK(near(p->link_s, over / 4e9) && near(p->device_s, weights / 1e11) && near(p->disk_s, streams / 1e9));
    CHECK(p->bound == AIR_BOUND_DISK && p->pass_s == p->disk_s && p->full_s == p->pass_s && p->compute_s == 0);
    CHECK(near(air_plan_predict(&r, p, UINT64_MAX, 1), over / 4e9)); /* more pins cross the link as what streams does */
    r.bandwidths.devices[0].link = 1e8;
    CHECK(near(air_plan_predict(&r, p, 0, 1), over / 1e8));
    r.bandwidths.devices[0].memory = 1e6;
    r.bandwidths.devices[0].op_s = 1e-3;
    CHECK(near(air_plan_predict(&r, p, 0, 1), weights / 1e6 + 1e-3 * f.program.n_ops));
    for (int t = 0; t < AIR_TYPE_COUNT; t++) r.bandwidths.devices[0].product_columns[t] = 2e6;
    CHECK(near(air_plan_predict(&r, p, 0, 100), 100 * weights / 2e6 + 1e-3 * f.program.n_ops));
    CHECK(near(air_plan_predict(&r, p, 0, 1), weights / 1e6 + 1e-3 * f.program.n_ops));
    for (int t = 0; t < AIR_TYPE_COUNT; t++) r.bandwidths.devices[0].product[t] = 5e5; /* rather than reads */
    r.bandwidths.devices[0].handover_s = 0.25;
    r.bandwidths.devices[0].link_back = 1e3;
    double logits = 4.0 * (double)f.program.n_vocab;
    CHECK(near(air_plan_predict(&r, p, 0, 1), weights / 5e5 + 1e-3 * f.program.n_ops + 0.25 + logits / 1e3));
    double before = air_plan_predict(&r, p, 0, 1);
    r.bandwidths.memory = r.bandwidths.op_s = 1; /* the CPU computes nothing */
    CHECK(air_plan_predict(&r, p, 0, 1) == before);
    air_plan_free(p);

    static const struct { double disk, link, device; air_bound bound; } cases[] = {
        {1e9, 4e9, 1e11, AIR_BOUND_DISK}, {1e12, 4e9, 1e11, AIR_BOUND_LINK}, {1e12, 1e13, 1e11, AIR_BOUND_DEVICE},
        {0, 4e9, 1e11, AIR_BOUND_LINK}, {0, 0, 1e11, AIR_BOUND_DEVICE}, {0, 0, 0, AIR_BOUND_DEVICE},
    };
    for (size_t i = 0; i < AIR_COUNT(cases); i++) {
        r.bandwidths = (air_bandwidths){.disk = cases[i].disk, .devices = {{.link = cases[i].link, .memory = cases[i].device}}};
        REQUIRE(air_plan_make(&p, &r, &err) == AIR_OK);
        CHECK_EQ(p->bound, cases[i].bound);
        CHECK(p->pass_s > 0 || i == 5);
        air_plan_free(p);
    }
    CHECK_STR_EQ(air_bound_name(AIR_BOUND_LINK), "link");
    CHECK_STR_EQ(air_bound_name((air_bound)99), "unknown");
    fixture_free(&f);
}

TEST(tiles_for_a_device_are_large_where_there_is_room)
{
    fixture f;
    fixture_make(&f, 10, 600);
    for (int i = 0; i < 10; i++) { /* large, as a plan sees it */
        air_weight *w = &f.weights[f.ops[i].weight];
        w->rows = 100000;
        w->bytes = (uint64_t)w->rows * w->row_bytes;
    }
    for (uint64_t vram = 64u << 20; vram <= UINT64_C(4) << 30; vram *= 2) {
        air_plan_request r = device_request(&f, UINT64_C(1) << 30, vram);
        air_plan *p;
        REQUIRE(air_plan_make(&p, &r, &err) == AIR_OK);
        CHECK(p->tile_bytes <= 32u << 20 && p->ring_bytes <= 129u << 20 && p->ring_bytes >= 4 * p->tile_bytes);
        CHECK(p->device_ring_bytes <= vram / 8);
        if (vram >= UINT64_C(1) << 30) CHECK(p->tile_bytes > 31u << 20);
        else CHECK(p->tile_bytes > vram / 30);
        CHECK(p->max_rows == 256 || p->device_activation_bytes_full > vram / 32);
        air_plan_free(p);
    }
    fixture_free(&f);
}

TEST(files_are_mapped_for_a_device_only_when_asked_for)
{
    fixture f;
    fixture_make(&f, 10, 300);
    air_plan_request r = device_request(&f, 64u << 20, 1u << 20);
    r.tile_bytes = 20000;
    r.io = AIR_IO_AUTO;
    air_plan *p;
    REQUIRE(air_plan_make(&p, &r, &err) == AIR_OK);
    CHECK_EQ(p->io, AIR_IO_DIRECT);
    air_plan_free(p);
    r.io = AIR_IO_MMAP;
    REQUIRE(air_plan_make(&p, &r, &err) == AIR_OK);
    CHECK(p->io == AIR_IO_MMAP && p->pin_bytes == 0 && p->ring_bytes == 0 && p->n_device_tiles > 0 && p->disk_s == 0);
    r.available = 0;
    CHECK(near(air_plan_predict(&r, p, 0, 1), (double)(p->weight_bytes - p->device_weight_bytes) / 1e9));
    air_plan_free(p);
    fixture_free(&f);
}

TEST(absurd_numbers_of_a_device_never_wrap)
{
    fixture f;
    fixture_make(&f, 6, 600);
    air_plan *p;
    air_plan_request r = device_request(&f, 1u << 30, UINT64_MAX / 2);
    REQUIRE(air_plan_make(&p, &r, &err) == AIR_OK);
    CHECK_EQ(p->n_device_tiles, p->n_tiles);
    air_plan_free(p);
    r.device.fixed = UINT64_MAX;
    CHECK_EQ(air_plan_make(&p, &r, &err), AIR_E_BUDGET);
    r.device.budget = 1u << 30;
    CHECK_EQ(air_plan_make(&p, &r, &err), AIR_E_BUDGET);
    CHECK(strstr(err.text, "; no max_vram is enough for that") != NULL);
    r.device.fixed = 0;
    r.state_per_block = UINT64_MAX / 2;
    CHECK_EQ(air_plan_make(&p, &r, &err), AIR_E_BUDGET);
    r.state_per_block = 1024;
    r.n_ctx_trained = r.n_ctx = 1 << 30;
    CHECK_EQ(air_plan_make(&p, &r, &err), AIR_E_BUDGET);
    r.device.budget = 1;
    r.n_ctx = 0;
    CHECK_EQ(air_plan_make(&p, &r, &err), AIR_E_BUDGET);
    fixture_free(&f);
}

/* As much VRAM as there is; then less and less, down to a refusal. */
static void check_away(const fixture *f, air_plan_request *r, int *somewhere)
{
    uint64_t all = air_ceil_div((uint64_t)r->n_ctx, 64);
    int64_t before = 0;
    air_plan *p;
    for (; !air_plan_make(&p, r, &err); r->device.budget -= 1 + pick(9000)) {
        uint64_t away = (uint64_t)p->away_blocks;
        CHECK(p->n_ctx == r->n_ctx && p->away_blocks >= before && away < all);
        CHECK_EQ(p->device_state_bytes, (all - away) * r->state_per_block);
        CHECK_EQ(p->device_shuttle_bytes, away * r->device.shuttle_per_block);
        CHECK_EQ(p->state_bytes_full, away ? (away + 1) * r->device.away_per_block : 0);
        CHECK(device_used(p) <= r->device.budget);
        CHECK(host_used(p) - p->pin_bytes + p->pin_bytes_full + p->state_bytes_full <= r->budget);
        double bytes = (double)(p->weight_bytes - p->device_weight_bytes) + (double)(away * r->device.away_per_block);
        double linked = bytes / r->bandwidths.devices[0].link;
        CHECK(p->full_s >= linked * (1 - 1e-12) && p->pass_s <= p->full_s && p->max_rows >= 1);
        if (away) check_solved_again(r, p);
        *somewhere += away && away + 1 < all;
        before = p->away_blocks;
        air_plan_free(p);
        if (r->device.budget < 10000) break;
    }
    CHECK(strstr(err.text, "max_vram ") == err.text); /* nor would more RAM help */
    (void)f;
}

TEST(a_context_beyond_the_device_lies_in_the_host_s_memory)
{
    int somewhere = 0;
    for (int round = 0; round < 30; round++) {
        fixture f;
        fixture_make(&f, 3 + (int)pick(12), 300);
        air_plan_request r = device_request(&f, 64u << 20, 16u << 20);
        r.n_ctx_trained = 4096;
        r.n_ctx = 65 + (int64_t)pick(2000);
        r.state_per_block = 20000 + pick(60000);
        r.device.away_per_block = r.state_per_block - pick(5000);
        r.device.shuttle_per_block = r.state_per_block / (2 + pick(6));
        if (pick(2)) r.max_rows = 1 + (int64_t)pick(60);
        r.tile_bytes = 1 + pick(60000);
        r.device.budget = 4000000 + (uint64_t)r.n_ctx * 1500;
        check_away(&f, &r, &somewhere);
        fixture_free(&f);
    }
    CHECK(somewhere > 500);
}

TEST(a_context_that_neither_memory_holds_is_refused)
{
    fixture f;
    fixture_make(&f, 8, 300);
    air_plan_request r = device_request(&f, 4u << 20, 900000);
    r.n_ctx = r.n_ctx_trained = 2048;
    r.state_per_block = r.device.away_per_block = 40000;
    r.device.shuttle_per_block = 8000;
    r.max_rows = 1;
    r.tile_bytes = 20000;
    air_plan *p;
    int made = 0;
    for (; !air_plan_make(&p, &r, &err); r.budget -= 9973, made++) {
        CHECK(p->away_blocks > 8 && host_used(p) - p->pin_bytes + p->pin_bytes_full + p->state_bytes_full <= r.budget);
        air_plan_free(p);
    }
    CHECK(made > 50 && r.budget > 880000);
    CHECK(strstr(err.text, "max_ram ") == err.text && strstr(err.text, "KV cache") && strstr(err.text, "raise max_ram to"));
    fixture_free(&f);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(whatever_the_two_budgets_are_both_hold);
    RUN(more_device_memory_is_never_slower_and_holds_more_tiles_of_the_same_order);
    RUN(what_fits_the_device_whole_needs_no_ring_and_crosses_no_link);
    RUN(a_device_memory_one_byte_too_small_is_refused);
    RUN(a_refused_max_vram_says_what_it_lacks_and_what_would_do);
    RUN(advice_about_a_device_works_whatever_the_other_budget);
    RUN(the_time_of_a_pass_on_a_device_is_the_slowest_of_disk_link_and_device);
    RUN(tiles_for_a_device_are_large_where_there_is_room);
    RUN(files_are_mapped_for_a_device_only_when_asked_for);
    RUN(absurd_numbers_of_a_device_never_wrap);
    RUN(a_context_beyond_the_device_lies_in_the_host_s_memory);
    RUN(a_context_that_neither_memory_holds_is_refused);
    return check_end();
}
