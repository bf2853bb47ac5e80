/* backend/loader.h: backends that come as plugins, libraries beside the extension with one exported symbol. */
#ifndef AIR_BACKEND_LOADER_H
#define AIR_BACKEND_LOADER_H

#include "backend/backend.h"

AIR_BEGIN_C

/* The backend of the plugin at this absolute path, for good; once loaded it is found again. Thread-safe.
 * Errors: AIR_E_IO (not there, or not loadable), AIR_E_UNSUPPORTED (not a plugin, or of another version). */
air_status air_backend_load(const air_backend_api **out, const char *path, air_error *err);

AIR_END_C
#endif
