#include "platform/pool.h"

#include <stdatomic.h>

#include "base/alloc.h"
#include "platform/clock.h"
#include "platform/threads.h"
#include "platform/timeline.h"

enum {
    THREADS_MOST = AIR_LANE_READS - AIR_LANE_PASS,
    SPIN_NS = 30000,      /* longer than the gaps between ops, shorter than a disk read */
    REGION_SPINS = 5,     /* times that between regions: a caller in Python needs 50 to 100 µs for a token */
    SPIN_BUSY_NS = 500,   /* more threads than CPUs: whom we wait for needs the CPU we spin on */
    CALIBRATION = 250,    /* turns: a few microseconds */
    CALIBRATIONS = 8,     /* the fastest counts: a preemption within one would leave the pool hardly spinning for its life */
};

typedef struct worker {
    air_pool *pool;
    air_thread *thread;
    int index;
} worker;

struct air_pool {
    air_gate region; /* counts regions begun */
    air_gate barrier; /* counts barriers passed */
    AIR_ALIGNAS(AIR_CACHE_LINE) AIR_ATOMIC(int) arrived; /* at the barrier now being waited for */
    AIR_ALIGNAS(AIR_CACHE_LINE) void (*body)(void *context, int index); /* NULL: the workers end. Written before region counts up */
    void *context;
    int threads;
    uint32_t spins;
    AIR_ATOMIC(uint32_t) region_spins; /* read by workers that wait already */
    worker *workers; /* threads - 1 of them */
};

uint32_t air_gate_read(const air_gate *gate) { return atomic_load_explicit(&gate->word, memory_order_acquire); }

/* Who sleeps and who counts each write their own word before they read the other's (all sequentially consistent), so at least one of
 * them sees the other: no wake-up is lost. The system call itself compares the word once more. */
static void gate_wait(air_gate *gate, uint32_t read, uint32_t spins)
{
    for (uint32_t i = 0; i < spins; i++) {
        if (air_gate_read(gate) != read) return;
        air_cpu_relax();
    }
    atomic_fetch_add(&gate->sleepers, 1);
    while (atomic_load(&gate->word) == read) air_word_wait(&gate->word, read);
    atomic_fetch_sub(&gate->sleepers, 1);
}

void air_gate_wait(air_gate *gate, uint32_t read, const air_pool *pool) { gate_wait(gate, read, pool->spins); }

void air_gate_count(air_gate *gate)
{
    atomic_fetch_add(&gate->word, 1);
    if (atomic_load(&gate->sleepers)) air_word_wake_all(&gate->word);
}

void air_pool_barrier_then(air_pool *pool, void (*last)(void *context), void *context)
{
    uint32_t old = air_gate_read(&pool->barrier); /* cannot move on before we arrive */
    if (atomic_fetch_add_explicit(&pool->arrived, 1, memory_order_acq_rel) < pool->threads - 1) {
        air_gate_wait(&pool->barrier, old, pool);
        return;
    }
    if (last) last(context);
    atomic_store_explicit(&pool->arrived, 0, memory_order_relaxed); /* the count publishes it to the next barrier */
    air_gate_count(&pool->barrier);
}

void air_pool_barrier(air_pool *pool) { air_pool_barrier_then(pool, NULL, NULL); }

static void worker_main(void *context)
{
    worker *w = context;
    air_pool *pool = w->pool;
    air_lane_set(AIR_LANE_PASS + w->index);
    for (uint32_t seen = 0;; seen++) { /* no region begins before all have left the last, so we never miss one */
        gate_wait(&pool->region, seen, atomic_load_explicit(&pool->region_spins, memory_order_relaxed));
        if (!pool->body) return;
        pool->body(pool->context, w->index);
        air_pool_barrier(pool);
    }
}

void air_pool_linger(air_pool *pool, uint64_t ns)
{
    uint64_t spins = pool->spins * (ns / SPIN_NS);
    atomic_store_explicit(&pool->region_spins, spins < UINT32_MAX ? (uint32_t)spins : UINT32_MAX, memory_order_relaxed);
}

void air_pool_run(air_pool *pool, void (*body)(void *context, int index), void *context)
{
    pool->body = body;
    pool->context = context;
    air_gate_count(&pool->region);
    body(context, 0);
    air_pool_barrier(pool);
}

static uint64_t spin_ns(uint64_t (*clock_ns)(void))
{
    air_gate g = {0};
    uint64_t begin = clock_ns();
    for (uint32_t i = 0; i < CALIBRATION; i++) {
        if (air_gate_read(&g)) break;
        air_cpu_relax();
    }
    return clock_ns() - begin;
}

uint32_t air__pool_spins(uint64_t ns, uint64_t (*clock_ns)(void))
{
    uint64_t took = spin_ns(clock_ns);
    for (int i = 1; i < CALIBRATIONS; i++) {
        uint64_t again = spin_ns(clock_ns);
        if (again < took) took = again;
    }
    uint64_t turns = ns * CALIBRATION / (took ? took : 1);
    return (uint32_t)(turns < 16 ? 16 : turns > ns ? ns : turns);
}

air_status air_pool_open(air_pool **out, int threads, air_error *err)
{
    *out = NULL;
    if (threads < 1 || threads > THREADS_MOST)
        return air_fail(err, AIR_E_ARGUMENT, "a pool has 1 to %d threads, not %d", THREADS_MOST, threads);
    air_status st = AIR_OK;
    air_pool *pool = air_calloc(1, sizeof *pool);
    if (!pool) return air_fail(err, AIR_E_NOMEM, "thread pool: %zu bytes", sizeof *pool);
    pool->threads = 1; /* as many as run so far, for close */
    pool->workers = air_calloc((size_t)threads, sizeof *pool->workers);
    if (!pool->workers) {
        st = air_fail(err, AIR_E_NOMEM, "thread pool: %d threads", threads);
        goto fail;
    }
    pool->spins = air__pool_spins(threads > air_cpu_count() ? SPIN_BUSY_NS : SPIN_NS, air_clock_ns);
    atomic_store_explicit(&pool->region_spins, pool->spins * REGION_SPINS, memory_order_relaxed);
    for (; pool->threads < threads; pool->threads++) {
        worker *w = &pool->workers[pool->threads - 1];
        *w = (worker){.pool = pool, .index = pool->threads};
        air_error why;
        st = air_thread_start(&w->thread, "airpy-compute", worker_main, w, &why);
        if (st) {
            st = air_fail(err, st, "only %d of %d threads could be started: %s", pool->threads, threads, why.text);
            goto fail;
        }
    }
    *out = pool;
    return AIR_OK;

fail:
    air_pool_close(pool);
    return st;
}

void air_pool_close(air_pool *pool)
{
    if (!pool) return;
    pool->body = NULL;
    air_gate_count(&pool->region);
    for (int i = 0; i < pool->threads - 1; i++) air_thread_join(pool->workers[i].thread);
    air_free(pool->workers);
    air_free(pool);
}

void air_pool_job_reset(air_pool_job *job, int64_t chunks)
{
    atomic_store_explicit(&job->next, 0, memory_order_relaxed);
    job->chunks = chunks;
}

int64_t air_pool_job_take(air_pool_job *job)
{
    int64_t n = atomic_fetch_add_explicit(&job->next, 1, memory_order_relaxed);
    return n < job->chunks ? n : -1;
}
