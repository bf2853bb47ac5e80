#define _GNU_SOURCE
#include "platform/dl.h"

#include <dlfcn.h>
#include <stdio.h>

air_status air_library_open(air_library **out, const char *path, air_error *err)
{
    *out = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (*out) return AIR_OK;
    const char *why = dlerror();
    return air_fail(err, AIR_E_IO, "%s cannot be loaded: %s", path, why ? why : "unknown reason");
}

air_library *air_library_loaded(const char *name) { return dlopen(name, RTLD_NOW | RTLD_NOLOAD); }

void air_library_path(air_library *library, const char *symbol, char *path, size_t room)
{
    Dl_info info;
    int known = dladdr(dlsym(library, symbol), &info) && info.dli_fname;
    (void)snprintf(path, room, "%s", known ? info.dli_fname : "");
}

void *air_library_symbol(air_library *library, const char *name) { return dlsym(library, name); }
