/* platform/dl.h: libraries opened while the program runs. A library that is open stays so: nothing of ours could tell whether code of it
 * still runs in some thread. Thread-safe. */
#ifndef AIR_PLATFORM_DL_H
#define AIR_PLATFORM_DL_H

#include "base/status.h"

AIR_BEGIN_C

typedef struct air_library air_library;

/* By its absolute path. Errors: AIR_E_IO: what the system's loader says. */
air_status air_library_open(air_library **out, const char *path, air_error *err);
/* NULL if there is none of that name. The pointer is that of a function where the library has one of that name. */
void *air_library_symbol(air_library *library, const char *name);

AIR_END_C
#endif
