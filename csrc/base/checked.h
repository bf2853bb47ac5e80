/* base/checked.h: arithmetic on numbers that come from a file. Each function returns 0 and leaves *out alone on overflow. */
#ifndef AIR_BASE_CHECKED_H
#define AIR_BASE_CHECKED_H

#include <stdint.h>

#include "base/compiler.h"

static inline AIR_NODISCARD int air_add_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    if (a > UINT64_MAX - b) return 0;
    *out = a + b;
    return 1;
}

static inline AIR_NODISCARD int air_mul_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    if (b && a > UINT64_MAX / b) return 0;
    *out = a * b;
    return 1;
}

/* Rounds up to a multiple of align, a power of two. */
static inline AIR_NODISCARD int air_align_u64(uint64_t a, uint64_t align, uint64_t *out)
{
    if (!air_add_u64(a, align - 1, &a)) return 0;
    *out = a & ~(align - 1);
    return 1;
}

static inline uint64_t air_min_u64(uint64_t a, uint64_t b) { return a < b ? a : b; }
static inline uint64_t air_max_u64(uint64_t a, uint64_t b) { return a > b ? a : b; }
static inline uint64_t air_round_down(uint64_t a, uint64_t align) { return a & ~(align - 1); }
static inline uint64_t air_round_up(uint64_t a, uint64_t align) { return (a + align - 1) & ~(align - 1); }
static inline uint64_t air_ceil_div(uint64_t a, uint64_t b) { return a / b + (a % b != 0); }

#endif
