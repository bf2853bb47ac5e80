/* kernels/simd/ahead.h: weights that follow the rows in work, asked for some lines at a time between one row taken apart, or block of
 * sums, and the next. Where the reads of many lines wait for memory at once, those of weights already near wait behind them. */
#ifndef AIR_KERNELS_SIMD_AHEAD_H
#define AIR_KERNELS_SIMD_AHEAD_H

#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"

typedef struct ahead {
    uintptr_t at; /* an address, as what follows the last rows may be beyond the weights */
    size_t lines, left; /* each time, and in all */
} ahead;

/* The bytes that begin `after` bytes behind w, in so many times. */
AIR_INLINE ahead ahead_of(const uint8_t *w, size_t after, size_t bytes, int64_t times)
{
    size_t lines = (bytes + AIR_CACHE_LINE - 1) / AIR_CACHE_LINE;
    return (ahead){(uintptr_t)w + after, (lines + (size_t)times - 1) / (size_t)times, lines};
}

AIR_INLINE void ask_ahead(ahead *next)
{
    size_t lines = next->left < next->lines ? next->left : next->lines;
    for (size_t i = 0; i < lines; i++) AIR_PREFETCH_L2((const void *)(next->at + i * AIR_CACHE_LINE));
    next->at += lines * AIR_CACHE_LINE;
    next->left -= lines;
}

#endif
