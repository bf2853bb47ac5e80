#define _GNU_SOURCE
#include "platform/posix/cgroup.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct slice {
    const char *at;
    size_t length;
} slice;

static int slice_is(slice s, const char *text) { return s.length == strlen(text) && memcmp(s.at, text, s.length) == 0; }

/* Cuts the next part off *rest, up to the separator or the end. Returns 0 when nothing is left. */
static int slice_next(slice *rest, char separator, slice *part)
{
    if (!rest->at) return 0;
    const char *end = memchr(rest->at, separator, rest->length);
    *part = (slice){rest->at, end ? (size_t)(end - rest->at) : rest->length};
    *rest = end ? (slice){end + 1, rest->length - part->length - 1} : (slice){NULL, 0};
    return 1;
}

static int list_has(slice list, const char *name)
{
    for (slice item; slice_next(&list, ',', &item);)
        if (slice_is(item, name)) return 1;
    return 0;
}

/* "4:memory:/a/b" (version 1) or "0::/a/b" (version 2). */
static int group_path(const char *text, const char *controller, slice *path)
{
    slice rest = {text, strlen(text)};
    for (slice line; slice_next(&rest, '\n', &line);) {
        slice id, controllers;
        if (!slice_next(&line, ':', &id) || !slice_next(&line, ':', &controllers) || !line.at) continue;
        if (controller ? !list_has(controllers, controller) : controllers.length != 0) continue;
        *path = line;
        return 1;
    }
    return 0;
}

/* "31 23 0:28 ROOT POINT options … - TYPE source SUPER-OPTIONS", as proc(5) has it. */
static int mount_of(const char *text, const char *controller, slice *root, slice *point)
{
    slice rest = {text, strlen(text)};
    for (slice line; slice_next(&rest, '\n', &line);) {
        slice field = {NULL, 0}, type = {NULL, 0}, options = {NULL, 0};
        int n = 0, dash = 0;
        while (slice_next(&line, ' ', &field)) {
            if (n == 3) *root = field;
            if (n == 4) *point = field;
            if (dash && n == dash + 1) type = field;
            if (dash && n == dash + 3) options = field;
            if (!dash && n > 5 && slice_is(field, "-")) dash = n;
            n++;
        }
        if (!type.at || !slice_is(type, controller ? "cgroup" : "cgroup2")) continue;
        if (!controller || (options.at && list_has(options, controller))) return root->at && point->at;
    }
    return 0;
}

/* Appends with mountinfo's octal escapes ("\040" is a space) undone. */
static int append(char *out, size_t *used, slice text)
{
    for (size_t i = 0; i < text.length; i++) {
        const char *c = text.at + i;
        int octal = text.length - i >= 4 && c[0] == '\\' && c[1] >= '0' && c[1] <= '3' && c[2] >= '0' && c[2] <= '7' && c[3] >= '0' &&
                    c[3] <= '7';
        if (*used + 1 >= AIR__CGROUP_PATH) return 0;
        out[(*used)++] = octal ? (char)((c[1] - '0') * 64 + (c[2] - '0') * 8 + (c[3] - '0')) : c[0];
        if (octal) i += 3;
    }
    out[*used] = 0;
    return 1;
}

/* What of path lies below the mount's root; empty when path lies outside (a namespace hides it). */
static slice below_root(slice path, slice root)
{
    slice none = {"", 0};
    if (path.length >= 3 && memcmp(path.at, "/..", 3) == 0) return none;
    if (slice_is(root, "/")) return slice_is(path, "/") ? none : path;
    if (path.length < root.length || memcmp(path.at, root.at, root.length) != 0) return none;
    slice rest = {path.at + root.length, path.length - root.length};
    return rest.length && rest.at[0] == '/' ? rest : none;
}

int air__cgroup_find(const char *cgroup_text, const char *mountinfo_text, const char *controller, air__cgroup *out)
{
    slice path, root = {NULL, 0}, point = {NULL, 0};
    if (!group_path(cgroup_text, controller, &path) || !mount_of(mountinfo_text, controller, &root, &point)) return 0;
    size_t used = 0;
    if (!append(out->path, &used, point)) return 0;
    out->mount_length = used;
    return append(out->path, &used, below_root(path, root));
}

int air__cgroup_parent(air__cgroup *group)
{
    char *slash = strrchr(group->path, '/');
    if (!slash || (size_t)(slash - group->path) < group->mount_length) return 0;
    *slash = 0;
    return 1;
}

static int quota_cpus(unsigned long long quota, unsigned long long period)
{
    if (!quota || !period) return 0;
    unsigned long long cpus = quota / period + (quota % period != 0);
    return cpus > INT_MAX ? 0 : (int)cpus;
}

int air__cpu_quota_v1(const char *cfs_quota_us, const char *cfs_period_us)
{
    if (!cfs_quota_us || !cfs_period_us) return 0;
    long long quota = strtoll(cfs_quota_us, NULL, 10); /* -1: none */
    return quota > 0 ? quota_cpus((unsigned long long)quota, strtoull(cfs_period_us, NULL, 10)) : 0;
}

int air__cpu_quota_v2(const char *cpu_max)
{
    if (!cpu_max || strncmp(cpu_max, "max", 3) == 0) return 0;
    char *end;
    unsigned long long quota = strtoull(cpu_max, &end, 10);
    return quota_cpus(quota, strtoull(end, NULL, 10));
}

uint64_t air__parse_limit(const char *text)
{
    if (!text || text[0] < '0' || text[0] > '9') return UINT64_MAX;
    uint64_t limit = strtoull(text, NULL, 10);
    return limit >= UINT64_C(1) << 62 ? UINT64_MAX : limit; /* version 1 writes "none" as the largest page count */
}

uint64_t air__parse_field(const char *text, const char *key)
{
    size_t length = strlen(key);
    for (const char *line = text; line && *line;) {
        if (strncmp(line, key, length) == 0 && (line[length] == ' ' || line[length] == ':'))
            return strtoull(line + length + 1, NULL, 10);
        line = strchr(line, '\n');
        if (line) line++;
    }
    return 0;
}

char *air__read_text(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return NULL;
    size_t capacity = 4096, used = 0;
    char *text = malloc(capacity);
    for (ssize_t n = 1; text && n > 0;) {
        n = read(fd, text + used, capacity - used - 1);
        if (n > 0) used += (size_t)n;
        if (capacity - used > 1) continue;
        char *larger = realloc(text, capacity *= 2);
        if (!larger) free(text);
        text = larger;
    }
    (void)close(fd);
    if (text) text[used] = 0;
    return text;
}

char *air__read_group_text(const air__cgroup *group, const char *file)
{
    char path[AIR__CGROUP_PATH + 64];
    int n = snprintf(path, sizeof path, "%s/%s", group->path, file);
    return n > 0 && (size_t)n < sizeof path ? air__read_text(path) : NULL;
}

void air__cgroup_walk(const char *controller, void (*visit)(const air__cgroup *group, int version, void *context), void *context)
{
    char *cgroup_text = air__read_text("/proc/self/cgroup");
    char *mountinfo_text = air__read_text("/proc/self/mountinfo");
    for (int version = 1; cgroup_text && mountinfo_text && version <= 2; version++) {
        air__cgroup group;
        if (!air__cgroup_find(cgroup_text, mountinfo_text, version == 1 ? controller : NULL, &group)) continue;
        do visit(&group, version, context);
        while (air__cgroup_parent(&group));
    }
    free(cgroup_text);
    free(mountinfo_text);
}

static void take_quota(const air__cgroup *group, int version, void *context)
{
    char *quota = air__read_group_text(group, version == 1 ? "cpu.cfs_quota_us" : "cpu.max");
    char *period = version == 1 ? air__read_group_text(group, "cpu.cfs_period_us") : NULL;
    int cpus = version == 1 ? air__cpu_quota_v1(quota, period) : air__cpu_quota_v2(quota);
    int *least = context;
    if (cpus && (!*least || cpus < *least)) *least = cpus;
    free(quota);
    free(period);
}

int air__cgroup_cpu_quota(void)
{
    int least = 0;
    air__cgroup_walk("cpu", take_quota, &least);
    return least;
}
