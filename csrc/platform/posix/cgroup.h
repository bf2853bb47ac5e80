/* platform/posix/cgroup.h: which control groups hold this process, and what they allow.
 *
 * Understands version 1, version 2 and both mounted at once. The parsers are pure functions over the text of /proc and of the
 * groups' files, so that tests can show them machines they do not run on; the queries at the end read this machine.
 * Systems without control groups have no limits. */
#ifndef AIR_PLATFORM_POSIX_CGROUP_H
#define AIR_PLATFORM_POSIX_CGROUP_H

#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"

AIR_BEGIN_C

enum { AIR__CGROUP_PATH = 4096 };

/* The directory of a group. Its ancestors are reached by cutting components off, down to mount_length bytes. */
typedef struct air__cgroup {
    char path[AIR__CGROUP_PATH];
    size_t mount_length;
} air__cgroup;

/* Finds the group of a controller ("cpu", "memory"; NULL: the version 2 group) from the texts of /proc/self/cgroup and
 * /proc/self/mountinfo. Returns 0 where there is none. A path outside of what is mounted gives the mount's own root. */
int air__cgroup_find(const char *cgroup_text, const char *mountinfo_text, const char *controller, air__cgroup *out);
int air__cgroup_parent(air__cgroup *group); /* goes up one level; 0 at the mount, which stays */

/* CPUs that a quota allows, rounded up; 0 for none. Texts may be NULL (no such file). */
int air__cpu_quota_v1(const char *cfs_quota_us, const char *cfs_period_us);
int air__cpu_quota_v2(const char *cpu_max);

/* "1234\n" → 1234; "max", none, or more than an address space can hold → UINT64_MAX. */
uint64_t air__parse_limit(const char *text);
/* The number after "key " or "key:" at the start of a line; 0 if absent. Text may be NULL. */
uint64_t air__parse_field(const char *text, const char *key);

/* The whole file as NUL-terminated text for free(), or NULL. Not from air_malloc: a query must not shift which allocation a test
 * fails. */
char *air__read_text(const char *path);
char *air__read_group_text(const air__cgroup *group, const char *file);

int air__cgroup_cpu_quota(void); /* of this process, the tightest over the ancestors; 0 for none */
/* Calls visit with this process's group of the controller, then each ancestor; version 1, then 2. */
void air__cgroup_walk(const char *controller, void (*visit)(const air__cgroup *group, int version, void *context), void *context);

AIR_END_C
#endif
