#include "guard.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define GUARD_ASAN
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define GUARD_ASAN
#endif
#endif
#ifdef GUARD_ASAN
#include <sanitizer/asan_interface.h>
#define POISON(p, n) ASAN_POISON_MEMORY_REGION(p, n)
#define UNPOISON(p, n) ASAN_UNPOISON_MEMORY_REGION(p, n)
#else
#define POISON(p, n) ((void)0)
#define UNPOISON(p, n) ((void)0)
#endif

enum { MAX_GUARDS = 128, CANARY = 0xa5, CANARY_BEFORE = 128 };

static struct guard {
    uint8_t *map, *data, *end; /* of the pages with access */
    size_t   bytes, page;
} guards[MAX_GUARDS];
static int guard_count;

void *guard_new(size_t bytes, size_t alignment)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t room = (bytes + alignment + CANARY_BEFORE + page - 1) / page * page;
    uint8_t *map = mmap(NULL, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED || guard_count == MAX_GUARDS || mprotect(map + room, page, PROT_NONE) != 0) {
        fprintf(stderr, "guard_new: %zu bytes, %d guards\n", bytes, guard_count);
        exit(EXIT_FAILURE);
    }
    struct guard *g = &guards[guard_count++];
    *g = (struct guard){.map = map, .end = map + room, .bytes = bytes, .page = page};
    g->data = g->end - (bytes + alignment - 1) / alignment * alignment;
    memset(map, CANARY, room);
    memset(g->data, 0, bytes);
    POISON(map, (size_t)(g->data - map));
    POISON(g->data + bytes, (size_t)(g->end - g->data) - bytes);
    return g->data;
}

air_q8 guard_q8(int64_t k, int64_t n)
{
    return (air_q8){
        guard_new((size_t)(n * k), 64),
        guard_new((size_t)(n * air_q8_turned_bytes(k)), 64),
        guard_new((size_t)(n * k / AIR_Q8_SUM_GROUP) * sizeof(int16_t), 64),
        guard_new((size_t)(n * k / AIR_Q8_GROUP) * sizeof(float), 64),
    };
}

int guard_intact(void)
{
    int intact = 1;
    for (int i = 0; i < guard_count; i++) {
        const struct guard *g = &guards[i];
        const uint8_t *after = g->data + g->bytes;
        UNPOISON(g->map, (size_t)(g->end - g->map));
        for (const uint8_t *p = g->data - CANARY_BEFORE; p < g->data; p++) intact &= *p == CANARY;
        for (const uint8_t *p = after; p < g->end; p++) intact &= *p == CANARY;
        POISON(g->map, (size_t)(g->data - g->map));
        POISON(after, (size_t)(g->end - after));
    }
    return intact;
}

void guard_free_all(void)
{
    for (int i = 0; i < guard_count; i++) {
        UNPOISON(guards[i].map, (size_t)(guards[i].end - guards[i].map));
        munmap(guards[i].map, (size_t)(guards[i].end - guards[i].map) + guards[i].page);
    }
    guard_count = 0;
}
