#include "platform/async_io.h"

#include <stdatomic.h>

#include "base/alloc.h"
#include "platform/clock.h"
#include "platform/threads.h"
#include "platform/timeline.h"

enum { THREADS_MOST = AIR_LANE_LAYERS - AIR_LANE_READS };

struct air_async_io {
    air_mutex lock;
    air_cond wake;              /* the queue got a request, or closing began */
    air_io_request *head, *tail; /* queued, oldest first */
    int closing;
    AIR_ATOMIC(int) cancel;
    int threads;
    AIR_ATOMIC(int) lanes;      /* threads that have begun */
    air_thread *thread[THREADS_MOST];
};

/* Waits for a request; NULL once the pool closes. */
static air_io_request *take(air_async_io *io)
{
    air_mutex_lock(&io->lock);
    while (!io->head && !io->closing) air_cond_wait(&io->wake, &io->lock);
    air_io_request *request = io->head; /* closing empties the queue */
    if (request) io->head = request->next;
    air_mutex_unlock(&io->lock);
    return request;
}

static void io_main(void *context)
{
    air_async_io *io = context;
    air_lane_set(AIR_LANE_READS + atomic_fetch_add(&io->lanes, 1));
    for (air_io_request *request; (request = take(io));) {
        request->error.status = AIR_OK;
        request->error.text[0] = 0;
        request->begin_ns = air_clock_ns();
        request->error.status =
            request->read(request->source, request->offset, request->buffer, request->bytes, &io->cancel, &request->error);
        request->ns = air_clock_ns() - request->begin_ns;
        request->done(request); /* which may free it */
    }
}

air_status air_async_io_open(air_async_io **out, int threads, air_error *err)
{
    *out = NULL;
    if (threads < 1 || threads > THREADS_MOST)
        return air_fail(err, AIR_E_ARGUMENT, "reads take 1 to %d threads, not %d", THREADS_MOST, threads);
    air_async_io *io = air_calloc(1, sizeof *io);
    if (!io) return air_fail(err, AIR_E_NOMEM, "read threads: %zu bytes", sizeof *io);
    air_mutex_init(&io->lock);
    air_cond_init(&io->wake);
    for (; io->threads < threads; io->threads++) {
        air_status st = air_thread_start(&io->thread[io->threads], "airpy-io", io_main, io, err);
        if (!st) continue;
        air_async_io_close(io);
        return st;
    }
    *out = io;
    return AIR_OK;
}

void air_async_io_close(air_async_io *io)
{
    if (!io) return;
    air_mutex_lock(&io->lock);
    io->closing = 1;
    air_io_request *queued = io->head;
    io->head = NULL;
    atomic_store(&io->cancel, 1);
    air_cond_broadcast(&io->wake);
    air_mutex_unlock(&io->lock);
    for (air_io_request *next; queued; queued = next) {
        next = queued->next;
        (void)air_fail(&queued->error, AIR_E_CANCELLED, "read of %zu bytes cancelled before it began", queued->bytes);
        queued->begin_ns = queued->ns = 0;
        queued->done(queued);
    }
    for (int i = 0; i < io->threads; i++) air_thread_join(io->thread[i]);
    air_cond_deinit(&io->wake);
    air_mutex_deinit(&io->lock);
    air_free(io);
}

void air_async_io_submit(air_async_io *io, air_io_request *request)
{
    request->next = NULL;
    air_mutex_lock(&io->lock);
    if (io->head) io->tail->next = request;
    else io->head = request;
    io->tail = request;
    air_cond_signal(&io->wake);
    air_mutex_unlock(&io->lock);
}
