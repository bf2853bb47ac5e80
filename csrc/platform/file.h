/* platform/file.h: a read-only file, opened with or without the page cache.
 *
 * An air_file is immutable after open and may be read from any number of threads. It remembers the identity the path had at open
 * (device, inode, size, modification time), so that a truncated or replaced file is found out. */
#ifndef AIR_PLATFORM_FILE_H
#define AIR_PLATFORM_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

AIR_BEGIN_C

typedef struct air_file air_file;

typedef enum air_file_mode {
    AIR_FILE_CACHED, /* through the page cache */
    AIR_FILE_DIRECT, /* O_DIRECT; AIR_E_UNSUPPORTED where the file system refuses it */
} air_file_mode;

/* Errors: AIR_E_IO with path and the system's reason; AIR_E_UNSUPPORTED (direct refused); AIR_E_NOMEM. Directories and devices are
 * AIR_E_IO ("not a regular file"). */
air_status air_file_open(air_file **out, const char *path, air_file_mode mode, air_error *err);
void air_file_close(air_file *file);

uint64_t air_file_bytes(const air_file *file);     /* as of open */
size_t air_file_alignment(const air_file *file);   /* power of two, for offset, length and address of direct reads; 1 if cached */
const char *air_file_path(const air_file *file);
int air_file_descriptor(const air_file *file);     /* for platform/ alone: mmap and async_io */

/* Reads exactly bytes at offset into buffer; in direct mode all three are multiples of the alignment. What lies past the end of
 * the file as of open is zeroed, in both modes. Retries EINTR and short reads. Errors: AIR_E_IO (path, offset, reason),
 * AIR_E_CHANGED (the file ends before a byte that it had at open), AIR_E_ARGUMENT (not aligned, or beyond 2^63). */
air_status air_file_read(air_file *file, uint64_t offset, void *buffer, size_t bytes, air_error *err);

/* Tells whether the path still is the file that was opened, unchanged: AIR_OK or AIR_E_CHANGED saying what differs. */
air_status air_file_check(const air_file *file, air_error *err);

/* Drops this range from the page cache, where the system allows (a hint; used after cached reads that will not come again). */
void air_file_forget(const air_file *file, uint64_t offset, uint64_t bytes);

/* Stable identity for caches and plans: a 64-bit hash of device, inode, size and modification time. */
uint64_t air_file_identity(const air_file *file);

AIR_END_C
#endif
