/* backend/backend.h: a device that can run a program. One small vtable; the CPU (host.c) is the specification.
 *
 * The engine owns a backend and calls it from one thread at a time. Weights reach a backend as spans of a feed (the pager's), state
 * as block pointers that its own alloc returned, never as addresses it must guess at. All sizes in bytes unless said. */
#ifndef AIR_BACKEND_BACKEND_H
#define AIR_BACKEND_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#include "backend/op.h"
#include "base/status.h"

AIR_BEGIN_C

enum { AIR_BACKEND_VERSION = 1 };

/* Rows [first_row, first_row + rows) of one weight, in memory until released. data has no alignment. */
typedef struct air_span {
    int32_t weight;
    int64_t first_row, rows;
    const uint8_t *data;
    uint64_t slot; /* the feed's own */
} air_span;

/* Where weights come from during a pass. next waits for the next span in program order; release, in the same order, may come later,
 * when up to two more have been asked for. gather decodes rows of a table to float32 [n][cols]. Any thread of the backend calls them,
 * one at a time each; release may come while next waits. */
typedef struct air_feed {
    void *self;
    air_status (*next)(void *self, air_span *span, air_error *err);
    void (*release)(void *self, const air_span *span);
    air_status (*gather)(void *self, int32_t weight, const int32_t *rows, int64_t n, float *out, air_error *err);
    const float *const *vectors; /* [n_weights]: float32 data of every AIR_WEIGHT_VECTOR, else NULL */
} air_feed;

/* State of one sequence as a pass sees it: for layer l and block b of 64 positions k[l * stride + b], v likewise. Blocks that
 * cover the pass's new positions are there and writable. */
typedef struct air_state_view {
    void *const *k, *const *v;
    int64_t stride; /* blocks per layer in these tables */
} air_state_view;

typedef struct air_pass {
    int64_t rows;             /* at least 1 */
    const int32_t *tokens;    /* [rows] */
    const int32_t *positions; /* [rows] */
    const int32_t *sequences; /* [rows]: index into states */
    const air_state_view *states;
    air_state_type state_type;
    const int32_t *wanted;    /* [n_wanted] row numbers, ascending */
    int64_t n_wanted;
    float *logits;            /* [n_wanted][n_vocab]; may be NULL where n_wanted is 0 */
    float *hidden;            /* [n_wanted][n_embd], or NULL */
    const AIR_ATOMIC(int) *cancel;      /* nonzero: end soon with AIR_E_CANCELLED */
    AIR_ATOMIC(int32_t) *layers_done;   /* progress, written as layers finish */
    AIR_ATOMIC(uint64_t) *layer_ns;     /* [n_layers + 1] busy time per layer, or NULL */
} air_pass;

typedef struct air_backend air_backend;

typedef struct air_backend_config {
    const air_program *program; /* outlives the backend */
    int threads;                /* CPU threads to use */
    int cpu_tier;               /* air_cpu_tier that caps the kernels */
} air_backend_config;

typedef struct air_backend_api {
    uint32_t version; /* AIR_BACKEND_VERSION */
    const char *name; /* "cpu" */
    air_status (*open)(air_backend **out, const air_backend_config *config, air_error *err);
    void (*close)(air_backend *backend);
    const char *(*kernels)(const air_backend *backend); /* which set of kernels it runs: "avx512" */
    /* AIR_OK if every op and weight of the program can run; else AIR_E_UNSUPPORTED naming the first that cannot. */
    air_status (*supports)(const air_program *program, air_error *err);
    /* Memory that a pass of rows rows with n_wanted wanted ones takes beyond the feed's spans; monotonic in both. */
    uint64_t (*pass_bytes)(const air_program *program, int64_t rows, int64_t n_wanted, int threads);
    /* Makes room for passes up to that size, or shrinks to it. AIR_E_NOMEM leaves the old size. */
    air_status (*reserve)(air_backend *backend, int64_t rows, int64_t n_wanted, air_error *err);
    /* Memory for state blocks, readable and writable by passes. */
    void *(*state_alloc)(air_backend *backend, size_t bytes);
    void (*state_free)(air_backend *backend, void *p, size_t bytes);
    void (*state_copy)(air_backend *backend, void *to, const void *from, size_t bytes);
    /* Runs the program over the pass; the calling thread is the leader. Every span taken from the feed is released, also on failure;
     * after a failure the feed stands somewhere inside the program and must be rewound by its owner.
     * Errors: those of the feed, AIR_E_CANCELLED. */
    air_status (*run)(air_backend *backend, const air_pass *pass, const air_feed *feed, air_error *err);
} air_backend_api;

extern const air_backend_api air_backend_host;

AIR_END_C
#endif
