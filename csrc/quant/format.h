/* quant/format.h: what GGML's tensor types are called, how large they are, and how their blocks become floats.
 *
 * Owns one constant table, generated from formats.def; everything here is immutable and safe from any thread.
 * Knows blocks, nothing of tensors, files or kernels. A type is added by one row in formats.def and one decode function.
 *
 * The decoders are the specification that kernels are tested against, bit for bit equal to the `gguf` package's dequantize; they
 * must be compiled without contraction of a*b+c (-ffp-contract=off). Hosts are little endian, as files are. */
#ifndef AIR_QUANT_FORMAT_H
#define AIR_QUANT_FORMAT_H

#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"

AIR_BEGIN_C

typedef enum air_type {
#define FORMAT(name, id, block, bytes, decode, role) AIR_TYPE_##name = id,
#include "quant/formats.def"
#undef FORMAT
    AIR_TYPE_COUNT              /* one past the largest id, for tables by id; ids have gaps */
} air_type;

typedef enum air_format_role {
    AIR_FORMAT_MATRIX,          /* may be the weight of a matrix product */
    AIR_FORMAT_STORAGE,         /* can be sized and decoded; as a matrix weight the model loader refuses it */
} air_format_role;

/* Turns n_blocks consecutive blocks at src, of any alignment, into n_blocks × block floats at dst. Reads and writes exactly those
 * bytes; they must not overlap. Every byte pattern is legal input: scales may be infinite or NaN, and then so are the floats. */
typedef void (*air_decode_fn)(const void *src, float *dst, int64_t n_blocks);

typedef struct air_format {
    const char     *name;       /* as ggml spells it, "Q4_K" */
    uint32_t        id;         /* as stored in files; an air_type */
    uint32_t        block;      /* elements in a block; rows hold whole blocks */
    uint32_t        bytes;      /* of a block */
    air_decode_fn   decode;
    air_format_role role;
} air_format;

/* NULL if no current file holds such a type. */
const air_format *air_format_by_id(uint32_t id);
const air_format *air_format_by_name(const char *name);     /* exact case */

/* Whether elements are floats of 16 bits, each by itself: as libraries of matrix products take them. */
int air_format_is_half(uint32_t id);

/* All formats, by rising id: index 0 … count - 1. Beyond that air_format_at returns NULL. */
size_t air_format_count(void);
const air_format *air_format_at(size_t index);

/* The decode functions by name, for kernels and tests that know which one they want. */
#define FORMAT(name, id, block, bytes, decode, role) void decode(const void *src, float *dst, int64_t n_blocks);
#include "quant/formats.def"
#undef FORMAT

AIR_END_C

#endif
