#include "memory/source.h"

#include "base/alloc.h"
#include "platform/file.h"

typedef struct file_source {
    air_source base;
    air_file *file;
} file_source;

static air_status read_direct(air_source *s, uint64_t offset, void *buffer, size_t bytes, const AIR_ATOMIC(int) *cancel,
                              air_error *err)
{
    (void)cancel; /* a direct read of one block is over before anyone could wait for its cancellation */
    return air_file_read(((file_source *)s)->file, offset, buffer, bytes, err);
}

/* Through the page cache and out of it again: weights come round once a pass, so what stays would only push out what others need. */
static air_status read_cached(air_source *s, uint64_t offset, void *buffer, size_t bytes, const AIR_ATOMIC(int) *cancel,
                              air_error *err)
{
    (void)cancel;
    air_file *file = ((file_source *)s)->file;
    air_status st = air_file_read(file, offset, buffer, bytes, err);
    if (!st) air_file_forget(file, offset, bytes);
    return st;
}

static air_status file_check(air_source *s, air_error *err) { return air_file_check(((file_source *)s)->file, err); }

static void file_close(air_source *s)
{
    air_file_close(((file_source *)s)->file);
    air_free(s);
}

air_status air_source_file(air_source **out, const char *path, air_error *err)
{
    *out = NULL;
    air_file *file = NULL;
    int direct = 1;
    air_status st = air_file_open(&file, path, AIR_FILE_DIRECT, err);
    if (st == AIR_E_UNSUPPORTED) {
        direct = 0;
        st = air_file_open(&file, path, AIR_FILE_CACHED, err);
    }
    if (st) return st;

    file_source *s = air_malloc(sizeof *s);
    if (!s) {
        air_file_close(file);
        return air_fail(err, AIR_E_NOMEM, "source of %s: %zu bytes", path, sizeof *s);
    }
    *s = (file_source){
        .base = {
            .read = direct ? read_direct : read_cached,
            .check = file_check,
            .close = file_close,
            .bytes = air_file_bytes(file),
            .alignment = air_file_alignment(file),
            .direct = direct,
        },
        .file = file,
    };
    *out = &s->base;
    return AIR_OK;
}

void air_source_close(air_source *s)
{
    if (s) s->close(s);
}
