/* quant/encode.h: floats to blocks, the other way round than decode; and from one type to another.
 *
 * Owns one constant table, generated from encoders.def; everything is reentrant and deterministic: blocks do not depend on each other,
 * on how many are converted at once, or on the CPU (all sums are taken in one order, see encode_fit.h). */
#ifndef AIR_QUANT_ENCODE_H
#define AIR_QUANT_ENCODE_H

#include "base/status.h"
#include "quant/format.h"

AIR_BEGIN_C

/* Turns n_blocks × block floats at src into as many blocks at dst, of any alignment. Reads and writes exactly those bytes; they must not
 * overlap. The floats are finite, and within air_encode_limit(). */
typedef void (*air_encode_fn)(const float *src, void *dst, int64_t n_blocks);

air_encode_fn air_encoder(uint32_t id); /* NULL: airpy does not write that type */
/* The greatest magnitude that a type is sure to hold: that of binary16 where elements or scales are halves. */
float air_encode_limit(uint32_t id);

/* Converts n elements at src, of one type, to another at dst, a few thousand at a time; n is a multiple of both types' blocks. Where the
 * types are one, the bytes are copied as they are. Nothing is allocated. first: the number of the first element, for messages.
 * Errors: AIR_E_UNSUPPORTED (to is not written), AIR_E_ARGUMENT (n), AIR_E_NUMERIC (an element is not finite, or beyond the
 * limit: which, and what); dst then holds what came before. */
air_status air_convert(const air_format *from, const air_format *to, const void *src, void *dst, int64_t n, int64_t first, air_error *err);

/* The encode functions by name, for tests. */
#define ENCODER(name, encode) void encode(const float *src, void *dst, int64_t n_blocks);
#include "quant/encoders.def"
#undef ENCODER

AIR_END_C

#endif
