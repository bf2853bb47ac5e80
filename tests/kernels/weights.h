/* weights.h: random packed weights of any format that has a product, plain and extreme. */
#ifndef AIR_TESTS_WEIGHTS_H
#define AIR_TESTS_WEIGHTS_H

#include <stdint.h>

#include "quant/format.h"

typedef enum weights_kind {
    WEIGHTS_PLAIN,      /* scales of ordinary size, either sign */
    WEIGHTS_HUGE,       /* the greatest finite scales */
    WEIGHTS_TINY,       /* subnormal scales */
    WEIGHTS_ZERO,       /* every byte 0 */
    WEIGHTS_ONES,       /* every quant byte 0xff, scale 1 */
    WEIGHTS_LOWEST,     /* every quant byte 0x80, scale 1 */
    WEIGHTS_HIGHEST,    /* every quant byte 0x7f, scale 1 */
    WEIGHTS_FIELDS,     /* each field of a block its own extreme bytes, scale 1 */
    WEIGHTS_KINDS
} weights_kind;

/* elements is a multiple of the format's block; random draws 64 bits. */
void weights_fill(void *w, const air_format *format, int64_t elements, weights_kind kind, uint64_t (*random)(void));

#endif
