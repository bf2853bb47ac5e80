/* platform/pages.h: anonymous memory straight from the system, for pins, rings and state.
 *
 * A region is address space first; pages take memory when touched and give it back on air_pages_decommit. Counted by
 * base/alloc.h's fault injection and live count. Thread-safe for disjoint ranges. */
#ifndef AIR_PLATFORM_PAGES_H
#define AIR_PLATFORM_PAGES_H

#include <stddef.h>

#include "base/compiler.h"

AIR_BEGIN_C

size_t air_page_bytes(void); /* the system's page size, a power of two */
/* Address space of bytes (rounded up to pages), page-aligned, zero on first touch; NULL when refused. From 2 MiB on regions begin at
 * a multiple of that, so that no huge page lies in two of them. */
void *air_pages_alloc(size_t bytes) AIR_NODISCARD;
void air_pages_free(void *p, size_t bytes); /* the bytes given at alloc; NULL is legal */
/* Gives the whole pages inside [p, p+bytes) back to the system; they read as zero when touched again. */
void air_pages_decommit(void *p, size_t bytes);
/* Asks for huge pages in the range (a hint). */
void air_pages_huge(void *p, size_t bytes);

/* Children that fork() makes have nothing where these whole pages are: pages that a device copies from or to must stay this process's,
 * which would go on with copies once it writes to pages that a child has too. A hint. */
void air_pages_not_for_children(void *p, size_t bytes);

AIR_END_C
#endif
