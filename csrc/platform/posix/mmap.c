#define _GNU_SOURCE
#include "platform/mmap.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "base/alloc.h"
#include "base/checked.h"
#include "platform/pages.h"

enum { SLOTS = 512 }; /* of live mappings; a model takes one per file part */

/* One live mapping, as the signal handler sees it. version is odd while the slot is being changed; end 0 marks it free. The
 * handler may run on any thread at any moment, so it takes no lock and skips a slot that changes: that one is not being read. */
typedef struct slot {
    _Atomic uint32_t version;
    _Atomic uintptr_t begin, end;
    atomic_int faulted;
} slot;

struct air_mapping {
    const uint8_t *data;
    uint64_t bytes;
    slot *slot; /* NULL: empty file, nothing mapped */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* over what follows; the handler reads without it */
static slot slots[SLOTS];
static int live;                  /* slots in use */
static int installed;             /* our handler is the system's, or somebody chained theirs before it */
static struct sigaction previous; /* written before our handler is installed, then constant */
static size_t page_bytes;         /* likewise */

static void slot_set(slot *s, uintptr_t begin, uintptr_t end)
{
    atomic_fetch_add(&s->version, 1);
    atomic_store(&s->begin, begin);
    atomic_store(&s->end, end);
    if (end) atomic_store(&s->faulted, 0);
    atomic_fetch_add(&s->version, 1);
}

static slot *slot_at(uintptr_t address, uintptr_t *begin, uintptr_t *end)
{
    for (slot *s = slots; s < slots + SLOTS; s++) {
        uint32_t version = atomic_load(&s->version);
        *begin = atomic_load(&s->begin);
        *end = atomic_load(&s->end);
        if (!(version & 1) && atomic_load(&s->version) == version && *begin <= address && address < *end) return s;
    }
    return NULL;
}

/* By bare system call where that is simple: POSIX does not list mmap as safe in a signal handler, though nothing below it locks. */
static int put_zeros(uintptr_t at, size_t bytes)
{
    enum { FLAGS = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED };
#if defined(__linux__) && defined(__LP64__)
    return syscall(SYS_mmap, at, bytes, PROT_READ, FLAGS, -1, 0) != -1;
#else
    return mmap((void *)at, bytes, PROT_READ, FLAGS, -1, 0) != MAP_FAILED;
#endif
}

/* Repairs a fault inside one of our mappings. Each page replaced may take one of the process's limited number of mappings; when
 * they are used up the whole file is replaced at once, which takes none: its data is lost for the pass anyway. */
static int repair(uintptr_t address)
{
    uintptr_t begin, end;
    slot *s = slot_at(address, &begin, &end);
    if (!s) return 0;
    atomic_store(&s->faulted, 1);
    return put_zeros(address & ~(uintptr_t)(page_bytes - 1), page_bytes) || put_zeros(begin, end - begin);
}

/* Hands the signal on as if we had never been there. Returning from a fault runs the instruction again; with the default action
 * back in place that ends the process, and a signal that was sent is sent again. */
static void forward(int sig, siginfo_t *info, void *context)
{
    int sent = info->si_code <= 0;
    if (previous.sa_flags & SA_SIGINFO) {
        previous.sa_sigaction(sig, info, context);
    } else if (previous.sa_handler == SIG_DFL || (previous.sa_handler == SIG_IGN && !sent)) {
        struct sigaction defaults;
        memset(&defaults, 0, sizeof defaults);
        defaults.sa_handler = SIG_DFL;
        (void)sigaction(sig, &defaults, NULL);
        if (sent) (void)raise(sig);
    } else if (previous.sa_handler != SIG_IGN) {
        previous.sa_handler(sig);
    }
}

/* si_code tells a fault (> 0) from a signal that somebody sent, whose si_addr means nothing. */
static void on_sigbus(int sig, siginfo_t *info, void *context)
{
    int saved = errno;
    if (info->si_code <= 0 || !repair((uintptr_t)info->si_addr)) forward(sig, info, context);
    errno = saved;
}

static int ours_is_current(struct sigaction *current)
{
    return sigaction(SIGBUS, NULL, current) == 0 && (current->sa_flags & SA_SIGINFO) && current->sa_sigaction == on_sigbus;
}

/* Somebody who installed a handler over ours has ours as their previous one and may call it; installing ours again on top would
 * make the two call each other forever, so then everything stays as it is. */
static void guard_install(void)
{
    struct sigaction ours;
    if (installed) return;
    page_bytes = air_page_bytes();
    memset(&ours, 0, sizeof ours);
    (void)sigemptyset(&ours.sa_mask);
    ours.sa_sigaction = on_sigbus;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
    (void)sigaction(SIGBUS, NULL, &previous);
    installed = sigaction(SIGBUS, &ours, NULL) == 0;
}

static void guard_remove(void)
{
    struct sigaction current;
    if (!installed || !ours_is_current(&current)) return;
    (void)sigaction(SIGBUS, &previous, NULL);
    installed = 0;
}

static slot *slot_take(uintptr_t begin, uintptr_t end)
{
    slot *found = NULL;
    (void)pthread_mutex_lock(&lock);
    for (slot *s = slots; s < slots + SLOTS && !found; s++)
        if (!atomic_load(&s->end)) found = s;
    if (found) {
        if (live++ == 0) guard_install();
        slot_set(found, begin, end);
    }
    (void)pthread_mutex_unlock(&lock);
    return found;
}

static void slot_give(slot *s)
{
    (void)pthread_mutex_lock(&lock);
    slot_set(s, 0, 0);
    if (--live == 0) guard_remove();
    (void)pthread_mutex_unlock(&lock);
}

static air_status map_file(air_mapping *mapping, const air_file *file, air_error *err)
{
    void *data = mmap(NULL, (size_t)mapping->bytes, PROT_READ, MAP_SHARED, air_file_descriptor(file), 0);
    if (data == MAP_FAILED)
        return air_fail(err, errno == ENOMEM ? AIR_E_NOMEM : AIR_E_IO, "%s: cannot map %llu bytes: %s", air_file_path(file),
                        (unsigned long long)mapping->bytes, strerror(errno));
#if defined(MADV_HUGEPAGE)
    /* What is read through the mapping from now on comes into the page cache as huge pages, where the file system has them. */
    (void)madvise(data, (size_t)mapping->bytes, MADV_HUGEPAGE);
#endif
    mapping->data = data;
    mapping->slot = slot_take((uintptr_t)data, (uintptr_t)data + (size_t)mapping->bytes);
    if (!mapping->slot) {
        (void)munmap(data, (size_t)mapping->bytes);
        return air_fail(err, AIR_E_NOMEM, "%s: more than %d files are mapped", air_file_path(file), SLOTS);
    }
    return AIR_OK;
}

air_status air_mapping_open(air_mapping **out, const air_file *file, air_error *err)
{
    *out = NULL;
    air_mapping *mapping = air_calloc(1, sizeof *mapping);
    if (!mapping) return air_fail(err, AIR_E_NOMEM, "%s: %zu bytes", air_file_path(file), sizeof *mapping);
    mapping->data = (const uint8_t *)"";
    mapping->bytes = air_file_bytes(file);
    air_status st = mapping->bytes ? map_file(mapping, file, err) : AIR_OK;
    if (st) air_free(mapping);
    else *out = mapping;
    return st;
}

void air_mapping_close(air_mapping *mapping)
{
    if (!mapping) return;
    if (mapping->slot) {
        /* Unmap before the slot is free: until then a late fault is still ours. */
        (void)munmap((void *)(uintptr_t)mapping->data, (size_t)mapping->bytes);
        slot_give(mapping->slot);
    }
    air_free(mapping);
}

const uint8_t *air_mapping_data(const air_mapping *mapping) { return mapping->data; }
uint64_t air_mapping_bytes(const air_mapping *mapping) { return mapping->bytes; }
int air_mapping_faulted(const air_mapping *mapping) { return mapping->slot ? atomic_load(&mapping->slot->faulted) : 0; }

void air_mapping_touch(const air_mapping *mapping, uint64_t offset, uint64_t bytes)
{
    enum { AROUND = 64 * 1024 }; /* fault_around_bytes, as Linux has it unless told otherwise */
    if (!mapping->slot || offset >= mapping->bytes) return;
    uint64_t end = air_min_u64(bytes, mapping->bytes - offset) + offset;
    for (uint64_t at = offset; at < end; at = air_round_down(at, AROUND) + AROUND) (void)*(const volatile uint8_t *)&mapping->data[at];
}
