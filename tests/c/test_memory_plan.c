/* Plan, budget and tiles: pure arithmetic, checked against what the contracts say. */
#include "memory_fixture.h"

static air_error err;

static uint64_t memory_of(const air_plan *p, int32_t i) { return air_tile_memory(&p->tiles[i], AIR_PLAN_GRANULE); }

static double memory_of_all(const air_plan *p)
{
    double all = 0;
    for (int32_t i = 0; i < p->n_tiles; i++) all += (double)memory_of(p, i);
    return all;
}

TEST(tiles_cover_every_product_once_in_order_and_stay_within_their_size)
{
    for (int round = 0; round < 100; round++) {
        fixture f;
        fixture_make(&f, 1 + (int)pick(20), 600);
        air_plan_request r = fixture_request(&f, 1u << 30);
        r.tile_bytes = 1 + pick(200000);
        air_plan *p;
        REQUIRE(air_plan_make(&p, &r, &err) == AIR_OK);
        int32_t t = 0;
        for (int32_t op = 0; op < f.program.n_ops; op++) {
            const air_weight *w = &f.weights[f.ops[op].weight];
            for (int64_t row = 0; row < w->rows; t++) {
                REQUIRE(t < p->n_tiles);
                const air_tile *tile = &p->tiles[t];
                CHECK(tile->weight == f.ops[op].weight && tile->op == op && tile->first_row == row && tile->part == w->part);
                CHECK_EQ(tile->offset, w->offset + (uint64_t)row * w->row_bytes);
                CHECK_EQ(tile->bytes, (uint64_t)tile->rows * w->row_bytes);
                CHECK(tile->bytes <= r.tile_bytes || tile->rows == 1);
                row += tile->rows;
                if (row < w->rows && r.tile_bytes >= 16 * w->row_bytes) CHECK_EQ(tile->rows % 16, 0);
                CHECK(row <= w->rows);
            }
        }
        CHECK_EQ(t, p->n_tiles);
        CHECK_EQ(p->weight_bytes, f.matrix_bytes);
        CHECK(p->ring_bytes >= AIR_RING_TILES * memory_of(p, 0));
        air_plan_free(p);
        fixture_free(&f);
    }
}

TEST(the_ring_is_twice_the_reads_in_flight_and_no_more)
{
    fixture f;
    fixture_make(&f, 10, 600);
    for (int i = 0; i < 10; i++) { /* large, as a plan sees it: nobody reads it here */
        air_weight *w = &f.weights[f.ops[i].weight];
        w->rows = 20000;
        w->bytes = (uint64_t)w->rows * w->row_bytes;
    }
    for (int depth = 1; depth <= 8; depth *= 2) {
        air_plan_request r = fixture_request(&f, 1u << 30);
        r.bandwidths.block_bytes = 2 << 20;
        r.bandwidths.depth = depth;
        air_plan *p;
        REQUIRE(air_plan_make(&p, &r, &err) == AIR_OK);
        CHECK_EQ(p->ring_bytes, depth < 2 ? 8u << 20 : (uint64_t)depth * 4 << 20);
        CHECK(p->tile_bytes * AIR_RING_TILES <= p->ring_bytes && p->tile_bytes > p->ring_bytes / 5);
        CHECK_EQ(p->block_bytes, 2 << 20); /* the reads that were probed */
        air_plan_free(p);
    }
    fixture_free(&f);
}

TEST(every_prefix_of_the_pin_order_is_spread_evenly)
{
    fixture f;
    fixture_make(&f, 20, 600);
    air_plan_request r = fixture_request(&f, 1u << 30);
    r.tile_bytes = 5000;
    air_plan *p;
    REQUIRE(air_plan_make(&p, &r, &err) == AIR_OK);
    char *seen = calloc((size_t)p->n_tiles, 1);
    for (int32_t n = 0; n < p->n_tiles; n++) {
        REQUIRE(p->priority[n] >= 0 && p->priority[n] < p->n_tiles);
        CHECK(!seen[p->priority[n]]);
        seen[p->priority[n]] = 1;
        if ((n & (n + 1)) != 0) continue; /* after 2^k tiles: gaps are at most two strides */
        int32_t gap = 0, most = 0;
        for (int32_t i = 0; i < p->n_tiles; i++) {
            gap = seen[i] ? 0 : gap + 1;
            if (gap > most) most = gap;
        }
        CHECK(most <= 2 * (p->n_tiles / (n + 1)) + 1);
    }
    free(seen);
    air_plan_free(p);
    fixture_free(&f);
}

TEST(whatever_the_budget_the_parts_of_a_plan_fit_it)
{
    fixture f;
    fixture_make(&f, 20, 600);
    int made = 0;
    uint64_t last = 0;
    for (uint64_t budget = 100000; budget < 3 * f.matrix_bytes; budget += budget / 20) {
        air_plan_request r = fixture_request(&f, budget);
        r.fixed = 50000;
        air_plan *p;
        air_status st = air_plan_make(&p, &r, &err);
        CHECK(st == AIR_OK || st == AIR_E_BUDGET);
        if (st) {
            CHECK(p == NULL && !made);
            continue;
        }
        made++;
        CHECK(p->n_ctx % 64 == 0 && p->n_ctx >= 64 && p->n_ctx <= 256);
        CHECK_EQ(p->state_bytes_full, (uint64_t)p->n_ctx / 64 * r.state_per_block);
        uint64_t common = p->fixed + p->gather_bytes + p->logit_bytes, all = 0;
        for (int32_t i = 0; i < p->n_tiles; i++) all += memory_of(p, i);
        uint64_t ring = p->pin_bytes == all ? 0 : p->ring_bytes, ring_full = p->pin_bytes_full == all ? 0 : p->ring_bytes;
        CHECK(common + ring + r.state_per_block + p->activation_bytes + p->pin_bytes <= budget);
        CHECK(common + ring_full + p->state_bytes_full + p->activation_bytes + p->pin_bytes_full <= budget);
        CHECK(common + p->ring_bytes + p->state_bytes_full + p->activation_bytes_full <= budget);
        CHECK(p->pin_bytes_full <= p->pin_bytes && p->pin_bytes <= all);
        CHECK(p->max_rows >= 1 && p->max_rows <= p->n_ctx);
        CHECK(p->pin_bytes + p->ring_bytes >= last / 2);
        last = p->pin_bytes;
        air_plan_free(p);
    }
    CHECK(made > 20);
    CHECK(last >= f.matrix_bytes);
    fixture_free(&f);
}

/* Follows what a refusal says, as one who types the figures in again, when as much more is held as varies between starts. */
static void follow_advice(const air_plan_request *refused, uint64_t varies)
{
    air_plan *p;
    char text[AIR_ERROR_TEXT];
    (void)snprintf(text, sizeof text, "%s", err.text);
    const char *raise = strstr(text, "raise max_ram to "), *lower = strstr(text, "lower n_ctx to ");
    CHECK(strstr(text, "too small by 0.0") == NULL);
    CHECK(raise != NULL && strstr(text, " MiB or more") != NULL);
    if (raise) {
        air_plan_request r = *refused;
        r.fixed += varies;
        r.budget = (uint64_t)(strtod(raise + 17, NULL) * (1 << 20));
        CHECK_EQ(air_plan_make(&p, &r, &err), AIR_OK);
        air_plan_free(p);
    }
    const char *more = strstr(text, "too small by ");
    if (raise && more) { /* what lacks is what is to be added, but for the rounding of three figures */
        double sum = (double)refused->budget / (1 << 20) + strtod(more + 13, NULL);
        CHECK(sum - strtod(raise + 17, NULL) > -0.001 && sum - strtod(raise + 17, NULL) < 0.101);
    }
    if (lower) {
        air_plan_request r = *refused;
        r.fixed += varies;
        r.n_ctx = strtol(lower + 15, NULL, 10);
        CHECK_EQ(air_plan_make(&p, &r, &err), AIR_OK);
        air_plan_free(p);
    }
}

TEST(advice_names_a_budget_and_a_context_that_then_work)
{
    fixture f;
    fixture_make(&f, 20, 600);
    int refused = 0, lower = 0;
    for (int64_t n_ctx = 0; n_ctx <= 256; n_ctx += 64) {
        for (int64_t rows = 0; rows <= 64; rows += 32) {
            for (uint64_t budget = 100000; budget < 2 * f.matrix_bytes; budget += budget / 30) {
                air_plan_request r = fixture_request(&f, budget);
                r.fixed = 300000;
                r.state_per_block = 300000;
                r.n_ctx = n_ctx;
                r.max_rows = rows;
                air_plan *p;
                if (air_plan_make(&p, &r, &err) == AIR_OK) {
                    air_plan_free(p);
                    continue;
                }
                refused++;
                lower += strstr(err.text, "lower n_ctx to ") != NULL;
                for (uint64_t varies = 0; varies <= 256 << 10; varies += 64 << 10) {
                    CHECK_EQ(air_plan_make(&p, &r, &err), AIR_E_BUDGET);
                    follow_advice(&r, varies);
                }
            }
        }
    }
    CHECK(refused > 50 && lower > 5);
    fixture_free(&f);
}

TEST(advice_goes_no_further_than_there_is_memory)
{
    fixture f;
    fixture_make(&f, 10, 300);
    air_plan_request r = fixture_request(&f, 4u << 20);
    r.state_per_block = 1 << 20;
    r.n_ctx_trained = r.n_ctx = 512;
    air_plan *p;
    CHECK_EQ(air_plan_make(&p, &r, &err), AIR_E_BUDGET);
    const char *raise = strstr(err.text, "lower n_ctx to ") ? strstr(err.text, "raise max_ram to ") : NULL;
    REQUIRE(raise != NULL);
    uint64_t enough = (uint64_t)(strtod(raise + 17, NULL) * (1 << 20));
    r.reach = enough + 1;
    CHECK_EQ(air_plan_make(&p, &r, &err), AIR_E_BUDGET);
    CHECK(strstr(err.text, "raise max_ram to ") != NULL);
    r.reach = enough - (1 << 18);
    CHECK_EQ(air_plan_make(&p, &r, &err), AIR_E_BUDGET);
    CHECK(strstr(err.text, "; lower n_ctx to ") != NULL && strstr(err.text, "raise max_ram") == NULL);
    r.budget = 100000;
    r.reach = 200000;
    CHECK_EQ(air_plan_make(&p, &r, &err), AIR_E_BUDGET);
    CHECK(strstr(err.text, " MiB would do, but only 0.2 MiB can be had here") != NULL);
    fixture_free(&f);
}

TEST(a_context_that_does_not_fit_is_refused_with_the_one_that_would)
{
    fixture f;
    fixture_make(&f, 10, 300);
    air_plan_request r = fixture_request(&f, 8u << 20);
    r.state_per_block = 1 << 20;
    r.n_ctx_trained = 4096;
    r.n_ctx = 4096;
    air_plan *p;
    CHECK_EQ(air_plan_make(&p, &r, &err), AIR_E_BUDGET);
    CHECK(strstr(err.text, "max_ram 8.0 MiB is too small by") && strstr(err.text, "KV cache 64.0 MiB (n_ctx 4096)"));
    const char *advice = strstr(err.text, "lower n_ctx to ");
    REQUIRE(advice != NULL);
    r.n_ctx = strtol(advice + 15, NULL, 10);
    CHECK_EQ(air_plan_make(&p, &r, &err), AIR_OK);
    air_plan_free(p);
    r.n_ctx += 64;
    CHECK_EQ(air_plan_make(&p, &r, &err), AIR_E_BUDGET);
    int64_t fits = r.n_ctx - 64;
    r.n_ctx = 0; /* by itself it takes what fits beside the rows of prompts */
    REQUIRE(air_plan_make(&p, &r, &err) == AIR_OK);
    CHECK(p->n_ctx <= fits && p->n_ctx > fits / 2);
    air_plan_free(p);
    r.budget = 1 << 20;
    CHECK_EQ(air_plan_make(&p, &r, &err), AIR_E_BUDGET);
    CHECK(strstr(err.text, "raise max_ram to ") != NULL);
    r.budget = 8 << 20;
    r.n_ctx = 4097;
    CHECK_EQ(air_plan_make(&p, &r, &err), AIR_E_ARGUMENT);
    r.n_ctx = 0;
    r.tile_bytes = 100000;
    r.ring_bytes = 200000;
    CHECK_EQ(air_plan_make(&p, &r, &err), AIR_E_ARGUMENT);
    fixture_free(&f);
}

TEST(a_context_we_choose_leaves_room_for_the_rows_of_prompts)
{
    fixture f;
    fixture_make(&f, 10, 300);
    air_plan_request r = fixture_request(&f, 8u << 20);
    r.n_ctx_trained = 4096;
    r.state_per_block = 1 << 20;
    for (r.budget = 8u << 20; r.budget <= 128u << 20; r.budget *= 2) {
        air_plan *p;
        f.program.row_floats = 16; /* 64 bytes a row: 512 of them are little */
        r.n_ctx = 0;
        REQUIRE(air_plan_make(&p, &r, &err) == AIR_OK);
        CHECK(p->max_rows == p->n_ctx || p->max_rows >= 512);
        air_plan_free(p);
        f.program.row_floats = 4096; /* a quarter of what is left, where they are much */
        REQUIRE(air_plan_make(&p, &r, &err) == AIR_OK);
        uint64_t rest = r.budget - p->gather_bytes - p->ring_bytes - p->logit_bytes - p->state_bytes_full;
        CHECK(p->max_rows == p->n_ctx || p->activation_bytes_full >= (rest < 32u << 20 ? r.budget / 4 : 32u << 20) / 4 * 7 / 10);
        r.n_ctx = p->n_ctx + (p->n_ctx < 4096 ? 64 : 0); /* named, it may take that room */
        air_plan_free(p);
        REQUIRE(air_plan_make(&p, &r, &err) == AIR_OK);
        CHECK_EQ(p->n_ctx, r.n_ctx);
        air_plan_free(p);
    }
    fixture_free(&f);
}

TEST(a_file_is_mapped_by_itself_only_where_all_fits)
{
    fixture f;
    fixture_make(&f, 10, 300);
    air_plan_request r = fixture_request(&f, 0);
    r.io = AIR_IO_AUTO;
    int direct = 0, mapped = 0;
    for (r.budget = r.file_bytes / 2; r.budget < 2 * r.file_bytes + (8 << 20); r.budget += r.file_bytes / 8) {
        air_plan *p;
        if (air_plan_make(&p, &r, &err)) continue;
        if (p->io == AIR_IO_MMAP) {
            CHECK(p->fixed + r.file_bytes + p->state_bytes_full + p->activation_bytes_full + p->logit_bytes <= r.budget);
            CHECK(p->ring_bytes == 0 && p->pin_bytes == 0 && p->disk_s == 0);
            mapped++;
        } else {
            CHECK(!mapped);
            direct++;
        }
        air_plan_free(p);
    }
    CHECK(direct > 0 && mapped > 0);
    r.available = r.file_bytes - 1; /* the machine has less than the budget says */
    air_plan *p;
    REQUIRE(air_plan_make(&p, &r, &err) == AIR_OK);
    CHECK_EQ(p->io, AIR_IO_DIRECT);
    air_plan_free(p);
    fixture_free(&f);
}

TEST(the_time_of_a_pass_is_the_slower_of_disk_and_compute)
{
    fixture f;
    fixture_make(&f, 10, 300);
    air_plan_request r = fixture_request(&f, 64u << 20);
    air_plan *p;
    REQUIRE(air_plan_make(&p, &r, &err) == AIR_OK);
    double w = (double)p->weight_bytes, disk = memory_of_all(p) / 1e9, memory = w / 1e10;
    CHECK(memory_of_all(p) >= w && memory_of_all(p) < w + 2.0 * AIR_PLAN_GRANULE * p->n_tiles);
    CHECK(air_plan_predict(&r, p, 0, 1) > 0.999 * disk && air_plan_predict(&r, p, 0, 1) < 1.001 * disk);
    CHECK(air_plan_predict(&r, p, UINT64_MAX, 1) > 0.999 * memory && air_plan_predict(&r, p, UINT64_MAX, 1) < 1.001 * memory);
    CHECK(air_plan_predict(&r, p, f.matrix_bytes / 2, 1) < 0.6 * disk);
    CHECK(p->bound == AIR_BOUND_COMPUTE && p->pass_s == p->compute_s); /* all pinned */
    for (int t = 0; t < AIR_TYPE_COUNT; t++) r.bandwidths.product_columns[t] = 2e10;
    double rows = w * 100 / 2e10;
    CHECK(air_plan_predict(&r, p, UINT64_MAX, 100) > 0.999 * rows && air_plan_predict(&r, p, UINT64_MAX, 100) < 1.001 * rows);
    CHECK(air_plan_predict(&r, p, UINT64_MAX, 1) < 1.001 * memory);
    r.bandwidths.op_s = 1e-3; /* of every op, whatever the rows; the disk does not wait for it */
    double ops = memory + 1e-3 * f.program.n_ops;
    CHECK(air_plan_predict(&r, p, UINT64_MAX, 1) > 0.999 * ops && air_plan_predict(&r, p, UINT64_MAX, 1) < 1.001 * ops);
    f.program.recurrent_bytes = 10u << 20; /* read, and written elsewhere */
    double both = ops + 2 * (double)f.program.recurrent_bytes / r.bandwidths.memory;
    CHECK(air_plan_predict(&r, p, UINT64_MAX, 1) > 0.999 * both && air_plan_predict(&r, p, UINT64_MAX, 1) < 1.001 * both);
    f.program.recurrent_bytes = 0;
    f.ops[0].kind = AIR_OP_EMBED; /* rows of a table, depth of them at a time */
    double before = air_plan_predict(&r, p, UINT64_MAX, 1);
    r.bandwidths.latency_s = 1e-2;
    CHECK(air_plan_predict(&r, p, UINT64_MAX, 1) > before + 0.99e-2 && air_plan_predict(&r, p, UINT64_MAX, 1) < before + 1.01e-2);
    double many = air_plan_predict(&r, p, UINT64_MAX, 10 * p->depth) - air_plan_predict(&r, p, UINT64_MAX, 9 * p->depth);
    CHECK(many > 0.99e-2);
    f.ops[0].kind = AIR_OP_PRODUCT;
    r.bandwidths = (air_bandwidths){0};
    CHECK(air_plan_predict(&r, p, 0, 100) == 0); /* nothing known bounds nothing */
    air_plan_free(p);
    fixture_free(&f);
}

TEST(absurd_numbers_are_refused_or_cut_and_never_wrap)
{
    fixture f;
    fixture_make(&f, 6, 600);
    air_plan *p;
    air_plan_request r = fixture_request(&f, 1u << 30);
    r.bandwidths.block_bytes = UINT64_MAX;
    r.bandwidths.depth = INT32_MAX;
    REQUIRE(air_plan_make(&p, &r, &err) == AIR_OK);
    CHECK(p->block_bytes >= AIR_PLAN_GRANULE && p->block_bytes <= p->ring_bytes);
    CHECK(p->depth <= AIR_DEPTH_MOST);
    air_plan_free(p);
    r = fixture_request(&f, 1u << 30);
    r.ring_bytes = UINT64_MAX;
    CHECK_EQ(air_plan_make(&p, &r, &err), AIR_E_BUDGET);
    r = fixture_request(&f, 1u << 30);
    r.max_rows = INT64_MAX;
    CHECK_EQ(air_plan_make(&p, &r, &err), AIR_E_ARGUMENT);
    r.max_rows = 0;
    r.fixed = UINT64_MAX;
    CHECK_EQ(air_plan_make(&p, &r, &err), AIR_E_BUDGET);
    r.fixed = 0;
    r.state_per_block = UINT64_MAX / 2;
    CHECK_EQ(air_plan_make(&p, &r, &err), AIR_E_BUDGET);
    fixture_free(&f);
}

TEST(reads_smaller_than_the_probed_ones_cost_their_latency)
{
    fixture f;
    fixture_make(&f, 10, 300);
    air_plan_request r = fixture_request(&f, 1u << 20); /* a small budget makes a small ring of small tiles */
    r.tile_bytes = 20000;
    r.bandwidths.depth = 2;
    r.bandwidths.block_bytes = 1 << 20;
    air_plan *p;
    REQUIRE(air_plan_make(&p, &r, &err) == AIR_OK);
    double without = air_plan_predict(&r, p, 0, 1), reads = 0, memory = memory_of_all(p);
    for (int32_t i = 0; i < p->n_tiles; i++) reads += (double)air_ceil_div(memory_of(p, i), p->block_bytes);
    CHECK(without > 0.999 * memory / 1e9 && without < 1.001 * memory / 1e9);
    r.bandwidths.latency_s = 1e-3;
    double more = air_plan_predict(&r, p, 0, 1) - without, each = 1e-3 * (reads - memory / (1 << 20));
    CHECK(more > 0.499 * each && more < 0.501 * each); /* two in flight share it */
    CHECK(air_plan_predict(&r, p, UINT64_MAX, 1) < without);
    CHECK(p->full_s >= p->pass_s);
    r.bandwidths.block_bytes = p->block_bytes; /* the probe's own reads have it in their rate */
    for (int32_t i = 0; i < p->n_tiles; i++) r.bandwidths.block_bytes = air_min_u64(r.bandwidths.block_bytes, memory_of(p, i));
    CHECK(air_plan_predict(&r, p, 0, 1) < without * 1.001);
    air_plan_free(p);
    fixture_free(&f);
}

TEST(every_allocation_of_a_plan_may_fail)
{
    fixture f;
    fixture_make(&f, 10, 300);
    air_plan_request r = fixture_request(&f, 64u << 20);
    int64_t live = air_alloc_live();
    for (uint64_t n = 1; n < 100; n++) {
        air_plan *p;
        air_alloc_fail_at(n);
        air_status st = air_plan_make(&p, &r, &err);
        int failed = air_alloc_failed();
        air_alloc_fail_at(0);
        CHECK_EQ(st, failed ? AIR_E_NOMEM : AIR_OK);
        air_plan_free(p);
        CHECK_EQ(air_alloc_live(), live);
        if (!failed) break;
    }
    fixture_free(&f);
}

TEST(the_accountant_refuses_what_is_over_and_says_who_holds_what)
{
    air_budget b;
    air_budget_init(&b, "max_ram", 100 << 20);
    CHECK_EQ(air_budget_reserve(&b, AIR_HOLD_PINS, 60 << 20, &err), AIR_OK);
    CHECK_EQ(air_budget_reserve(&b, AIR_HOLD_RING, 30 << 20, &err), AIR_OK);
    CHECK_EQ(air_budget_left(&b), 10 << 20);
    CHECK_EQ(air_budget_reserve(&b, AIR_HOLD_STATE, 15 << 20, &err), AIR_E_BUDGET);
    CHECK_STR_EQ(err.text, "KV cache needs 15.0 MiB, 5.0 MiB more than max_ram (100.0 MiB) has left; "
                           "held in MiB: pinned weights 60.0, ring 30.0");
    CHECK_EQ(air_budget_reserve(&b, AIR_HOLD_STATE, UINT64_MAX, &err), AIR_E_BUDGET);
    CHECK_EQ(air_budget_reserve(&b, AIR_HOLD_STATE, (10 << 20) + 1, &err), AIR_E_BUDGET);
    CHECK(strstr(err.text, "KV cache needs 10.1 MiB, 0.1 MiB more than max_ram") != NULL); /* what lacks is never 0.0 */
    CHECK_EQ(air_budget_reserve(&b, AIR_HOLD_STATE, 10 << 20, &err), AIR_OK);
    CHECK_EQ(air_budget_left(&b), 0);
    air_budget_release(&b, AIR_HOLD_PINS, 60 << 20);
    CHECK_EQ(air_budget_left(&b), 60 << 20);
    CHECK_EQ(air_budget_reserve(&b, AIR_HOLD_LOGITS, 1 << 20, &err), AIR_OK);
    CHECK_EQ(b.peak, 100 << 20);
    air_budget_init(&b, "max_vram", 1 << 20); /* of a device: raising max_ram would not help */
    CHECK_EQ(air_budget_reserve(&b, AIR_HOLD_STATE, 2 << 20, &err), AIR_E_BUDGET);
    CHECK_STR_EQ(err.text, "KV cache needs 2.0 MiB, 1.0 MiB more than max_vram (1.0 MiB) has left; held in MiB: nothing");
}

static void reserve_and_release(void *context)
{
    for (int i = 0; i < 20000; i++)
        if (!air_budget_reserve(context, AIR_HOLD_STATE, 3, NULL)) air_budget_release(context, AIR_HOLD_STATE, 3);
}

TEST(threads_share_the_accountant)
{
    air_budget b;
    air_thread *threads[4];
    air_budget_init(&b, "max_ram", 7);
    for (int i = 0; i < 4; i++) REQUIRE(air_thread_start(&threads[i], "budget", reserve_and_release, &b, &err) == AIR_OK);
    for (int i = 0; i < 4; i++) air_thread_join(threads[i]);
    CHECK_EQ(b.total, 0);
    CHECK(b.peak <= 7 && b.peak >= 3);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(tiles_cover_every_product_once_in_order_and_stay_within_their_size);
    RUN(the_ring_is_twice_the_reads_in_flight_and_no_more);
    RUN(every_prefix_of_the_pin_order_is_spread_evenly);
    RUN(whatever_the_budget_the_parts_of_a_plan_fit_it);
    RUN(advice_names_a_budget_and_a_context_that_then_work);
    RUN(advice_goes_no_further_than_there_is_memory);
    RUN(a_context_that_does_not_fit_is_refused_with_the_one_that_would);
    RUN(a_context_we_choose_leaves_room_for_the_rows_of_prompts);
    RUN(a_file_is_mapped_by_itself_only_where_all_fits);
    RUN(the_time_of_a_pass_is_the_slower_of_disk_and_compute);
    RUN(absurd_numbers_are_refused_or_cut_and_never_wrap);
    RUN(reads_smaller_than_the_probed_ones_cost_their_latency);
    RUN(every_allocation_of_a_plan_may_fail);
    RUN(the_accountant_refuses_what_is_over_and_says_who_holds_what);
    RUN(threads_share_the_accountant);
    return check_end();
}
