/* gguf/directory.h: how a directory lies in memory; for the files of gguf/ (and tests that look at its size) alone.
 *
 * All of it, index included, lives in one arena that dies with the air_gguf. */
#ifndef AIR_GGUF_DIRECTORY_H
#define AIR_GGUF_DIRECTORY_H

#include "base/arena.h"
#include "gguf/gguf.h"

AIR_BEGIN_C

/* A hash index from name to position over an array whose elements begin with an air_string. */
typedef struct air__name_index {
    uint32_t *slots;    /* position + 1; 0 is free */
    uint64_t mask;      /* number of slots - 1 */
    uint64_t seed;
    const void *base;
    size_t stride;
} air__name_index;

struct air_gguf {
    air_arena arena;
    uint32_t version;
    uint64_t alignment;
    uint64_t n_entries, n_tensors;
    air_gguf_entry *entries;
    air_tensor *tensors;
    air__name_index entry_index, tensor_index;
};

#define AIR__NOT_FOUND UINT64_MAX
enum { AIR__QUOTED = 100 }; /* room for a quoted name of up to 64 printable bytes */

/* An empty index with room for count names. Returns 0 when the heap refuses. */
int air__name_index_init(air__name_index *index, air_arena *arena, uint64_t count, const void *base, size_t stride) AIR_NODISCARD;
/* Adds the element at position, or returns the position of the one that already has its name. */
uint64_t air__name_index_add(air__name_index *index, uint64_t position);
uint64_t air__name_index_find(const air__name_index *index, const char *name, uint64_t bytes);

/* "name" in quotes, other than printable ASCII as \xNN, shortened with … to fit; returns out. For messages. */
const char *air__quote(char out[AIR__QUOTED], air_string name);
/* Bytes of one value; 0 for strings and arrays. */
uint32_t air__gguf_type_bytes(uint32_t type);

AIR_END_C
#endif
