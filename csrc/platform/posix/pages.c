#define _GNU_SOURCE
#include "platform/pages.h"

#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/checked.h"

enum { HUGE_PAGE = 2 << 20 }; /* of x86 and of 4 KiB AArch64; elsewhere the alignment is of no use and does no harm */

size_t air_page_bytes(void) { return (size_t)sysconf(_SC_PAGESIZE); }

/* 0 bytes take a page too, so that NULL always means refusal; 0 is returned on overflow. */
static size_t region_bytes(size_t bytes)
{
    uint64_t rounded;
    if (!air_align_u64(bytes ? bytes : 1, air_page_bytes(), &rounded) || rounded > SIZE_MAX) return 0;
    return (size_t)rounded;
}

/* A huge page that two regions share stays whole in memory when one of them goes, so a large region begins at a boundary of
 * huge pages; the last of its small pages end before the next one's. Address space for that is mapped, and cut off again. */
static void *map_aligned(size_t region)
{
    size_t spare = region >= HUGE_PAGE && region <= SIZE_MAX - HUGE_PAGE ? HUGE_PAGE : 0;
    char *p = mmap(NULL, region + spare, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return NULL;
    size_t head = spare ? (HUGE_PAGE - (uintptr_t)p % HUGE_PAGE) % HUGE_PAGE : 0;
    if (head) (void)munmap(p, head);
    if (spare > head) (void)munmap(p + head + region, spare - head);
    return p + head;
}

void *air_pages_alloc(size_t bytes)
{
    size_t region = region_bytes(bytes);
    if (!region || air_alloc_should_fail()) return NULL;
    void *p = map_aligned(region);
    if (p) air__alloc_count(1);
    return p;
}

void air_pages_free(void *p, size_t bytes)
{
    if (!p) return;
    (void)munmap(p, region_bytes(bytes));
    air__alloc_count(-1);
}

/* The whole pages inside [p, p + bytes); 0 bytes when there are none. */
static size_t inner_pages(void *p, size_t bytes, void **first)
{
    size_t page = air_page_bytes();
    size_t skip = (page - (uintptr_t)p % page) % page;
    *first = (char *)p + (bytes < skip ? 0 : skip);
    return bytes < skip ? 0 : (bytes - skip) / page * page;
}

void air_pages_decommit(void *p, size_t bytes)
{
    void *first;
    size_t whole = inner_pages(p, bytes, &first);
    if (!whole || madvise(first, whole, MADV_DONTNEED) == 0) return;
    /* Locked pages refuse MADV_DONTNEED; a fresh mapping over them drops them all the same. */
    (void)mmap(first, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

void air_pages_huge(void *p, size_t bytes)
{
#ifdef MADV_HUGEPAGE
    void *first;
    size_t whole = inner_pages(p, bytes, &first);
    if (whole) (void)madvise(first, whole, MADV_HUGEPAGE);
#else
    (void)p, (void)bytes;
#endif
}

void air_pages_not_for_children(void *p, size_t bytes)
{
#ifdef MADV_DONTFORK
    void *first;
    size_t whole = inner_pages(p, bytes, &first);
    if (whole) (void)madvise(first, whole, MADV_DONTFORK);
#else
    (void)p, (void)bytes;
#endif
}
