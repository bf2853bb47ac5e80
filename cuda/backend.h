/* cuda/backend.h: inside the CUDA backend: what its files share. backend.cu: life, memory, the vtable; weights.cu: how weights come to the
 * the devices; shuttle.cu: how state does that lies in the host's memory; experts.cu: mixtures; pass.cu: the walk over a program; results.cu:
 * what it leaves; graph.cu: passes alike, as one launch; share.cu: what other devices and the CPU compute of products; adapters.cu: what is
 * added to them; probe.cu: how fast a device does such things; links.cu: how fast
 * several are copied to at once.
 *
 * A backend owns a device's memory for weights, state and activations, and two streams: copies go ahead on one, kernels follow on the
 * other, events order them both ways; the host waits for neither inside a pass but to reuse its own memory, and for what it computes.
 * One thread at a time calls it (backend.h), any thread its state memory. Everything here is host code. */
#ifndef AIR_CUDA_BACKEND_H
#define AIR_CUDA_BACKEND_H

#include <atomic>
#include <mutex>
#include <vector>

#include "backend/backend.h"
#include "backend/device.h"
#include "cuda/kernels.h"

enum {
    AIR_CUDA_READING = 2,                /* spans of memory that the feed uses again: as many as may be held when it is asked for the next */
    AIR_CUDA_SPANS_AHEAD = 64,           /* that may have been taken from the feed before they are asked for; those that stay take no room */
    AIR_CUDA_LAYERS_AHEAD = 2,           /* that the host may have enqueued beyond the one being computed */
    AIR_CUDA_EARLY_LAUNCHES = 90,        /* what a kernel is compiled for that waits for those before it by itself */
    AIR_CUDA_EXPERT_TURNS = 8,           /* experts computed with last whose ends can be told apart */
};

/* Fails with what a call returned, and forgets it; `what` says what was to be done. AIR_E_NOMEM for memory, else AIR_E_DEVICE. */
air_status air_cuda_fail(cudaError_t error, const char *what, air_error *err);

#define AIR_CUDA_TRY(call, what, err)                                         \
    do {                                                                      \
        cudaError_t air_cuda_error_ = (call);                                 \
        if (air_cuda_error_ != cudaSuccess) return air_cuda_fail(air_cuda_error_, what, err); \
    } while (0)

/* *out is new VRAM, or page-locked memory of the host, for `what`; null after a failure, which says how much was wanted, what there is and
 * what helps. */
air_status air_cuda_vram(void **out, size_t bytes, const char *what, air_error *err);
air_status air_cuda_locked(void **out, size_t bytes, const char *what, air_error *err);

/* --- weights.cu --- */

/* A tile's place among those on their way. */
struct air_cuda_slot {
    uint8_t *data;
    cudaEvent_t copied, used; /* the copy into it, and the last kernel that read it */
};

/* A span that waits to be given back, in order: the device may be copying from it, or from one before it. */
struct air_cuda_held {
    air_span span;
    cudaEvent_t copied; /* NULL: no copy to wait for */
    int keep;           /* instead of released */
    int computing;      /* the CPU is, or will be, with its data */
};

/* A device that computes products. The first one also does all else, on the same streams, and has the state. */
struct air_cuda_device {
    int32_t number;
    cudaStream_t compute, copy;
    void *tables;
    uint8_t *kept;                 /* region of the tiles that stay */
    uint64_t kept_bytes;
    std::vector<air_kept_tile> stay; /* those tiles, in the order of use */
    std::vector<uint8_t> come;     /* of each of them, whether it has */
    std::vector<int32_t> of_op;    /* [n_ops + 1]: the first of them that is of this op or a later one */
    uint8_t *ring;
    air_cuda_slot slots[AIR_DEVICE_RING_TILES];
    uint64_t taken, left;          /* tiles that were brought into the ring; that were computed with. At most AIR_DEVICE_RING_TILES apart */
    cudaEvent_t kept_copied;
    cudaEvent_t staged[AIR_DEVICE_STAGING_PIECES], read[AIR_CUDA_READING]; /* as air_cuda_weights counts, of this device's copies */
    uint8_t *input, *part;         /* of helpers: columns, and results before they leave */
    int32_t floats_of, q8_of;      /* buffers whose columns lie in input, as they are and in 8 bits; AIR_NONE */
};

/* Rows of a weight: on a device, ordered for its compute stream, or the CPU's to compute with, or both, for different columns. */
struct air_cuda_tile {
    int64_t first_row, rows;       /* none: they have been computed with */
    const uint8_t *data;           /* on the device; NULL: only the CPU's */
    air_cuda_slot *slot;           /* NULL where they stay */
    cudaEvent_t copied;            /* what the compute stream has to wait for; NULL: nothing */
    int32_t device;
    int host;                      /* the CPU's, of generated rows; the span's data is there until air_cuda_weights_leave */
    air_span span;
};

/* What all devices have of the feed together. */
struct air_cuda_weights {
    std::vector<int8_t> who;       /* [n_tiles]: as air_backend_config */
    std::vector<int32_t> stays;    /* [n_tiles]: its number among those that stay on its device, AIR_NONE */
    std::vector<int32_t> op_of;    /* [n_weights]: the product that reads it */
    int32_t to_come;               /* tiles that have not come to stay on a device, or never will */
    uint8_t *staging;              /* page-locked; NULL when nothing comes through it any more */
    uint64_t piece_bytes;          /* of it, each */
    cudaEvent_t staged_by[AIR_DEVICE_STAGING_PIECES];
    uint64_t pieces;               /* that went through it */
    std::vector<air_cuda_held> held; /* [first_held, n_held): the oldest first; room for all spans of a pass */
    size_t first_held, n_held;
    int reading;                   /* of them, those whose memory the feed uses again */
    uint64_t readings;             /* copies begun from such memory */
    air_cuda_tile ahead[AIR_CUDA_SPANS_AHEAD]; /* brought before they were asked for, in turns */
    uint64_t brought, asked;       /* of a pass: spans taken from the feed, and given to who asked for the next */
    bool reads, read_last;         /* whether a span of this pass, of the one before, lay in memory that the feed uses again: it reads */
};

struct air_backend;
air_status air_cuda_weights_open(air_backend *h, const air_backend_config *config, air_error *err);
void air_cuda_weights_close(air_backend *h);
/* Rows of an op that are on that device already, neighbours as one, so long as there are any; *at, 0 at first, counts. They wait for
 * nothing. */
bool air_cuda_weights_here(const air_backend *h, int32_t device, int32_t op, int32_t *at, air_cuda_tile *tile);
/* The feed's next span, once there is room for it, and where it is. The feed has it back when nobody reads it any more, whatever
 * happens: at once, or in a later call of next, or of drain. */
air_status air_cuda_weights_next(air_backend *h, air_cuda_tile *tile, air_error *err);
/* Begins copies of the next spans, until rings are full or one would have to be waited for: before the host does something else. */
air_status air_cuda_weights_ahead(air_backend *h, air_error *err);
/* *out is new memory of that device with a copy of what lies in pageable memory, there when this returns; null after a failure. */
air_status air_cuda_upload(air_backend *h, int32_t device, void **out, const void *from, size_t bytes, const char *what, air_error *err);
/* Enqueues a copy to a device on one of its streams, through the pieces of page-locked memory. When it returns, from has been read. */
air_status air_cuda_copy_staged(air_backend *h, air_cuda_device *d, uint8_t *to, const uint8_t *from, uint64_t bytes, cudaStream_t stream,
                                air_error *err);
/* When no copy is under way any more: gives all back. */
void air_cuda_weights_drain(air_backend *h);
/* After a pass: gives staging back where every weight has come to stay and no state comes that way. */
void air_cuda_weights_settle(air_backend *h);
/* Whether every weight is on one device to stay, so that a pass needs no feed. */
bool air_cuda_weights_resident(const air_backend *h);
/* After the last kernel that reads the tile has been enqueued, and the CPU has computed with it. */
air_status air_cuda_weights_leave(air_backend *h, const air_cuda_tile *tile, air_error *err);

/* --- shuttle.cu --- */

/* Two buffers of `most` blocks' K and V of a layer; block i of the pass's away lies at i * block_bytes. */
struct air_cuda_shuttle {
    uint8_t *memory;
    int64_t most;
    size_t block_bytes;
    cudaStream_t stream;
    cudaEvent_t copied[AIR_DEVICE_SHUTTLE], used[AIR_DEVICE_SHUTTLE]; /* the copies into a buffer, and the last kernel that read it */
    std::vector<int32_t> layers, turn_of; /* that have attention; of each layer which of them it is, or the next one would be */
};

air_status air_cuda_shuttle_open(air_backend *h, const air_backend_config *config, air_error *err);
void air_cuda_shuttle_close(air_backend *h);
/* Before the walk; then around the attention of each layer, in their order. Nothing where no block is away. */
air_status air_cuda_shuttle_begin(air_backend *h, air_error *err);
air_status air_cuda_shuttle_await(air_backend *h, int32_t layer, air_error *err);
air_status air_cuda_shuttle_leave(air_backend *h, int32_t layer, air_error *err);
const uint8_t *air_cuda_shuttle_layer(const air_backend *h, int32_t layer); /* the buffer it comes to */

/* --- experts.cu --- */

struct air_cuda_experts {
    uint8_t *memory;               /* of the feed's places; NULL where the program has no mixtures */
    std::vector<uint64_t> used_by; /* [places]: the turn in which it was computed with last, 0: none */
    uint64_t turns, reads;         /* experts computed with; copies begun from page-locked memory */
    cudaEvent_t routed, copied;    /* the routing is down; the last expert's copy is done */
    cudaEvent_t used[AIR_CUDA_EXPERT_TURNS], read[AIR_CUDA_READING]; /* by turn, and by read */
    air_expert held[AIR_CUDA_READING]; /* being copied from, the oldest first; the last reads are theirs */
    int n_held;
    /* Of a layer: of each expert, times that rows are sent to it, those of generated rows, and where they begin; those that get any. */
    int32_t rows[AIR_EXPERTS_MOST], generated[AIR_EXPERTS_MOST], first[AIR_EXPERTS_MOST];
    int32_t asked[AIR_EXPERTS_MOST], asked_rows[AIR_EXPERTS_MOST], n_asked;
};

air_status air_cuda_experts_open(air_backend *h, const air_backend_config *config, air_error *err);
void air_cuda_experts_close(air_backend *h);
/* AIR_OP_ROUTE and AIR_OP_EXPERTS; the second waits for the first. */
air_status air_cuda_experts_route(air_backend *h, const air_op *op, air_error *err);
air_status air_cuda_experts_run(air_backend *h, const air_op *op, air_error *err);
/* When no copy is under way any more: gives the feed what it lent, or after a failure forgets it. */
void air_cuda_experts_drain(air_backend *h, bool well);

/* --- share.cu: what others than the first device compute of products --- */

/* Which results a part has. */
struct air_cuda_part {
    int64_t first_row, rows, column, n;
};

/* A way for results into the first device: parts in its memory, in turns. */
struct air_cuda_lane {
    uint8_t *parts[AIR_DEVICE_PARTS];
    cudaEvent_t arrived[AIR_DEVICE_PARTS], folded[AIR_DEVICE_PARTS]; /* of the sender's device; of the first */
    air_cuda_part of[AIR_DEVICE_PARTS];
    uint64_t sent, taken; /* parts; sent - taken <= AIR_DEVICE_PARTS */
};

struct air_cuda_share {
    uint64_t part_bytes;
    air_cuda_lane lanes[AIR_DEVICES_MOST]; /* of device i in [i]; the first has none */
    uint8_t *parts;              /* memory of them, on the first device */
    cudaEvent_t input;           /* the columns that others take are there */
    air_host_help host;
    uint8_t *columns;            /* page-locked: AIR_SHARE_COLUMNS for the CPU, */
    uint8_t *host_parts[AIR_DEVICE_PARTS]; /* and its results, which the first device reads there */
    cudaEvent_t columns_there;
    cudaEvent_t folded[AIR_DEVICE_PARTS]; /* each of them, by the first device */
    uint64_t computed;           /* parts by the CPU */
    int32_t columns_of;          /* buffer of which they are, AIR_NONE, the first of them, and how many */
    int64_t columns_first, columns_n;
    std::vector<uint16_t> takers; /* [n_ops]: who has computed some of it, so will again: bit 0 the CPU, bit i device i */
    std::vector<air_span> later; /* tiles for the CPU that stay where they are until the product ends */
};

air_status air_cuda_share_open(air_backend *h, const air_backend_config *config, air_error *err);
void air_cuda_share_close(air_backend *h);
/* A product of n columns: sends the CPU the first ones that it will need; some rows by another device; some by the CPU, now or before
 * the product ends; and the end, when all results are in the output, in the order of the first device's compute stream. */
air_status air_cuda_share_begin(air_backend *h, const air_op *op, int64_t n, air_error *err);
air_status air_cuda_share_by_device(air_backend *h, const air_op *op, const air_cuda_tile *tile, int64_t n, air_error *err);
air_status air_cuda_share_by_host(air_backend *h, const air_op *op, const air_cuda_tile *tile, int64_t n, air_error *err);
air_status air_cuda_share_end(air_backend *h, const air_op *op, int64_t n, air_error *err);
/* The buffer has been written: what others have of it is old. reset: a pass begins, nothing of the last one is under way. */
void air_cuda_share_forget(air_backend *h, int32_t buffer);
void air_cuda_share_reset(air_backend *h);

/* --- adapters.cu --- */

struct air_cuda_adapting {
    uint8_t *memory;             /* as air_device_adapting_of says; NULL: no pass has adapters */
    air_device_adapting layout;
    std::vector<int32_t> ranks;  /* [n_ops]: of the pass's adapters the largest for each product, 0: none changes it; empty: there are none */
};

/* Before the walk: what goes up of each sequence, and ranks. AIR_E_ARGUMENT: a rank that there is no memory for. */
air_status air_cuda_adapters_fill(air_backend *h, air_device_adapted *out, air_error *err);
/* Whether an adapter of the pass changes a product. Then A x comes first, of its n columns; a product of some of its rows has so many columns
 * at most, is made to leave its results as they are, and these are folded, as are those of who else computes it. */
bool air_cuda_adapts(const air_backend *h, const air_op *op);
air_status air_cuda_adapters_begin(air_backend *h, const air_op *op, int64_t n, air_error *err);
int64_t air_cuda_adapters_columns(const air_backend *h, const air_op *op, int64_t rows, int64_t n);
void air_cuda_adapters_redirect(const air_backend *h, const air_op *op, air_cuda_product *p);
air_status air_cuda_adapters_fold(air_backend *h, const air_op *op, const float *part, int64_t part_stride, const air_cuda_part *of,
                                  air_error *err);

/* --- pass.cu --- */

/* Columns of an op's input from c on that are of one role, and as many as most, all of them before n; *role gets which. */
int64_t air_cuda_columns_alike(const air_backend *h, const air_op *op, int64_t c, int64_t n, int64_t most, air_row_role *role);
/* A product by heads, of a tile that begins at that row of all heads' together. p: its rows, columns as gathered, head_columns from one head's to
 * the next's, its results from p.out on: where `to` says, from the buffer's row on, or row after row of the tile. Whole heads at once. */
cudaError_t air_cuda_product_by_heads(const air_op *op, const air_weight *w, int64_t first_row, const air_head_parts *to, air_cuda_product p,
                                      cudaStream_t stream);
/* Whether rows of a buffer are of that role in this pass. */
bool air_cuda_has_role(const air_backend *h, int32_t buffer, air_row_role role);
/* Makes the 8-bit form of a buffer of the pass, if it is not there. */
air_status air_cuda_quantize_buffer(air_backend *h, int32_t buffer, air_error *err);
/* Where a layer's K begins in a block; its V is right behind. */
size_t air_cuda_layer_offset(const air_backend *h, int32_t layer);

air_status air_cuda_run(air_backend *h, const air_pass *pass, const air_feed *feed, air_error *err);
/* Enqueues a pass whose inputs lie in h->host, from their way up to that of its results down. */
air_status air_cuda_enqueue(air_backend *h, air_error *err);

/* --- results.cu --- */

air_status air_cuda_results_bring(air_backend *backend, air_error *err); /* enqueues copies to the host of what the pass asks for */
void air_cuda_results_hand_out(const air_backend *backend); /* gives them to the pass, when the copies are done */

/* --- graph.cu --- */

/* What the launches of a pass depend on, beside memory that stays where it is. What else changes from pass to pass kernels read from
 * memory. Equal where all of it is. */
struct air_cuda_shape {
    int64_t rows, n_wanted, sequences, block_stride, max_position, candidates;
    bool hidden;
    std::vector<uint8_t> whole; /* of each wanted row, whether its logits come down; empty: none's do */
    std::vector<int32_t> ranks; /* as of air_cuda_adapting */
};

struct air_cuda_graph {
    air_cuda_shape shape;   /* of exec; where that is NULL of the last pass that could be one */
    cudaGraphExec_t exec;
    bool refused;           /* by a capture or a launch that failed: no more of them */
    uint64_t launched_ns, usual_ns; /* the last pass that exec was; what such passes take from then on, 0: there was none */
};

/* Whether the pass may be a graph: all weights are there, all rows are generated. */
bool air_cuda_graph_takes(const air_backend *h);
/* Launches the pass, if it is the second alike or a later one; *done says whether it did. A capture or launch that fails is no failure. */
air_status air_cuda_graph_run(air_backend *h, bool *done, air_error *err);
void air_cuda_graph_drop(air_backend *h);

/* --- probe.cu --- */

/* Of the calling thread's device; as in air_backend_api, where *out is zeros before. */
air_status air_cuda_probe(int32_t device, uint64_t types, uint64_t bytes, double seconds, air_device_rates *out, air_error *err);

/* --- links.cu --- */

/* As in air_backend_api, on threads of its own. */
air_status air_cuda_probe_links(const int32_t *devices, int32_t n, uint64_t bytes, double seconds, double *out, air_error *err);

/* --- backend.cu --- */

/* Offsets of what goes up and comes down in the page-locked memory of a pass. */
struct air_cuda_host_layout {
    size_t embed, cos, sin, tokens, blocks, courses, adapted, logits, candidates, hidden, routing, sent, total;
};

struct air_backend {
    const air_program *program;
    int32_t device;                    /* the first: its number */
    air_cuda_device devices[AIR_DEVICES_MOST]; /* the first's streams are the ones below */
    int32_t n_devices;
    air_cuda_share share;
    std::atomic<cudaError_t> lost;     /* what the device failed with for good */
    int64_t n_ctx;
    cudaStream_t compute, copy, aside; /* aside: copies of state blocks */
    std::vector<cudaEvent_t> marks;    /* [n_layers + 3]: a pass begins, its first layer does, layers end, the pass does */

    air_cuda_weights weights;
    air_cuda_shuttle shuttle;
    air_cuda_experts experts;
    void *vectors;                     /* float32, made in the first pass */
    std::vector<const float *> vector_of; /* [n_weights], as soon as they are */
    std::vector<const float *> slopes_of; /* [n_layers], likewise */

    int64_t rows_cap, wanted_cap, rank_cap; /* what the memory below, and that of adapting, is made for */
    uint8_t *memory, *host;
    air_device_layout layout;
    air_cuda_host_layout host_layout;

    std::mutex state_lock;
    std::vector<std::pair<void *, size_t>> state_free; /* blocks to be used again */

    air_cuda_adapting adapting;
    air_cuda_graph graph;
    bool capturing;                    /* nothing may be waited for, nor be asked of the feed */
    bool launches_early;               /* kernels are compiled for what waits for those before it by itself */
    std::vector<double> layer_share;   /* [n_layers + 1]: of the time of the last pass that was walked */

    const air_pass *pass;
    const air_feed *feed;
    int32_t quantized;                 /* buffer whose 8-bit form is there, AIR_NONE */
    int32_t first_sequence;
    int64_t min_position, max_position, sequences, block_stride;
};

/* Waits for a stream. An error that the device reports again is the device's, which is lost then; one that goes away was a call's. */
cudaError_t air_cuda_settle(air_backend *h, cudaStream_t stream);
cudaError_t air_cuda_settle_all(air_backend *h); /* of a pass; the first error */

float *air_cuda_buffer(const air_backend *h, int32_t buffer);

/* What a product by heads reads, head by head, where that is not in 8 bits: in the scratch of attention, of which it is none. */
static inline float *air_cuda_gathered(const air_backend *h) { return (float *)(h->memory + h->layout.attention); }

static inline air_cuda_epilogue air_cuda_epilogue_of(const air_op *op)
{
    return air_cuda_epilogue{op->epilogue, op->activation, op->scale, op->clamp, op->softcap};
}

/* From a column on. */
static inline air_cuda_q8 air_cuda_q8_from(air_cuda_q8 x, int64_t k, int64_t column)
{
    int64_t at = column * k;
    return air_cuda_q8{x.q + at, x.sums + at / AIR_Q8_SUM_GROUP, x.scale + at / AIR_Q8_GROUP};
}

/* Makes that device the calling thread's. */
air_status air_cuda_use(const air_backend *h, int32_t device, air_error *err);
air_status air_cuda_make_event(cudaEvent_t *event, air_error *err);        /* of this thread's device; */
air_status air_cuda_make_waited_event(cudaEvent_t *event, air_error *err); /* at which the host sleeps */

#endif
