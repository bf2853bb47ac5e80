#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

air_status air_fail(air_error *err, air_status status, const char *format, ...)
{
    if (!err) return status;
    err->status = status;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    return status;
}

air_status air_error_copy(air_error *err, const air_error *from)
{
    if (!from) return AIR_OK;
    if (err && err != from) memcpy(err, from, sizeof *err);
    return from->status;
}
