/* gguf/gguf.h: a GGUF header as a directory of metadata and tensors.
 *
 * parse() is pure: bytes in, directory out, no I/O; it is what the fuzzer calls. open() (gguf/open.h) brings the bytes.
 * An air_gguf is immutable after parse, may be read from any thread, and owns all it points to (nothing refers to the input bytes).
 * Format facts: docs/gguf.md of the ggml project, versions 2 and 3, little endian. */
#ifndef AIR_GGUF_GGUF_H
#define AIR_GGUF_GGUF_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

AIR_BEGIN_C

enum { AIR_MAX_DIMS = 4 };

typedef enum air_gguf_type { /* the file's own numbers */
    AIR_GGUF_U8, AIR_GGUF_I8, AIR_GGUF_U16, AIR_GGUF_I16, AIR_GGUF_U32, AIR_GGUF_I32, AIR_GGUF_F32, AIR_GGUF_BOOL,
    AIR_GGUF_STRING, AIR_GGUF_ARRAY, AIR_GGUF_U64, AIR_GGUF_I64, AIR_GGUF_F64,
    AIR_GGUF_TYPE_COUNT
} air_gguf_type;

/* "u32", "array" …; NULL for a number that is no type. */
const char *air_gguf_type_name(uint32_t type);

typedef struct air_string { /* NUL-terminated for convenience; may hold NULs and need not be UTF-8 */
    const char *data;
    uint64_t bytes;
} air_string;

typedef struct air_gguf_value {
    air_gguf_type type;         /* AIR_GGUF_ARRAY: see element and count */
    air_gguf_type element;      /* of an array; arrays of arrays: AIR_GGUF_ARRAY, items are values */
    uint64_t count;             /* items of an array, else 1 */
    union {
        uint64_t u;             /* U8 … U64, BOOL (0 or 1) */
        int64_t i;
        double f;
        air_string string;
        const void *items;      /* packed elements in their own type, little endian, aligned; BOOL as uint8_t; air_string for
                                   strings; air_gguf_value for arrays of arrays; never NULL */
    } as;
} air_gguf_value;

typedef struct air_gguf_entry {
    air_string key;
    air_gguf_value value;
} air_gguf_entry;

typedef struct air_tensor {
    air_string name;
    uint32_t type;              /* GGML type id, one that quant/formats.def holds */
    uint32_t n_dims;
    uint64_t shape[AIR_MAX_DIMS]; /* shape[0] is contiguous (columns), shape[1] rows; unused ones are 1 */
    uint32_t part;              /* which file of a split set */
    uint64_t offset;            /* in that file, absolute */
    uint64_t bytes;
} air_tensor;

typedef struct air_gguf air_gguf;

typedef struct air_gguf_limits { /* what parse accepts; air_gguf_default_limits for files people have */
    uint64_t entries, tensors, string_bytes, array_items, depth, header_bytes;
} air_gguf_limits;
extern const air_gguf_limits air_gguf_default_limits;

/* Reads a header from data[0, bytes). file_bytes is the whole file's length, against which tensor extents are checked.
 * When the header is cut off by bytes (and bytes < file_bytes) returns AIR_E_IO with *need set to a larger number of bytes to
 * try; otherwise a header that ends early is AIR_E_FORMAT. limits NULL: the default ones.
 * Errors: AIR_E_FORMAT naming the key or tensor and the number; AIR_E_UNSUPPORTED (version, big endian, unknown tensor type);
 * AIR_E_NOMEM. */
air_status air_gguf_parse(air_gguf **out, const uint8_t *data, size_t bytes, uint64_t file_bytes, const air_gguf_limits *limits,
                          uint64_t *need, air_error *err);
void air_gguf_free(air_gguf *gguf);

uint32_t air_gguf_version(const air_gguf *gguf);
uint64_t air_gguf_alignment(const air_gguf *gguf);
uint64_t air_gguf_held_bytes(const air_gguf *gguf); /* of memory */
uint64_t air_gguf_entry_count(const air_gguf *gguf);
const air_gguf_entry *air_gguf_entry_at(const air_gguf *gguf, uint64_t index);
const air_gguf_value *air_gguf_find(const air_gguf *gguf, const char *key); /* NULL if absent; O(1) */
uint64_t air_gguf_tensor_count(const air_gguf *gguf);
const air_tensor *air_gguf_tensor_at(const air_gguf *gguf, uint64_t index);
const air_tensor *air_gguf_tensor(const air_gguf *gguf, const char *name); /* NULL if absent; O(1) */

/* Typed look-ups for hyperparameters. Absent: *out untouched and AIR_OK, so set the default first. Present with another type or
 * out of [min, max]: AIR_E_FORMAT naming key, value and range. Integers of any width are accepted where they fit. */
air_status air_gguf_get_u64(const air_gguf *gguf, const char *key, uint64_t min, uint64_t max, uint64_t *out, air_error *err);
air_status air_gguf_get_f64(const air_gguf *gguf, const char *key, double min, double max, double *out, air_error *err); /* finite */
air_status air_gguf_get_bool(const air_gguf *gguf, const char *key, int *out, air_error *err);
air_status air_gguf_get_string(const air_gguf *gguf, const char *key, air_string *out, air_error *err);

AIR_END_C
#endif
