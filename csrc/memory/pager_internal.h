/* memory/pager_internal.h: the pager's inside, shared by its files.
 *
 * The walk is a line of steps that never ends: step s uses tile s % n_tiles. Four cursors move along it, all under lock:
 *
 *     released <= walk <= ahead      [released, walk) is held by the pass, [walk, ahead) has its place in memory,
 *     issue <= ahead                 and its reads are submitted up to issue (and issue_at bytes into that tile).
 *
 * ahead - released <= n_tiles, so a tile is in the window once at most and its slot tells all about it. Places are given on the
 * walker's thread; reads are submitted there and by the reads that end, so the disk stays busy while the walker computes. */
#ifndef AIR_MEMORY_PAGER_INTERNAL_H
#define AIR_MEMORY_PAGER_INTERNAL_H

#include <stddef.h>

#include "memory/pager.h"
#include "platform/async_io.h"
#include "platform/mmap.h"
#include "platform/threads.h"
#include "quant/format.h"

enum {
    AIR__WAIT_SLICE_NS = 20 * 1000 * 1000, /* waits look at the cancel flag this often */
};
#define AIR__NO_PASS UINT64_MAX

typedef enum air__slot_state {
    AIR__SLOT_EMPTY,  /* nothing; a pin may have its memory already */
    AIR__SLOT_PLACED, /* has its place, its reads are to come or under way */
    AIR__SLOT_READY,  /* without memory where it is elsewhere, or left out of the pass that it is in the window for */
    AIR__SLOT_FAILED,
} air__slot_state;

typedef struct air__read {
    air_io_request request;
    air_pager *pager;
    uint64_t step;
    AIR_ATOMIC(int) cancel;
    enum { AIR__READ_FREE, AIR__READ_BUSY, AIR__READ_FAILED } state; /* FAILED: kept for its error until its slot is dropped */
} air__read;

typedef struct air__slot { /* one per tile */
    air__slot_state state;
    int keep;                     /* is to be pinned; only set_pins looks at it */
    int elsewhere;                /* the backend has it: READY without memory */
    int pin_locked;               /* by the backend */
    int fresh;                    /* read since it was handed out last */
    uint8_t *memory;              /* of the tile, granule included; in the ring or the pin */
    uint8_t *pin;                 /* its place among the pins, or NULL */
    uint64_t ring_begin, ring_end;/* positions; equal where it lies in its pin */
    uint32_t reads_left;
    air__read *failed;
} air__slot;

/* Small reads: rows of tables, vectors. They share the I/O threads but not the window. */
typedef struct air__small {
    air_io_request request;
    air_pager *pager;
    AIR_ATOMIC(int) cancel;
    int busy;
    int done;                      /* without a read */
    int32_t weight;                /* what the read is of */
    uint8_t *buffer;
} air__small;

/* Rows of tables as read last, by their numbers modulo the plan's kept_rows: tokens come again, and generated ones wait for the disk
 * before anything else of their pass. */
typedef struct air__kept_row {
    int32_t weight, row; /* AIR_NONE: none yet */
    uint8_t data[];
} air__kept_row;

struct air__experts;

struct air_pager {
    air_feed feed;
    const air_program *program;
    const air_plan *plan;
    air_source *const *sources;
    uint32_t parts;
    air_budget *budget;
    const air_backend_api *api;    /* NULL: pages are not locked */
    air_backend *backend;
    const AIR_ATOMIC(int) *cancel; /* the pass's; NULL: none */
    air_timeline *timeline;        /* added to under lock; NULL: none */
    uint64_t granule;              /* pages and direct reads are multiples of it */
    const air_tile *tiles;
    uint64_t n_tiles;

    air_mutex lock;
    air_cond changed;              /* a read has ended */
    air_async_io *io;
    air__slot *slots;              /* [n_tiles] */
    uint64_t released, walk, ahead, issue, issue_at;
    uint64_t no_logits;            /* the pass, by its number (step / n_tiles), that makes none; AIR__NO_PASS: all make some */
    air__read reads[2 * AIR_DEPTH_MOST];
    int n_reads, n_readers;        /* the latter: I/O threads */
    int failed, stopping;          /* nothing more is submitted while one of them is nonzero */

    uint8_t *ring, *ring_region;   /* NULL while all tiles are pinned */
    int ring_locked;
    uint64_t ring_bytes;           /* the plan's, more where the granule makes tiles larger */
    uint64_t head, tail;           /* positions, modulo ring_bytes in the ring */
    uint8_t *pins, *pins_region;   /* tiles in the order of priority, one after the other; address space for all that may stay */
    uint64_t pins_bytes, pins_end; /* of that; up to where it holds pins */
    uint64_t pins_page;            /* multiples of which it gives back */
    uint64_t pin_target;
    uint64_t elsewhere;            /* slots that are */

    struct air__experts *experts;  /* NULL where the program has no mixtures */
    uint64_t expert_target;        /* memory that they may take */

    air__small *small;             /* [n_small] */
    int n_small;
    uint64_t small_bytes;          /* of each buffer */
    uint8_t *small_region;
    uint8_t *kept_rows;            /* [plan->kept_rows]: air__kept_row; gather's alone */
    uint64_t kept_row_bytes;       /* of each */

    float *vectors;
    uint64_t vector_bytes;
    const float **vector_of;       /* [n_weights] */

    air_file **files;              /* mmap mode, [parts] */
    air_mapping **mappings;
    uint64_t touched;              /* tiles, before the first pass */

    air_pager_stats stats;
    uint64_t *layer_stall;         /* [n_layers + 1] */
};

/* --- pager_window.c: under lock --- */
int air__window_fill(air_pager *p);                        /* gives places, submits reads; nonzero: there is more to be done at once */
void air__window_release(air_pager *p, uint64_t step);     /* steps up to and including step are used up */
void air__window_cut(air_pager *p, uint64_t step);         /* forgets steps from step on; waits for their reads */
void air__window_skip(air_pager *p, uint64_t step);        /* forgets the steps before step and walks on from there */
uint64_t air__block_of(const air_pager *p, uint64_t memory); /* what a read of so many bytes takes at once: equal parts, no stub */
air_status air__ring_open(air_pager *p, air_error *err);
void air__ring_close(air_pager *p);                        /* the window must be empty */
uint8_t *air__region_alloc(const air_pager *p, uint64_t bytes); /* pages of which bytes can be aligned to the granule */
void air__region_huge(const air_pager *p, uint8_t *region, uint64_t bytes); /* asks for huge pages; region may be NULL */
void air__region_free(const air_pager *p, uint8_t *region, uint64_t bytes);
uint8_t *air__region_data(const air_pager *p, uint8_t *region); /* its first aligned byte */
int air__pages_lock(const air_pager *p, uint8_t *memory, uint64_t bytes); /* nonzero if the backend did */
void air__pages_unlock(const air_pager *p, uint8_t *memory);
air_status air__pins_open(air_pager *p, air_error *err);
void air__pins_close(air_pager *p);
void air__pins_grow(air_pager *p);                         /* places for slots to keep, as far as the budget goes */
void air__pins_cut(air_pager *p);                          /* frees those of slots not to keep */

/* --- pager_small.c --- */
air_status air__small_open(air_pager *p, air_error *err);
void air__small_drain(air_pager *p);                       /* under lock: waits until none is in flight */
void air__small_close(air_pager *p);
air_status air__vectors_load(air_pager *p, air_error *err);
air_status air__gather(void *self, int32_t weight, const int32_t *rows, int64_t n, float *out, air_error *err);

/* --- pager_mmap.c --- */
air_status air__mmap_open(air_pager *p, const char *const *paths, air_error *err);
void air__mmap_close(air_pager *p);
air_status air__mmap_next(void *self, air_span *span, air_error *err);
air_status air__mmap_check(air_pager *p, air_error *err);
int air__mmap_read_ahead(air_pager *p);

/* --- pager.c --- */
int air__pager_cancelled(const air_pager *p);
int air__left_out(const air_pager *p, uint64_t step); /* whether nobody wants what is computed with that tile in that pass */
int32_t air__tile_layer(const air_pager *p, const air_tile *tile); /* n_layers where it is outside of layers */
/* Under lock: to the statistics, and to the timeline if it is on. layer: n_layers where it is outside of layers. */
void air__note_read(air_pager *p, air_event_kind kind, const air_io_request *request, int32_t layer, int32_t weight, int32_t number);
void air__note_stall(air_pager *p, uint64_t begin_ns, int32_t layer, int32_t weight, int32_t number);

#endif
