/* base/alloc.h: the heap, with its own fault injection.
 *
 * Every allocation of the library goes through here (large page-backed regions through platform/pages.h, which asks
 * air_alloc_should_fail too). Tests arm air_alloc_fail_at(n): the n-th allocation from then on fails, once, and air_alloc_live()
 * must be back where it was when everything is closed. All functions are thread-safe; sizes are in bytes.
 * Returned memory is aligned to 64 bytes, a cache line, whatever its size. */
#ifndef AIR_BASE_ALLOC_H
#define AIR_BASE_ALLOC_H

#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"

AIR_BEGIN_C

void *air_malloc(size_t bytes) AIR_NODISCARD;
void *air_calloc(size_t count, size_t bytes) AIR_NODISCARD; /* NULL also where count * bytes overflows */
void *air_realloc(void *p, size_t bytes) AIR_NODISCARD;     /* on NULL the old block is untouched */
void air_free(void *p);                                     /* NULL is legal */
char *air_strdup(const char *text) AIR_NODISCARD;

/* Fails the n-th (1 = next) allocation after this call, once; 0 disarms. Returns nothing: read air_alloc_failed(). */
void air_alloc_fail_at(uint64_t n);
int air_alloc_failed(void);      /* whether the armed failure has happened */
int air_alloc_should_fail(void); /* counts one allocation; nonzero if it is the armed one. For allocators elsewhere. */
int64_t air_alloc_live(void);    /* allocations made and not yet freed */
void air__alloc_count(int delta); /* +1 or -1 on the live count. For allocators elsewhere. */

AIR_END_C
#endif
