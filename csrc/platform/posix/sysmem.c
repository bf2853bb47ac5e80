#define _GNU_SOURCE
#include "platform/sysmem.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/checked.h"
#include "platform/posix/cgroup.h"
#include "platform/posix/sysmem_text.h"

enum { KIB = 1024 };
static const uint64_t MIB = UINT64_C(1) << 20;

uint64_t air__cgroup_memory_used(const char *usage, const char *stat, int version)
{
    uint64_t used = usage ? strtoull(usage, NULL, 10) : 0;
    uint64_t cache = air__parse_field(stat, version == 1 ? "total_inactive_file" : "inactive_file") +
                     air__parse_field(stat, version == 1 ? "total_active_file" : "active_file");
    return used > cache ? used - cache : 0;
}

uint64_t air__locked_file_bytes(const char *smaps)
{
    uint64_t total = 0;
    for (const char *at = smaps; at;) {
        /* "Anonymous:" precedes "Locked:" within each mapping's lines. */
        const char *anonymous_line = strstr(at, "\nAnonymous:");
        const char *locked_line = anonymous_line ? strstr(anonymous_line, "\nLocked:") : NULL;
        if (!locked_line) break;
        uint64_t anonymous = strtoull(anonymous_line + 11, NULL, 10), locked = strtoull(locked_line + 8, NULL, 10);
        if (locked > anonymous) total += (locked - anonymous) * KIB;
        at = locked_line + 1;
    }
    return total;
}

/* RssAnon holds every anonymous page, locked or not. VmLck sums the sizes of locked mappings, anonymous ones among them, so
 * adding it whole would count those twice; what it adds to RssAnon are locked pages of files, which only smaps tells apart.
 * Reading smaps takes milliseconds and happens only when something is locked at all. */
static uint64_t process_anonymous(const char *status)
{
    uint64_t bytes = air__parse_field(status, "RssAnon") * KIB;
    if (air__parse_field(status, "VmLck")) {
        char *smaps = air__read_text("/proc/self/smaps");
        bytes += air__locked_file_bytes(smaps);
        free(smaps);
    }
    return bytes;
}

/* Of ours only the engine's thread allocates beside the caller's; glibc then reserves this much for it (HEAP_MAX_SIZE of an arena). */
#if defined(__GLIBC__)
#define ARENA_BYTES (64 * MIB)
#else
#define ARENA_BYTES UINT64_C(0)
#endif

static uint64_t address_space(const char *status)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_AS, &limit) || limit.rlim_cur == RLIM_INFINITY) return AIR_MEMORY_UNLIMITED;
    uint64_t left = air__memory_room(limit.rlim_cur, air__parse_field(status, "VmSize") * KIB);
    return left - air_min_u64(ARENA_BYTES, left / 2);
}

/* Keeps the group with the least room left: an ancestor's larger limit may be nearly used up by our siblings. */
static void take_limit(const air__cgroup *group, int version, void *context)
{
    air_memory_info *info = context;
    char *max = air__read_group_text(group, version == 1 ? "memory.limit_in_bytes" : "memory.max");
    char *high = version == 1 ? NULL : air__read_group_text(group, "memory.high"); /* above it the kernel throttles */
    char *usage = air__read_group_text(group, version == 1 ? "memory.usage_in_bytes" : "memory.current");
    char *stat = air__read_group_text(group, "memory.stat");
    uint64_t limit = air_min_u64(air__parse_limit(max), air__parse_limit(high));
    uint64_t used = air__cgroup_memory_used(usage, stat, version);
    if (limit != UINT64_MAX && air__memory_room(limit, used) < air__memory_room(info->cgroup_limit, info->cgroup_usage)) {
        info->cgroup_limit = limit;
        info->cgroup_usage = used;
    }
    free(max);
    free(high);
    free(usage);
    free(stat);
}

air_memory_info air_memory_query(void)
{
    air_memory_info info = {.cgroup_limit = AIR_MEMORY_UNLIMITED};
    char *meminfo = air__read_text("/proc/meminfo");
    info.total = air__parse_field(meminfo, "MemTotal") * KIB;
    info.available = air__parse_field(meminfo, "MemAvailable") * KIB;
    free(meminfo);
    air__cgroup_walk("memory", take_limit, &info);
    char *status = air__read_text("/proc/self/status");
    info.address_space = address_space(status);
    info.process_anonymous = process_anonymous(status);
    free(status);
    return info;
}

uint64_t air_memory_room(const air_memory_info *info)
{
    uint64_t room = air_min_u64(info->available, air__memory_room(info->cgroup_limit, info->cgroup_usage));
    return air_min_u64(room, info->address_space);
}

uint64_t air_memory_default_budget(const air_memory_info *info)
{
    uint64_t room = air_memory_room(info);
    uint64_t reserve = air_max_u64(512 * MIB, room / 20);
    return reserve < room / 2 ? room - reserve : room / 2;
}
