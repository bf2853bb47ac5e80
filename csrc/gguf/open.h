/* gguf/open.h: a GGUF on disk: one file, or all parts of a split set as one directory.
 *
 * Owns the directory and the list of paths; keeps no file open. Reads headers only (in growing pieces), never tensor data. */
#ifndef AIR_GGUF_OPEN_H
#define AIR_GGUF_OPEN_H

#include "gguf/gguf.h"

AIR_BEGIN_C

typedef struct air_gguf_set {
    air_gguf *gguf;      /* metadata of the first part, tensors of all, tensor.part says where */
    uint32_t parts;
    char **paths;        /* [parts] */
    uint64_t *bytes;     /* [parts] file sizes as of open */
} air_gguf_set;

/* path may name any part (NAME-00002-of-00005.gguf, with split.count in its metadata). Errors: those of parse, AIR_E_IO (a part is
 * missing or unreadable: which), AIR_E_FORMAT (parts that do not belong together: split.no, split.count, split.tensors.count,
 * duplicate tensors). */
air_status air_gguf_open(air_gguf_set **out, const char *path, air_error *err);
void air_gguf_close(air_gguf_set *set);

AIR_END_C
#endif
