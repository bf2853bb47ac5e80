/* platform/dl.h: libraries opened while the program runs. A library that is open stays so: nothing of ours could tell whether code of it
 * still runs in some thread. Thread-safe. */
#ifndef AIR_PLATFORM_DL_H
#define AIR_PLATFORM_DL_H

#include <stddef.h>

#include "base/status.h"

AIR_BEGIN_C

typedef struct air_library air_library;

/* By its absolute path, or by a name for which the system's loader looks. Errors: AIR_E_IO: what the system's loader says. */
air_status air_library_open(air_library **out, const char *path, air_error *err);
/* One of that name that the process has loaded already, whoever did; NULL if there is none. */
air_library *air_library_loaded(const char *name);
/* The path of the file that a library's symbol is in, "" if it is not known. */
void air_library_path(air_library *library, const char *symbol, char *path, size_t room);
/* NULL if there is none of that name. The pointer is that of a function where the library has one of that name. */
void *air_library_symbol(air_library *library, const char *name);

AIR_END_C
#endif
