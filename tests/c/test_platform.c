/* test_platform.c: files, mappings and their fault guard, pages. */
#define _GNU_SOURCE
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "platform/file.h"
#include "platform/mmap.h"
#include "platform/pages.h"
#include "platform/posix/cgroup.h"
#include "platform/sysmem.h"
#include "platform/threads.h"

enum { BYTES = 300 * 1000 + 77 };
static const uint64_t MIB = UINT64_C(1) << 20;
static unsigned char content[BYTES];
static char path[4096], other_path[4096];

static void write_file(const char *name, const void *bytes, size_t count)
{
    FILE *f = fopen(name, "wb");
    if (!f || fwrite(bytes, 1, count, f) != count || fclose(f) != 0) {
        perror(name);
        exit(1);
    }
}

/* ---- a pread that misbehaves on demand: it takes the C library's place in this executable ---- */

static struct {
    int error, after;  /* fails with error once after calls have passed; 0: never */
    int interruptions; /* as many EINTR before the next success */
    size_t most;       /* tells of at most so many bytes; 0: any */
    int calls;
} faulty;

ssize_t pread(int fd, void *buffer, size_t bytes, off_t offset);
ssize_t pread(int fd, void *buffer, size_t bytes, off_t offset)
{
    if (faulty.error && faulty.calls++ >= faulty.after) {
        errno = faulty.error;
        return -1;
    }
    if (faulty.interruptions && faulty.interruptions-- > 0) {
        errno = EINTR;
        return -1;
    }
    long n = syscall(SYS_pread64, fd, buffer, bytes, offset);
    return faulty.most && n > (long)faulty.most ? (ssize_t)faulty.most : n;
}

static void pread_behaves(void) { memset(&faulty, 0, sizeof faulty); }

/* ---- files ---- */

/* Opens path; where the file system has no direct I/O, says so and leaves *file NULL. */
static void open_mode(air_file **file, air_file_mode mode)
{
    air_error err;
    air_status st = air_file_open(file, path, mode, &err);
    if (st == AIR_E_UNSUPPORTED && mode == AIR_FILE_DIRECT) printf("  direct I/O untested: %s\n", err.text);
    else check_true(st == AIR_OK, "open", __FILE__, __LINE__);
}

/* Reads [offset, offset + bytes) and compares with content, zeros after its end. */
static void check_read(air_file *file, uint64_t offset, unsigned char *buffer, size_t bytes)
{
    air_error err = {0};
    memset(buffer, 0xa5, bytes);
    CHECK_EQ(air_file_read(file, offset, buffer, bytes, &err), AIR_OK);
    size_t wrong = 0;
    for (size_t i = 0; i < bytes; i++) wrong += buffer[i] != (offset + i < BYTES ? content[offset + i] : 0);
    CHECK_EQ(wrong, 0);
}

/* Whether this process maps path anywhere. */
static int is_mapped(void)
{
    char *maps = air__read_text("/proc/self/maps");
    int found = maps && strstr(maps, path) != NULL;
    free(maps);
    return found;
}

TEST(a_file_reads_as_written_up_to_its_end_and_zeros_beyond)
{
    write_file(path, content, BYTES);
    for (int mode = AIR_FILE_CACHED; mode <= AIR_FILE_DIRECT; mode++) {
        air_file *file;
        open_mode(&file, (air_file_mode)mode);
        if (!file) continue;
        size_t align = air_file_alignment(file);
        CHECK_EQ(align == 1, mode == AIR_FILE_CACHED);
        CHECK_EQ(align & (align - 1), 0);
        CHECK_EQ(air_file_bytes(file), BYTES);
        CHECK_STR_EQ(air_file_path(file), path);
        unsigned char *buffer = air_pages_alloc(2 * BYTES);
        REQUIRE(buffer != NULL);
        for (int i = 0; i < 300; i++) {
            uint64_t offset = air_round_down(check_random() % (BYTES + 5000), align);
            check_read(file, offset, buffer, air_round_down(check_random() % (BYTES / (size_t)(1 + i % 50)), align));
        }
        check_read(file, 0, buffer, air_round_up(BYTES, align));
        check_read(file, air_round_up(BYTES, align), buffer, align * 3);
        CHECK_EQ(air_file_read(file, UINT64_MAX & ~(align - 1), buffer, align * 2, NULL), AIR_E_ARGUMENT);
        air_pages_free(buffer, 2 * BYTES);
        air_file_close(file);
    }
}

TEST(direct_reads_want_alignment)
{
    air_file *file;
    write_file(path, content, BYTES);
    open_mode(&file, AIR_FILE_DIRECT);
    if (!file) return;
    size_t align = air_file_alignment(file);
    unsigned char *buffer = air_pages_alloc(4 * align);
    air_error err;
    REQUIRE(buffer != NULL);
    CHECK_EQ(air_file_read(file, 1, buffer, align, &err), AIR_E_ARGUMENT);
    CHECK_EQ(air_file_read(file, 0, buffer, align + 1, &err), AIR_E_ARGUMENT);
    CHECK_EQ(air_file_read(file, 0, buffer + 1, align, &err), AIR_E_ARGUMENT);
    CHECK_EQ(air_file_read(file, align, buffer + align, align, &err), AIR_OK);
    air_pages_free(buffer, 4 * align);
    air_file_close(file);
}

TEST(interrupted_and_short_reads_go_on_where_they_stopped)
{
    write_file(path, content, BYTES);
    for (int mode = AIR_FILE_CACHED; mode <= AIR_FILE_DIRECT; mode++) {
        air_file *file;
        open_mode(&file, (air_file_mode)mode);
        if (!file) continue;
        size_t align = air_file_alignment(file), all = air_round_up(BYTES, align);
        unsigned char *buffer = air_pages_alloc(all);
        REQUIRE(buffer != NULL);
        faulty.interruptions = 3;
        check_read(file, 0, buffer, all);
        CHECK_EQ(faulty.interruptions, 0);
        faulty.most = 3 * align + 100; /* in direct mode no place to go on from */
        check_read(file, 0, buffer, all);
        pread_behaves();
        air_pages_free(buffer, all);
        air_file_close(file);
    }
}

TEST(a_failing_disk_is_an_error_with_path_offset_and_reason)
{
    air_file *file;
    air_error err;
    unsigned char buffer[4096];
    write_file(path, content, BYTES);
    open_mode(&file, AIR_FILE_CACHED);
    REQUIRE(file != NULL);
    faulty.most = 1000;
    faulty.error = EIO;
    faulty.after = 2;
    CHECK_EQ(air_file_read(file, 500, buffer, sizeof buffer, &err), AIR_E_IO);
    CHECK(strstr(err.text, path) && strstr(err.text, "2500") && strstr(err.text, strerror(EIO)));
    pread_behaves();
    CHECK_EQ(air_file_read(file, 500, buffer, sizeof buffer, &err), AIR_OK);
    air_file_close(file);
}

TEST(refused_direct_io_is_told_apart_from_a_failing_disk)
{
    air_file *file;
    air_error err;
    CHECK_EQ(air_file_open(&file, "/proc/self/status", AIR_FILE_DIRECT, &err), AIR_E_UNSUPPORTED); /* proc refuses at open */
    CHECK(file == NULL && strstr(err.text, "direct") != NULL);
    write_file(path, content, BYTES);
    open_mode(&file, AIR_FILE_DIRECT);
    if (!file) return;
    air_file_close(file);
    faulty.error = EINVAL; /* others at the first read */
    CHECK_EQ(air_file_open(&file, path, AIR_FILE_DIRECT, &err), AIR_E_UNSUPPORTED);
    CHECK(file == NULL);
    faulty.error = EIO;
    CHECK_EQ(air_file_open(&file, path, AIR_FILE_DIRECT, &err), AIR_E_IO);
    CHECK(file == NULL);
    pread_behaves();
}

TEST(what_is_no_readable_regular_file_does_not_open)
{
    air_file *file;
    air_error err;
    for (int mode = AIR_FILE_CACHED; mode <= AIR_FILE_DIRECT; mode++) {
        CHECK_EQ(air_file_open(&file, "/nonexistent/model.gguf", (air_file_mode)mode, &err), AIR_E_IO);
        CHECK(file == NULL && strstr(err.text, "/nonexistent/model.gguf") && strstr(err.text, strerror(ENOENT)));
        (void)unlink(other_path);
        REQUIRE(mkfifo(other_path, 0600) == 0);
        const char *const odd[] = {"/", "/dev/zero", other_path};
        for (size_t i = 0; i < AIR_COUNT(odd); i++) {
            CHECK_EQ(air_file_open(&file, odd[i], (air_file_mode)mode, &err), AIR_E_IO);
            CHECK(file == NULL && strstr(err.text, "not a regular file") != NULL);
        }
        (void)unlink(other_path);
    }
    air_file_close(NULL);
}

TEST(a_file_that_shrinks_is_found_out_by_the_read_that_misses_bytes)
{
    for (int mode = AIR_FILE_CACHED; mode <= AIR_FILE_DIRECT; mode++) {
        air_file *file;
        air_error err;
        write_file(path, content, BYTES);
        open_mode(&file, (air_file_mode)mode);
        if (!file) continue;
        unsigned char *buffer = air_pages_alloc(65536);
        REQUIRE(buffer != NULL);
        for (int at = 81920; at <= 90000; at += 90000 - 81920) { /* at a block's edge and inside one */
            write_file(path, content, BYTES);
            REQUIRE(truncate(path, at) == 0);
            CHECK_EQ(air_file_read(file, 0, buffer, 65536, &err), AIR_OK);
            char size[32];
            (void)snprintf(size, sizeof size, "now %d", at);
            for (uint64_t offset = 65536; offset <= 131072; offset += 65536) { /* which holds the end, or is beyond it */
                CHECK_EQ(air_file_read(file, offset, buffer, 65536, &err), AIR_E_CHANGED);
                CHECK(strstr(err.text, path) && strstr(err.text, size) && strstr(err.text, "300077"));
            }
        }
        air_pages_free(buffer, 65536);
        air_file_close(file);
    }
}

TEST(check_sees_a_file_changed_replaced_or_removed)
{
    air_file *file, *again;
    air_error err;
    const struct timespec long_ago[2] = {{.tv_sec = 1000}, {.tv_sec = 1000, .tv_nsec = 1}};
    write_file(path, content, BYTES);
    open_mode(&file, AIR_FILE_CACHED);
    REQUIRE(file != NULL);
    CHECK_EQ(air_file_check(file, &err), AIR_OK);
    open_mode(&again, AIR_FILE_CACHED);
    CHECK_EQ(air_file_identity(again), air_file_identity(file));
    air_file_close(again);

    REQUIRE(truncate(path, BYTES + 1) == 0);
    CHECK_EQ(air_file_check(file, &err), AIR_E_CHANGED);
    CHECK(strstr(err.text, "300077") && strstr(err.text, "300078"));
    REQUIRE(truncate(path, BYTES) == 0 && utimensat(AT_FDCWD, path, long_ago, 0) == 0);
    CHECK_EQ(air_file_check(file, &err), AIR_E_CHANGED);
    CHECK(strstr(err.text, "written to") != NULL);
    open_mode(&again, AIR_FILE_CACHED);
    CHECK(air_file_identity(again) != air_file_identity(file));
    air_file_close(again);

    write_file(other_path, content, BYTES);
    REQUIRE(rename(other_path, path) == 0);
    CHECK_EQ(air_file_check(file, &err), AIR_E_CHANGED);
    CHECK(strstr(err.text, "replaced") != NULL);
    REQUIRE(unlink(path) == 0);
    CHECK_EQ(air_file_check(file, &err), AIR_E_CHANGED);
    CHECK(strstr(err.text, strerror(ENOENT)) != NULL);
    air_file_close(file);
}

/* Whether the page cache has the file's first page. */
static int is_cached(void)
{
    unsigned char resident = 0;
    int fd = open(path, O_RDONLY);
    void *page = mmap(NULL, 1, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(page != MAP_FAILED && mincore(page, 1, &resident) == 0);
    (void)munmap(page, 1);
    (void)close(fd);
    return resident & 1;
}

TEST(the_page_cache_can_be_told_to_forget)
{
    enum { TMPFS = 0x01021994 }; /* linux/magic.h; its files live nowhere but in the cache */
    air_file *file;
    struct statfs fs;
    write_file(path, content, BYTES);
    int fd = open(path, O_RDONLY);
    REQUIRE(fd >= 0 && fsync(fd) == 0 && fstatfs(fd, &fs) == 0);
    (void)close(fd);
    open_mode(&file, AIR_FILE_CACHED);
    REQUIRE(file != NULL);
    unsigned char *buffer = air_malloc(BYTES);
    REQUIRE(buffer != NULL);
    check_read(file, 0, buffer, BYTES);
    CHECK(is_cached());
    air_file_forget(file, 0, BYTES);
    if (fs.f_type != TMPFS) CHECK(!is_cached());
    air_free(buffer);
    air_file_close(file);
}

static int lowest_descriptor(void)
{
    int fd = open("/dev/null", O_RDONLY);
    (void)close(fd);
    return fd;
}

/* Fails each allocation in turn until the open succeeds; nothing may be left of the failures. */
TEST(files_and_mappings_that_cannot_open_leave_nothing)
{
    int64_t live = air_alloc_live();
    int descriptor = lowest_descriptor();
    write_file(path, content, BYTES);
    for (int mode = AIR_FILE_CACHED; mode <= AIR_FILE_DIRECT; mode++)
        for (uint64_t n = 1;; n++) {
            air_file *file;
            air_mapping *mapping = NULL;
            air_alloc_fail_at(n);
            air_status st = air_file_open(&file, path, (air_file_mode)mode, NULL);
            if (st == AIR_OK) st = air_mapping_open(&mapping, file, NULL);
            int failed = air_alloc_failed();
            air_alloc_fail_at(0);
            CHECK_EQ(st == AIR_E_NOMEM, failed);
            air_mapping_close(mapping);
            air_file_close(file);
            CHECK_EQ(air_alloc_live(), live);
            if (!failed) break;
            REQUIRE(n < 10);
        }
    CHECK_EQ(lowest_descriptor(), descriptor); /* none was left open either */
}

/* ---- mappings ---- */

/* Runs body in a child; returns its exit status, or 1000 + the signal that ended it. */
static int in_child(void (*body)(void))
{
    (void)fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        const struct rlimit no_core = {0, 0};
        (void)setrlimit(RLIMIT_CORE, &no_core);
        atomic_store(&check_state.failures, 0);
        body();
        (void)fflush(stdout);
        _exit(atomic_load(&check_state.failures) ? 1 : 0);
    }
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
    return WIFSIGNALED(status) ? 1000 + WTERMSIG(status) : WEXITSTATUS(status);
}

static void map_path(air_mapping **mapping)
{
    air_file *file;
    air_error err = {0};
    *mapping = NULL;
    open_mode(&file, AIR_FILE_CACHED);
    if (file && air_mapping_open(mapping, file, &err)) printf("  %s\n", err.text);
    air_file_close(file); /* the mapping outlives it */
    check_true(*mapping != NULL, "mapping opens", __FILE__, __LINE__);
}

/* A file mapped and then cut to nothing, behind the guard's back: reading it is somebody else's SIGBUS. */
static volatile const unsigned char *foreign_page(void)
{
    write_file(other_path, content, 4096);
    int fd = open(other_path, O_RDONLY);
    volatile const unsigned char *page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    (void)close(fd);
    if (truncate(other_path, 0) != 0) exit(1);
    return page;
}

/* Whether the page's table has it, by the bit that /proc keeps for that. */
static int in_page_table(const void *data)
{
    uint64_t entry = 0;
    int fd = open("/proc/self/pagemap", O_RDONLY);
    ssize_t n = fd < 0 ? -1 : pread(fd, &entry, sizeof entry, (off_t)((uintptr_t)data / air_page_bytes() * sizeof entry));
    if (fd >= 0) (void)close(fd);
    return n == sizeof entry && entry >> 63;
}

TEST(a_mapping_shows_the_file_after_the_file_is_closed)
{
    air_mapping *mapping;
    write_file(path, content, BYTES);
    map_path(&mapping);
    REQUIRE(mapping != NULL);
    CHECK_EQ(air_mapping_bytes(mapping), BYTES);
    CHECK(!in_page_table(air_mapping_data(mapping)));
    air_mapping_touch(mapping, 10, BYTES - 20);
    CHECK(in_page_table(air_mapping_data(mapping)));
    air_mapping_touch(mapping, BYTES - 1, UINT64_MAX);
    air_mapping_touch(mapping, BYTES + 1, 1);
    CHECK_EQ(memcmp(air_mapping_data(mapping), content, BYTES), 0);
    CHECK_EQ(air_mapping_faulted(mapping), 0);
    CHECK(is_mapped());
    air_mapping_close(mapping);
    CHECK(!is_mapped());
    air_mapping_close(NULL);
}

/* Whether huge pages were asked for where path is mapped; -1 where the system has none. */
static int asks_for_huge_pages(void)
{
    char line[8192];
    int ours = 0, asked = access("/sys/kernel/mm/transparent_hugepage", F_OK) == 0 ? 0 : -1;
    FILE *maps = fopen("/proc/self/smaps", "r");
    while (maps && asked == 0 && fgets(line, sizeof line, maps)) {
        if (strchr(line, '/')) ours = strstr(line, path) != NULL;
        if (ours && strncmp(line, "VmFlags:", 8) == 0) asked = strstr(line, " hg") != NULL;
    }
    if (maps) (void)fclose(maps);
    return asked;
}

TEST(a_mapping_asks_for_huge_pages)
{
    air_mapping *mapping;
    write_file(path, content, BYTES);
    map_path(&mapping);
    REQUIRE(mapping != NULL);
    CHECK(asks_for_huge_pages());
    air_mapping_close(mapping);
}

TEST(an_empty_file_maps_to_nothing)
{
    air_mapping *mapping;
    write_file(path, "", 0);
    map_path(&mapping);
    REQUIRE(mapping != NULL);
    CHECK_EQ(air_mapping_bytes(mapping), 0);
    CHECK(air_mapping_data(mapping) != NULL);
    CHECK_EQ(air_mapping_faulted(mapping), 0);
    air_mapping_close(mapping);
}

static void read_truncated(void)
{
    air_mapping *mapping, *whole;
    write_file(other_path, content, BYTES);
    write_file(path, content, BYTES);
    map_path(&mapping);
    air_file *file;
    REQUIRE(air_file_open(&file, other_path, AIR_FILE_CACHED, NULL) == AIR_OK);
    REQUIRE(air_mapping_open(&whole, file, NULL) == AIR_OK);
    air_file_close(file);
    REQUIRE(mapping && truncate(path, 8192) == 0);
    const unsigned char *data = air_mapping_data(mapping);
    CHECK_EQ(memcmp(data, content, 8192), 0);
    CHECK_EQ(air_mapping_faulted(mapping), 0);
    for (int i = 8192; i < BYTES; i += 97) CHECK_EQ(data[i], 0);
    CHECK_EQ(air_mapping_faulted(mapping), 1);
    CHECK_EQ(memcmp(data, content, 8192), 0);
    CHECK_EQ(memcmp(air_mapping_data(whole), content, BYTES), 0);
    CHECK_EQ(air_mapping_faulted(whole), 0);
    air_mapping_close(mapping);
    map_path(&mapping); /* a new mapping does not inherit the flag */
    CHECK_EQ(air_mapping_faulted(mapping), 0);
    air_mapping_close(mapping);
    air_mapping_close(whole);
}

TEST(a_file_that_shrinks_reads_as_zeros_and_raises_the_flag) { CHECK_EQ(in_child(read_truncated), 0); }

enum { PAGES = 2000 };
static air_mapping *shared_mapping;

static void touch_pages(void *context)
{
    volatile const unsigned char *data = air_mapping_data(shared_mapping);
    int step = *(int *)context;
    for (int i = 0, page = 1; i < PAGES; i++, page = (page + step) % PAGES)
        if (page) CHECK_EQ(data[(size_t)page * 4096 + 5], 0);
}

static void fault_on_threads(void)
{
    air_thread *threads[4];
    int steps[4] = {1, 7, 1999, 1201};
    write_file(path, content, 4096);
    REQUIRE(truncate(path, PAGES * 4096) == 0);
    map_path(&shared_mapping);
    REQUIRE(shared_mapping && truncate(path, 4096) == 0);
    for (int i = 0; i < 4; i++) REQUIRE(air_thread_start(&threads[i], "touch", touch_pages, &steps[i], NULL) == AIR_OK);
    for (int i = 0; i < 4; i++) air_thread_join(threads[i]);
    CHECK_EQ(air_mapping_faulted(shared_mapping), 1);
    CHECK_EQ(memcmp(air_mapping_data(shared_mapping), content, 4096), 0);
    air_mapping_close(shared_mapping);
}

TEST(faults_on_many_threads_at_once_are_all_repaired) { CHECK_EQ(in_child(fault_on_threads), 0); }

static void default_then_foreign_fault(void)
{
    air_mapping *mapping;
    (void)signal(SIGBUS, SIG_DFL);
    write_file(path, content, BYTES);
    map_path(&mapping);
    (void)*foreign_page();
}

static void ignored_then_foreign_fault(void)
{
    air_mapping *mapping;
    (void)signal(SIGBUS, SIG_IGN);
    write_file(path, content, BYTES);
    map_path(&mapping);
    (void)kill(getpid(), SIGBUS); /* a sent signal stays ignored, */
    (void)*foreign_page();        /* a fault cannot be */
}

static void default_then_sent(void)
{
    air_mapping *mapping;
    (void)signal(SIGBUS, SIG_DFL);
    write_file(path, content, BYTES);
    map_path(&mapping);
    (void)kill(getpid(), SIGBUS);
    air_sleep_ns(1000000);
}

static void ignored_then_sent(void)
{
    air_mapping *mapping;
    (void)signal(SIGBUS, SIG_IGN);
    write_file(path, content, BYTES);
    map_path(&mapping);
    (void)kill(getpid(), SIGBUS);
    siginfo_t forged = {.si_signo = SIGBUS, .si_code = SI_QUEUE}; /* its address is whatever the sender wrote there */
    forged.si_addr = (void *)(uintptr_t)air_mapping_data(mapping);
    CHECK_EQ(syscall(SYS_rt_sigqueueinfo, getpid(), SIGBUS, &forged), 0);
    CHECK_EQ(air_mapping_faulted(mapping), 0);
    CHECK_EQ(air_mapping_data(mapping)[0], content[0]);
}

TEST(a_fault_of_somebody_else_ends_as_it_would_have_without_us)
{
    CHECK_EQ(in_child(default_then_foreign_fault), 1000 + SIGBUS);
    CHECK_EQ(in_child(ignored_then_foreign_fault), 1000 + SIGBUS);
    CHECK_EQ(in_child(default_then_sent), 1000 + SIGBUS);
    CHECK_EQ(in_child(ignored_then_sent), 0);
}

static sigjmp_buf landing;
static volatile sig_atomic_t plain_calls, info_calls;
static void *volatile info_address;

static void plain_handler(int sig)
{
    plain_calls += sig == SIGBUS;
    siglongjmp(landing, 1);
}

static void info_handler(int sig, siginfo_t *info, void *context)
{
    (void)context;
    info_calls += sig == SIGBUS;
    info_address = info->si_addr;
    siglongjmp(landing, 1);
}

static void set_info_handler(struct sigaction *old)
{
    struct sigaction act = {.sa_sigaction = info_handler, .sa_flags = SA_SIGINFO};
    CHECK_EQ(sigaction(SIGBUS, &act, old), 0);
}

static void foreign_handlers(void)
{
    air_mapping *mapping;
    write_file(path, content, BYTES);
    volatile const unsigned char *page = foreign_page();
    (void)signal(SIGBUS, plain_handler);
    map_path(&mapping);
    if (!sigsetjmp(landing, 1)) (void)*page;
    CHECK_EQ(plain_calls, 1);
    air_mapping_close(mapping);

    set_info_handler(NULL);
    map_path(&mapping);
    if (!sigsetjmp(landing, 1)) (void)*page;
    CHECK_EQ(info_calls, 1);
    CHECK_EQ((uintptr_t)info_address, (uintptr_t)page);
    CHECK_EQ(air_mapping_faulted(mapping), 0);
    air_mapping_close(mapping);
}

TEST(a_fault_of_somebody_else_reaches_their_handler) { CHECK_EQ(in_child(foreign_handlers), 0); }

static void install_and_remove(void)
{
    air_mapping *a, *b;
    struct sigaction before, now, ours;
    (void)signal(SIGBUS, plain_handler);
    (void)sigaction(SIGBUS, NULL, &before);
    write_file(path, content, BYTES);
    map_path(&a);
    map_path(&b);
    (void)sigaction(SIGBUS, NULL, &ours);
    CHECK((ours.sa_flags & SA_SIGINFO) != 0);
    air_mapping_close(a);
    (void)sigaction(SIGBUS, NULL, &now);
    CHECK(now.sa_sigaction == ours.sa_sigaction); /* b is still open */
    air_mapping_close(b);
    (void)sigaction(SIGBUS, NULL, &now);
    CHECK(now.sa_handler == before.sa_handler);
}

static struct sigaction below; /* what chaining_handler found when it was installed: the guard */
static volatile sig_atomic_t chained;

static void chaining_handler(int sig, siginfo_t *info, void *context)
{
    chained++;
    below.sa_sigaction(sig, info, context);
}

static void somebody_on_top(void)
{
    air_mapping *mapping;
    struct sigaction act = {.sa_sigaction = chaining_handler, .sa_flags = SA_SIGINFO}, now;
    (void)signal(SIGBUS, SIG_DFL);
    write_file(path, content, BYTES);
    map_path(&mapping);
    (void)sigaction(SIGBUS, &act, &below);
    air_mapping_close(mapping);
    (void)sigaction(SIGBUS, NULL, &now);
    CHECK(now.sa_sigaction == chaining_handler); /* theirs is not ours to remove */
    map_path(&mapping);
    REQUIRE(truncate(path, 0) == 0);
    CHECK_EQ(*(volatile const unsigned char *)air_mapping_data(mapping), 0);
    CHECK_EQ(air_mapping_faulted(mapping), 1);
    CHECK_EQ(chained, 1);
    air_mapping_close(mapping);
}

TEST(the_handler_is_there_only_while_a_mapping_is_open) { CHECK_EQ(in_child(install_and_remove), 0); }
TEST(a_handler_installed_over_ours_stays_and_chains_to_ours) { CHECK_EQ(in_child(somebody_on_top), 0); }

TEST(the_513th_mapping_is_refused_and_the_rest_work)
{
    enum { MOST = 512 };
    static air_mapping *mappings[MOST + 1];
    air_file *file;
    air_error err;
    int64_t live = air_alloc_live();
    write_file(path, content, BYTES);
    open_mode(&file, AIR_FILE_CACHED);
    REQUIRE(file != NULL);
    for (int i = 0; i < MOST; i++) CHECK_EQ(air_mapping_open(&mappings[i], file, &err), AIR_OK);
    CHECK_EQ(air_mapping_open(&mappings[MOST], file, &err), AIR_E_NOMEM);
    CHECK(mappings[MOST] == NULL && strstr(err.text, "512") != NULL);
    air_mapping_close(mappings[7]);
    CHECK_EQ(air_mapping_open(&mappings[7], file, &err), AIR_OK);
    for (int i = 0; i < MOST; i++) air_mapping_close(mappings[i]);
    air_file_close(file);
    CHECK(!is_mapped());
    CHECK_EQ(air_alloc_live(), live);
}

/* ---- pages ---- */

TEST(pages_start_as_zeros_and_go_back_to_zeros)
{
    int64_t live = air_alloc_live();
    size_t page = air_page_bytes(), bytes = 64 * page + 5;
    unsigned char *p = air_pages_alloc(bytes);
    REQUIRE(p != NULL);
    CHECK_EQ((uintptr_t)p % page, 0);
    CHECK_EQ(air_alloc_live(), live + 1);
    for (size_t i = 0; i < bytes; i++) CHECK_EQ(p[i], 0);
    air_pages_huge(p, bytes);
    for (int locked = 0; locked < 2; locked++) {
        memset(p, 7, bytes);
        if (locked && mlock(p, bytes) != 0) break; /* not allowed here */
        air_pages_decommit(p + 10, 4 * page); /* three whole pages lie inside */
        air_pages_decommit(p + 20, 30);       /* none does */
        for (size_t i = 0; i < bytes; i++) CHECK_EQ(p[i], i >= page && i < 4 * page ? 0 : 7);
    }
    air_pages_free(p, bytes);
    CHECK_EQ(air_alloc_live(), live);
}

TEST(pages_cost_memory_only_while_they_are_in_use)
{
    const size_t bytes = (size_t)(64 * MIB);
    uint64_t before = air_memory_query().process_anonymous;
    unsigned char *p = air_pages_alloc(bytes);
    REQUIRE(p != NULL);
    CHECK(air_memory_query().process_anonymous < before + 4 * MIB);
    memset(p, 1, bytes);
    uint64_t peak = air_memory_query().process_anonymous;
    CHECK(peak >= before + 60 * MIB);
    air_pages_decommit(p, bytes);
    CHECK(air_memory_query().process_anonymous <= peak - 60 * MIB);
    air_pages_free(p, bytes);
}

TEST(large_regions_share_no_huge_page)
{
    enum { REGIONS = 5 };
    const size_t bytes = (size_t)(3 * MIB) + 4096;
    unsigned char *p[REGIONS];
    for (int i = 0; i < REGIONS; i++) {
        p[i] = air_pages_alloc(bytes + (size_t)i);
        REQUIRE(p[i] != NULL);
        CHECK_EQ((uintptr_t)p[i] % (uintptr_t)(2 * MIB), 0);
        memset(p[i], 1, bytes + (size_t)i); /* all of it is there */
    }
    for (int i = 0; i < REGIONS; i++) air_pages_free(p[i], bytes + (size_t)i);
}

TEST(pages_that_cannot_be_had_are_null)
{
    air_alloc_fail_at(1);
    CHECK(air_pages_alloc(4096) == NULL && air_alloc_failed());
    CHECK(air_pages_alloc(SIZE_MAX) == NULL);
    CHECK(air_pages_alloc(SIZE_MAX / 2) == NULL);
    void *p = air_pages_alloc(0);
    CHECK(p != NULL);
    air_pages_free(p, 0);
    air_pages_free(NULL, 5);
}

int main(int argc, char **argv)
{
    const char *folder = getenv("TMPDIR");
    check_begin(argc, argv);
    for (int i = 0; i < BYTES; i++) content[i] = (unsigned char)(check_random() | 1); /* never 0: a zero is a page that was replaced */
    unsigned long long id = air_process_id();
    (void)snprintf(path, sizeof path, "%s/air_platform_%llu", folder ? folder : "/tmp", id);
    (void)snprintf(other_path, sizeof other_path, "%s/air_platform_%llu_other", folder ? folder : "/tmp", id);
    RUN(a_file_reads_as_written_up_to_its_end_and_zeros_beyond);
    RUN(direct_reads_want_alignment);
    RUN(interrupted_and_short_reads_go_on_where_they_stopped);
    RUN(a_failing_disk_is_an_error_with_path_offset_and_reason);
    RUN(refused_direct_io_is_told_apart_from_a_failing_disk);
    RUN(what_is_no_readable_regular_file_does_not_open);
    RUN(a_file_that_shrinks_is_found_out_by_the_read_that_misses_bytes);
    RUN(check_sees_a_file_changed_replaced_or_removed);
    RUN(the_page_cache_can_be_told_to_forget);
    RUN(files_and_mappings_that_cannot_open_leave_nothing);
    RUN(a_mapping_shows_the_file_after_the_file_is_closed);
    RUN(a_mapping_asks_for_huge_pages);
    RUN(an_empty_file_maps_to_nothing);
    RUN(a_file_that_shrinks_reads_as_zeros_and_raises_the_flag);
    RUN(faults_on_many_threads_at_once_are_all_repaired);
    RUN(a_fault_of_somebody_else_ends_as_it_would_have_without_us);
    RUN(a_fault_of_somebody_else_reaches_their_handler);
    RUN(the_handler_is_there_only_while_a_mapping_is_open);
    RUN(a_handler_installed_over_ours_stays_and_chains_to_ours);
    RUN(the_513th_mapping_is_refused_and_the_rest_work);
    RUN(pages_start_as_zeros_and_go_back_to_zeros);
    RUN(pages_cost_memory_only_while_they_are_in_use);
    RUN(large_regions_share_no_huge_page);
    RUN(pages_that_cannot_be_had_are_null);
    (void)unlink(path);
    (void)unlink(other_path);
    return check_end();
}
