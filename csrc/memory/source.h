/* memory/source.h: where bytes come from: a file, or for tests a throttled, faulty or in-memory stand-in.
 *
 * A source is immutable and read from many threads. It owns what stands behind it. */
#ifndef AIR_MEMORY_SOURCE_H
#define AIR_MEMORY_SOURCE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

AIR_BEGIN_C

typedef struct air_source air_source;

struct air_source {
    /* Exactly bytes at offset (multiples of alignment; at the end of the file the rest of buffer is zeroed). A slow source looks at
     * *cancel (may be NULL) and gives up with AIR_E_CANCELLED. */
    air_status (*read)(air_source *s, uint64_t offset, void *buffer, size_t bytes, const AIR_ATOMIC(int) *cancel, air_error *err);
    air_status (*check)(air_source *s, air_error *err); /* AIR_E_CHANGED if it no longer is what it was at open */
    void (*close)(air_source *s);
    uint64_t bytes;
    size_t alignment;
    int direct; /* whether reads pass by the page cache */
};

/* A file without the page cache; where the file system refuses that, through it, dropping what was read. */
air_status air_source_file(air_source **out, const char *path, air_error *err);

/* Tests: wraps inner (owned from then on, closed on failure too). spec is "key=value,…" with
 *   rate=BYTES_PER_S  latency_us=N  (all readers share the rate)      fail_at=N  (the N-th read fails with AIR_E_IO, once)
 *   short_at=N (the N-th read reports a file that ended: AIR_E_CHANGED)
 * AIR_E_ARGUMENT on anything else. */
air_status air_source_tampered(air_source **out, air_source *inner, const char *spec, air_error *err);

void air_source_close(air_source *s); /* NULL is legal */

AIR_END_C
#endif
