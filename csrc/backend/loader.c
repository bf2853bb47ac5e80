#include "backend/loader.h"

#include <string.h>

#include "platform/dl.h"

/* The system's loader counts and remembers what is open: asking again costs a look-up. */
air_status air_backend_load(const air_backend_api **out, const char *path, air_error *err)
{
    *out = NULL;
    air_library *library;
    air_status st = air_library_open(&library, path, err);
    if (st) return st;
    void *symbol = air_library_symbol(library, AIR_BACKEND_SYMBOL);
    if (!symbol) return air_fail(err, AIR_E_UNSUPPORTED, "%s is not a plugin of airpy: it has no %s", path, AIR_BACKEND_SYMBOL);
    air_backend_plugin_fn plugin;
    memcpy(&plugin, &symbol, sizeof plugin); /* ISO C converts no object pointer to a function's */
    const air_backend_api *api = plugin();
    if (api->version != AIR_BACKEND_VERSION)
        return air_fail(err, AIR_E_UNSUPPORTED, "%s is of version %u of the interface, this airpy needs %u; install them together", path,
                        (unsigned)api->version, (unsigned)AIR_BACKEND_VERSION);
    *out = api;
    return AIR_OK;
}
