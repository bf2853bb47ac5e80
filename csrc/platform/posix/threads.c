#define _GNU_SOURCE
#include "platform/threads.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

#include "base/alloc.h"
#include "platform/posix/cgroup.h"

_Static_assert(sizeof(pthread_mutex_t) <= sizeof(air_mutex), "air_mutex holds a pthread_mutex_t");
_Static_assert(sizeof(pthread_cond_t) <= sizeof(air_cond), "air_cond holds a pthread_cond_t");
_Static_assert(_Alignof(pthread_mutex_t) <= _Alignof(air_mutex), "air_mutex is aligned for a pthread_mutex_t");
_Static_assert(_Alignof(pthread_cond_t) <= _Alignof(air_cond), "air_cond is aligned for a pthread_cond_t");

struct air_thread {
    pthread_t id;
    void (*run)(void *);
    void *context;
    char name[16]; /* the kernel's limit, NUL included */
};

static void *thread_main(void *argument)
{
    air_thread *t = argument;
#if defined(__linux__)
    (void)pthread_setname_np(pthread_self(), t->name);
#endif
    t->run(t->context);
    return NULL;
}

/* The host's handlers (Python's for SIGINT) expect the host's threads, so ours take none but the signals they cause themselves. */
static void block_signals(sigset_t *before)
{
    sigset_t set;
    (void)sigfillset(&set);
    (void)sigdelset(&set, SIGBUS);
    (void)sigdelset(&set, SIGSEGV);
    (void)sigdelset(&set, SIGFPE);
    (void)sigdelset(&set, SIGILL);
    (void)pthread_sigmask(SIG_SETMASK, &set, before);
}

/* The usual 8 MiB a thread, pages never touched, would count against a limit on address space; our frames are some tens of KiB. */
enum { STACK_BYTES = 1 << 20 };

static int start_thread(air_thread *t)
{
    pthread_attr_t attributes;
    int refused = pthread_attr_init(&attributes);
    if (refused) return refused;
    (void)pthread_attr_setstacksize(&attributes, STACK_BYTES);
    refused = pthread_create(&t->id, &attributes, thread_main, t);
    if (refused == EINVAL) refused = pthread_create(&t->id, NULL, thread_main, t); /* the host's thread-local data take more than that */
    (void)pthread_attr_destroy(&attributes);
    return refused;
}

air_status air_thread_start(air_thread **out, const char *name, void (*run)(void *), void *context, air_error *err)
{
    *out = NULL;
    air_thread *t = air_malloc(sizeof *t);
    if (!t) return air_fail(err, AIR_E_NOMEM, "thread %s: %zu bytes", name, sizeof *t);
    t->run = run;
    t->context = context;
    (void)snprintf(t->name, sizeof t->name, "%s", name);

    sigset_t before;
    block_signals(&before);
    int refused = air_alloc_should_fail() ? EAGAIN : start_thread(t);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (refused) {
        air_free(t);
        return air_fail(err, AIR_E_THREAD, "thread %s could not be started: %s", name, strerror(refused));
    }
    *out = t;
    return AIR_OK;
}

void air_thread_join(air_thread *thread)
{
    if (!thread) return;
    (void)pthread_join(thread->id, NULL);
    air_free(thread);
}

static pthread_mutex_t *mutex(air_mutex *m) { return (pthread_mutex_t *)(void *)m->opaque; }
static pthread_cond_t *cond(air_cond *c) { return (pthread_cond_t *)(void *)c->opaque; }

void air_mutex_init(air_mutex *m) { (void)pthread_mutex_init(mutex(m), NULL); }
void air_mutex_deinit(air_mutex *m) { (void)pthread_mutex_destroy(mutex(m)); }
void air_mutex_lock(air_mutex *m) { (void)pthread_mutex_lock(mutex(m)); }
void air_mutex_unlock(air_mutex *m) { (void)pthread_mutex_unlock(mutex(m)); }

void air_cond_init(air_cond *c)
{
    pthread_condattr_t attributes;
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_cond_init(cond(c), &attributes);
    (void)pthread_condattr_destroy(&attributes);
}

void air_cond_deinit(air_cond *c) { (void)pthread_cond_destroy(cond(c)); }
void air_cond_wait(air_cond *c, air_mutex *m) { (void)pthread_cond_wait(cond(c), mutex(m)); }
void air_cond_signal(air_cond *c) { (void)pthread_cond_signal(cond(c)); }
void air_cond_broadcast(air_cond *c) { (void)pthread_cond_broadcast(cond(c)); }

int air_cond_wait_for(air_cond *c, air_mutex *m, uint64_t timeout_ns)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    uint64_t nsec = (uint64_t)until.tv_nsec + timeout_ns % 1000000000u;
    until.tv_sec += (time_t)(timeout_ns / 1000000000u + nsec / 1000000000u);
    until.tv_nsec = (long)(nsec % 1000000000u);
    return pthread_cond_timedwait(cond(c), mutex(m), &until) == ETIMEDOUT;
}

#if defined(__linux__) && !defined(AIR_NO_FUTEX)
_Static_assert(sizeof(_Atomic uint32_t) == 4, "a futex is 32 bits");

void air_word_wait(_Atomic uint32_t *word, uint32_t expected)
{
    (void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

void air_word_wake_all(_Atomic uint32_t *word)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}
#else
/* One lock for all words: who changes a word and then wakes cannot slip between a waiter's look at the word and its sleep. */
static pthread_mutex_t word_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t word_changed = PTHREAD_COND_INITIALIZER;

void air_word_wait(_Atomic uint32_t *word, uint32_t expected)
{
    (void)pthread_mutex_lock(&word_lock);
    if (atomic_load(word) == expected) (void)pthread_cond_wait(&word_changed, &word_lock);
    (void)pthread_mutex_unlock(&word_lock);
}

void air_word_wake_all(_Atomic uint32_t *word)
{
    (void)word;
    (void)pthread_mutex_lock(&word_lock);
    (void)pthread_cond_broadcast(&word_changed);
    (void)pthread_mutex_unlock(&word_lock);
}
#endif

void air_cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#endif
}


void air_sleep_ns(uint64_t ns)
{
    struct timespec left = {.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, 0, &left, &left) == EINTR) {}
}

static int affinity_count(void)
{
#if defined(__linux__)
    cpu_set_t set[8]; /* 8192 CPUs, the most that Linux is configured for */
    if (sched_getaffinity(0, sizeof set, set) == 0) return CPU_COUNT_S(sizeof set, set);
#endif
    return (int)sysconf(_SC_NPROCESSORS_ONLN);
}

int air_cpu_count(void)
{
    int cpus = affinity_count();
    int quota = air__cgroup_cpu_quota();
    if (quota && quota < cpus) cpus = quota;
    return cpus < 1 ? 1 : cpus;
}

uint64_t air_process_id(void) { return (uint64_t)getpid(); }
