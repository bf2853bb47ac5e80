#define _GNU_SOURCE
#include "platform/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/syscall.h>
#endif

#include "base/alloc.h"
#include "base/checked.h"
#include "base/random.h"
#include "platform/pages.h"

#ifndef O_DIRECT
#define O_DIRECT 0
#endif

enum { DEFAULT_ALIGNMENT = 4096 };
static const size_t READ_MOST = (size_t)1 << 30; /* a single pread moves less than 2 GiB on Linux */

typedef struct identity {
    uint64_t device, inode, bytes;
    int64_t modified_ns;
} identity;

struct air_file {
    int fd;
    size_t alignment; /* 1: cached */
    identity id;
    char path[];
};

static identity identity_of(const struct stat *s)
{
    return (identity){
        .device = (uint64_t)s->st_dev,
        .inode = (uint64_t)s->st_ino,
        .bytes = (uint64_t)s->st_size,
        .modified_ns = (int64_t)s->st_mtim.tv_sec * 1000000000 + s->st_mtim.tv_nsec,
    };
}

/* The alignment that direct reads need, 0 if the file system says it has none. Asks statx (Linux 6.1) by number and offset, as
 * the headers at hand may be older: the syscall's numbers, the mask STATX_DIOALIGN and the offsets of stx_mask,
 * stx_dio_mem_align and stx_dio_offset_align are the kernel's ABI (include/uapi/linux/stat.h). */
static size_t direct_alignment(int fd)
{
#if defined(__linux__) && !defined(SYS_statx) && defined(__x86_64__)
#define SYS_statx 332
#endif
#if defined(__linux__) && defined(SYS_statx)
    enum { DIOALIGN = 0x2000, MASK_AT = 0, MEMORY_AT = 152, OFFSET_AT = 156, EMPTY_PATH = 0x1000 };
    AIR_ALIGNAS(8) unsigned char reply[256] = {0};
    if (syscall(SYS_statx, fd, "", EMPTY_PATH, DIOALIGN, reply) == 0) {
        uint32_t mask, memory, offset;
        memcpy(&mask, reply + MASK_AT, sizeof mask);
        memcpy(&memory, reply + MEMORY_AT, sizeof memory);
        memcpy(&offset, reply + OFFSET_AT, sizeof offset);
        size_t most = memory > offset ? memory : offset;
        if (mask & DIOALIGN && (!memory || !offset)) return 0;
        if (mask & DIOALIGN && (most & (most - 1)) == 0) return most;
    }
#endif
    (void)fd;
    return DEFAULT_ALIGNMENT;
}

/* What the system says, and what helps where it does not say that. */
static const char *reason(int error)
{
    return error == EMFILE ? "Too many open files; close some, or raise the limit (ulimit -n)" : strerror(error);
}

static air_status fail_io(const air_file *file, uint64_t offset, int error, air_error *err)
{
    return air_fail(err, AIR_E_IO, "%s: read at offset %" PRIu64 " failed: %s", file->path, offset, strerror(error));
}

static air_status fail_direct(const char *path, const char *reason, air_error *err)
{
    return air_fail(err, AIR_E_UNSUPPORTED, "%s: the file system refuses direct I/O (%s)", path, reason);
}

/* Some file systems accept O_DIRECT and refuse the first read. */
static air_status try_direct(const air_file *file, air_error *err)
{
    if (!file->id.bytes) return AIR_OK;
    void *block = air_pages_alloc(file->alignment);
    if (!block) return air_fail(err, AIR_E_NOMEM, "%s: %zu bytes", file->path, file->alignment);
    ssize_t n;
    do n = pread(file->fd, block, file->alignment, 0);
    while (n < 0 && errno == EINTR);
    int error = n < 0 ? errno : 0;
    air_pages_free(block, file->alignment);
    if (error == EINVAL || error == EOPNOTSUPP) return fail_direct(file->path, strerror(error), err);
    return error ? fail_io(file, 0, error, err) : AIR_OK;
}

/* O_NONBLOCK keeps the open of a pipe without a writer from hanging; regular files ignore it. */
static air_status open_descriptor(air_file *file, air_file_mode mode, air_error *err)
{
    int flags = O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
    struct stat s;
    if (mode == AIR_FILE_DIRECT && !O_DIRECT) return fail_direct(file->path, "no O_DIRECT here", err);
    do file->fd = open(file->path, mode == AIR_FILE_DIRECT ? flags | O_DIRECT : flags);
    while (file->fd < 0 && errno == EINTR);
    if (file->fd < 0) {
        int error = errno;
        int regular = stat(file->path, &s) != 0 || S_ISREG(s.st_mode);
        if (!regular) return air_fail(err, AIR_E_IO, "%s: not a regular file", file->path);
        if (mode == AIR_FILE_DIRECT && error == EINVAL) return fail_direct(file->path, strerror(error), err);
        return air_fail(err, AIR_E_IO, "%s: %s", file->path, reason(error));
    }
    if (fstat(file->fd, &s) != 0) return air_fail(err, AIR_E_IO, "%s: %s", file->path, strerror(errno));
    if (!S_ISREG(s.st_mode)) return air_fail(err, AIR_E_IO, "%s: not a regular file", file->path);
    file->id = identity_of(&s);
    file->alignment = 1;
    if (mode == AIR_FILE_CACHED) return AIR_OK;
    file->alignment = direct_alignment(file->fd);
    if (!file->alignment) return fail_direct(file->path, "statx", err);
    return try_direct(file, err);
}

air_status air_file_open(air_file **out, const char *path, air_file_mode mode, air_error *err)
{
    *out = NULL;
    size_t path_bytes = strlen(path) + 1;
    air_file *file = air_calloc(1, sizeof *file + path_bytes);
    if (!file) return air_fail(err, AIR_E_NOMEM, "%s: %zu bytes", path, sizeof *file + path_bytes);
    file->fd = -1;
    memcpy(file->path, path, path_bytes);
    air_status st = open_descriptor(file, mode, err);
    if (st) goto fail;
    *out = file;
    return AIR_OK;

fail:
    air_file_close(file);
    return st;
}

void air_file_close(air_file *file)
{
    if (!file) return;
    if (file->fd >= 0) (void)close(file->fd);
    air_free(file);
}

uint64_t air_file_bytes(const air_file *file) { return file->id.bytes; }
size_t air_file_alignment(const air_file *file) { return file->alignment; }
const char *air_file_path(const air_file *file) { return file->path; }
int air_file_descriptor(const air_file *file) { return file->fd; }

/* Nothing more came at offset, though the file had more when it was opened. */
static air_status fail_short(const air_file *file, uint64_t offset, air_error *err)
{
    struct stat s;
    if (fstat(file->fd, &s) == 0 && (uint64_t)s.st_size != file->id.bytes)
        return air_fail(err, AIR_E_CHANGED, "%s: had %" PRIu64 " bytes when it was opened, now %" PRIu64, file->path, file->id.bytes,
                        (uint64_t)s.st_size);
    return air_fail(err, AIR_E_CHANGED, "%s: a read at offset %" PRIu64 " got nothing, though the file has %" PRIu64 " bytes", file->path,
                    offset, file->id.bytes);
}

/* Reads until want bytes are there; in direct mode whole blocks are asked for, up to bytes, and a short read is taken up again
 * at a block's start. */
static air_status read_all(const air_file *file, uint64_t offset, char *buffer, size_t want, size_t bytes, air_error *err)
{
    size_t limit = file->alignment > 1 ? bytes : want;
    for (size_t done = 0; done < want;) {
        size_t ask = limit - done < READ_MOST ? limit - done : READ_MOST;
        ssize_t n = pread(file->fd, buffer + done, ask, (off_t)(offset + done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail_io(file, offset + done, errno, err);
        size_t reached = done + (size_t)n;
        size_t next = reached < want ? reached & ~(file->alignment - 1) : reached;
        if (next == done) return fail_short(file, offset + reached, err);
        done = next;
    }
    return AIR_OK;
}

air_status air_file_read(air_file *file, uint64_t offset, void *buffer, size_t bytes, air_error *err)
{
    uint64_t end;
    if (!air_add_u64(offset, bytes, &end) || end > INT64_MAX)
        return air_fail(err, AIR_E_ARGUMENT, "%s: no read of %zu bytes at offset %" PRIu64, file->path, bytes, offset);
    size_t mask = file->alignment - 1;
    if ((offset & mask) || (bytes & mask) || ((uintptr_t)buffer & mask))
        return air_fail(err, AIR_E_ARGUMENT, "%s: direct read of %zu bytes at offset %" PRIu64 " to %p is not aligned to %zu",
                        file->path, bytes, offset, buffer, file->alignment);
    uint64_t file_end = air_min_u64(end, file->id.bytes);
    size_t want = file_end > offset ? (size_t)(file_end - offset) : 0;
    air_status st = read_all(file, offset, buffer, want, bytes, err);
    if (st == AIR_OK && want < bytes) memset((char *)buffer + want, 0, bytes - want);
    return st;
}

air_status air_file_check(const air_file *file, air_error *err)
{
    struct stat s;
    if (stat(file->path, &s) != 0)
        return air_fail(err, AIR_E_CHANGED, "%s: gone since it was opened: %s", file->path, strerror(errno));
    identity now = identity_of(&s);
    if (now.device != file->id.device || now.inode != file->id.inode)
        return air_fail(err, AIR_E_CHANGED, "%s: replaced by another file since it was opened", file->path);
    if (now.bytes != file->id.bytes)
        return air_fail(err, AIR_E_CHANGED, "%s: had %" PRIu64 " bytes when it was opened, now %" PRIu64, file->path, file->id.bytes,
                        now.bytes);
    if (now.modified_ns != file->id.modified_ns)
        return air_fail(err, AIR_E_CHANGED, "%s: written to since it was opened", file->path);
    return AIR_OK;
}

void air_file_forget(const air_file *file, uint64_t offset, uint64_t bytes)
{
    (void)posix_fadvise(file->fd, (off_t)offset, (off_t)bytes, POSIX_FADV_DONTNEED);
}

uint64_t air_file_identity(const air_file *file)
{
    uint64_t hash = air_mix64(file->id.device);
    hash = air_mix64(hash ^ file->id.inode);
    hash = air_mix64(hash ^ file->id.bytes);
    return air_mix64(hash ^ (uint64_t)file->id.modified_ns);
}
