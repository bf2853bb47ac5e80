/* kernels/simd/ahead.h: weights that follow the rows in work, asked for a few lines between one block of sums and the next. Where the
 * reads of many lines wait for memory at once, those of weights already near wait behind them. */
#ifndef AIR_KERNELS_SIMD_AHEAD_H
#define AIR_KERNELS_SIMD_AHEAD_H

#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"

typedef struct ahead {
    const uint8_t *at;
    size_t lines; /* each time */
} ahead;

/* bytes from at on, in so many times. */
AIR_INLINE ahead ahead_of(const uint8_t *at, size_t bytes, int64_t times)
{
    return (ahead){at, (bytes / AIR_CACHE_LINE + (size_t)times - 1) / (size_t)times};
}

AIR_INLINE void ask_ahead(ahead *next)
{
    for (size_t i = 0; i < next->lines; i++, next->at += AIR_CACHE_LINE) AIR_PREFETCH_L2(next->at);
}

#endif
