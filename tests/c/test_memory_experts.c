/* Experts of mixtures: the feed hands out the file's bytes whatever the memory, the order in which reads end, faults and cancellations. */
#include <math.h>

#include "memory/guesses.h"
#include "memory/mixtures.h"
#include "memory_fixture.h"

enum { LAYERS = FIXTURE_LAYERS, EXPERTS = 12, MIB = 1 << 20 };

static air_error err;

/* A fixture with mixtures in layers 1, 2 and 4, those of 4 with larger matrices; one in two without a gate. */
typedef struct mixed {
    fixture f;
    air_mixture mixtures[LAYERS];
    air_weight weights[FIXTURE_WEIGHTS + 9];
} mixed;

static int32_t add_experts(mixed *m, int32_t n, int64_t rows, int64_t cols, uint32_t part)
{
    fixture *f = &m->f;
    uint64_t each = (uint64_t)rows * (uint64_t)cols / 32 * 34;
    m->weights[n] = (air_weight){"experts", AIR_WEIGHT_EXPERTS, AIR_TYPE_Q8_0, part, (f->bytes[part] + 31) / 32 * 32, EXPERTS * each, rows,
                                 cols, (uint64_t)cols / 32 * 34};
    f->bytes[part] = m->weights[n].offset + m->weights[n].bytes;
    return n;
}

static void mixed_make(mixed *m)
{
    fixture_make(&m->f, 10, 100);
    memcpy(m->weights, m->f.weights, sizeof m->f.weights);
    memset(m->mixtures, 0, sizeof m->mixtures);
    int32_t n = m->f.program.n_weights;
    for (int layer = 1; layer < LAYERS; layer++) {
        int64_t rows = layer == 4 ? 160 : 96;
        if (layer == 3) continue;
        air_mixture *x = &m->mixtures[layer];
        *x = (air_mixture){.n_experts = EXPERTS, .n_used = 2, .n_ff = rows, .scale = 1, .bias = AIR_NONE, .gate = AIR_NONE,
                           .router = AIR_NONE};
        if (layer != 2) x->gate = add_experts(m, n++, rows, 64, 0);
        x->up = add_experts(m, n++, rows, 64, 1);
        x->down = add_experts(m, n++, 64, rows, (uint32_t)layer % 2);
    }
    m->f.program.weights = m->weights;
    m->f.program.n_weights = n;
    m->f.program.mixtures = m->mixtures;
    for (int part = 0; part < FIXTURE_PARTS; part++) {
        uint64_t words = m->f.bytes[part] / 8 + 1;
        uint64_t *data = realloc(m->f.data[part], (size_t)words * 8);
        for (uint64_t w = 0; w < words; w++) data[w] = air_random_u64((uint64_t)part, w) & UINT64_C(0x3f3f3f3f3f3f3f3f);
        m->f.data[part] = (uint8_t *)data;
    }
}

static int part_is(const mixed *m, int32_t layer, int32_t expert, int part, const uint8_t *data)
{
    air__extent x = air__expert_extent(&m->f.program, layer, expert, part);
    return x.bytes ? data && memcmp(data, m->f.data[x.part] + x.offset, (size_t)x.bytes) == 0 : !data;
}

/* Experts of a layer, each with a chance of 1 in `one_in`, at least one. */
static int32_t pick_experts(int32_t *experts, int32_t *rows, uint64_t one_in)
{
    int32_t n = 0;
    for (int32_t i = 0; i < EXPERTS; i++)
        if (pick(one_in) == 0) experts[n++] = i;
    if (!n) experts[n++] = (int32_t)pick(EXPERTS);
    for (int32_t i = 0; i < n; i++) rows[i] = 1 + (int32_t)pick(5);
    return n;
}

/* Asks for some of a layer's, takes and checks them all, in rounds of up to `most` that are given back in any order. */
static air_status use_layer(const mixed *m, air_pager *pager, int32_t layer, uint64_t one_in, int32_t most)
{
    const air_feed *feed = air_pager_feed(pager);
    int32_t experts[EXPERTS], rows[EXPERTS], n = pick_experts(experts, rows, one_in), taken = 0, got = 0, seen[EXPERTS] = {0};
    air_expert out[EXPERTS];
    air_status st = feed->experts.ask(feed->self, layer, experts, rows, n, &err);
    while (!st && !(st = feed->experts.take(feed->self, out, most, &got, &err)) && got) {
        for (int32_t i = 0; i < got; i++) {
            CHECK(out[i].layer == layer && !seen[out[i].expert]++);
            CHECK(part_is(m, layer, out[i].expert, 0, out[i].gate) && part_is(m, layer, out[i].expert, 1, out[i].up) &&
                  part_is(m, layer, out[i].expert, 2, out[i].down));
        }
        for (int32_t i = got; i-- > 0;) {
            CHECK(part_is(m, layer, out[i].expert, 2, out[i].down)); /* still: others may have been read meanwhile */
            feed->experts.give(feed->self, &out[i]);
        }
        taken += got;
    }
    if (!st) CHECK_EQ(taken, n);
    for (int32_t i = 0; i < n && !st; i++) CHECK(seen[experts[i]]);
    return st;
}

static air_status use_all(const mixed *m, air_pager *pager, uint64_t one_in, int32_t most)
{
    static const int32_t layers[] = {1, 2, 4};
    for (size_t i = 0; i < AIR_COUNT(layers); i++) {
        air_status st = use_layer(m, pager, layers[i], one_in, most);
        if (st) return st;
    }
    return AIR_OK;
}

TEST(any_memory_delivers_the_experts_bytes)
{
    for (int round = 0; round < 20; round++) {
        mixed m;
        mixed_make(&m);
        int64_t live = air_alloc_live();
        bench b = bench_of(&m.f);
        if (round % 3 == 0) b.memory[pick(2)].jitter_us = 300;
        air_plan_request r = fixture_request(&m.f, 64u << 20);
        r.bandwidths.depth = (int32_t)(1 + pick(6));
        r.bandwidths.block_bytes = UINT64_C(4096) << pick(4);
        REQUIRE(bench_open(&b, &m.f, &r, &err) == AIR_OK);
        uint64_t all = air__experts_memory(&m.f.program, 4096), least = air__experts_least(&m.f.program, 4096);
        for (int pass = 0; pass < 12; pass++) {
            if (pick(3) == 0) CHECK_EQ(air_pager_set_pins(b.pager, pick(2) ? pick(all + 2 * MIB) : pick(2) * UINT64_MAX, &err), AIR_OK);
            CHECK_EQ(use_all(&m, b.pager, 1 + pick(6), 1 + (int32_t)pick(EXPERTS)), AIR_OK);
            CHECK_EQ(walk_pass(&m.f, b.pager, 1, -1, &err), AIR_OK);
            air_pager_stats s = air_pager_stats_get(b.pager);
            CHECK(s.expert_bytes <= air_max_u64(s.expert_target, least));
            CHECK_EQ(s.expert_bytes, b.budget.held[AIR_HOLD_EXPERTS]);
        }
        bench_close(&b);
        CHECK_EQ(b.budget.total, 0);
        CHECK_EQ(air_alloc_live(), live);
        fixture_free(&m.f);
    }
}

TEST(what_is_in_memory_is_not_read_again_and_the_coldest_gives_way)
{
    mixed m;
    mixed_make(&m);
    bench b = bench_of(&m.f);
    air_plan_request r = fixture_request(&m.f, 64u << 20);
    REQUIRE(bench_open(&b, &m.f, &r, &err) == AIR_OK); /* as few slots as can be: four of a class */
    const air_feed *feed = air_pager_feed(b.pager);
    /* Expert 0 gets many rows every other time, the others one now and then, of which three have room beside it. */
    for (int32_t turn = 0; turn < 40; turn++) {
        int32_t other = 1 + turn % (EXPERTS - 2), experts[2] = {turn % 2 ? other : 0, turn % 2 ? other + 1 : other}, got = 0;
        int32_t rows[2] = {turn % 2 ? 1 : 8, 1};
        air_expert out[2];
        uint64_t before = air_pager_stats_get(b.pager).expert_misses;
        REQUIRE(feed->experts.ask(feed->self, 4, experts, rows, 2, &err) == AIR_OK);
        for (int32_t taken = 0; taken < 2; taken += got) {
            REQUIRE(feed->experts.take(feed->self, out, 2, &got, &err) == AIR_OK);
            for (int32_t i = 0; i < got; i++) feed->experts.give(feed->self, &out[i]);
        }
        if (turn && turn % 2 == 0) CHECK(air_pager_stats_get(b.pager).expert_misses - before <= 1); /* never expert 0 */
    }
    air_pager_stats s = air_pager_stats_get(b.pager);
    CHECK_EQ(s.expert_misses + s.expert_hits, 80);
    uint64_t sent[EXPERTS];
    CHECK_EQ(air_pager_expert_rows(b.pager, 4, sent, EXPERTS), EXPERTS);
    CHECK_EQ(sent[0], 160);
    CHECK_EQ(air_pager_expert_rows(b.pager, 3, sent, EXPERTS), 0);
    bench_close(&b);
    fixture_free(&m.f);
}

TEST(a_failed_read_fails_the_pass_and_is_forgotten)
{
    mixed m;
    mixed_make(&m);
    for (int fail = 1; fail < 40; fail += 3) {
        atomic_llong in = fail;
        bench b = bench_of(&m.f);
        air_plan_request r = fixture_request(&m.f, 64u << 20);
        r.bandwidths.depth = 1 + fail % 4;
        REQUIRE(bench_open(&b, &m.f, &r, &err) == AIR_OK);
        for (int i = 0; i < FIXTURE_PARTS; i++) b.memory[i].fail_in = &in;
        air_status st = AIR_OK;
        for (int pass = 0; pass < 30 && !st; pass++) st = use_all(&m, b.pager, 2, 3);
        CHECK_EQ(st, AIR_E_IO);
        CHECK(strstr(err.text, "failed") != NULL);
        air_pager_rewind(b.pager);
        CHECK_EQ(use_all(&m, b.pager, 1, EXPERTS), AIR_OK);
        bench_close(&b);
        CHECK_EQ(b.budget.total, 0);
    }
    fixture_free(&m.f);
}

static uint64_t unit_bytes(const mixed *m, int32_t layer, int32_t expert)
{
    uint64_t bytes = 0;
    for (int part = 0; part < AIR__EXPERT_PARTS; part++) {
        air__extent x = air__expert_extent(&m->f.program, layer, expert, part);
        bytes += air__extent_memory(&x, 4096);
    }
    return bytes;
}

/* Guesses the first, then both, and waits for each until it is there. */
static int guess_two(const mixed *m, const bench *b, int32_t layer, const int32_t guess[2])
{
    const air_feed *feed = air_pager_feed(b->pager);
    uint64_t bytes = air_pager_stats_get(b->pager).disk_bytes;
    for (int i = 0; i < 2; i++) {
        uint64_t guesses = air_pager_stats_get(b->pager).expert_guesses;
        feed->experts.expect(feed->self, layer, guess, i + 1);
        bytes += (air_pager_stats_get(b->pager).expert_guesses - guesses) * unit_bytes(m, layer, guess[i]);
        for (int waits = 0; waits < 60 * 1000 && air_pager_stats_get(b->pager).disk_bytes < bytes; waits++) air_sleep_ns(1000 * 1000);
    }
    return air_pager_stats_get(b->pager).disk_bytes == bytes;
}

/* What a guess has read is there when it is asked for; one that is wrong, or whose reads fail, costs nothing but that. */
TEST(a_guess_brings_experts_before_they_are_asked_for)
{
    mixed m;
    mixed_make(&m);
    atomic_llong in = 1;
    bench b = bench_of(&m.f);
    air_plan_request r = fixture_request(&m.f, 64u << 20);
    r.bandwidths.disk = 1e15; /* never busy: whatever the time that passes take, guesses are read */
    REQUIRE(bench_open(&b, &m.f, &r, &err) == AIR_OK);
    const air_feed *feed = air_pager_feed(b.pager);
    CHECK(feed->experts.guesses(feed->self)); /* four slots, twelve experts */
    for (int i = 0; i < FIXTURE_PARTS; i++) b.memory[i].fail_in = &in;
    for (int32_t turn = 0; turn < 30; turn++) {
        int32_t guess[2] = {turn % EXPERTS, (turn + 5) % EXPERTS}, rows[2] = {1, 1}, got = 0;
        int32_t n = turn ? 1 : 2; /* all of the first, one of which fails: nothing of it is being read afterwards */
        air_expert out[1];
        uint64_t hits = air_pager_stats_get(b.pager).expert_hits;
        if (turn) REQUIRE(guess_two(&m, &b, 2, guess));
        else feed->experts.expect(feed->self, 2, guess, 2);
        REQUIRE(feed->experts.ask(feed->self, 2, guess, rows, n, &err) == AIR_OK);
        for (int32_t taken = 0; taken < n; taken++) {
            REQUIRE(feed->experts.take(feed->self, out, 1, &got, &err) == AIR_OK && got == 1);
            CHECK(part_is(&m, 2, out[0].expert, 1, out[0].up) && part_is(&m, 2, out[0].expert, 2, out[0].down));
            feed->experts.give(feed->self, &out[0]);
        }
        if (turn) CHECK(air_pager_stats_get(b.pager).expert_hits == hits + 1);
        CHECK_EQ(use_layer(&m, b.pager, 1, 3, 2), AIR_OK);
    }
    CHECK(atomic_load(&in) <= 0);
    air_pager_stats s = air_pager_stats_get(b.pager);
    CHECK(s.expert_guesses > 20 && s.expert_guessed >= 10 && s.expert_guessed <= s.expert_guesses);
    REQUIRE(air_pager_set_pins(b.pager, UINT64_MAX, &err) == AIR_OK);
    CHECK(!feed->experts.guesses(feed->self)); /* all will stay */
    bench_close(&b);
    CHECK_EQ(b.budget.total, 0);
    fixture_free(&m.f);
}

static void allow(atomic_llong *allowed, const bench *b, uint64_t bytes)
{
    uint64_t until = air_pager_stats_get(b->pager).disk_bytes + bytes;
    atomic_fetch_add(allowed, (long long)(bytes / 4096));
    for (int waits = 0; waits < 60 * 1000 && air_pager_stats_get(b->pager).disk_bytes < until; waits++) air_sleep_ns(1000 * 1000);
    CHECK_EQ(air_pager_stats_get(b->pager).disk_bytes, until);
}

/* One block at a time is let through: of a guess the first, then all of what is asked for, then the guess's other ones. */
TEST(what_is_asked_for_is_read_before_what_is_guessed)
{
    mixed m;
    mixed_make(&m);
    atomic_llong allowed = 0;
    bench b = bench_of(&m.f);
    air_plan_request r = fixture_request(&m.f, 64u << 20);
    r.bandwidths.depth = 1;
    r.bandwidths.block_bytes = 4096;
    REQUIRE(bench_open(&b, &m.f, &r, &err) == AIR_OK);
    for (int i = 0; i < FIXTURE_PARTS; i++) b.memory[i].allowed = &allowed;
    const air_feed *feed = air_pager_feed(b.pager);
    int32_t guess[3] = {7, 3, 9}, expert = 5, rows = 1, got = 0;
    air_expert out[1];
    feed->experts.expect(feed->self, 2, guess, 3);
    allow(&allowed, &b, 4096);
    REQUIRE(feed->experts.ask(feed->self, 1, &expert, &rows, 1, &err) == AIR_OK);
    allow(&allowed, &b, 4096 + unit_bytes(&m, 1, 5)); /* one of the guess was under way */
    REQUIRE(feed->experts.take(feed->self, out, 1, &got, &err) == AIR_OK && got == 1);
    CHECK(part_is(&m, 1, 5, 0, out[0].gate) && part_is(&m, 1, 5, 2, out[0].down));
    feed->experts.give(feed->self, &out[0]);
    CHECK_EQ(air_pager_stats_get(b.pager).expert_guesses, 1); /* no other one had begun */
    allow(&allowed, &b, unit_bytes(&m, 2, 7) - 2 * 4096 + unit_bytes(&m, 2, 3));
    REQUIRE(feed->experts.ask(feed->self, 2, guess + 1, &rows, 1, &err) == AIR_OK); /* 9 is not asked for, and its read waits */
    REQUIRE(feed->experts.take(feed->self, out, 1, &got, &err) == AIR_OK && got == 1);
    CHECK(part_is(&m, 2, 3, 1, out[0].up) && part_is(&m, 2, 3, 2, out[0].down));
    feed->experts.give(feed->self, &out[0]);
    air_pager_stats s = air_pager_stats_get(b.pager);
    CHECK(s.expert_hits == 1 && s.expert_misses == 1 && s.expert_guessed == 1 && s.expert_guesses >= 2);
    bench_close(&b);
    CHECK_EQ(b.budget.total, 0);
    fixture_free(&m.f);
}

/* Four slots: what a guess finds in memory stays until its layer is asked for, cold as it is. */
TEST(what_a_guess_finds_does_not_give_way_to_the_rest_of_it)
{
    mixed m;
    mixed_make(&m);
    bench b = bench_of(&m.f);
    air_plan_request r = fixture_request(&m.f, 64u << 20);
    REQUIRE(bench_open(&b, &m.f, &r, &err) == AIR_OK);
    const air_feed *feed = air_pager_feed(b.pager);
    for (int32_t expert = 0; expert < 4; expert++) {
        int32_t rows = 1 + expert, got = 0;
        air_expert out[1];
        REQUIRE(feed->experts.ask(feed->self, 2, &expert, &rows, 1, &err) == AIR_OK);
        REQUIRE(feed->experts.take(feed->self, out, 1, &got, &err) == AIR_OK && got == 1);
        feed->experts.give(feed->self, &out[0]);
    }
    uint64_t until = air_pager_stats_get(b.pager).disk_bytes + unit_bytes(&m, 2, 7);
    feed->experts.expect(feed->self, 2, (const int32_t[]){7, 0}, 2);
    for (int waits = 0; waits < 60 * 1000 && air_pager_stats_get(b.pager).disk_bytes < until; waits++) air_sleep_ns(1000 * 1000);
    REQUIRE(feed->experts.ask(feed->self, 2, (const int32_t[]){0, 7}, (const int32_t[]){1, 1}, 2, &err) == AIR_OK);
    CHECK_EQ(air_pager_stats_get(b.pager).expert_hits, 2);
    bench_close(&b);
    fixture_free(&m.f);
}

/* Units are 12 a layer, so that the second layer's expert 3 is unit 15. */
TEST(guesses_are_taken_layer_by_layer_and_the_likeliest_first)
{
    air__guesses *g;
    REQUIRE(air__guesses_open(&g, 3 * EXPERTS, &err) == AIR_OK);
    air__guesses_expect(g, 2 * EXPERTS, EXPERTS, (const int32_t[]){4, 1}, 2);
    air__guesses_expect(g, EXPERTS, EXPERTS, (const int32_t[]){9, 3, 9, 8}, 4); /* two rows' */
    CHECK_EQ(air__guesses_next(g), EXPERTS + 9);
    air__guesses_expect(g, EXPERTS, EXPERTS, (const int32_t[]){8, 3}, 2); /* another guess of it, better */
    CHECK_EQ(air__guesses_next(g), EXPERTS + 8);
    air__guesses_asked(g, EXPERTS, EXPERTS, (const int32_t[]){3, 9}, 2);
    CHECK_EQ(air__guesses_next(g), 2 * EXPERTS + 4);
    air__guesses_drop(g);
    CHECK_EQ(air__guesses_next(g), AIR_NONE);
    air__guesses_close(g);
}

static int32_t taken(air__guesses *g, int32_t *units)
{
    int32_t n = 0;
    while ((units[n] = air__guesses_next(g)) != AIR_NONE) n++;
    return n;
}

/* The first half of every guess is right, the other half is not, until it is: rates follow. */
TEST(places_of_guesses_that_are_mostly_wrong_are_not_read)
{
    int32_t guess[8] = {0, 2, 4, 6, 1, 3, 5, 7}, units[9];
    air__guesses *g;
    REQUIRE(air__guesses_open(&g, EXPERTS, &err) == AIR_OK);
    air__guesses_expect(g, 0, EXPERTS, guess, 8);
    CHECK_EQ(taken(g, units), 8); /* nothing is known yet */
    for (int turn = 0; turn < 40; turn++) {
        air__guesses_expect(g, 0, EXPERTS, guess, 8);
        air__guesses_asked(g, 0, EXPERTS, (const int32_t[]){0, 2, 4, 6}, 4);
    }
    air__guesses_expect(g, 0, EXPERTS, guess, 8);
    CHECK_EQ(taken(g, units), 4);
    CHECK(units[0] == 0 && units[1] == 2 && units[2] == 4 && units[3] == 6);
    air__guesses_expect(g, 0, EXPERTS, guess, 8); /* a guess of another kind has a rate of its own */
    CHECK_EQ(taken(g, units), 8);
    for (int turn = 0; turn < 60; turn++) {
        air__guesses_asked(g, 0, EXPERTS, (const int32_t[]){0, 1, 2, 3, 4, 5, 6, 7}, 8);
        air__guesses_expect(g, 0, EXPERTS, guess, 8);
    }
    CHECK_EQ(taken(g, units), 8);
    air__guesses_close(g);
}

/* Of every guess of eight, seven places are always right and one is right three times of four. */
TEST(guesses_have_to_be_the_surer_the_busier_the_disk_is)
{
    int32_t guess[8] = {0, 1, 2, 3, 4, 5, 6, 7}, units[9];
    const struct { double busy; int32_t read; } cases[] = {{0.5, 8}, {0.85, 8}, {0.92, 7}, {1.02, 0}, {0.3, 8}, {INFINITY, 0}, {0.3, 8},
                                                           {NAN, 0}, {0.3, 8}};
    air__guesses *g;
    REQUIRE(air__guesses_open(&g, EXPERTS, &err) == AIR_OK);
    for (int turn = 0; turn < 400; turn++) {
        air__guesses_expect(g, 0, EXPERTS, guess, 8);
        air__guesses_asked(g, 0, EXPERTS, guess, turn % 4 ? 8 : 7);
    }
    for (size_t i = 0; i < AIR_COUNT(cases); i++) {
        for (int pass = 0; pass < 100; pass++) air__guesses_pass(g, cases[i].busy);
        air__guesses_expect(g, 0, EXPERTS, guess, 8);
        CHECK_EQ(taken(g, units), cases[i].read);
        air__guesses_asked(g, 0, EXPERTS, guess, 8);
    }
    air__guesses_close(g);
}

/* Each allocation of a pager with mixtures fails once, and nothing is left of it. */
TEST(a_pager_of_experts_that_finds_no_memory_is_none)
{
    mixed m;
    mixed_make(&m);
    air_plan_request r = fixture_request(&m.f, 64u << 20);
    int64_t live = air_alloc_live();
    air_status st = AIR_E_NOMEM;
    for (uint64_t n = 1; st && n < 400; n++) {
        bench b = bench_of(&m.f);
        air_alloc_fail_at(n);
        st = bench_open(&b, &m.f, &r, &err);
        air_alloc_fail_at(0);
        CHECK(!st || st == AIR_E_NOMEM || st == AIR_E_THREAD);
        bench_close(&b);
        CHECK_EQ(air_alloc_live(), live);
        CHECK_EQ(b.budget.total, 0);
    }
    CHECK_EQ(st, AIR_OK);
    fixture_free(&m.f);
}

static void cancel_soon(void *context)
{
    air_sleep_ns(30 * 1000 * 1000);
    atomic_store((atomic_int *)context, 1);
}

TEST(a_wait_for_an_expert_can_be_cancelled)
{
    mixed m;
    mixed_make(&m);
    atomic_int hang = 1, cancel = 0;
    bench b = bench_of(&m.f);
    air_plan_request r = fixture_request(&m.f, 64u << 20);
    REQUIRE(bench_open(&b, &m.f, &r, &err) == AIR_OK);
    for (int i = 0; i < FIXTURE_PARTS; i++) b.memory[i].hang = &hang;
    air_pager_set_cancel(b.pager, &cancel);
    air_thread *thread;
    REQUIRE(air_thread_start(&thread, "cancel", cancel_soon, &cancel, &err) == AIR_OK);
    uint64_t begin = air_clock_ns();
    CHECK_EQ(use_layer(&m, b.pager, 1, 1, EXPERTS), AIR_E_CANCELLED);
    CHECK(air_clock_ns() - begin < UINT64_C(250000000));
    air_thread_join(thread);
    atomic_store(&hang, 0);
    atomic_store(&cancel, 0);
    air_pager_rewind(b.pager);
    CHECK_EQ(use_all(&m, b.pager, 1, EXPERTS), AIR_OK);
    bench_close(&b);
    CHECK_EQ(b.budget.total, 0);
    fixture_free(&m.f);
}

TEST(who_holds_all_there_is_is_told_so)
{
    mixed m;
    mixed_make(&m);
    bench b = bench_of(&m.f);
    air_plan_request r = fixture_request(&m.f, 64u << 20);
    REQUIRE(bench_open(&b, &m.f, &r, &err) == AIR_OK);
    const air_feed *feed = air_pager_feed(b.pager);
    int32_t experts[6] = {0, 1, 2, 3, 4, 5}, rows[6] = {1, 1, 1, 1, 1, 1}, got = 0, held = 0;
    air_expert out[6];
    REQUIRE(feed->experts.ask(feed->self, 4, experts, rows, 6, &err) == AIR_OK);
    while (held < AIR__EXPERT_SLOTS) {
        REQUIRE(feed->experts.take(feed->self, out + held, 6 - held, &got, &err) == AIR_OK);
        held += got;
    }
    CHECK_EQ(feed->experts.take(feed->self, out, 1, &got, &err), AIR_E_ARGUMENT);
    CHECK(strstr(err.text, "4 experts are held") != NULL);
    bench_close(&b);
    fixture_free(&m.f);
}

TEST(a_budget_that_is_taken_leaves_no_expert_to_wait_for)
{
    mixed m;
    mixed_make(&m);
    bench b = bench_of(&m.f);
    air_plan_request r = fixture_request(&m.f, 64u << 20);
    REQUIRE(bench_open(&b, &m.f, &r, &err) == AIR_OK);
    REQUIRE(air_budget_reserve(&b.budget, AIR_HOLD_FIXED, air_budget_left(&b.budget), &err) == AIR_OK);
    CHECK_EQ(use_layer(&m, b.pager, 1, 1, EXPERTS), AIR_E_BUDGET);
    air_pager_rewind(b.pager);
    air_budget_release(&b.budget, AIR_HOLD_FIXED, air_budget_left(&b.budget) + b.budget.held[AIR_HOLD_FIXED]);
    bench_close(&b);
    fixture_free(&m.f);
}

TEST(a_plan_shares_memory_out_between_tiles_and_experts)
{
    mixed m;
    mixed_make(&m);
    uint64_t all = air__experts_memory(&m.f.program, AIR_PLAN_GRANULE), least = air__experts_least(&m.f.program, AIR_PLAN_GRANULE);
    double before = -1;
    for (uint64_t budget = MIB / 2; budget < 4 * MIB; budget += 32 * 1024) {
        air_plan *p;
        air_plan_request r = fixture_request(&m.f, budget);
        r.n_ctx = 64;
        if (air_plan_make(&p, &r, &err)) continue;
        CHECK(p->expert_bytes >= least && p->expert_bytes <= all);
        CHECK(p->pin_bytes + p->expert_bytes <= budget);
        CHECK(p->expert_hit >= before && p->expert_hit <= 1 && p->expert_hit > 0);
        CHECK((p->expert_bytes == all) == (p->expert_hit == 1));
        before = p->expert_hit;
        air_plan_free(p);
    }
    CHECK(before == 1);
    fixture_free(&m.f);
}

/* Where only experts are read: no time of theirs goes beside the products of layers before. */
TEST(a_plan_knows_that_experts_come_when_the_router_has_spoken)
{
    mixed m;
    mixed_make(&m);
    uint64_t all = air__experts_memory(&m.f.program, AIR_PLAN_GRANULE), least = air__experts_least(&m.f.program, AIR_PLAN_GRANULE);
    double products = 0;
    int seen = 0;
    for (int32_t i = 0; i < m.f.program.n_ops; i++) {
        if (m.f.program.ops[i].kind != AIR_OP_PRODUCT) continue;
        const air_weight *w = &m.f.program.weights[m.f.program.ops[i].weight];
        products += (double)w->rows * (double)w->row_bytes / 1e9;
    }
    for (uint64_t budget = MIB / 2; budget < 4 * MIB; budget += 32 * 1024) {
        air_plan *p, *known;
        air_plan_request r = fixture_request(&m.f, budget);
        r.n_ctx = 64;
        r.bandwidths.disk = 1e9;
        r.bandwidths.memory = 0; /* not known: products take no time */
        if (air_plan_make(&p, &r, &err)) continue;
        r.bandwidths.memory = 1e9;
        REQUIRE(air_plan_make(&known, &r, &err) == AIR_OK);
        if (p->expert_bytes > least && p->expert_bytes < all) {
            CHECK(p->disk_s > 0 && fabs(known->disk_s - (p->disk_s + products)) < 1e-9);
            seen++;
        }
        if (p->expert_bytes == all) CHECK(known->disk_s == 0 && p->disk_s == 0);
        air_plan_free(p);
        air_plan_free(known);
    }
    CHECK(seen > 0);
    fixture_free(&m.f);
}

/* --- with the memory of a device --- */

/* Experts where the feed says that they are, or are to be. */
typedef struct device { uint8_t *memory; uint64_t bytes; } device;

static device device_of(const mixed *m, uint64_t bytes)
{
    device d = {.bytes = air__experts_fit(&m->f.program, AIR_DEVICE_ALIGN, bytes)};
    d.memory = malloc((size_t)d.bytes);
    memset(d.memory, 0xff, (size_t)d.bytes);
    return d;
}

/* To its place, or garbage, as if the copy had not been done. */
static void device_copy(const mixed *m, device *d, const air_expert *e, int well)
{
    const uint8_t *const parts[AIR__EXPERT_PARTS] = {e->gate, e->up, e->down};
    for (int i = 0; i < AIR__EXPERT_PARTS; i++) {
        air__extent x = air__expert_extent(&m->f.program, e->layer, e->expert, i);
        uint64_t at = e->at + air_device_expert_part(&m->f.program, e->layer, i);
        if (!x.bytes) continue;
        CHECK(at % AIR_DEVICE_ALIGN == 0 && at + x.bytes <= d->bytes);
        if (well) memcpy(d->memory + at, parts[i], (size_t)x.bytes);
        else memset(d->memory + at, 0xee, (size_t)x.bytes);
    }
}

static int device_has(const mixed *m, const device *d, const air_expert *e)
{
    for (int i = 0; i < AIR__EXPERT_PARTS; i++) {
        air__extent x = air__expert_extent(&m->f.program, e->layer, e->expert, i);
        const uint8_t *there = d->memory + e->at + air_device_expert_part(&m->f.program, e->layer, i);
        if (x.bytes && !part_is(m, e->layer, e->expert, i, there)) return 0;
    }
    return 1;
}

/* What a backend does with a layer's: two stay held while the next are taken. Gives up after so many, as one that fails; -1: never. */
static air_status compute_layer(const mixed *m, air_pager *pager, device *d, int32_t layer, const int32_t *experts, const int32_t *rows,
                                int32_t n, int32_t gives_up)
{
    const air_feed *feed = air_pager_feed(pager);
    air_expert out[EXPERTS], held[EXPERTS];
    int32_t got = 0, n_held = 0, taken = 0;
    air_status st = feed->experts.ask(feed->self, layer, experts, rows, n, &err);
    while (!st && !(st = feed->experts.take(feed->self, out, EXPERTS, &got, &err)) && got) {
        for (int32_t i = 0; i < got; i++, taken++) {
            CHECK(out[i].layer == layer && out[i].place != AIR_NONE);
            if (taken == gives_up) {
                for (; i < got; i++)
                    if (out[i].down) device_copy(m, d, &out[i], 0);
                return AIR_E_DEVICE;
            }
            if (out[i].down) device_copy(m, d, &out[i], 1);
            CHECK(device_has(m, d, &out[i]));
            held[n_held++] = out[i];
        }
        for (; n_held > 2; n_held--) {
            CHECK(device_has(m, d, &held[0])); /* nobody else has had its place meanwhile */
            feed->experts.give(feed->self, &held[0]);
            memmove(held, held + 1, (size_t)(n_held - 1) * sizeof *held);
        }
    }
    for (int32_t i = 0; i < n_held && !st; i++) {
        CHECK(device_has(m, d, &held[i]));
        feed->experts.give(feed->self, &held[i]);
    }
    if (!st) CHECK_EQ(taken, n);
    return st;
}

TEST(a_device_finds_experts_where_it_has_put_them)
{
    static const int32_t layers[] = {1, 2, 4};
    for (int round = 0; round < 24; round++) {
        mixed m;
        mixed_make(&m);
        int64_t live = air_alloc_live();
        bench b = bench_of(&m.f);
        uint64_t all = air__experts_memory(&m.f.program, AIR_DEVICE_ALIGN), least = air__experts_least(&m.f.program, AIR_DEVICE_ALIGN);
        b.device_experts = round % 4 ? least + pick(all - least + 4096) : least;
        device d = device_of(&m, b.device_experts);
        CHECK(d.bytes <= b.device_experts && d.bytes >= least);
        air_plan_request r = fixture_request(&m.f, 64u << 20);
        REQUIRE(bench_open(&b, &m.f, &r, &err) == AIR_OK);
        if (pick(2)) CHECK_EQ(air_pager_set_pins(b.pager, pick(3) * MIB, &err), AIR_OK);
        for (int pass = 0; pass < 30; pass++) {
            for (size_t i = 0; i < AIR_COUNT(layers); i++) {
                int32_t experts[EXPERTS], rows[EXPERTS], n = pick_experts(experts, rows, 1 + pick(5));
                int32_t gives_up = pick(12) == 0 ? (int32_t)pick((uint64_t)n) : -1;
                air_status st = compute_layer(&m, b.pager, &d, layers[i], experts, rows, n, gives_up);
                CHECK_EQ(st, gives_up < 0 ? AIR_OK : AIR_E_DEVICE);
                if (!st) continue;
                air_pager_rewind(b.pager);
                break;
            }
        }
        air_pager_stats s = air_pager_stats_get(b.pager);
        CHECK(s.expert_device_hits > 0 && s.expert_device_hits <= s.expert_hits);
        CHECK_EQ(s.expert_bytes, b.budget.held[AIR_HOLD_EXPERTS]);
        bench_close(&b);
        CHECK_EQ(b.budget.total, 0);
        CHECK_EQ(air_alloc_live(), live);
        free(d.memory);
        fixture_free(&m.f);
    }
}

/* Expert 0 gets many rows, the others one now and then: it never has to come again. */
TEST(the_coldest_gives_its_place_in_a_device_away)
{
    mixed m;
    mixed_make(&m);
    bench b = bench_of(&m.f);
    b.device_experts = air__experts_least(&m.f.program, AIR_DEVICE_ALIGN);
    device d = device_of(&m, b.device_experts);
    air_plan_request r = fixture_request(&m.f, 64u << 20);
    REQUIRE(bench_open(&b, &m.f, &r, &err) == AIR_OK);
    for (int32_t turn = 0; turn < 40; turn++) {
        int32_t other = 1 + turn % (EXPERTS - 2), experts[2] = {turn % 2 ? other : 0, turn % 2 ? other + 1 : other};
        int32_t rows[2] = {turn % 2 ? 1 : 8, 1};
        uint64_t before = air_pager_stats_get(b.pager).expert_device_hits;
        CHECK_EQ(compute_layer(&m, b.pager, &d, 4, experts, rows, 2, -1), AIR_OK);
        if (turn && turn % 2 == 0) CHECK(air_pager_stats_get(b.pager).expert_device_hits > before);
    }
    bench_close(&b);
    free(d.memory);
    fixture_free(&m.f);
}

/* Two memories hold more than one: what a device keeps takes no new memory, but gives way to what comes next. */
TEST(what_a_device_keeps_is_not_kept_in_memory_too)
{
    static const int32_t layers[] = {1, 2, 4};
    mixed m;
    mixed_make(&m);
    bench b = bench_of(&m.f);
    b.device_experts = air__experts_memory(&m.f.program, AIR_DEVICE_ALIGN);
    device d = device_of(&m, b.device_experts);
    air_plan_request r = fixture_request(&m.f, 64u << 20);
    REQUIRE(bench_open(&b, &m.f, &r, &err) == AIR_OK);
    REQUIRE(air_pager_set_pins(b.pager, UINT64_MAX, &err) == AIR_OK); /* there would be room for all */
    for (int pass = 0; pass < 3; pass++)
        for (size_t i = 0; i < AIR_COUNT(layers); i++)
            for (int32_t one = 0, rows = 1; one < EXPERTS; one++) /* one by one, so that no more are on their way */
                CHECK_EQ(compute_layer(&m, b.pager, &d, layers[i], &one, &rows, 1, -1), AIR_OK);
    air_pager_stats s = air_pager_stats_get(b.pager);
    CHECK(s.expert_misses == 3 * EXPERTS && s.expert_device_hits == 2 * 3 * EXPERTS);
    CHECK(s.expert_bytes <= 3 * (unit_bytes(&m, 4, 0) + 3 * 4096)); /* of each class one */
    bench_close(&b);
    free(d.memory);
    fixture_free(&m.f);
}

TEST(who_holds_all_places_of_a_device_is_told_so)
{
    mixed m;
    mixed_make(&m);
    bench b = bench_of(&m.f);
    b.device_experts = air__experts_least(&m.f.program, AIR_DEVICE_ALIGN);
    air_plan_request r = fixture_request(&m.f, 64u << 20);
    REQUIRE(bench_open(&b, &m.f, &r, &err) == AIR_OK);
    REQUIRE(air_pager_set_pins(b.pager, UINT64_MAX, &err) == AIR_OK); /* memory has room for all */
    const air_feed *feed = air_pager_feed(b.pager);
    int32_t experts[6] = {0, 1, 2, 3, 4, 5}, rows[6] = {1, 1, 1, 1, 1, 1}, got = 0, held = 0;
    air_expert out[6];
    REQUIRE(feed->experts.ask(feed->self, 4, experts, rows, 6, &err) == AIR_OK);
    while (held < AIR__EXPERT_SLOTS) {
        REQUIRE(feed->experts.take(feed->self, out + held, 6 - held, &got, &err) == AIR_OK);
        held += got;
    }
    CHECK_EQ(feed->experts.take(feed->self, out + held, 1, &got, &err), AIR_E_ARGUMENT);
    CHECK(strstr(err.text, "4 experts are held") != NULL);
    feed->experts.give(feed->self, &out[1]);
    CHECK(feed->experts.take(feed->self, out + held, 1, &got, &err) == AIR_OK && got == 1);
    CHECK_EQ(out[held].place, out[1].place);
    bench_close(&b);
    fixture_free(&m.f);
}

TEST(a_plan_gives_a_device_the_experts_that_tiles_leave_room_for)
{
    mixed m;
    mixed_make(&m);
    uint64_t all = air__experts_memory(&m.f.program, AIR_DEVICE_ALIGN), least = air__experts_least(&m.f.program, AIR_DEVICE_ALIGN);
    double hit = -1, link = 1e9;
    int between = 0;
    for (uint64_t budget = MIB; budget < 12 * MIB; budget += 100 * 1024) {
        air_plan *p;
        air_plan_request r = fixture_request(&m.f, 64u << 20);
        r.n_ctx = 64;
        r.cpu_share = 0;
        r.device = (air_device_request){.budget = budget, .fixed = 4096};
        r.bandwidths.devices[0] = (air_device_rates){.link = 1e9, .memory = 1e12};
        if (air_plan_make(&p, &r, &err)) continue;
        CHECK(p->device_expert_bytes >= least && p->device_expert_bytes <= all);
        CHECK(p->device_fixed + p->device_pin_bytes + p->device_ring_bytes + p->device_expert_bytes + p->device_state_bytes +
              p->device_activation_bytes_full + p->device_part_bytes <= budget);
        CHECK(p->n_device_tiles == p->n_tiles || p->device_expert_bytes < least + (1 << 16)); /* tiles, which every pass uses, come first */
        CHECK(p->device_expert_hit >= hit && p->device_expert_hit <= p->expert_hit && p->expert_hit <= 1);
        CHECK(p->link_s <= link && (p->device_expert_hit < 1) == (p->device_expert_bytes < all));
        between += hit > 0 && hit < 1 && p->device_expert_hit > hit;
        hit = p->device_expert_hit;
        link = p->link_s;
        air_plan_free(p);
    }
    CHECK(hit == 1 && link == 0 && between > 3);
    fixture_free(&m.f);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(any_memory_delivers_the_experts_bytes);
    RUN(what_is_in_memory_is_not_read_again_and_the_coldest_gives_way);
    RUN(a_failed_read_fails_the_pass_and_is_forgotten);
    RUN(a_guess_brings_experts_before_they_are_asked_for);
    RUN(what_is_asked_for_is_read_before_what_is_guessed);
    RUN(what_a_guess_finds_does_not_give_way_to_the_rest_of_it);
    RUN(guesses_are_taken_layer_by_layer_and_the_likeliest_first);
    RUN(places_of_guesses_that_are_mostly_wrong_are_not_read);
    RUN(guesses_have_to_be_the_surer_the_busier_the_disk_is);
    RUN(a_pager_of_experts_that_finds_no_memory_is_none);
    RUN(a_wait_for_an_expert_can_be_cancelled);
    RUN(who_holds_all_there_is_is_told_so);
    RUN(a_budget_that_is_taken_leaves_no_expert_to_wait_for);
    RUN(a_plan_shares_memory_out_between_tiles_and_experts);
    RUN(a_plan_knows_that_experts_come_when_the_router_has_spoken);
    RUN(a_device_finds_experts_where_it_has_put_them);
    RUN(the_coldest_gives_its_place_in_a_device_away);
    RUN(what_a_device_keeps_is_not_kept_in_memory_too);
    RUN(who_holds_all_places_of_a_device_is_told_so);
    RUN(a_plan_gives_a_device_the_experts_that_tiles_leave_room_for);
    return check_end();
}
