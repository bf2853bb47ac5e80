/* base/status.h: how every call reports failure.
 *
 * A function that can fail returns air_status and takes an air_error * last. The message is written once, where the failure
 * arises, with the numbers in it; callers pass both on unchanged. err may be NULL: the status alone is then the answer.
 * An air_error is plain data, owned by the caller, one per thread of use. */
#ifndef AIR_BASE_STATUS_H
#define AIR_BASE_STATUS_H

#include "base/compiler.h"

AIR_BEGIN_C

typedef enum air_status {
    AIR_OK = 0,
#define STATUS(code, text, exception, base) AIR_E_##code,
#include "base/status.def"
#undef STATUS
    AIR_STATUS_COUNT
} air_status;

enum { AIR_ERROR_TEXT = 512 };

typedef struct air_error {
    air_status status;
    char text[AIR_ERROR_TEXT];
} air_error;

/* Writes the message (truncated to AIR_ERROR_TEXT) and returns status, so that `return air_fail(...)` is the whole idiom. */
air_status air_fail(air_error *err, air_status status, const char *format, ...) AIR_PRINTF(3, 4);

/* Copies from to err (either may be NULL) and returns its status. */
air_status air_error_copy(air_error *err, const air_error *from);

AIR_END_C
#endif
