/* platform/threads.h: threads, locks with time-outs, and what the machine lets us use.
 *
 * Thin over the system's own; locks are not recursive. air_cond_wait_for may wake early: test the condition in a loop. */
#ifndef AIR_PLATFORM_THREADS_H
#define AIR_PLATFORM_THREADS_H

#include <stdint.h>

#include "base/status.h"

AIR_BEGIN_C

typedef struct air_thread air_thread;
typedef struct air_mutex { AIR_ALIGNAS(8) unsigned char opaque[64]; } air_mutex;
typedef struct air_cond { AIR_ALIGNAS(8) unsigned char opaque[64]; } air_cond;

/* name shows in debuggers, at most 15 bytes. All signals are blocked in the new thread but the synchronous ones (SIGBUS …).
 * Errors: AIR_E_THREAD, AIR_E_NOMEM. Counted by the fault injection of base/alloc.h. */
air_status air_thread_start(air_thread **out, const char *name, void (*run)(void *), void *context, air_error *err);
void air_thread_join(air_thread *thread); /* joins and frees; NULL is legal */

void air_mutex_init(air_mutex *m);
void air_mutex_deinit(air_mutex *m);
void air_mutex_lock(air_mutex *m);
void air_mutex_unlock(air_mutex *m);
void air_cond_init(air_cond *c); /* on the monotonic clock */
void air_cond_deinit(air_cond *c);
void air_cond_wait(air_cond *c, air_mutex *m);
int air_cond_wait_for(air_cond *c, air_mutex *m, uint64_t timeout_ns); /* 0: woken (maybe spuriously), 1: timed out */
void air_cond_signal(air_cond *c);
void air_cond_broadcast(air_cond *c);

/* Sleeps while *word == expected, until woken (or spuriously); futex where there is one. */
void air_word_wait(AIR_ATOMIC(uint32_t) *word, uint32_t expected);
void air_word_wake_all(AIR_ATOMIC(uint32_t) *word);

void air_cpu_relax(void); /* inside spin loops */
void air_sleep_ns(uint64_t ns);

/* CPUs this process may use: its affinity mask, cut to the cgroup's CPU quota rounded up; at least 1. */
int air_cpu_count(void);
uint64_t air_process_id(void);

AIR_END_C
#endif
