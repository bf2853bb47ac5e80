/* platform/pool.h: the compute threads: one parallel region at a time, with barriers inside it.
 *
 * A pool of n threads has n - 1 workers of its own; the thread that calls air_pool_run is number 0, the leader. At barriers a thread
 * spins for some tens of microseconds, then sleeps, so that waiting for a disk costs no CPU time; between regions a worker spins for as
 * long as a caller takes from one token to the next.
 * One region at a time; regions do not nest. Workers inherit the affinity mask of the thread that opens the pool. */
#ifndef AIR_PLATFORM_POOL_H
#define AIR_PLATFORM_POOL_H

#include <stdint.h>

#include "base/status.h"

AIR_BEGIN_C

typedef struct air_pool air_pool;

/* threads: 1 to 256. Errors: AIR_E_NOMEM, AIR_E_THREAD (with the number that could be started), AIR_E_ARGUMENT. */
air_status air_pool_open(air_pool **out, int threads, air_error *err);
void air_pool_close(air_pool *pool); /* NULL is legal; not from inside a region */

/* Between regions workers spin for about so long before they sleep, instead: of who runs region after region and does not want to wait for
 * them to wake. Between regions; hardly at all where there are more threads than CPUs. */
void air_pool_linger(air_pool *pool, uint64_t ns);

/* Calls body(context, index) once on each thread, index 0 on the caller, and returns when all have returned. */
void air_pool_run(air_pool *pool, void (*body)(void *context, int index), void *context);

/* Inside a region: returns on every thread when all have arrived. What was written before it is visible after it. The last to
 * arrive calls last(context) before any of them goes on: for what only one of them is to do, and what is too short to be shared. */
void air_pool_barrier_then(air_pool *pool, void (*last)(void *context), void *context);
void air_pool_barrier(air_pool *pool); /* nothing to be done */

/* A count of events that threads wait for: read it, look whether what is awaited has come, else wait until it is no longer what was
 * read. Who brings an event writes it first, then counts; that costs a system call only if somebody sleeps. All zero to begin with. */
typedef struct air_gate {
    AIR_ALIGNAS(AIR_CACHE_LINE) AIR_ATOMIC(uint32_t) word;
    AIR_ATOMIC(uint32_t) sleepers;
} air_gate;
uint32_t air_gate_read(const air_gate *gate);
void air_gate_count(air_gate *gate);
void air_gate_wait(air_gate *gate, uint32_t read, const air_pool *pool); /* spins as long as the pool's threads do, then sleeps */

/* How many turns of the spin loop take ns, by the fastest of some tries: what the pool asks of air_clock_ns, and tests of others. */
uint32_t air__pool_spins(uint64_t ns, uint64_t (*clock_ns)(void));

/* Inside a region: deals the numbers [0, chunks) to the threads, each number once. All threads call it in the same order with the
 * same job (reset by one of them before a barrier that precedes the first call); returns a number, or -1 when none is left. */
typedef struct air_pool_job {
    AIR_ALIGNAS(AIR_CACHE_LINE) AIR_ATOMIC(int64_t) next;
    int64_t chunks;
} air_pool_job;
void air_pool_job_reset(air_pool_job *job, int64_t chunks);
int64_t air_pool_job_take(air_pool_job *job);

AIR_END_C
#endif
