/* backend/backend.h: a device that can run a program. One small vtable; the CPU (host.c) is the specification.
 *
 * The engine owns a backend and calls it from one thread at a time, but for its state memory, which comes and goes on any thread. Weights
 * reach a backend as spans of a feed (the pager's), state as block pointers that its own alloc returned, never as addresses it must guess
 * at. A device may have memory of its own: its state lies there, and weights that the plan gives it are copied there once and kept. All
 * sizes in bytes unless said. */
#ifndef AIR_BACKEND_BACKEND_H
#define AIR_BACKEND_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#include "backend/adapter.h"
#include "backend/device.h"
#include "backend/op.h"
#include "base/status.h"
#include "platform/timeline.h"
#include "quant/format.h"

AIR_BEGIN_C

enum { AIR_BACKEND_VERSION = 11 };

/* Rows [first_row, first_row + rows) of one weight, in memory until released. data has no alignment. */
typedef struct air_span {
    int32_t weight;
    int32_t tile;        /* number of this range, the same in every pass */
    int64_t first_row, rows;
    const uint8_t *data; /* NULL: kept by the backend */
    int stays;           /* where it is until the pass ends, also when released before */
    int locked;          /* in memory that lock_pages took */
    int left_out;        /* of the output, in a pass that nobody asks logits of: not read, data may be NULL, nothing is computed */
    uint64_t slot;       /* the feed's own */
} air_span;

/* One expert of a layer's mixture, its matrices in memory until given back. They have no alignment.
 *
 * Of a backend with memory of its own for experts each one that is taken has a place there, which is no other's until it is given back:
 * where there are matrices here, they are to be copied there, as air_device_expert_part says, before that; where there are none, it lies
 * there since it was given back the last time. */
typedef struct air_expert {
    int32_t layer, expert;
    const uint8_t *gate, *up, *down; /* all NULL: in its place */
    int locked;          /* in memory that lock_pages took */
    int32_t place;       /* its number, AIR_NONE where the backend has no such memory */
    uint64_t at;         /* where that begins in it */
    uint64_t slot;       /* the feed's own */
} air_expert;

/* Experts of mixtures, of which a pass needs those that its rows are sent to. ask says which those are of a layer, [n] ascending, and how
 * many rows each gets; take then hands them out as they come to be in memory, at most `most` at a time: at least one, which it waits for,
 * 0 once all have been taken. A feed may have room for fewer than were asked for: it brings the others as give makes room. All of a layer
 * are taken and given back before the next is asked for, but for a pass that fails, of which rewinding the feed takes back the rest.
 * Where guesses is nonzero, expect may say which of a later layer are likely to be asked for, [n], the likeliest first, at most as many as
 * it has: they are read while nothing that has been asked for is left to be. router gives the matrix that such a guess takes, a layer's,
 * NULL where it is not in memory. */
typedef struct air_expert_feed {
    air_status (*ask)(void *self, int32_t layer, const int32_t *experts, const int32_t *rows, int32_t n, air_error *err);
    air_status (*take)(void *self, air_expert *out, int32_t most, int32_t *n, air_error *err);
    void (*give)(void *self, const air_expert *expert);
    int (*guesses)(void *self);
    const uint8_t *(*router)(void *self, int32_t layer);
    void (*expect)(void *self, int32_t layer, const int32_t *experts, int32_t n);
} air_expert_feed;

/* Where weights come from during a pass. next waits for the next span in program order; release, in the same order, may come later:
 * up to two that do not stay are held while the next is asked for, and any number that do. keep is a release that tells the feed to
 * bring this range no more: the backend has a copy. gather decodes rows of a table to float32 [n][cols]. Any thread of the backend calls
 * them, one at a time each; release may come while next waits. */
typedef struct air_feed {
    void *self;
    air_status (*next)(void *self, air_span *span, air_error *err);
    void (*release)(void *self, const air_span *span);
    void (*keep)(void *self, const air_span *span);
    air_status (*gather)(void *self, int32_t weight, const int32_t *rows, int64_t n, float *out, air_error *err);
    const float *const *vectors; /* [n_weights]: float32 data of every AIR_WEIGHT_VECTOR, else NULL */
    air_expert_feed experts;     /* where the program has mixtures; with the same self */
} air_feed;

/* Where a block of state lies: in memory that state_alloc gave, or in pages of the host, locked by lock_pages or not. */
typedef enum air_state_home { AIR_STATE_HERE, AIR_STATE_LOCKED, AIR_STATE_PAGEABLE } air_state_home;

/* A pass's rows [first, first + rows) of one sequence: its recurrent state before them, NULL where they begin it, and where that after
 * them goes, which may be the same memory. HERE, aligned to 64 bytes. */
typedef struct air_recurrent_span {
    int64_t first, rows;
    const char *before;
    char *after;
} air_recurrent_span;


/* State of one sequence as a pass sees it: for layer l and block b of 64 positions k[l * stride + b], v likewise, of any home. Blocks
 * that cover the pass's new positions are HERE and writable; of the others, away[b] is the number among the pass's of one that is not
 * HERE, -1 of one that is. */
typedef struct air_state_view {
    void *const *k, *const *v;
    int64_t stride; /* blocks per layer in these tables */
    int64_t end;    /* positions that there are when the pass is done */
    const int32_t *away; /* NULL: all are HERE */
    /* Where the program has recurrent layers: all rows of the sequence, each span going on from where the one before it ended. */
    air_recurrent_span spans[AIR_RECURRENT_SPANS];
    int32_t n_spans;
} air_state_view;

/* A block in the host's memory that a pass reads. */
typedef struct air_state_away {
    const char *memory;
    air_state_home home;
    int64_t end; /* the position after its last */
} air_state_away;

/* A backend may add floats of prompts in another order than those of generated tokens, which come a few at a time (docs/design.md,
 * invariant 1). Neither looks at how many there are. */
typedef enum air_row_role { AIR_ROW_GENERATED, AIR_ROW_PROMPT } air_row_role;

typedef struct air_pass {
    int64_t rows;             /* at least 1 */
    const int32_t *tokens;    /* [rows] */
    const int32_t *positions; /* [rows] */
    const int32_t *sequences; /* [rows]: index into states */
    const uint8_t *roles;     /* [rows]: air_row_role */
    const uint8_t *types;     /* [rows]: AIR_OP_ADD_TYPE's; NULL: all 0 */
    const air_state_view *states; /* rows of one sequence follow each other, and sequences in the order of their numbers */
    const air_adapted *adapted; /* as states; NULL where no sequence has an adapter */
    const air_state_away *away; /* [n_away], n_away at most the config's away_most */
    int64_t n_away;
    air_state_type state_type;
    const int32_t *wanted;    /* [n_wanted] row numbers, ascending */
    int64_t n_wanted;
    float *logits;            /* [n_wanted][n_vocab], NULL: none are wanted; of a device those alone that are whole, if any is, else NULL */
    const uint8_t *whole;     /* [n_wanted], of a device alone: whether logits has that row; NULL: it has all */
    float *hidden;            /* [n_wanted][n_embd], or NULL */
    /* Of a device alone: the largest logits of each wanted row, in order, of equals the one of the lower id first, none where there are no
     * more, and the logarithms of the sums of all exponents. A zero has no sign. */
    air_candidate *candidates; /* [n_wanted][n_candidates], or NULL */
    float *log_sums;          /* [n_wanted] */
    int64_t n_candidates;     /* as air_device_candidates gives it */
    const AIR_ATOMIC(int) *cancel;      /* nonzero: end soon with AIR_E_CANCELLED */
    AIR_ATOMIC(int32_t) *layers_done;   /* progress, written as layers finish */
    AIR_ATOMIC(uint64_t) *layer_ns;     /* [n_layers + 1] time per layer, waits for weights included, or NULL; a device's own */
    air_timeline *timeline;             /* that the CPU notes its threads' parts of stages in, or NULL */
} air_pass;

/* What the CPU does for a device, with all its threads. product, where some tiles are its: out[c * rows + r] = W[r] · x[c] for the rows
 * of some spans in host memory, which follow each other in the weight of a product, rows of them in all, and n columns, 1 to
 * AIR_SHARE_COLUMNS; x [n][width of what the product reads]: of one by heads each W[r] takes its head's part. copy, where weights lie in
 * memory that no device copies from by itself: as memcpy. Either may be NULL. One call at a time, on the thread that calls the backend. */
typedef struct air_host_help {
    void *self;
    void (*product)(void *self, const air_op *op, const air_span *spans, int32_t n_spans, const float *x, int64_t n, float *out);
    void (*copy)(void *self, void *to, const void *from, size_t bytes);
} air_host_help;

typedef struct air_backend air_backend;

/* A tile that stays on a device: of which product, which rows of its weight, and where among all that stay, in bytes. Tiles of one product
 * lie as in the file, with no gap: what of them are neighbours can be computed as one. */
typedef struct air_kept_tile {
    int32_t tile, op;
    int64_t first_row, rows;
    uint64_t place;
} air_kept_tile;

typedef struct air_backend_device {
    int32_t number, n_kept;    /* as device_info counts; tiles that stay there */
    const air_kept_tile *kept; /* [n_kept], in the order of use; read by open alone */
    uint64_t kept_bytes;       /* of all of them */
} air_backend_device;

typedef struct air_backend_config {
    const air_program *program; /* outlives the backend */
    int threads;                /* CPU threads to use */
    int cpu_tier;               /* air_cpu_tier that caps the kernels */
    /* Of devices with memory of their own. The first does what is no product, and has the state. */
    air_backend_device devices[AIR_DEVICES_MOST];
    uint64_t expert_bytes;       /* of the first device's memory, for experts of mixtures, */
    int32_t expert_places;       /* so many of them at a time */
    int32_t n_devices, n_tiles;  /* tiles of a pass */
    const int8_t *who;           /* [n_tiles]: who computes with a tile, one of devices, or AIR_NONE: the CPU for generated rows and the
                                  * first device for those of prompts; read by open alone */
    uint64_t tile_bytes;         /* of the largest tile */
    uint64_t part_bytes;         /* of results that come from elsewhere, at a time */
    air_host_help host;          /* outlives the backend */
    int64_t n_ctx, max_rows;     /* positions of a sequence, rows of a pass at most */
    air_state_type state_type;
    int64_t away_most;           /* blocks in the host's memory that passes may read; 0: none are */
} air_backend_config;

typedef struct air_device_info {
    char name[256];
    char id[33];                 /* which one of its kind: a UUID in hexadecimal */
    uint64_t total, free;        /* of its memory, now */
    int32_t major, minor;        /* compute capability */
    int32_t processors;
    int32_t driver;              /* 1000 × major + 10 × minor */
} air_device_info;

/* What a device was seen to do: bytes per second, seconds. */
typedef struct air_device_rates {
    double link, link_back;      /* copies from page-locked memory to the device; from there */
    double link_together;        /* to it, while as much as can be goes to others that compute with it; 0: not measured */
    double memory;               /* reads of its own memory */
    double op_s;                 /* a launch beside what it computes, after another one */
    double handover_s;           /* numbers come down, the host sees them, and a kernel reads its answer in the host's memory */
    double product[AIR_TYPE_COUNT];         /* packed bytes of one-column products; 0: not measured */
    double product_columns[AIR_TYPE_COUNT]; /* packed bytes × columns, with many columns; 0: not measured */
    uint64_t context;            /* bytes of its memory that using it takes, others' use included; 0: not known */
} air_device_rates;

typedef struct air_backend_api {
    uint32_t version; /* AIR_BACKEND_VERSION */
    const char *name; /* "cpu", "cuda" */
    /* Devices with memory of their own; NULL where the backend is the CPU. *n is 0 and the status AIR_E_UNSUPPORTED, saying why, where
     * there is none, AIR_E_DEVICE where there are some that cannot be used, as by a driver that is too old. */
    air_status (*devices)(int32_t *n, air_error *err);
    air_status (*device_info)(int32_t device, air_device_info *out, air_error *err);
    /* Measures the device for about so many seconds, products of the types whose bit is set (bit = GGML type id), in up to bytes of its
     * memory and some of the host's, all of which is given back. What others do meanwhile slows it. Errors: AIR_E_ARGUMENT (no such
     * device), AIR_E_NOMEM, AIR_E_DEVICE. NULL as devices is. */
    air_status (*probe)(int32_t device, uint64_t types, uint64_t bytes, double seconds, air_device_rates *out, air_error *err);
    /* Of n devices, 1 to AIR_DEVICES_MOST, what copies to each give while all are busy: out[n], bytes per second. bytes: of each one's
     * memory, and as many of the host's. Errors and NULL as of probe. */
    air_status (*probe_links)(const int32_t *devices, int32_t n, uint64_t bytes, double seconds, double *out, air_error *err);
    air_status (*open)(air_backend **out, const air_backend_config *config, air_error *err);
    void (*close)(air_backend *backend);
    const char *(*kernels)(const air_backend *backend); /* which set of kernels it runs: "avx512" */
    /* AIR_OK if every op and weight of the program can run; else AIR_E_UNSUPPORTED naming the first that cannot. */
    air_status (*supports)(const air_program *program, air_error *err);
    /* Memory of the host that a pass of rows rows with n_wanted wanted ones takes beyond the feed's spans; monotonic in both. NULL of a
     * device: device.h says it. */
    uint64_t (*pass_bytes)(const air_program *program, int64_t rows, int64_t n_wanted, int threads);
    /* Makes room for passes up to that size, or shrinks to it; of a device with adapters of that rank at most, 0: with none.
     * AIR_E_NOMEM leaves the old size. */
    air_status (*reserve)(air_backend *backend, int64_t rows, int64_t n_wanted, int64_t rank, air_error *err);
    /* Memory for state blocks, readable and writable by passes; thread-safe. Copies are from and to blocks of any home (pageable: of
     * one of them), also one that a pass has just written. Errors: AIR_E_NOMEM; of a device AIR_E_DEVICE. *out is NULL then. */
    air_status (*state_alloc)(air_backend *backend, void **out, size_t bytes, air_error *err);
    void (*state_free)(air_backend *backend, void *p, size_t bytes);
    air_status (*state_copy)(air_backend *backend, void *to, const void *from, size_t bytes, int pageable, air_error *err);
    /* Memory for an adapter, zeros, which state_copy writes to as to a block that is HERE; freed when no pass reads it any more, and given
     * back to the device then. Thread-safe. Errors: AIR_E_NOMEM, AIR_E_DEVICE; *out is NULL then. NULL as devices is. */
    air_status (*adapter_alloc)(air_backend *backend, void **out, size_t bytes, air_error *err);
    void (*adapter_free)(air_backend *backend, void *p);
    /* Makes pages of the host stay where they are, so that the device copies from them by itself; nonzero if it did, 0 where the system
     * refuses, which is no failure. unlock_pages takes what one lock_pages took. NULL where nothing is gained by it. */
    int (*lock_pages)(air_backend *backend, void *p, size_t bytes);
    void (*unlock_pages)(air_backend *backend, void *p);
    /* Between passes: of the memory that air_device_staging_bytes says what is still held, 0 once every weight has come to stay and nothing
     * else comes that way. NULL as devices is. */
    uint64_t (*staging_bytes)(const air_backend *backend);
    /* Runs the program over the pass; the calling thread is the leader. Every span taken from the feed is released, also on failure;
     * after a failure the feed stands somewhere inside the program and must be rewound by its owner.
     * Errors: those of the feed, AIR_E_CANCELLED; of a device AIR_E_NOMEM and AIR_E_DEVICE, after which it may be lost: the message says
     * so, and every further call fails alike, of this function and others. */
    air_status (*run)(air_backend *backend, const air_pass *pass, const air_feed *feed, air_error *err);
} air_backend_api;

extern const air_backend_api air_backend_host;

/* What a plugin exports, as AIR_BACKEND_SYMBOL. */
typedef const air_backend_api *(*air_backend_plugin_fn)(void);
#define AIR_BACKEND_SYMBOL "air_backend_plugin"

AIR_END_C
#endif
