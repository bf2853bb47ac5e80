/* platform/async_io.h: reads that complete on a small pool of threads.
 *
 * The caller owns requests and their buffers; both must stay until done is called, which may free them. A request goes queued →
 * running → done; completion writes the result, then calls done(request) on the I/O thread (which may only signal). The pool
 * reads through a function pointer, so any byte source can stand behind it. Submit is thread-safe; closing is the one way to
 * cancel. */
#ifndef AIR_PLATFORM_ASYNC_IO_H
#define AIR_PLATFORM_ASYNC_IO_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

AIR_BEGIN_C

typedef struct air_async_io air_async_io;
typedef struct air_io_request air_io_request;

/* Reads exactly bytes at offset; blocks; called on any I/O thread. *cancel becoming nonzero should end it soon, with
 * AIR_E_CANCELLED. */
typedef air_status (*air_io_read_fn)(void *source, uint64_t offset, void *buffer, size_t bytes, const AIR_ATOMIC(int) *cancel,
                                     air_error *err);

struct air_io_request {
    air_io_read_fn read;
    void *source;
    uint64_t offset;
    void *buffer;
    size_t bytes;
    void (*done)(air_io_request *); /* on the I/O thread, or the one that closes; after error is written; must not block */
    void *context;
    air_error error;      /* error.status AIR_OK on success */
    uint64_t begin_ns, ns; /* when the read itself began, and how long it took */
    air_io_request *next; /* the pool's */
};

/* Starts threads (1 to 64) I/O threads. Errors: AIR_E_NOMEM, AIR_E_THREAD, AIR_E_ARGUMENT. */
air_status air_async_io_open(air_async_io **out, int threads, air_error *err);
/* Cancels what is queued (done is called with AIR_E_CANCELLED), raises *cancel for what runs, waits for it, ends the threads.
 * NULL is legal. No submit may come during or after it. */
void air_async_io_close(air_async_io *io);
void air_async_io_submit(air_async_io *io, air_io_request *request); /* first in, first out */

AIR_END_C
#endif
