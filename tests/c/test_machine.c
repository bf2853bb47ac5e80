/* test_machine.c: what the machine allows: CPU, clock, memory and control groups, the latter from sample texts too. */
#define _GNU_SOURCE
#include "check.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/compiler.h"
#include "platform/clock.h"
#include "platform/cpuid.h"
#include "platform/pages.h"
#include "platform/posix/cgroup.h"
#include "platform/posix/sysmem_text.h"
#include "platform/sysmem.h"
#include "platform/threads.h"

static const uint64_t MIB = UINT64_C(1) << 20;

/* ---- the CPU ---- */

#ifdef __aarch64__
static const char flags_line[] = "\nFeatures";
#else
static const char flags_line[] = "\nflags";
#endif

static int cpuinfo_has(const char *cpuinfo, const char *flag)
{
    char word[40];
    const char *flags = strstr(cpuinfo, flags_line), *end = flags ? strchr(flags + 1, '\n') : NULL;
    (void)snprintf(word, sizeof word, " %s", flag);
    size_t length = strlen(word);
    for (const char *at = flags; at && (at = strstr(at, word)) && at < end; at += length)
        if (at[length] == ' ' || at[length] == '\n') return 1;
    return 0;
}

TEST(features_and_name_are_those_the_kernel_sees)
{
    static const struct { air_cpu_feature feature; const char *flags[5]; } rows[] = {
        {AIR_CPU_AVX2, {"avx2", "fma", "f16c", "bmi2", NULL}},
        {AIR_CPU_AVX_VNNI, {"avx_vnni", NULL}},
        {AIR_CPU_AVX512, {"avx512f", "avx512bw", "avx512dq", "avx512vl", NULL}},
        {AIR_CPU_AVX512_VNNI, {"avx512_vnni", NULL}},
        {AIR_CPU_AVX512_VBMI, {"avx512vbmi", NULL}},
        {AIR_CPU_AVX512_BF16, {"avx512_bf16", NULL}},
        {AIR_CPU_NEON, {"asimd", NULL}},
        {AIR_CPU_DOTPROD, {"asimddp", NULL}},
        {AIR_CPU_I8MM, {"i8mm", NULL}},
    };
    char *cpuinfo = air__read_text("/proc/cpuinfo");
    REQUIRE(cpuinfo != NULL);
    int emulated = !strstr(cpuinfo, flags_line); /* the file is of another CPU */
    for (size_t i = 0; i < AIR_COUNT(rows) && !emulated; i++) {
        int want = 1;
        for (int k = 0; rows[i].flags[k]; k++) want &= cpuinfo_has(cpuinfo, rows[i].flags[k]);
        CHECK_EQ((air_cpu_features() & (uint32_t)rows[i].feature) != 0, want);
    }
    const char *name = air_cpu_name();
    if (strcmp(name, "unknown CPU") != 0) CHECK(strstr(cpuinfo, name) != NULL);
    CHECK(name[0] && name[0] != ' ');
    free(cpuinfo);
}

TEST(the_clock_counts_nanoseconds_upwards)
{
    uint64_t last = air_clock_ns();
    for (int i = 0; i < 1000; i++) {
        uint64_t now = air_clock_ns();
        CHECK(now >= last);
        last = now;
    }
    air_sleep_ns(3000000);
    CHECK(air_clock_ns() - last >= 3000000 && air_clock_ns() - last < 3000000000u);
}

/* ---- control groups and memory, from sample texts ---- */

static const char hybrid_groups[] = "9:name=systemd:/\n4:memory:/process/9f67\n2:cpuacct:/\n1:cpu:/batch\n0::/unified/x\n";
static const char hybrid_mounts[] =
    "23 1 254:0 / / rw,relatime - ext4 /dev/root rw\n"
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
    "33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:4 master:2 - cgroup cgroup rw,cpu\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

static void check_group(const char *groups, const char *mounts, const char *controller, const char *want)
{
    air__cgroup group;
    int found = air__cgroup_find(groups, mounts, controller, &group);
    CHECK_EQ(found, want != NULL);
    if (found && want) CHECK_STR_EQ(group.path, want);
}

TEST(a_group_is_found_in_either_version_and_in_containers)
{
    check_group(hybrid_groups, hybrid_mounts, "memory", "/sys/fs/cgroup/memory/process/9f67");
    check_group(hybrid_groups, hybrid_mounts, "cpu", "/sys/fs/cgroup/cpu/batch");
    check_group(hybrid_groups, hybrid_mounts, NULL, "/sys/fs/cgroup/unified/unified/x");
    check_group(hybrid_groups, hybrid_mounts, "pids", NULL);
    /* version 2 alone; the root group */
    check_group("0::/user.slice/run.scope\n", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n", NULL,
                "/sys/fs/cgroup/user.slice/run.scope");
    check_group("0::/\n", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", NULL, "/sys/fs/cgroup");
    check_group("0::/a\n", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "memory", NULL);
    /* two controllers on one mount; a container sees its group as the mount's root */
    check_group("3:cpu,cpuacct:/docker/ab\n", "40 31 0:30 /docker/ab /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n",
                "cpu", "/sys/fs/cgroup/cpu,cpuacct");
    check_group("3:cpu,cpuacct:/docker/ab/x\n", "40 31 0:30 /docker/ab /cg ro - cgroup cgroup rw,cpu,cpuacct\n", "cpu", "/cg/x");
    check_group("3:memory:/docker/abc\n", "40 31 0:30 /docker/ab /cg ro - cgroup cgroup rw,memory\n", "memory", "/cg");
    check_group("0::/../other\n", "30 23 0:26 / /cg rw - cgroup2 cgroup2 rw\n", NULL, "/cg");
    /* a space in the mount point */
    check_group("0::/a b\n", "30 23 0:26 / /my\\040cg rw - cgroup2 cgroup2 rw\n", NULL, "/my cg/a b");
}

TEST(malformed_group_texts_find_nothing)
{
    check_group("", hybrid_mounts, "memory", NULL);
    check_group("4:memory", hybrid_mounts, "memory", NULL);
    check_group("garbage\n:\n::\n4\n", hybrid_mounts, "memory", NULL);
    check_group(hybrid_groups, "", "memory", NULL);
    check_group(hybrid_groups, "35 31\n - \n35 31 0:32 / /m rw - cgroup\n35 31 0:32 / /m rw -\n", "memory", NULL);
    char *deep = malloc(9000);
    REQUIRE(deep != NULL);
    memset(deep, 'x', 8999);
    deep[8999] = 0;
    memcpy(deep, "0::/", 4);
    check_group(deep, "30 23 0:26 / /cg rw - cgroup2 cgroup2 rw\n", NULL, NULL);
    free(deep);
}

TEST(ancestors_end_at_the_mount)
{
    air__cgroup group;
    REQUIRE(air__cgroup_find("0::/a/b\n", "30 23 0:26 / /sys/cg rw - cgroup2 cgroup2 rw\n", NULL, &group));
    CHECK(air__cgroup_parent(&group));
    CHECK_STR_EQ(group.path, "/sys/cg/a");
    CHECK(air__cgroup_parent(&group));
    CHECK_STR_EQ(group.path, "/sys/cg");
    CHECK(!air__cgroup_parent(&group));
    CHECK_STR_EQ(group.path, "/sys/cg");
}

TEST(quotas_are_rounded_up_to_whole_processors)
{
    CHECK_EQ(air__cpu_quota_v1("-1\n", "100000\n"), 0);
    CHECK_EQ(air__cpu_quota_v1("50000\n", "100000\n"), 1);
    CHECK_EQ(air__cpu_quota_v1("200000\n", "100000\n"), 2);
    CHECK_EQ(air__cpu_quota_v1("200001\n", "100000\n"), 3);
    CHECK_EQ(air__cpu_quota_v1("5\n", "0\n"), 0);
    CHECK_EQ(air__cpu_quota_v1(NULL, "100000\n"), 0);
    CHECK_EQ(air__cpu_quota_v2("max 100000\n"), 0);
    CHECK_EQ(air__cpu_quota_v2("150000 100000\n"), 2);
    CHECK_EQ(air__cpu_quota_v2("99999999999999999999 1\n"), 0);
    CHECK_EQ(air__cpu_quota_v2("150000\n"), 0);
    CHECK_EQ(air__cpu_quota_v2(NULL), 0);
}

static int write_text(const char *folder, const char *file, const char *text)
{
    char name[AIR__CGROUP_PATH + 128];
    (void)snprintf(name, sizeof name, "%s/%s", folder, file);
    FILE *f = fopen(name, "w");
    if (!f) return 0;
    int written = fputs(text, f) >= 0;
    return fclose(f) == 0 && written;
}

/* In a child, so that this process stays in its group: half a processor for the group above the child's. */
TEST(a_quota_on_the_group_above_cuts_the_processors)
{
    char *groups = air__read_text("/proc/self/cgroup"), *mounts = air__read_text("/proc/self/mountinfo");
    char outer[AIR__CGROUP_PATH + 32], inner[AIR__CGROUP_PATH + 64];
    air__cgroup group;
    int found = groups && mounts && air__cgroup_find(groups, mounts, "cpu", &group);
    free(groups);
    free(mounts);
    (void)snprintf(outer, sizeof outer, "%s/air-test-%d", found ? group.path : "/nonexistent", (int)getpid());
    (void)snprintf(inner, sizeof inner, "%s/inner", outer);
    int made = mkdir(outer, 0700) == 0 && mkdir(inner, 0700) == 0 && write_text(outer, "cpu.cfs_quota_us", "50000");
    if (made) {
        pid_t child = fork();
        if (child == 0) _exit(write_text(inner, "cgroup.procs", "0") ? air_cpu_count() : 99);
        int status = 0;
        CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
        CHECK_EQ(WEXITSTATUS(status), 1);
    } else {
        printf("  quota untested: no group can be made here\n");
    }
    (void)rmdir(inner);
    (void)rmdir(outer);
}

TEST(limits_and_fields_are_read_from_their_lines)
{
    const char *meminfo = "MemTotal:       24683104 kB\nMemFree: 1 kB\nMemAvailable:   20000000 kB\n";
    CHECK_EQ(air__parse_field(meminfo, "MemTotal"), 24683104);
    CHECK_EQ(air__parse_field(meminfo, "MemAvailable"), 20000000);
    CHECK_EQ(air__parse_field(meminfo, "Mem"), 0);
    CHECK_EQ(air__parse_field(NULL, "MemTotal"), 0);
    CHECK_EQ(air__parse_limit("1073741824\n"), 1 << 30);
    CHECK(air__parse_limit("max\n") == AIR_MEMORY_UNLIMITED);
    CHECK(air__parse_limit("9223372036854771712\n") == AIR_MEMORY_UNLIMITED);
    CHECK(air__parse_limit("-1\n") == AIR_MEMORY_UNLIMITED);
    CHECK(air__parse_limit(NULL) == AIR_MEMORY_UNLIMITED);
}

TEST(a_groups_usage_leaves_out_the_cache_the_kernel_can_drop)
{
    const char *v1 = "cache 900\ninactive_file 1\nactive_file 2\ntotal_inactive_file 300\ntotal_active_file 200\n";
    const char *v2 = "anon 500\nfile 500\ninactive_file 30\nactive_file 20\n";
    CHECK_EQ(air__cgroup_memory_used("1000\n", v1, 1), 500);
    CHECK_EQ(air__cgroup_memory_used("1000\n", v2, 2), 950);
    CHECK_EQ(air__cgroup_memory_used("40\n", v2, 2), 0);
    CHECK_EQ(air__cgroup_memory_used("40\n", NULL, 2), 40);
    CHECK_EQ(air__cgroup_memory_used(NULL, NULL, 1), 0);
}

TEST(locked_pages_are_counted_once)
{
    const char *smaps = "7f00-7f01 r--s 0 00:00 1 /m\nRss: 8 kB\nAnonymous:             0 kB\nKSM: 0 kB\nLocked:                8 kB\n"
                        "7f02-7f03 rw-p 0 00:00 0\nRss: 16 kB\nAnonymous:            16 kB\nLocked:               16 kB\n"
                        "7f04-7f05 rw-p 0 00:00 0 /m\nRss: 16 kB\nAnonymous:             4 kB\nLocked:               16 kB\n";
    CHECK_EQ(air__locked_file_bytes(smaps), (8 + 12) * 1024);
    CHECK_EQ(air__locked_file_bytes(""), 0);
    CHECK_EQ(air__locked_file_bytes(NULL), 0);
}

/* mlock; the sanitizers' own does nothing. */
static int lock_pages(const void *p, size_t bytes) { return syscall(SYS_mlock, p, bytes) == 0; }

TEST(a_locked_mapping_counts_as_memory_of_this_process)
{
    const size_t bytes = (size_t)(4 * MIB);
    FILE *file = tmpfile();
    REQUIRE(file && ftruncate(fileno(file), (off_t)bytes) == 0);
    void *mapped = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fileno(file), 0);
    unsigned char *anonymous = air_pages_alloc(bytes);
    REQUIRE(mapped != MAP_FAILED && anonymous);
    memset(anonymous, 1, bytes);
    uint64_t before = air_memory_query().process_anonymous;
    if (lock_pages(anonymous, bytes)) {
        CHECK(air_memory_query().process_anonymous < before + 2 * MIB); /* was counted already */
        if (lock_pages(mapped, bytes)) {
            uint64_t after = air_memory_query().process_anonymous;
            CHECK(after >= before + bytes && after < before + bytes + 2 * MIB);
        }
    } else {
        printf("  locked memory untested: %s\n", strerror(errno));
    }
    air_pages_free(anonymous, bytes);
    (void)munmap(mapped, bytes);
    (void)fclose(file);
}

TEST(this_machine_has_memory)
{
    air_memory_info info = air_memory_query();
    CHECK(info.total >= 64 * MIB && info.available <= info.total && info.available > 0);
    CHECK(info.cgroup_limit == AIR_MEMORY_UNLIMITED ? info.cgroup_usage == 0 : info.cgroup_limit > 0);
    CHECK(info.process_anonymous > 0 && info.process_anonymous < info.total);
}

TEST(the_default_budget_leaves_room_for_others)
{
    air_memory_info info = {
        .available = 32768 * MIB, .cgroup_limit = AIR_MEMORY_UNLIMITED, .address_space = AIR_MEMORY_UNLIMITED};
    CHECK_EQ(air_memory_default_budget(&info), 32768 * MIB - 32768 * MIB / 20);
    info.available = 4096 * MIB;
    CHECK_EQ(air_memory_default_budget(&info), (4096 - 512) * MIB);
    info.available = 600 * MIB;
    CHECK_EQ(air_memory_default_budget(&info), 300 * MIB);
    info.address_space = 400 * MIB;
    CHECK_EQ(air_memory_room(&info), 400 * MIB);
    CHECK_EQ(air_memory_default_budget(&info), 200 * MIB);
    info = (air_memory_info){.available = 32768 * MIB, .cgroup_limit = 5000 * MIB, .cgroup_usage = 1000 * MIB,
                             .address_space = AIR_MEMORY_UNLIMITED};
    CHECK_EQ(air_memory_default_budget(&info), (4000 - 512) * MIB);
    CHECK_EQ(air_memory_room(&info), 4000 * MIB);
    info.available = 3000 * MIB;
    CHECK_EQ(air_memory_room(&info), 3000 * MIB);
    info.cgroup_usage = 6000 * MIB;
    CHECK_EQ(air_memory_room(&info), 0);
    CHECK_EQ(air_memory_default_budget(&info), 0);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(features_and_name_are_those_the_kernel_sees);
    RUN(the_clock_counts_nanoseconds_upwards);
    RUN(a_group_is_found_in_either_version_and_in_containers);
    RUN(malformed_group_texts_find_nothing);
    RUN(ancestors_end_at_the_mount);
    RUN(quotas_are_rounded_up_to_whole_processors);
    RUN(a_quota_on_the_group_above_cuts_the_processors);
    RUN(limits_and_fields_are_read_from_their_lines);
    RUN(a_groups_usage_leaves_out_the_cache_the_kernel_can_drop);
    RUN(locked_pages_are_counted_once);
    RUN(a_locked_mapping_counts_as_memory_of_this_process);
    RUN(this_machine_has_memory);
    RUN(the_default_budget_leaves_room_for_others);
    return check_end();
}
