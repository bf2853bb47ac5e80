/* Sources, the pager over real files, read-ahead against a slow disk, mappings, and the probes. */
#include "memory_fixture.h"
#include "memory/probe.h"
#include "platform/sysmem.h"

static air_error err;
static char paths[FIXTURE_PARTS][64];

static int write_files(const fixture *f)
{
    for (int i = 0; i < FIXTURE_PARTS; i++) {
        (void)snprintf(paths[i], sizeof paths[i], "test_memory_source.%d.tmp", i);
        FILE *file = fopen(paths[i], "wb");
        if (!file) return 0;
        size_t n = fwrite(f->data[i], 1, (size_t)f->bytes[i], file);
        if (fclose(file) || n != f->bytes[i]) return 0;
    }
    return 1;
}

static void remove_files(void)
{
    for (int i = 0; i < FIXTURE_PARTS; i++) (void)remove(paths[i]);
}

TEST(files_read_directly_give_their_bytes_and_zeros_after_their_end)
{
    fixture f;
    fixture_make(&f, 10, 300);
    REQUIRE(write_files(&f));
    bench b = {0};
    for (int i = 0; i < FIXTURE_PARTS; i++) REQUIRE(air_source_file(&b.sources[i], paths[i], &err) == AIR_OK);
    air_plan_request r = fixture_request(&f, 64u << 20);
    r.tile_bytes = 50000;
    REQUIRE(bench_open(&b, &f, &r, &err) == AIR_OK);
    for (int pass = 0; pass < 4; pass++) {
        CHECK_EQ(air_pager_set_pins(b.pager, f.matrix_bytes / 4 * (uint64_t)pass, &err), AIR_OK);
        CHECK_EQ(walk_pass(&f, b.pager, 2, -1, &err), AIR_OK);
        CHECK_EQ(air_pager_check(b.pager, &err), AIR_OK);
    }
    FILE *file = fopen(paths[1], "ab");
    REQUIRE(file != NULL);
    (void)fputc(1, file);
    (void)fclose(file);
    CHECK_EQ(air_pager_check(b.pager, &err), AIR_E_CHANGED);
    CHECK(strstr(err.text, paths[1]) != NULL);
    bench_close(&b);
    for (int i = 0; i < FIXTURE_PARTS; i++) air_source_close(b.sources[i]);
    air_source *missing;
    CHECK_EQ(air_source_file(&missing, "no such file", &err), AIR_E_IO);
    CHECK(missing == NULL);
    remove_files();
    fixture_free(&f);
}

TEST(a_mapped_file_gives_the_same_spans_vectors_and_rows)
{
    fixture f;
    fixture_make(&f, 10, 300);
    REQUIRE(write_files(&f));
    air_plan_request r = fixture_request(&f, 64u << 20);
    r.io = AIR_IO_MMAP;
    bench b = {0};
    REQUIRE(air_plan_make(&b.plan, &r, &err) == AIR_OK);
    air_budget_init(&b.budget, "max_ram", r.budget);
    const char *const names[] = {paths[0], paths[1]};
    air_pager_config config = {.program = &f.program, .plan = b.plan, .paths = names, .parts = FIXTURE_PARTS, .budget = &b.budget};
    REQUIRE(air_pager_open(&b.pager, &config, &err) == AIR_OK);
    for (int tile = 0; tile < b.plan->n_tiles; tile++) CHECK(air_pager_read_ahead(b.pager));
    CHECK(!air_pager_read_ahead(b.pager));
    for (int pass = 0; pass < 3; pass++) CHECK_EQ(walk_pass(&f, b.pager, 2, -1, &err), AIR_OK);
    CHECK(!air_pager_read_ahead(b.pager));
    CHECK_EQ(walk_pass(&f, b.pager, 2, b.plan->n_tiles / 2, &err), AIR_E_NUMERIC);
    air_pager_rewind(b.pager);
    CHECK_EQ(walk_pass(&f, b.pager, 2, -1, &err), AIR_OK);
    air_pager_stats s = air_pager_stats_get(b.pager);
    CHECK(s.disk_bytes == 0 && s.ram_bytes >= 4 * f.matrix_bytes);
    const air_weight *t = &f.weights[f.table];
    float want[1024], got[2 * 1024];
    int32_t rows[] = {49, 3};
    CHECK_EQ(air_pager_feed(b.pager)->gather(b.pager, f.table, rows, 2, got, &err), AIR_OK);
    const air_format *format = air_format_by_id(t->type);
    format->decode(f.data[0] + t->offset + 3 * t->row_bytes, want, t->cols / format->block);
    CHECK(memcmp(want, got + t->cols, (size_t)t->cols * sizeof *want) == 0);
    CHECK_EQ(air_pager_check(b.pager, &err), AIR_OK);
    FILE *file = fopen(paths[0], "wb"); /* truncates it under the mapping */
    REQUIRE(file != NULL);
    (void)fclose(file);
    CHECK_EQ(air_pager_check(b.pager, &err), AIR_E_CHANGED);
    bench_close(&b);
    CHECK_EQ(b.budget.total, 0);
    remove_files();
    fixture_free(&f);
}

/* Walks passes as a backend that computes each span for ns, and returns the seconds of the last n passes. */
static double timed_passes(bench *b, int n, uint64_t ns)
{
    const air_feed *feed = air_pager_feed(b->pager);
    uint64_t begin = 0;
    for (int pass = 0; pass <= n; pass++) {
        if (pass == 1) begin = air_clock_ns(); /* the first fills pins */
        for (int32_t t = 0; t < b->plan->n_tiles; t++) {
            air_span span;
            if (feed->next(feed->self, &span, &err)) return 0;
            air_sleep_ns(ns);
            feed->release(feed->self, &span);
        }
    }
    return (double)(air_clock_ns() - begin) / 1e9 / n;
}

TEST(a_slow_disk_is_busy_all_the_time_also_across_the_end_of_a_pass)
{
    fixture f;
    fixture_make_in(&f, 20, 1000, 1); /* two files would be two disks */
    bench b = bench_of(&f);
    const double rate = 20e6;
    REQUIRE(air_source_tampered(&b.sources[0], &b.memory[0].base, "rate=20000000,latency_us=200", &err) == AIR_OK);
    air_plan_request r = fixture_request(&f, 64u << 20);
    r.tile_bytes = 60000;
    r.ring_bytes = 1 << 20;
    r.bandwidths.block_bytes = 32768;
    r.bandwidths.depth = 6;
    REQUIRE(bench_open(&b, &f, &r, &err) == AIR_OK);
    for (int part = 0; part < 3; part++) {
        uint64_t pins = f.matrix_bytes / 4 * (uint64_t)part, all = 0, kept = 0;
        REQUIRE(air_pager_set_pins(b.pager, pins, &err) == AIR_OK);
        for (int32_t i = 0; i < b.plan->n_tiles; i++) {
            uint64_t memory = air_tile_memory(&b.plan->tiles[b.plan->priority[i]], 4096);
            if (kept == all && kept + memory <= pins) kept += memory;
            all += memory;
        }
        double want = (double)(all - kept) / rate;
        double compute = 0.5 * want / b.plan->n_tiles;
        double took = 0; /* the best of some tries: other work on the machine only adds to it */
        for (int i = 0; i < 6 && (i == 0 || took > 1.1 * want); i++) {
            double now = timed_passes(&b, 3, (uint64_t)(compute * 1e9));
            if (i == 0 || now < took) took = now;
        }
        printf("  %.0f%% pinned: a pass takes %.3f s, its reads %.3f s\n", 25.0 * part, took, want);
        CHECK(took > 0.9 * want && took < 1.1 * want);
    }
    bench_close(&b);
    air_source_close(b.sources[0]);
    fixture_free(&f);
}

TEST(tampering_fails_the_read_it_names_once_and_refuses_what_it_does_not_know)
{
    fixture f;
    fixture_make(&f, 3, 100);
    _Alignas(4096) static uint8_t buffer[4096];
    static const char *const bad[] = {"rate", "rate=", "rate=x", "rate=1;", "speed=3", "rate=5,fail_at", "fail_at=-1"};
    int64_t live = air_alloc_live();
    memory_source m = memory_source_of(&f, 0);
    air_source *s;
    for (size_t i = 0; i < AIR_COUNT(bad); i++) {
        CHECK_EQ(air_source_tampered(&s, &m.base, bad[i], &err), AIR_E_ARGUMENT);
        CHECK(s == NULL);
    }
    REQUIRE(air_source_tampered(&s, &m.base, "fail_at=2,short_at=4", &err) == AIR_OK);
    static const air_status want[] = {AIR_OK, AIR_E_IO, AIR_OK, AIR_E_CHANGED, AIR_OK, AIR_OK};
    for (size_t i = 0; i < AIR_COUNT(want); i++) CHECK_EQ(s->read(s, 0, buffer, sizeof buffer, NULL, &err), want[i]);
    CHECK(memcmp(buffer, f.data[0], sizeof buffer) == 0);
    air_source_close(s);
    REQUIRE(air_source_tampered(&s, &m.base, "latency_us=10000000", &err) == AIR_OK);
    atomic_int cancel = 1;
    CHECK_EQ(s->read(s, 0, buffer, sizeof buffer, &cancel, &err), AIR_E_CANCELLED);
    air_source_close(s);
    air_source_close(NULL);
    CHECK_EQ(air_alloc_live(), live);
    fixture_free(&f);
}

TEST(the_probe_finds_the_rate_of_a_throttled_disk)
{
    fixture f;
    fixture_make(&f, 20, 1000);
    memory_source m = memory_source_of(&f, 0);
    air_source *s;
    int64_t live = air_alloc_live();
    REQUIRE(air_source_tampered(&s, &m.base, "rate=100000000", &err) == AIR_OK);
    air_bandwidths b = {0};
    for (int i = 0; i < 6 && b.disk < 0.9e8; i++) REQUIRE(air_probe_disk(s, 0.4, (air_probe_watch){0}, &b, &err) == AIR_OK);
    printf("  %.1f MB/s, blocks of %llu, %d in flight\n", b.disk / 1e6, (unsigned long long)b.block_bytes, b.depth);
    CHECK(b.disk > 0.9e8 && b.disk < 1.1e8);
    CHECK(b.block_bytes >= 4096 && b.depth >= 2 && b.depth <= 8);
    air_source_close(s);
    REQUIRE(air_source_tampered(&s, &m.base, "latency_us=2000", &err) == AIR_OK);
    REQUIRE(air_probe_disk(s, 0.4, (air_probe_watch){0}, &b, &err) == AIR_OK);
    CHECK(b.latency_s > 1.9e-3 && b.latency_s < 20e-3); /* at most ten times, on a machine that is busy */
    air_source_close(s);
    REQUIRE(air_source_tampered(&s, &m.base, "fail_at=5", &err) == AIR_OK);
    CHECK_EQ(air_probe_disk(s, 0.1, (air_probe_watch){0}, &b, &err), AIR_E_IO);
    air_source_close(s);
    CHECK_EQ(air_alloc_live(), live);
    fixture_free(&f);
}

/* Notes where large reads go, and whether two at once go to the same place. */
typedef struct noting_source {
    air_source base;
    atomic_ullong low, high, active[8]; /* the last: where each one in flight begins, or 0 */
    atomic_int reads, clashes;
} noting_source;

static air_status noting_read(air_source *s, uint64_t offset, void *buffer, size_t bytes, const AIR_ATOMIC(int) *cancel, air_error *e)
{
    noting_source *n = (noting_source *)s;
    (void)offset, (void)cancel, (void)e;
    unsigned long long begin = (uintptr_t)buffer, end = begin + bytes, low = atomic_load(&n->low), high = atomic_load(&n->high), none = 0;
    size_t mine = 0;
    for (size_t i = 0; i < AIR_COUNT(n->active); i++)
        if (atomic_load(&n->active[i]) == begin) atomic_fetch_add(&n->clashes, 1);
    while (mine < AIR_COUNT(n->active) - 1 && !atomic_compare_exchange_strong(&n->active[mine], &none, begin)) mine++, none = 0;
    air_sleep_ns(atomic_fetch_add(&n->reads, 1) % 61 ? 50000 : 5000000); /* now and then one is late by a hundred others */
    atomic_store(&n->active[mine], 0);
    if (bytes <= 64 * 1024) return AIR_OK; /* of the latency */
    while (begin < low && !atomic_compare_exchange_weak(&n->low, &low, begin)) {}
    while (end > high && !atomic_compare_exchange_weak(&n->high, &high, end)) {}
    return AIR_OK;
}

TEST(the_probe_reads_into_as_much_memory_as_a_plan_would)
{
    noting_source n = {
        .base = {.read = noting_read, .check = memory_check, .close = memory_close, .bytes = UINT64_C(1) << 30, .alignment = 4096},
        .low = UINT64_MAX};
    air_bandwidths b = {0};
    REQUIRE(air_probe_disk(&n.base, 0.4, (air_probe_watch){0}, &b, &err) == AIR_OK);
    CHECK(air_ring_wanted(b.block_bytes, b.depth) <= 32u << 20);
    CHECK(n.high - n.low > 24u << 20 && n.high - n.low <= 32u << 20); /* the largest ring of all that were tried */
    n.low = UINT64_MAX;
    n.high = 0;
    n.base.bytes = 3 << 20; /* a file smaller than its ring */
    REQUIRE(air_probe_disk(&n.base, 0.1, (air_probe_watch){0}, &b, &err) == AIR_OK);
    CHECK(n.high - n.low > 1u << 20 && n.high - n.low <= 3u << 20);
    CHECK_EQ(n.clashes, 0);
}

#ifdef __SANITIZE_THREAD__
enum { MEMORY_IS_OURS = 0 }; /* its shadow memory is as anonymous as what it shadows */
#else
enum { MEMORY_IS_OURS = 1 };
#endif

/* What the process holds when a probe asks; it ends the probe at its stop_at-th question. */
typedef struct onlooker {
    int asked, stop_at;
    uint64_t before, first, most;
} onlooker;

static int look(void *context)
{
    onlooker *o = context;
    uint64_t held = air_memory_query().process_anonymous - o->before;
    if (!o->asked++) o->first = held;
    o->most = air_max_u64(o->most, held);
    return o->asked == o->stop_at;
}

TEST(a_compute_probe_can_be_stopped_while_it_touches_its_memory)
{
    onlooker o = {.stop_at = 3, .before = air_memory_query().process_anonymous};
    air_bandwidths b = {0};
    CHECK_EQ(air_probe_compute(2, AIR_TIER_COUNT, 1u << AIR_TYPE_Q8_0, UINT64_C(256) << 20, 0.4, (air_probe_watch){look, &o}, &b, &err),
             AIR_E_CANCELLED);
    CHECK_EQ(o.asked, 3);
    CHECK(!MEMORY_IS_OURS || (o.first < 24u << 20 && o.most < 64u << 20));
    CHECK_EQ(b.memory, 0);
}

TEST(a_compute_probe_touches_less_memory_where_that_takes_longer_than_its_trials)
{
    onlooker o = {.before = air_memory_query().process_anonymous};
    air_bandwidths b = {0};
    REQUIRE(air_probe_compute(2, AIR_TIER_COUNT, 1u << AIR_TYPE_Q8_0, UINT64_C(256) << 20, 1e-4, (air_probe_watch){look, &o}, &b, &err) ==
            AIR_OK);
    CHECK(!MEMORY_IS_OURS || (o.most > 96u << 20 && o.most < 160u << 20));
    CHECK(b.memory > 0 && b.product[AIR_TYPE_Q8_0] > 0);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(files_read_directly_give_their_bytes_and_zeros_after_their_end);
    RUN(a_mapped_file_gives_the_same_spans_vectors_and_rows);
    RUN(a_slow_disk_is_busy_all_the_time_also_across_the_end_of_a_pass);
    RUN(tampering_fails_the_read_it_names_once_and_refuses_what_it_does_not_know);
    RUN(the_probe_finds_the_rate_of_a_throttled_disk);
    RUN(the_probe_reads_into_as_much_memory_as_a_plan_would);
    RUN(a_compute_probe_can_be_stopped_while_it_touches_its_memory);
    RUN(a_compute_probe_touches_less_memory_where_that_takes_longer_than_its_trials);
    return check_end();
}
