/* cuda/backend.h: inside the CUDA backend: what its files share. backend.cu: life, memory, the vtable; weights.cu: how weights come to the
 * device; pass.cu: the walk over a program.
 *
 * A backend owns a device's memory for weights, state and activations, and two streams: copies go ahead on one, kernels follow on the
 * other, events order them both ways; the host waits for neither inside a pass but to reuse its own memory. One thread at a time calls it
 * (backend.h), any thread its state memory. Everything here is host code. */
#ifndef AIR_CUDA_BACKEND_H
#define AIR_CUDA_BACKEND_H

#include <atomic>
#include <mutex>
#include <vector>

#include "backend/backend.h"
#include "backend/device.h"
#include "cuda/kernels.h"

enum {
    AIR_CUDA_STAGING_PIECES = 4,         /* of page-locked memory between weights in pageable memory and the device */
    AIR_CUDA_STAGING_BYTES = 2 << 20,    /* of each, but no more than a tile: large enough that a copy costs more than its launch */
    AIR_CUDA_LAYERS_AHEAD = 2,           /* that the host may have enqueued beyond the one being computed */
};

/* Fails with what a call returned, and forgets it; `what` says what was to be done. AIR_E_NOMEM for memory, else AIR_E_DEVICE. */
air_status air_cuda_fail(cudaError_t error, const char *what, air_error *err);

#define AIR_CUDA_TRY(call, what, err)                                         \
    do {                                                                      \
        cudaError_t air_cuda_error_ = (call);                                 \
        if (air_cuda_error_ != cudaSuccess) return air_cuda_fail(air_cuda_error_, what, err); \
    } while (0)

/* --- weights.cu --- */

/* A tile's place among those on their way. */
struct air_cuda_slot {
    uint8_t *data;
    cudaEvent_t copied, used; /* the copy into it, and the last kernel that read it */
};

/* A span that waits to be given back, in order: the device may be copying from it, or from one before it. */
struct air_cuda_held {
    air_span span;
    cudaEvent_t copied; /* NULL: nothing to wait for */
    int keep;           /* instead of released */
};
enum { AIR_CUDA_READING = 2 }; /* spans of memory that the feed uses again: as many as may be held when it is asked for the next */

struct air_cuda_weights {
    uint8_t *kept;                 /* region of the tiles that stay */
    uint64_t kept_bytes;
    std::vector<air_kept_tile> stay; /* those tiles, in the order of use */
    std::vector<uint8_t> come;     /* of each of them, whether it has */
    std::vector<int32_t> stays;    /* [n_tiles]: its number among them, AIR_NONE */
    std::vector<int32_t> of_op;    /* [n_ops + 1]: the first of them that is of this op or a later one */
    uint8_t *ring;
    air_cuda_slot slots[AIR_DEVICE_RING_TILES];
    uint64_t taken;                /* tiles that went through the ring */
    uint8_t *staging;              /* page-locked */
    uint64_t piece_bytes;          /* of it, each */
    cudaEvent_t staged[AIR_CUDA_STAGING_PIECES];
    uint64_t pieces;               /* that went through it */
    cudaEvent_t kept_copied;
    std::vector<air_cuda_held> held; /* [first_held, n_held): the oldest first; room for all spans of a pass */
    size_t first_held, n_held;
    cudaEvent_t read[AIR_CUDA_READING]; /* in turns: a copy from memory that the feed uses again */
    uint64_t readings, reading;    /* such copies begun; of them, those whose span is held */
};

/* Rows of a weight on the device, ordered for the compute stream; slot is NULL where they stay. */
struct air_cuda_tile {
    int64_t first_row, rows;
    const uint8_t *data;
    air_cuda_slot *slot;
};

struct air_backend;
air_status air_cuda_weights_open(air_backend *h, const air_backend_config *config, air_error *err);
void air_cuda_weights_close(air_backend *h);
/* Rows of an op that are on the device already, neighbours as one, so long as there are any; *at, 0 at first, counts. They wait for
 * nothing. */
bool air_cuda_weights_here(const air_backend *h, int32_t op, int32_t *at, air_cuda_tile *tile);
/* The feed's next span, once there is room for it, and where it is on the device; no rows where air_cuda_weights_here has named them. The
 * feed has it back when the device has it, whatever happens: at once, or in a later call of next, or of drain. */
air_status air_cuda_weights_next(air_backend *h, air_span *span, air_cuda_tile *tile, air_error *err);
/* *out is new VRAM with a copy of what lies in pageable memory, there when this returns; null after a failure. */
air_status air_cuda_upload(air_backend *h, void **out, const void *from, size_t bytes, const char *what, air_error *err);
/* When no copy is under way any more: gives all back. */
void air_cuda_weights_drain(air_backend *h);
/* After the last kernel that reads the tile has been enqueued. */
air_status air_cuda_weights_leave(air_backend *h, const air_cuda_tile *tile, air_error *err);

/* --- pass.cu --- */

air_status air_cuda_run(air_backend *h, const air_pass *pass, const air_feed *feed, air_error *err);

/* --- backend.cu --- */

/* Offsets of what goes up and comes down in the page-locked memory of a pass. */
struct air_cuda_host_layout {
    size_t embed, cos, sin, tokens, blocks, logits, hidden, total;
};

struct air_backend {
    const air_program *program;
    int32_t device;
    std::atomic<cudaError_t> lost;     /* what the device failed with for good */
    int64_t n_ctx;
    cudaStream_t compute, copy, aside; /* aside: copies of state blocks */
    std::vector<cudaEvent_t> marks;    /* [n_layers + 3]: a pass begins, its first layer does, layers end, the pass does */

    air_cuda_weights weights;
    void *tables;
    void *vectors;                     /* float32, made in the first pass */
    std::vector<const float *> vector_of; /* [n_weights], as soon as they are */

    int64_t rows_cap, wanted_cap;      /* what the memory below is made for */
    uint8_t *memory, *host;
    air_device_layout layout;
    air_cuda_host_layout host_layout;

    std::mutex state_lock;
    std::vector<std::pair<void *, size_t>> state_free; /* blocks to be used again */

    const air_pass *pass;
    const air_feed *feed;
    int32_t quantized;                 /* buffer whose 8-bit form is there, AIR_NONE */
    int32_t first_sequence;
    int64_t max_position, sequences, block_stride;
};

/* Waits for a stream. An error that the device reports again is the device's, which is lost then; one that goes away was a call's. */
cudaError_t air_cuda_settle(air_backend *h, cudaStream_t stream);

float *air_cuda_buffer(const air_backend *h, int32_t buffer);

#endif
