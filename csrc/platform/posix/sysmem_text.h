/* platform/posix/sysmem_text.h: the pure parts of sysmem.c, for it and its test: what the kernel's texts say about memory. */
#ifndef AIR_PLATFORM_POSIX_SYSMEM_TEXT_H
#define AIR_PLATFORM_POSIX_SYSMEM_TEXT_H

#include <stdint.h>

#include "base/compiler.h"

AIR_BEGIN_C

/* A group's usage less the file cache that the kernel can drop; texts may be NULL. */
uint64_t air__cgroup_memory_used(const char *usage, const char *stat, int version);
/* Bytes of locked pages that are not anonymous, from the text of /proc/self/smaps (NULL is legal). */
uint64_t air__locked_file_bytes(const char *smaps);

static inline uint64_t air__memory_room(uint64_t limit, uint64_t used)
{
    if (limit == UINT64_MAX) return UINT64_MAX;
    return limit > used ? limit - used : 0;
}

AIR_END_C
#endif
