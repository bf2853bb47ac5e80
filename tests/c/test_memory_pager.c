/* The pager delivers exactly the file's bytes in the program's order, whatever ring, tiles, pins, depth, faults and cancellations. */
#include "memory_fixture.h"

static air_error err;

static air_plan_request random_request(const fixture *f)
{
    air_plan_request r = fixture_request(f, 64u << 20);
    r.tile_bytes = 1 + pick(3) * pick(100000);
    r.bandwidths.depth = (int32_t)(1 + pick(6));
    r.bandwidths.block_bytes = UINT64_C(4096) << pick(8);
    return r;
}

TEST(any_ring_tile_pin_and_depth_delivers_the_files_bytes)
{
    for (int round = 0; round < 60; round++) {
        fixture f;
        fixture_make(&f, 1 + (int)pick(20), 200);
        int64_t live = air_alloc_live();
        bench b = bench_of(&f);
        if (round % 3 == 0) b.memory[pick(2)].jitter_us = 200;
        air_plan_request r = random_request(&f);
        REQUIRE(bench_open(&b, &f, &r, &err) == AIR_OK);
        for (int pass = 0; pass < 5; pass++) {
            if (pick(3)) CHECK_EQ(air_pager_set_pins(b.pager, pick(f.matrix_bytes + f.matrix_bytes / 4), &err), AIR_OK);
            CHECK_EQ(walk_pass(&f, b.pager, 1 + (int)pick(3), -1, &err), AIR_OK);
            air_pager_stats s = air_pager_stats_get(b.pager);
            CHECK(s.pinned_bytes <= s.pin_target);
            CHECK(s.pinned_bytes <= b.budget.held[AIR_HOLD_PINS] && b.budget.held[AIR_HOLD_PINS] <= s.pin_target);
        }
        CHECK_EQ(air_pager_check(b.pager, &err), AIR_OK);
        bench_close(&b);
        CHECK_EQ(b.budget.total, 0);
        CHECK_EQ(air_alloc_live(), live);
        fixture_free(&f);
    }
}

TEST(what_is_pinned_is_read_once_and_the_rest_once_a_pass)
{
    fixture f;
    fixture_make(&f, 20, 400);
    bench b = bench_of(&f);
    air_plan_request r = fixture_request(&f, 64u << 20);
    r.tile_bytes = 20000;
    REQUIRE(bench_open(&b, &f, &r, &err) == AIR_OK);
    REQUIRE(air_pager_set_pins(b.pager, f.matrix_bytes / 2, &err) == AIR_OK);
    REQUIRE(walk_pass(&f, b.pager, 1, -1, &err) == AIR_OK);
    uint64_t pinned = air_pager_stats_get(b.pager).pinned_bytes, all = 0, weights = 0;
    for (uint64_t i = 0, sum = 0; sum < pinned; i++) {
        sum += air_tile_memory(&b.plan->tiles[b.plan->priority[i]], 4096);
        weights += b.plan->tiles[b.plan->priority[i]].bytes;
    }
    CHECK(pinned > f.matrix_bytes / 2 - 30000 && pinned <= f.matrix_bytes / 2);
    for (int i = 0; i < b.plan->n_tiles; i++) all += air_tile_memory(&b.plan->tiles[i], 4096);
    air_pager_stats before = air_pager_stats_get(b.pager);
    for (int pass = 0; pass < 10; pass++) REQUIRE(walk_pass(&f, b.pager, 1, -1, &err) == AIR_OK);
    air_pager_stats after = air_pager_stats_get(b.pager);
    uint64_t read = after.disk_bytes - before.disk_bytes, want = 10 * (all - pinned), slack = 2 * b.plan->ring_bytes;
    CHECK(read + slack >= want && read <= want + slack);
    CHECK_EQ(after.ram_bytes - before.ram_bytes, 10 * weights);
    bench_close(&b);
    fixture_free(&f);
}

/* The last fifth of the products: nothing of it is read for a pass without, also after one that failed before it had begun. */
TEST(the_output_is_read_for_passes_with_logits_alone)
{
    for (int pins = 0; pins <= 1; pins++) {
        fixture f;
        fixture_make(&f, 20, 400);
        uint64_t output = 0;
        for (int i = 16; i < 20; i++) {
            f.ops[i].out = 1;
            output += f.weights[f.ops[i].weight].bytes;
        }
        f.program.logits = 1;
        bench b = bench_of(&f);
        air_plan_request r = fixture_request(&f, 64u << 20);
        r.tile_bytes = 20000;
        r.ring_bytes = 128 << 10;
        REQUIRE(bench_open(&b, &f, &r, &err) == AIR_OK);
        REQUIRE(air_pager_set_pins(b.pager, pins ? f.matrix_bytes / 3 : 0, &err) == AIR_OK);
        uint64_t with[2] = {0, 0}; /* bytes of 10 passes: without logits, with some */
        for (int pass = 0; pass < 24; pass++) {
            int logits = pass >= 12;
            air_pager_begin(b.pager, logits ? AIR_PAGER_LOGITS : AIR_PAGER_NO_LOGITS);
            uint64_t before = air_pager_stats_get(b.pager).disk_bytes + air_pager_stats_get(b.pager).ram_bytes;
            REQUIRE(walk_pass(&f, b.pager, 1, -1, &err) == AIR_OK);
            uint64_t after = air_pager_stats_get(b.pager).disk_bytes + air_pager_stats_get(b.pager).ram_bytes;
            if (pass % 12 > 1) with[logits] += after - before;
        }
        uint64_t slack = 2 * b.plan->ring_bytes + 10 * 2 * 4096 * (uint64_t)b.plan->n_tiles;
        CHECK(with[1] - with[0] + slack >= 10 * output && with[1] - with[0] <= 10 * output + slack);

        air_pager_begin(b.pager, AIR_PAGER_NO_LOGITS);
        (void)air_pager_read_ahead(b.pager); /* the window may reach the output */
        CHECK_EQ(walk_pass(&f, b.pager, 1, 0, &err), AIR_E_NUMERIC);
        air_pager_rewind(b.pager);
        air_pager_begin(b.pager, AIR_PAGER_LOGITS);
        REQUIRE(walk_pass(&f, b.pager, 1, -1, &err) == AIR_OK); /* with its bytes */
        bench_close(&b);
        CHECK_EQ(b.budget.total, 0);
        fixture_free(&f);
    }
}

TEST(a_pager_that_pins_everything_reads_nothing_twice_and_keeps_no_ring)
{
    fixture f;
    fixture_make(&f, 12, 300);
    bench b = bench_of(&f);
    air_plan_request r = fixture_request(&f, 64u << 20);
    REQUIRE(bench_open(&b, &f, &r, &err) == AIR_OK);
    CHECK(b.budget.held[AIR_HOLD_RING] >= b.plan->ring_bytes);
    REQUIRE(air_pager_set_pins(b.pager, b.plan->pin_bytes, &err) == AIR_OK);
    uint64_t small_reads = b.budget.held[AIR_HOLD_RING];
    CHECK(small_reads < b.plan->ring_bytes);
    REQUIRE(walk_pass(&f, b.pager, 1, -1, &err) == AIR_OK);
    uint64_t once = air_pager_stats_get(b.pager).disk_bytes;
    for (int pass = 0; pass < 3; pass++) REQUIRE(walk_pass(&f, b.pager, 2, -1, &err) == AIR_OK);
    CHECK_EQ(air_pager_stats_get(b.pager).disk_bytes, once);

    /* What no longer fits streams again, through a ring that takes its place. */
    REQUIRE(air_pager_set_pins(b.pager, b.plan->pin_bytes / 2, &err) == AIR_OK);
    CHECK_EQ(b.budget.held[AIR_HOLD_RING], small_reads + b.plan->ring_bytes);
    REQUIRE(walk_pass(&f, b.pager, 1, -1, &err) == AIR_OK);
    CHECK(air_pager_stats_get(b.pager).disk_bytes > once);
    bench_close(&b);
    CHECK_EQ(b.budget.total, 0);
    fixture_free(&f);
}

TEST(what_is_read_ahead_is_not_read_again)
{
    fixture f;
    fixture_make(&f, 12, 300);
    for (int share = 0; share <= 2; share++) { /* of the pins: none, half, all, and then no ring */
        bench b = bench_of(&f);
        air_plan_request r = fixture_request(&f, 64u << 20);
        REQUIRE(bench_open(&b, &f, &r, &err) == AIR_OK);
        uint64_t opened = air_pager_stats_get(b.pager).disk_bytes;
        REQUIRE(air_pager_set_pins(b.pager, b.plan->pin_bytes * (uint64_t)share / 2, &err) == AIR_OK);
        CHECK_EQ(air_pager_read_ahead(b.pager), 0);
        uint64_t ahead = 0, wanted = share == 2 ? f.matrix_bytes : b.plan->ring_bytes / 2;
        for (int ms = 0; ms < 5000 && ahead < wanted; ms++) {
            air_sleep_ns(1000 * 1000);
            ahead = air_pager_stats_get(b.pager).disk_bytes - opened;
        }
        CHECK(ahead >= wanted);
        REQUIRE(walk_pass(&f, b.pager, 1, -1, &err) == AIR_OK);
        uint64_t read = air_pager_stats_get(b.pager).disk_bytes - opened, all = 0;
        for (int32_t i = 0; i < b.plan->n_tiles; i++) all += air_tile_memory(&b.plan->tiles[i], 4096);
        CHECK(share == 2 ? read == all : read >= all && read <= all + 2 * b.plan->ring_bytes);
        bench_close(&b);
    }
    fixture_free(&f);
}

TEST(pins_stop_growing_where_the_budget_ends_and_the_pass_goes_on)
{
    fixture f;
    fixture_make(&f, 16, 300);
    bench b = bench_of(&f);
    air_plan_request r = fixture_request(&f, 64u << 20);
    r.tile_bytes = 20000;
    REQUIRE(bench_open(&b, &f, &r, &err) == AIR_OK);
    b.budget.limit = b.budget.total + f.matrix_bytes / 3;
    REQUIRE(air_pager_set_pins(b.pager, UINT64_MAX, &err) == AIR_OK);
    for (int pass = 0; pass < 3; pass++) CHECK_EQ(walk_pass(&f, b.pager, 1, -1, &err), AIR_OK);
    uint64_t pinned = air_pager_stats_get(b.pager).pinned_bytes;
    CHECK(pinned <= f.matrix_bytes / 3 && pinned > f.matrix_bytes / 3 - 40000);
    CHECK(b.budget.peak <= b.budget.limit);

    /* Memory that others need comes from the pins at once. */
    CHECK(air_budget_reserve(&b.budget, AIR_HOLD_STATE, 100000, &err) == AIR_E_BUDGET);
    REQUIRE(air_pager_set_pins(b.pager, pinned - 100000, &err) == AIR_OK);
    CHECK_EQ(air_budget_reserve(&b.budget, AIR_HOLD_STATE, 100000, &err), AIR_OK);
    CHECK_EQ(walk_pass(&f, b.pager, 1, -1, &err), AIR_OK);
    air_budget_release(&b.budget, AIR_HOLD_STATE, 100000);
    bench_close(&b);
    CHECK_EQ(b.budget.total, 0);
    fixture_free(&f);
}

TEST(a_pass_that_fails_anywhere_leaves_a_pager_that_works)
{
    fixture f;
    fixture_make(&f, 15, 300);
    for (int64_t n = 1; n < 200; n += 1 + n / 8) {
        bench b = bench_of(&f);
        atomic_llong fail_in = -1;
        b.memory[0].fail_in = b.memory[1].fail_in = &fail_in;
        air_plan_request r = random_request(&f);
        r.tile_bytes = 10000;
        REQUIRE(bench_open(&b, &f, &r, &err) == AIR_OK);
        CHECK_EQ(air_pager_set_pins(b.pager, pick(2) ? f.matrix_bytes / 2 : 0, &err), AIR_OK);
        atomic_store(&fail_in, n);
        air_status st = AIR_OK;
        for (int pass = 0; pass < 20 && !st; pass++) st = walk_pass(&f, b.pager, 1, -1, &err);
        CHECK_EQ(st, AIR_E_IO);
        CHECK(strstr(err.text, "failed") != NULL);
        air_pager_rewind(b.pager);
        for (int pass = 0; pass < 2; pass++) CHECK_EQ(walk_pass(&f, b.pager, 1, -1, &err), AIR_OK);
        bench_close(&b);
        CHECK_EQ(b.budget.total, 0);
    }
    fixture_free(&f);
}

TEST(a_pass_given_up_anywhere_rewinds_and_keeps_what_it_can)
{
    fixture f;
    fixture_make(&f, 15, 300);
    bench b = bench_of(&f);
    b.memory[0].jitter_us = 300;
    air_plan_request r = fixture_request(&f, 64u << 20);
    r.tile_bytes = 15000;
    REQUIRE(bench_open(&b, &f, &r, &err) == AIR_OK);
    CHECK_EQ(air_pager_set_pins(b.pager, f.matrix_bytes / 3, &err), AIR_OK);
    for (int64_t stop = 0; stop < b.plan->n_tiles; stop += 1 + (int64_t)pick(4)) {
        CHECK_EQ(walk_pass(&f, b.pager, 1 + (int)pick(3), stop, &err), AIR_E_NUMERIC);
        air_pager_rewind(b.pager);
        if (pick(4) == 0) CHECK_EQ(air_pager_set_pins(b.pager, pick(f.matrix_bytes), &err), AIR_OK);
        if (pick(2)) CHECK_EQ(walk_pass(&f, b.pager, 1, -1, &err), AIR_OK);
    }
    /* A pass that stops before its last tile finds the next pass's first ones already read. */
    CHECK_EQ(air_pager_set_pins(b.pager, 0, &err), AIR_OK);
    CHECK_EQ(walk_pass(&f, b.pager, 1, -1, &err), AIR_OK);
    CHECK_EQ(walk_pass(&f, b.pager, 1, b.plan->n_tiles - 1, &err), AIR_E_NUMERIC);
    air_sleep_ns(20000000);
    uint64_t before = air_pager_stats_get(b.pager).disk_bytes;
    air_pager_rewind(b.pager);
    air_span span;
    REQUIRE(air_pager_feed(b.pager)->next(b.pager, &span, &err) == AIR_OK);
    CHECK_EQ(span.first_row, 0);
    CHECK(air_pager_stats_get(b.pager).disk_bytes - before < b.plan->ring_bytes);
    bench_close(&b);
    fixture_free(&f);
}

typedef struct canceller {
    atomic_int *flag;
    uint64_t after_ns, at_ns; /* at_ns: when it did */
} canceller;

static void cancel_later(void *context)
{
    canceller *c = context;
    air_sleep_ns(c->after_ns);
    c->at_ns = air_clock_ns();
    atomic_store(c->flag, 1);
}

TEST(cancelling_ends_a_wait_for_a_hanging_disk_within_50_ms)
{
    fixture f;
    fixture_make(&f, 10, 300);
    bench b = bench_of(&f);
    atomic_int hang = 0, cancel = 0;
    b.memory[0].hang = b.memory[1].hang = &hang;
    air_plan_request r = fixture_request(&f, 64u << 20);
    r.tile_bytes = 15000;
    REQUIRE(bench_open(&b, &f, &r, &err) == AIR_OK);
    air_pager_set_cancel(b.pager, &cancel);
    uint64_t least[2] = {UINT64_MAX, UINT64_MAX}; /* of a pass and of a row; a busy machine may run nobody for so long */
    for (int round = 0; round < 12 && (round < 4 || least[0] > 50000000 || least[1] > 50000000); round++) {
        atomic_store(&hang, 1);
        canceller c = {&cancel, 60000000, 0};
        air_thread *thread;
        REQUIRE(air_thread_start(&thread, "cancel", cancel_later, &c, &err) == AIR_OK);
        float row[4096];
        int32_t token = 3;
        if (round % 2) CHECK_EQ(air_pager_feed(b.pager)->gather(b.pager, f.table, &token, 1, row, &err), AIR_E_CANCELLED);
        else CHECK_EQ(walk_pass(&f, b.pager, 1, -1, &err), AIR_E_CANCELLED);
        uint64_t end = air_clock_ns();
        air_thread_join(thread);
        least[round % 2] = air_min_u64(least[round % 2], end - c.at_ns);
        air_pager_rewind(b.pager); /* cancels the reads that hang */
        atomic_store(&hang, 0);
        atomic_store(&cancel, 0);
        CHECK_EQ(walk_pass(&f, b.pager, 1, -1, &err), AIR_OK);
    }
    if (least[0] > 50000000 || least[1] > 50000000) printf("  took %.0f, %.0f ms\n", (double)least[0] / 1e6, (double)least[1] / 1e6);
    CHECK(least[0] <= 50000000 && least[1] <= 50000000);
    atomic_store(&hang, 1); /* closing does not wait for it either */
    air_pager_set_pins(b.pager, 0, &err);
    bench_close(&b);
    CHECK_EQ(b.budget.total, 0);
    fixture_free(&f);
}

TEST(every_allocation_may_fail)
{
    fixture f;
    fixture_make(&f, 8, 200);
    int64_t live = air_alloc_live();
    int failed = 1;
    for (uint64_t n = 1; failed && n < 1000; n++) {
        bench b = bench_of(&f);
        air_plan_request r = fixture_request(&f, 64u << 20);
        r.tile_bytes = 20000;
        air_alloc_fail_at(n);
        air_status st = bench_open(&b, &f, &r, &err);
        if (!st) st = air_pager_set_pins(b.pager, f.matrix_bytes / 2, &err);
        if (!st) st = walk_pass(&f, b.pager, 1, -1, &err);
        failed = air_alloc_failed();
        air_alloc_fail_at(0);
        CHECK(failed || !st);
        CHECK(!st || st == AIR_E_NOMEM || st == AIR_E_THREAD);
        if (b.pager) CHECK_EQ(walk_pass(&f, b.pager, 1, -1, &err), AIR_OK);
        bench_close(&b);
        CHECK_EQ(air_alloc_live(), live);
        CHECK_EQ(b.budget.total, 0);
    }
    CHECK(!failed);
    fixture_free(&f);
}

TEST(the_budget_refuses_before_anything_is_allocated)
{
    fixture f;
    fixture_make(&f, 8, 200);
    int64_t live = air_alloc_live();
    bench b = bench_of(&f);
    air_plan_request r = fixture_request(&f, 64u << 20);
    REQUIRE(air_plan_make(&b.plan, &r, &err) == AIR_OK);
    air_budget_init(&b.budget, "max_ram", b.plan->ring_bytes / 2);
    for (int i = 0; i < FIXTURE_PARTS; i++) b.sources[i] = &b.memory[i].base;
    air_pager_config config = {.program = &f.program, .plan = b.plan, .sources = b.sources, .parts = FIXTURE_PARTS, .budget = &b.budget};
    CHECK_EQ(air_pager_open(&b.pager, &config, &err), AIR_E_BUDGET);
    CHECK(b.pager == NULL);
    bench_close(&b);
    CHECK_EQ(b.budget.total, 0);
    CHECK_EQ(air_alloc_live(), live);
    fixture_free(&f);
}

TEST(vectors_and_gathered_rows_are_the_decoded_bytes)
{
    fixture f;
    fixture_make(&f, 20, 100);
    atomic_int active = 0, most = 0;
    bench b = bench_of(&f);
    b.memory[0].jitter_us = b.memory[1].jitter_us = 500;
    b.memory[0].active = b.memory[1].active = &active;
    b.memory[0].most_active = b.memory[1].most_active = &most;
    /* So that about 20 of the table's 50 rows are kept. */
    air_plan_request r = fixture_request(&f, 1024 * 20 * (f.weights[f.table].row_bytes + 7));
    REQUIRE(bench_open(&b, &f, &r, &err) == AIR_OK);
    const air_feed *feed = air_pager_feed(b.pager);
    float want[4096], got[64 * 768];
    int vectors = 0;
    for (int i = 0; i < f.program.n_weights; i++) {
        const air_weight *w = &f.weights[i];
        CHECK((feed->vectors[i] != NULL) == (w->use == AIR_WEIGHT_VECTOR));
        if (w->use != AIR_WEIGHT_VECTOR) continue;
        const air_format *format = air_format_by_id(w->type);
        format->decode(f.data[w->part] + w->offset, want, w->cols / format->block);
        CHECK(memcmp(want, feed->vectors[i], (size_t)w->cols * sizeof *want) == 0);
        vectors++;
    }
    CHECK(vectors > 0);

    const air_weight *t = &f.weights[f.table];
    const air_format *format = air_format_by_id(t->type);
    int32_t rows[64];
    atomic_store(&most, 0);
    for (int round = 0; round < 12; round++) { /* in the first as many rows as are kept, then others in their places */
        for (int i = 0; i < 64 && round != 1; i++) rows[i] = (int32_t)pick((uint64_t)(round ? t->rows : b.plan->kept_rows));
        uint64_t before = air_pager_stats_get(b.pager).disk_bytes;
        REQUIRE(feed->gather(feed->self, f.table, rows, 64, got, &err) == AIR_OK);
        CHECK(round != 1 || air_pager_stats_get(b.pager).disk_bytes == before); /* the same again */
        for (int i = 0; i < 64; i++) {
            format->decode(f.data[t->part] + t->offset + (uint64_t)rows[i] * t->row_bytes, want, t->cols / format->block);
            CHECK(memcmp(want, got + i * t->cols, (size_t)t->cols * sizeof *want) == 0);
        }
    }
    CHECK(atomic_load(&most) > 1 && b.plan->kept_rows > 0 && b.plan->kept_rows < t->rows);
    rows[5] = (int32_t)t->rows;
    CHECK_EQ(feed->gather(feed->self, f.table, rows, 64, got, &err), AIR_E_ARGUMENT);
    CHECK_EQ(feed->gather(feed->self, f.ops[0].weight, rows, 1, got, &err), AIR_E_ARGUMENT);
    bench_close(&b);
    fixture_free(&f);
}

TEST(holding_more_spans_than_the_ring_has_room_for_is_an_error_not_a_hang)
{
    fixture f;
    fixture_make(&f, 1, 2);
    f.weights[f.ops[0].weight].rows = 0;
    fixture_free(&f);
    fixture_make(&f, 20, 400);
    bench b = bench_of(&f);
    air_plan_request r = fixture_request(&f, 64u << 20);
    r.tile_bytes = 30000;
    r.ring_bytes = 300 << 10;
    REQUIRE(bench_open(&b, &f, &r, &err) == AIR_OK);
    air_span span;
    air_status st = AIR_OK;
    for (int i = 0; i < b.plan->n_tiles && !st; i++) st = air_pager_feed(b.pager)->next(b.pager, &span, &err);
    CHECK_EQ(st, AIR_E_ARGUMENT);
    CHECK(span.data == NULL);
    air_pager_rewind(b.pager);
    CHECK_EQ(walk_pass(&f, b.pager, 1, -1, &err), AIR_OK);
    bench_close(&b);
    fixture_free(&f);
}

/* One pass in which a backend keeps some ranges more, up to tile `end`. Returns 0 where a span was not what it should be. */
static int keep_some(const fixture *f, const bench *b, char *kept, int32_t end, uint64_t one_in)
{
    const air_feed *feed = air_pager_feed(b->pager);
    for (int32_t i = 0; i < end; i++) {
        air_span span;
        if (feed->next(feed->self, &span, &err)) return 0;
        const air_tile *tile = &b->plan->tiles[i];
        int right = span.tile == i && span.weight == tile->weight && span.first_row == tile->first_row && span.rows == tile->rows;
        right = right && (kept[i] ? !span.data : span.data && !memcmp(span.data, f->data[tile->part] + tile->offset, tile->bytes));
        if (kept[i] || pick(one_in) == 0) {
            kept[i] = 1;
            feed->keep(feed->self, &span);
        } else {
            feed->release(feed->self, &span);
        }
        if (!right) return 0;
    }
    return 1;
}

TEST(what_the_backend_keeps_is_read_no_more)
{
    enum { TILES = 1000 };
    for (int round = 0; round < 20; round++) {
        char kept[TILES] = {0};
        fixture f;
        fixture_make(&f, 12, 300);
        bench b = bench_of(&f);
        air_plan_request r = fixture_request(&f, 64u << 20);
        r.tile_bytes = 20000;
        REQUIRE(bench_open(&b, &f, &r, &err) == AIR_OK && b.plan->n_tiles <= TILES);
        for (int pass = 0; pass < 6; pass++) {
            int32_t end = pick(3) ? b.plan->n_tiles : 1 + (int32_t)pick((uint64_t)b.plan->n_tiles);
            CHECK(keep_some(&f, &b, kept, end, 3));
            if (end < b.plan->n_tiles) air_pager_rewind(b.pager); /* the pass was given up */
        }
        CHECK(keep_some(&f, &b, kept, b.plan->n_tiles, 1));
        CHECK(keep_some(&f, &b, kept, b.plan->n_tiles, 1));
        uint64_t before = air_pager_stats_get(b.pager).disk_bytes;
        CHECK(keep_some(&f, &b, kept, b.plan->n_tiles, 1));
        CHECK_EQ(air_pager_stats_get(b.pager).disk_bytes, before);
        bench_close(&b);
        fixture_free(&f);
    }
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(any_ring_tile_pin_and_depth_delivers_the_files_bytes);
    RUN(what_is_pinned_is_read_once_and_the_rest_once_a_pass);
    RUN(the_output_is_read_for_passes_with_logits_alone);
    RUN(a_pager_that_pins_everything_reads_nothing_twice_and_keeps_no_ring);
    RUN(what_is_read_ahead_is_not_read_again);
    RUN(pins_stop_growing_where_the_budget_ends_and_the_pass_goes_on);
    RUN(a_pass_that_fails_anywhere_leaves_a_pager_that_works);
    RUN(a_pass_given_up_anywhere_rewinds_and_keeps_what_it_can);
    RUN(cancelling_ends_a_wait_for_a_hanging_disk_within_50_ms);
    RUN(every_allocation_may_fail);
    RUN(the_budget_refuses_before_anything_is_allocated);
    RUN(vectors_and_gathered_rows_are_the_decoded_bytes);
    RUN(holding_more_spans_than_the_ring_has_room_for_is_an_error_not_a_hang);
    RUN(what_the_backend_keeps_is_read_no_more);
    return check_end();
}
