#include "base/alloc.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* A header of one cache line before each block keeps its size (for realloc) and keeps the block aligned to a line. */
enum { HEADER = AIR_CACHE_LINE };

static _Atomic uint64_t fail_countdown;
static _Atomic int fail_happened;
static _Atomic int64_t live;

void air_alloc_fail_at(uint64_t n)
{
    atomic_store(&fail_happened, 0);
    atomic_store(&fail_countdown, n);
}

int air_alloc_failed(void) { return atomic_load(&fail_happened); }
int64_t air_alloc_live(void) { return atomic_load(&live); }
void air__alloc_count(int delta) { atomic_fetch_add(&live, delta); }

int air_alloc_should_fail(void)
{
    uint64_t left = atomic_load_explicit(&fail_countdown, memory_order_relaxed);
    while (left) {
        if (!atomic_compare_exchange_weak(&fail_countdown, &left, left - 1)) continue;
        if (left > 1) return 0;
        atomic_store(&fail_happened, 1);
        return 1;
    }
    return 0;
}

void *air_malloc(size_t bytes)
{
    if (bytes > SIZE_MAX - 2 * HEADER || air_alloc_should_fail()) return NULL;
    size_t total = (bytes + 2 * HEADER - 1) & ~(size_t)(HEADER - 1);
    char *block = aligned_alloc(HEADER, total);
    if (!block) return NULL;
    memcpy(block, &bytes, sizeof bytes);
    atomic_fetch_add(&live, 1);
    return block + HEADER;
}

void *air_calloc(size_t count, size_t bytes)
{
    if (bytes && count > SIZE_MAX / bytes) return NULL;
    void *p = air_malloc(count * bytes);
    if (p) memset(p, 0, count * bytes);
    return p;
}

void *air_realloc(void *p, size_t bytes)
{
    if (!p) return air_malloc(bytes);
    void *q = air_malloc(bytes);
    if (!q) return NULL;
    size_t old;
    memcpy(&old, (char *)p - HEADER, sizeof old);
    memcpy(q, p, old < bytes ? old : bytes);
    air_free(p);
    return q;
}

void air_free(void *p)
{
    if (!p) return;
    atomic_fetch_sub(&live, 1);
    free((char *)p - HEADER);
}

char *air_strdup(const char *text)
{
    size_t bytes = strlen(text) + 1;
    char *copy = air_malloc(bytes);
    if (copy) memcpy(copy, text, bytes);
    return copy;
}
