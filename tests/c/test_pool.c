/* test_pool.c: threads and their locks, the compute pool, reads on I/O threads. */
#define _GNU_SOURCE
#include "check.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>

#include "base/alloc.h"
#include "base/random.h"
#include "platform/async_io.h"
#include "platform/clock.h"
#include "platform/pool.h"
#include "platform/threads.h"

enum { MOST = 8 };
static const uint64_t MS = 1000000;

static uint64_t cpu_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- threads ---- */

typedef struct seen {
    char name[16];
    sigset_t mask;
} seen;

static void look_around(void *context)
{
    seen *s = context;
    (void)pthread_getname_np(pthread_self(), s->name, sizeof s->name);
    (void)pthread_sigmask(SIG_BLOCK, NULL, &s->mask);
}

TEST(a_thread_has_its_name_and_takes_no_signal_but_its_own_faults)
{
    seen s;
    air_thread *thread;
    sigset_t before, after;
    (void)pthread_sigmask(SIG_BLOCK, NULL, &before);
    REQUIRE(air_thread_start(&thread, "a-name-longer-than-15", look_around, &s, NULL) == AIR_OK);
    air_thread_join(thread);
    (void)pthread_sigmask(SIG_BLOCK, NULL, &after);
    CHECK_STR_EQ(s.name, "a-name-longer-t");
    for (int sig = 1; sig < SIGSYS; sig++) {
        if (sig == SIGKILL || sig == SIGSTOP) continue;
        int fault = sig == SIGBUS || sig == SIGSEGV || sig == SIGFPE || sig == SIGILL;
        CHECK_EQ(sigismember(&s.mask, sig), !fault);
        CHECK_EQ(sigismember(&after, sig), sigismember(&before, sig));
    }
    air_thread_join(NULL);
}

TEST(a_thread_that_cannot_start_is_an_error_and_leaves_nothing)
{
    int64_t live = air_alloc_live();
    const air_status want[] = {AIR_E_NOMEM, AIR_E_THREAD};
    for (uint64_t n = 1; n <= 2; n++) {
        air_thread *thread = (air_thread *)&live;
        air_error err;
        seen s;
        air_alloc_fail_at(n);
        CHECK_EQ(air_thread_start(&thread, "worker", look_around, &s, &err), want[n - 1]);
        CHECK(thread == NULL && strstr(err.text, "worker") != NULL);
        CHECK_EQ(air_alloc_live(), live);
    }
}

typedef struct mailbox {
    air_mutex lock;
    air_cond changed;
    int full, taken;
    AIR_ATOMIC(uint32_t) word;
} mailbox;

static void take_letters(void *context)
{
    mailbox *box = context;
    for (int i = 0; i < 1000; i++) {
        air_mutex_lock(&box->lock);
        while (!box->full) air_cond_wait(&box->changed, &box->lock);
        box->full = 0;
        box->taken++;
        air_cond_broadcast(&box->changed);
        air_mutex_unlock(&box->lock);
    }
}

TEST(a_condition_passes_every_letter_on)
{
    mailbox box = {.full = 0};
    air_thread *thread;
    air_mutex_init(&box.lock);
    air_cond_init(&box.changed);
    REQUIRE(air_thread_start(&thread, "taker", take_letters, &box, NULL) == AIR_OK);
    for (int i = 0; i < 1000; i++) {
        air_mutex_lock(&box.lock);
        while (box.full) CHECK_EQ(air_cond_wait_for(&box.changed, &box.lock, UINT64_MAX), 0);
        box.full = 1;
        air_cond_signal(&box.changed);
        air_mutex_unlock(&box.lock);
    }
    air_thread_join(thread);
    CHECK_EQ(box.taken, 1000);
    air_cond_deinit(&box.changed);
    air_mutex_deinit(&box.lock);
}

TEST(a_wait_without_a_signal_times_out_when_it_should)
{
    mailbox box = {.full = 0};
    air_mutex_init(&box.lock);
    air_cond_init(&box.changed);
    air_mutex_lock(&box.lock);
    uint64_t begin = air_clock_ns();
    while (!air_cond_wait_for(&box.changed, &box.lock, 20 * MS)) {}
    uint64_t took = air_clock_ns() - begin;
    CHECK(took >= 20 * MS && took < 2000 * MS);
    air_mutex_unlock(&box.lock);
    air_cond_deinit(&box.changed);
    air_mutex_deinit(&box.lock);
}

static void ring_bell(void *context)
{
    mailbox *box = context;
    air_sleep_ns(20 * MS);
    atomic_store(&box->word, 1);
    air_word_wake_all(&box->word);
}

TEST(a_word_sleeps_until_it_changes_and_costs_no_time_meanwhile)
{
    mailbox box = {.full = 0};
    air_thread *thread;
    air_word_wait(&box.word, 5); /* differs already: returns at once */
    uint64_t begin = air_clock_ns(), cpu = cpu_ns();
    REQUIRE(air_thread_start(&thread, "bell", ring_bell, &box, NULL) == AIR_OK);
    while (!atomic_load(&box.word)) air_word_wait(&box.word, 0);
    CHECK(air_clock_ns() - begin >= 20 * MS);
    CHECK(cpu_ns() - cpu < 15 * MS);
    air_thread_join(thread);
}

/* ---- pool ---- */

typedef struct region {
    air_pool *pool;
    int threads, rounds;
    uint64_t naps; /* one round in so many naps for a while; 0: none */
    uint64_t seed;
    int calls[MOST];
    int64_t phase[MOST * 16]; /* a cache line each; plain, so that a missing barrier is a race to TSan too */
    AIR_ATOMIC(int) wrong;
} region;

static void count_call(void *context, int index) { ((region *)context)->calls[index]++; }

TEST(a_region_calls_its_body_once_on_each_thread)
{
    for (int threads = 1; threads <= MOST; threads++) {
        region r = {.threads = threads};
        REQUIRE(air_pool_open(&r.pool, threads, NULL) == AIR_OK);
        for (int i = 0; i < 300; i++) air_pool_run(r.pool, count_call, &r);
        for (int i = 0; i < MOST; i++) CHECK_EQ(r.calls[i], i < threads ? 300 : 0);
        air_pool_close(r.pool);
    }
}

/* Every thread writes its phase, passes the barrier, and must see everyone's; a second barrier guards the next write. */
static void walk_phases(void *context, int index)
{
    region *r = context;
    for (int round = 1; round <= r->rounds; round++) {
        uint64_t draw = air_random_u64(r->seed + (uint64_t)index, (uint64_t)round);
        if (r->naps && draw % r->naps == 0) air_sleep_ns((draw >> 32) % 150000);
        r->phase[index * 16]++;
        air_pool_barrier(r->pool);
        for (int i = 1; i < r->threads; i++)
            if (r->phase[i * 16] != r->phase[0]) atomic_fetch_add(&r->wrong, 1);
        air_pool_barrier(r->pool);
    }
}

static void stress(int threads, int regions, int rounds, uint64_t naps)
{
    region r = {.threads = threads, .rounds = rounds, .naps = naps};
    REQUIRE(air_pool_open(&r.pool, threads, NULL) == AIR_OK);
    for (int i = 0; i < regions; i++) {
        r.seed = check_random();
        if (naps && r.seed % 4 == 0) air_sleep_ns((r.seed >> 32) % 200000); /* the workers fall asleep between regions too */
        air_pool_run(r.pool, walk_phases, &r);
    }
    CHECK_EQ(r.wrong, 0);
    for (int i = 0; i < threads; i++) CHECK_EQ(r.phase[i * 16], (int64_t)regions * rounds);
    air_pool_close(r.pool);
}

/* AIR_TEST_LONG multiplies the rounds, for a soak. */
static int longer(int rounds)
{
    const char *times = getenv("AIR_TEST_LONG");
    return times && atoi(times) > 0 ? rounds * atoi(times) : rounds;
}

TEST(nobody_passes_a_barrier_before_all_have_arrived)
{
    stress(1, 3, 1000, 0);
    stress(2, 10, longer(2000), 0);
    stress(3, 10, longer(200), 0);
    stress(MOST, 10, longer(50), 0);
}

TEST(barriers_hold_when_threads_fall_asleep_at_random)
{
    stress(2, 40, longer(40), 3);
    stress(3, 40, longer(15), 5);
    stress(MOST, 20, longer(10), 10);
}

typedef struct relay {
    air_pool *pool;
    int64_t plain, calls; /* no thread writes them but the last to arrive */
    int64_t arrived[MOST * 16];
    int threads;
    AIR_ATOMIC(int) wrong;
} relay;

static void add_up(void *context)
{
    relay *r = context;
    r->plain = 0;
    for (int i = 0; i < r->threads; i++) r->plain += r->arrived[i * 16];
    r->calls++;
}

static void arrive_often(void *context, int index)
{
    relay *r = context;
    for (int round = 1; round <= 300; round++) {
        r->arrived[index * 16]++;
        if (index == round % r->threads && round % 16 == 0) air_sleep_ns(60000); /* the others sleep when the work is done */
        air_pool_barrier_then(r->pool, add_up, r);
        if (r->plain != (int64_t)round * r->threads || r->calls != round) atomic_fetch_add(&r->wrong, 1);
        air_pool_barrier(r->pool);
    }
}

TEST(the_last_to_arrive_works_alone_and_all_see_it)
{
    for (int threads = 1; threads <= MOST; threads += 2) {
        relay r = {.threads = threads};
        REQUIRE(air_pool_open(&r.pool, threads, NULL) == AIR_OK);
        air_pool_run(r.pool, arrive_often, &r);
        CHECK_EQ(r.calls, 300);
        CHECK_EQ(r.wrong, 0);
        air_pool_close(r.pool);
    }
}

typedef struct baton {
    air_pool *pool;
    air_gate moved;
    AIR_ATOMIC(int) turn;
    int threads;
    int64_t held; /* by whose turn it is */
} baton;

static void hand_on(void *context, int index)
{
    baton *b = context;
    for (int round = 0; round < 200; round++) {
        for (;;) {
            uint32_t read = air_gate_read(&b->moved);
            if (atomic_load(&b->turn) == index) break;
            air_gate_wait(&b->moved, read, b->pool);
        }
        b->held++;
        if (round % 32 == index % 32) air_sleep_ns(60000); /* longer than anyone spins */
        atomic_store(&b->turn, (index + 1) % b->threads);
        air_gate_count(&b->moved);
    }
}

TEST(who_waits_at_a_gate_misses_no_event)
{
    for (int threads = 1; threads <= MOST; threads += 2) {
        baton b = {.threads = threads};
        REQUIRE(air_pool_open(&b.pool, threads, NULL) == AIR_OK);
        air_pool_run(b.pool, hand_on, &b);
        CHECK_EQ(b.held, (int64_t)threads * 200);
        air_pool_close(b.pool);
    }
}

TEST(regions_follow_each_other_without_losing_one)
{
    stress(2, longer(4000), 1, 0);
    stress(3, longer(200), 2, 7);
}

static void count_one(void *context, int index)
{
    (void)index;
    atomic_fetch_add((AIR_ATOMIC(int) *)context, 1);
}

/* Also where workers have begun to wait before they are told how long, and where they sleep after all. */
TEST(workers_that_linger_lose_no_region_either)
{
    static const uint64_t lingers[] = {0, 30000, 2000000};
    for (size_t i = 0; i < AIR_COUNT(lingers); i++) {
        air_pool *pool;
        AIR_ATOMIC(int) calls = 0;
        REQUIRE(air_pool_open(&pool, 3, NULL) == AIR_OK);
        for (int round = 0; round < 60; round++) {
            if (round == 20) air_pool_linger(pool, lingers[i]);
            if (round % 3 == 0) air_sleep_ns(check_random() % 400000);
            air_pool_run(pool, count_one, &calls);
            CHECK_EQ(atomic_load(&calls), 3 * (round + 1));
        }
        air_pool_close(pool);
    }
}

enum { CHUNKS = 1000 };
typedef struct deal {
    air_pool *pool;
    air_pool_job jobs[2];
    AIR_ATOMIC(int) dealt[2][CHUNKS];
} deal;

static void take_all(void *context, int index)
{
    deal *d = context;
    for (int round = 0; round < 20; round++) {
        air_pool_job *job = &d->jobs[round & 1];
        if (index == 0) air_pool_job_reset(&d->jobs[round & 1], CHUNKS - round);
        air_pool_barrier(d->pool);
        for (int64_t n; (n = air_pool_job_take(job)) >= 0;) atomic_fetch_add(&d->dealt[round & 1][n], 1);
        CHECK_EQ(air_pool_job_take(job), -1);
    }
}

TEST(a_job_deals_every_chunk_exactly_once)
{
    for (int threads = 1; threads <= MOST; threads += 3) {
        deal *d = air_calloc(1, sizeof *d);
        REQUIRE(d != NULL && air_pool_open(&d->pool, threads, NULL) == AIR_OK);
        air_pool_run(d->pool, take_all, d);
        for (int parity = 0; parity < 2; parity++)
            for (int n = 0; n < CHUNKS; n++) {
                int want = 0;
                for (int round = parity; round < 20; round += 2) want += n < CHUNKS - round;
                CHECK_EQ(d->dealt[parity][n], want);
            }
        air_pool_close(d->pool);
        air_free(d);
    }
}

static void leader_naps(void *context, int index)
{
    region *r = context;
    if (index == 0) air_sleep_ns(100 * MS);
    air_pool_barrier(r->pool);
}

TEST(waiting_costs_no_processor_time)
{
    region r = {.threads = 4};
    REQUIRE(air_pool_open(&r.pool, r.threads, NULL) == AIR_OK);
    uint64_t cpu = cpu_ns();
    air_pool_run(r.pool, leader_naps, &r); /* at a barrier */
    CHECK(cpu_ns() - cpu < 30 * MS);
    cpu = cpu_ns();
    air_sleep_ns(100 * MS); /* between regions */
    CHECK(cpu_ns() - cpu < 30 * MS);
    air_pool_close(r.pool);
}

static void count_cpus(void *context, int index)
{
    cpu_set_t set;
    ((region *)context)->calls[index] = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : -1;
}

TEST(workers_stay_on_the_processors_of_the_thread_that_opened_them)
{
    cpu_set_t before, one;
    REQUIRE(sched_getaffinity(0, sizeof before, &before) == 0);
    CPU_ZERO(&one);
    for (size_t cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; cpu++)
        if (CPU_ISSET(cpu, &before)) CPU_SET(cpu, &one);
    REQUIRE(sched_setaffinity(0, sizeof one, &one) == 0);
    CHECK_EQ(air_cpu_count(), 1);
    region r = {.threads = 3, .rounds = 200};
    air_status st = air_pool_open(&r.pool, r.threads, NULL);
    CHECK_EQ(st, AIR_OK);
    if (st == AIR_OK) {
        air_pool_run(r.pool, count_cpus, &r);
        for (int i = 0; i < 3; i++) CHECK_EQ(r.calls[i], 1);
        air_pool_run(r.pool, walk_phases, &r); /* three threads on one processor: still correct */
        CHECK_EQ(r.wrong, 0);
        air_pool_close(r.pool);
    }
    CHECK_EQ(sched_setaffinity(0, sizeof before, &before), 0);
    CHECK(air_cpu_count() >= 1 && air_cpu_count() <= CPU_COUNT(&before));
}

TEST(a_pool_that_cannot_open_leaves_nothing)
{
    int64_t live = air_alloc_live();
    air_pool *pool;
    air_error err;
    uint64_t n = 1;
    for (;; n++) {
        air_alloc_fail_at(n);
        air_status st = air_pool_open(&pool, 4, &err);
        if (st == AIR_OK) break;
        CHECK(pool == NULL && (st == AIR_E_NOMEM || st == AIR_E_THREAD));
        if (n > 2) CHECK(strstr(err.text, "of 4 threads") != NULL);
        CHECK_EQ(air_alloc_live(), live);
        REQUIRE(n < 100);
    }
    air_alloc_fail_at(0);
    CHECK_EQ(n, 9); /* the pool, its list, and two for each of three threads */
    air_pool_close(pool);
    CHECK_EQ(air_pool_open(&pool, 0, &err), AIR_E_ARGUMENT);
    CHECK_EQ(air_pool_open(&pool, 257, &err), AIR_E_ARGUMENT);
    air_pool_close(NULL);
    CHECK_EQ(air_alloc_live(), live);
}

/* ---- reads ---- */

typedef struct job {
    air_io_request request;
    int number;
    AIR_ATOMIC(int) done;
} job;

static AIR_ATOMIC(int) reads_begun, reads_done;
static AIR_ATOMIC(uint32_t) holding; /* a read in progress waits while this is 1 */
static int order[64];

static air_status read_number(void *source, uint64_t offset, void *buffer, size_t bytes, const AIR_ATOMIC(int) *cancel, air_error *err)
{
    order[atomic_fetch_add(&reads_begun, 1) % 64] = (int)offset;
    while (atomic_load(&holding)) {
        if (atomic_load(cancel)) return air_fail(err, AIR_E_CANCELLED, "stopped while running");
        air_sleep_ns(MS / 10);
    }
    if (offset == 13) return air_fail(err, AIR_E_IO, "sector %d", 13);
    memset(buffer, *(int *)source + (int)offset, bytes);
    return AIR_OK;
}

static void mark_done(air_io_request *request)
{
    atomic_store(&((job *)request->context)->done, 1);
    atomic_fetch_add(&reads_done, 1);
}

static int plus = 3;
static unsigned char buffers[32][16];
static job jobs[32];

static void submit_all(air_async_io *io, int count, int held)
{
    atomic_store(&reads_begun, 0);
    atomic_store(&reads_done, 0);
    atomic_store(&holding, (uint32_t)held);
    memset(buffers, 0, sizeof buffers);
    memset(jobs, 0, sizeof jobs);
    for (int i = 0; i < count; i++) {
        jobs[i].request = (air_io_request){.read = read_number, .source = &plus, .offset = (uint64_t)i, .buffer = buffers[i],
                                           .bytes = 16, .done = mark_done, .context = &jobs[i]};
        air_async_io_submit(io, &jobs[i].request);
    }
}

TEST(reads_complete_with_their_data_error_and_time)
{
    for (int threads = 1; threads <= 8; threads += 7) {
        air_async_io *io;
        REQUIRE(air_async_io_open(&io, threads, NULL) == AIR_OK);
        uint64_t begin = air_clock_ns();
        submit_all(io, 32, 1);
        air_sleep_ns(5 * MS);
        atomic_store(&holding, 0);
        while (atomic_load(&reads_done) < 32) air_sleep_ns(10000);
        uint64_t took = air_clock_ns() - begin;
        for (int i = 0; i < 32; i++) {
            CHECK_EQ(jobs[i].request.error.status, i == 13 ? AIR_E_IO : AIR_OK);
            CHECK_STR_EQ(jobs[i].request.error.text, i == 13 ? "sector 13" : "");
            for (int k = 0; k < 16; k++) CHECK_EQ(buffers[i][k], i == 13 ? 0 : i + 3);
            CHECK(jobs[i].request.ns <= took);
        }
        CHECK(jobs[0].request.ns >= MS); /* it was held */
        if (threads == 1)
            for (int i = 0; i < 32; i++) CHECK_EQ(order[i], i); /* first in, first out */
        air_async_io_close(io);
    }
}

TEST(closing_cancels_what_waits_and_what_runs)
{
    air_async_io *io;
    REQUIRE(air_async_io_open(&io, 2, NULL) == AIR_OK);
    submit_all(io, 32, 1);
    while (atomic_load(&reads_begun) < 2) air_sleep_ns(10000);
    air_async_io_close(io); /* returns though nobody lets the reads go */
    CHECK_EQ(reads_begun, 2);
    CHECK_EQ(reads_done, 32);
    for (int i = 0; i < 32; i++) {
        CHECK_EQ(jobs[i].done, 1);
        CHECK_EQ(jobs[i].request.error.status, AIR_E_CANCELLED);
        CHECK_EQ(strcmp(jobs[i].request.error.text, "stopped while running") == 0, i < 2);
    }
}

static void free_request(air_io_request *request)
{
    AIR_ATOMIC(int) *count = request->context;
    air_free(request);
    atomic_fetch_add(count, 1);
}

TEST(a_request_may_be_freed_as_soon_as_it_is_done)
{
    int64_t live = air_alloc_live();
    AIR_ATOMIC(int) freed = 0;
    air_async_io *io;
    unsigned char sink[64][16];
    atomic_store(&holding, 0);
    REQUIRE(air_async_io_open(&io, 3, NULL) == AIR_OK);
    for (int i = 0; i < 64; i++) {
        air_io_request *request = air_calloc(1, sizeof *request);
        REQUIRE(request != NULL);
        request->read = read_number;
        request->source = &plus;
        request->buffer = sink[i];
        request->bytes = 16;
        request->done = free_request;
        request->context = &freed;
        air_async_io_submit(io, request);
    }
    air_async_io_close(io);
    CHECK_EQ(freed, 64);
    CHECK_EQ(air_alloc_live(), live);
}

TEST(read_threads_that_cannot_start_leave_nothing)
{
    int64_t live = air_alloc_live();
    air_async_io *io;
    air_error err;
    uint64_t n = 1;
    for (;; n++) {
        air_alloc_fail_at(n);
        air_status st = air_async_io_open(&io, 3, &err);
        if (st == AIR_OK) break;
        CHECK(io == NULL && (st == AIR_E_NOMEM || st == AIR_E_THREAD));
        CHECK_EQ(air_alloc_live(), live);
        REQUIRE(n < 100);
    }
    air_alloc_fail_at(0);
    CHECK_EQ(n, 8);
    air_async_io_close(io);
    CHECK_EQ(air_async_io_open(&io, 0, &err), AIR_E_ARGUMENT);
    CHECK_EQ(air_async_io_open(&io, 65, &err), AIR_E_ARGUMENT);
    air_async_io_close(NULL);
    CHECK_EQ(air_alloc_live(), live);
}

/* A clock that steps by a microsecond, and by a preemption of 10 ms at its second reading. */
static int readings;
static uint64_t preempted_clock(void)
{
    static uint64_t now;
    return now += ++readings == 2 ? 10 * MS : 1000;
}

TEST(a_preemption_does_not_spoil_how_long_a_pool_spins)
{
    uint32_t disturbed = air__pool_spins(30000, preempted_clock);
    CHECK(readings > 2);
    CHECK_EQ(disturbed, air__pool_spins(30000, preempted_clock)); /* the second time nothing is preempted */
    CHECK(disturbed > 1000);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(a_thread_has_its_name_and_takes_no_signal_but_its_own_faults);
    RUN(a_thread_that_cannot_start_is_an_error_and_leaves_nothing);
    RUN(a_condition_passes_every_letter_on);
    RUN(a_wait_without_a_signal_times_out_when_it_should);
    RUN(a_word_sleeps_until_it_changes_and_costs_no_time_meanwhile);
    RUN(a_region_calls_its_body_once_on_each_thread);
    RUN(nobody_passes_a_barrier_before_all_have_arrived);
    RUN(barriers_hold_when_threads_fall_asleep_at_random);
    RUN(the_last_to_arrive_works_alone_and_all_see_it);
    RUN(who_waits_at_a_gate_misses_no_event);
    RUN(regions_follow_each_other_without_losing_one);
    RUN(workers_that_linger_lose_no_region_either);
    RUN(a_job_deals_every_chunk_exactly_once);
    RUN(waiting_costs_no_processor_time);
    RUN(workers_stay_on_the_processors_of_the_thread_that_opened_them);
    RUN(a_pool_that_cannot_open_leaves_nothing);
    RUN(reads_complete_with_their_data_error_and_time);
    RUN(closing_cancels_what_waits_and_what_runs);
    RUN(a_request_may_be_freed_as_soon_as_it_is_done);
    RUN(read_threads_that_cannot_start_leave_nothing);
    RUN(a_preemption_does_not_spoil_how_long_a_pool_spins);
    return check_end();
}
