#include "base/arena.h"

#include <stdint.h>
#include <string.h>

#include "base/alloc.h"

enum { CHUNK_BYTES = 64 * 1024, ALIGN = 16 };

struct air_arena_chunk {
    struct air_arena_chunk *next;
    char pad[ALIGN - sizeof(void *)]; /* keeps data aligned to 16 */
    char data[];
};

void *air_arena_alloc(air_arena *arena, size_t count, size_t bytes)
{
    if (bytes && count > (SIZE_MAX / 2) / bytes) return NULL;
    size_t need = (count * bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    if (!arena->chunks || need > arena->capacity - arena->used) {
        size_t capacity = need > CHUNK_BYTES ? need : CHUNK_BYTES;
        struct air_arena_chunk *chunk = air_malloc(sizeof *chunk + capacity);
        if (!chunk) return NULL;
        chunk->next = arena->chunks;
        arena->chunks = chunk;
        arena->used = 0;
        arena->capacity = capacity;
        arena->total += sizeof *chunk + capacity;
    }
    void *p = arena->chunks->data + arena->used;
    arena->used += need;
    memset(p, 0, need);
    return p;
}

char *air_arena_copy(air_arena *arena, const char *text, size_t bytes)
{
    if (bytes == SIZE_MAX) return NULL;
    char *copy = air_arena_alloc(arena, 1, bytes + 1);
    if (copy && bytes) memcpy(copy, text, bytes);
    return copy;
}

void air_arena_deinit(air_arena *arena)
{
    for (struct air_arena_chunk *chunk = arena->chunks, *next; chunk; chunk = next) {
        next = chunk->next;
        air_free(chunk);
    }
    *arena = (air_arena){0};
}
