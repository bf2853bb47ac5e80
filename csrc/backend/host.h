/* backend/host.h: inside the CPU backend: what host.c (memory, the walk) and host_ops.c (the ops) share. */
#ifndef AIR_BACKEND_HOST_H
#define AIR_BACKEND_HOST_H

#include "backend/backend.h"
#include "platform/pool.h"

AIR_BEGIN_C

enum {
    AIR__CHUNK_ROWS = 256,   /* weight rows of one job item at most */
    AIR__CHUNK_COLUMNS = 64, /* columns of one kernel call at most: with the rows, what a thread's scratch holds */
};

/* What changes below is written by the leader between two barriers and read by all threads after the second, but for stop_at: a slow
 * thread may still ask about op i when the leader already decides about op i + 1, so the answer names the op. */
struct air_backend {
    const air_program *program;
    const air_ops *ops;
    air_pool *pool;
    int threads;

    int64_t rows_cap, wanted_cap; /* what the memory below is made for */
    void *memory;                 /* one region: activations, 8-bit form, rope tables, per-thread scratch */
    size_t memory_bytes;
    float *rows, *wanted;         /* activations; buffers lie in them as the program's layout says */
    void *q8;                     /* 8-bit form of the input of the next products: an air_q8 of all its columns */
    float *cos, *sin;             /* [rows][pairs] */
    float *scratch;               /* [threads][scratch_floats] */
    size_t scratch_floats;

    const air_pass *pass;
    const air_feed *feed;
    int32_t quantized; /* buffer whose 8-bit form q8 holds, AIR_NONE */
    AIR_ATOMIC(int32_t) stop_at; /* the walk ends before this op */
    int span_failed;   /* no span came: the op ends */
    air_status status;
    air_error error;
    air_span span;
    air_pool_job job;
    uint64_t layer_started_ns;
};

float *air__host_buffer(const air_backend *h, int32_t buffer);
int64_t air__host_rows(const air_backend *h, int32_t buffer); /* rows of this pass that the buffer has */

/* Runs one op on every thread; begins and ends with all threads at the same point. Only the leader touches the feed. */
void air__host_op(air_backend *h, const air_op *op, int index);
/* Floats of scratch that any op needs per thread. */
size_t air__host_scratch_floats(const air_program *program);

AIR_END_C
#endif
