/* platform/clock.h: the monotonic clock. Thread-safe. */
#ifndef AIR_PLATFORM_CLOCK_H
#define AIR_PLATFORM_CLOCK_H
#include <stdint.h>
#include "base/compiler.h"
AIR_BEGIN_C
uint64_t air_clock_ns(void);
AIR_END_C
#endif
