/* platform/mmap.h: files mapped read-only, safe against the file shrinking underneath.
 *
 * While at least one mapping is open a SIGBUS handler is installed, chained to the one before. A fault inside a mapping of ours
 * replaces the page with zeros and raises the mapping's fault flag; any other fault goes to the previous handler. Faults may come on
 * any thread. Open and close are thread-safe; 512 mappings may be open at once. A handler that somebody installs over ours stays
 * theirs: it is expected to chain, as ours does. */
#ifndef AIR_PLATFORM_MMAP_H
#define AIR_PLATFORM_MMAP_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "platform/file.h"

AIR_BEGIN_C

typedef struct air_mapping air_mapping;

/* Maps the whole file as of its open; file may be closed afterwards. Errors: AIR_E_IO, AIR_E_NOMEM (also: too many mappings). */
air_status air_mapping_open(air_mapping **out, const air_file *file, air_error *err);
void air_mapping_close(air_mapping *mapping);
const uint8_t *air_mapping_data(const air_mapping *mapping);
uint64_t air_mapping_bytes(const air_mapping *mapping);
/* Nonzero once a page could not be read; stays so. */
int air_mapping_faulted(const air_mapping *mapping);
/* Reads a byte here and there, so that the range is in memory and its pages in the process's tables: their first use needs no fault
 * then. Waits for the disk. Unlike MADV_POPULATE_READ it does not hold up who allocates memory meanwhile. */
void air_mapping_touch(const air_mapping *mapping, uint64_t offset, uint64_t bytes);

AIR_END_C
#endif
