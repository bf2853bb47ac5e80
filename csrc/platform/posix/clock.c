#define _GNU_SOURCE
#include "platform/clock.h"

#include <time.h>

uint64_t air_clock_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t); /* cannot fail: the clock exists and &t is valid */
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}
