/* platform/sysmem.h: how much memory there is, for the machine, the memory cgroup and this process. Thread-safe queries. */
#ifndef AIR_PLATFORM_SYSMEM_H
#define AIR_PLATFORM_SYSMEM_H

#include <stdint.h>

#include "base/compiler.h"

AIR_BEGIN_C

#define AIR_MEMORY_UNLIMITED UINT64_MAX

typedef struct air_memory_info {
    uint64_t total;         /* of the machine */
    uint64_t available;     /* MemAvailable */
    uint64_t cgroup_limit;  /* of the process's cgroup or the ancestor with the least room left (v1 and v2); UNLIMITED if none */
    uint64_t cgroup_usage;  /* of that group, less its reclaimable file cache; 0 if none */
    uint64_t address_space; /* that we may still map (RLIMIT_AS less VmSize and a thread's heap); UNLIMITED if nothing bounds it */
    uint64_t process_anonymous; /* RssAnon + page-locked: what airpy's promise is about */
} air_memory_info;

air_memory_info air_memory_query(void);

/* What this process can still take: min(available, limit - usage, address space). Pure. */
uint64_t air_memory_room(const air_memory_info *info);

/* DESIGN's default budget: the room less max(512 MiB, 5 %), never below half of it. Pure. */
uint64_t air_memory_default_budget(const air_memory_info *info);

AIR_END_C
#endif
