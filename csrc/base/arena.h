/* base/arena.h: many small allocations that die together.
 *
 * An arena owns its chunks; what it hands out lives until air_arena_deinit. Not thread-safe. A zeroed air_arena is a valid empty one. */
#ifndef AIR_BASE_ARENA_H
#define AIR_BASE_ARENA_H

#include <stddef.h>

#include "base/compiler.h"

AIR_BEGIN_C

typedef struct air_arena {
    struct air_arena_chunk *chunks;
    size_t used, capacity; /* of the newest chunk */
    size_t total;          /* bytes asked of the heap so far */
} air_arena;

/* Zeroed memory aligned to 16, or NULL when the heap refuses. count * bytes is checked. */
void *air_arena_alloc(air_arena *arena, size_t count, size_t bytes) AIR_NODISCARD;
/* A NUL-terminated copy of bytes bytes. */
char *air_arena_copy(air_arena *arena, const char *text, size_t bytes) AIR_NODISCARD;
void air_arena_deinit(air_arena *arena);

AIR_END_C
#endif
