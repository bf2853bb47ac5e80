#include "platform/dl.h"

#include <dlfcn.h>

air_status air_library_open(air_library **out, const char *path, air_error *err)
{
    *out = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (*out) return AIR_OK;
    const char *why = dlerror();
    return air_fail(err, AIR_E_IO, "%s cannot be loaded: %s", path, why ? why : "unknown reason");
}

void *air_library_symbol(air_library *library, const char *name) { return dlsym(library, name); }
