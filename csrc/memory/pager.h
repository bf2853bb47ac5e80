/* memory/pager.h: keeps the weights that come next in memory, reading ahead of the compute.
 *
 * Owns pins, ring and reads in flight; borrows plan, program and sources, which must outlive it. It is the air_feed of a pass.
 * A pass walks it, in the program's order, wrapping after the last tile: one thread at a time asks for spans, another may release them
 * meanwhile; reads complete on its I/O pool. Knows tiles and bytes, nothing of models or kernels.
 *
 *        released ──┐                    ┌── reads in flight ──┐
 *   ring: [ free    | span held by pass  | ready               | free ]          positions only grow, modulo the ring
 *
 * A tile that is to stay is read into its pin the first time it comes by, so opening waits for none. The ring stays full between
 * passes: reads wrap from the last tile into the next pass's first. In mmap mode there is neither ring nor pin: spans point into the
 * mapping. */
#ifndef AIR_MEMORY_PAGER_H
#define AIR_MEMORY_PAGER_H

#include "backend/backend.h"
#include "memory/budget.h"
#include "memory/plan.h"
#include "memory/source.h"
#include "platform/timeline.h"

AIR_BEGIN_C

typedef struct air_pager air_pager;

typedef struct air_pager_stats { /* since open; bytes as read, alignment included */
    uint64_t disk_bytes;  /* read from sources */
    uint64_t ram_bytes;   /* handed out from pins or the mapping without a read */
    uint64_t stall_ns;    /* the walker waited for reads */
    uint64_t read_ns;     /* summed over reads in flight */
    uint64_t pinned_bytes, pin_target; /* memory of pins: filled so far, and wanted */
    uint64_t expert_bytes, expert_target; /* memory of experts: likewise */
    uint64_t expert_hits, expert_misses;  /* experts asked for that were in memory, a device's or the host's, and that were not */
    uint64_t expert_device_hits;          /* of expert_hits, those in a device's */
    uint64_t expert_guesses, expert_guessed; /* experts read for a guess; of them, those asked for before they gave way */
    uint64_t ring_bytes, ring_held;    /* memory of the ring: when there is one, 0 once there never will be; and now */
} air_pager_stats;

typedef struct air_pager_config {
    const air_program *program;
    const air_plan *plan;
    air_source *const *sources; /* [parts]; direct mode */
    const char *const *paths;   /* [parts]; mmap mode */
    uint32_t parts;
    air_budget *budget;
    const air_backend_api *api; /* whose lock_pages takes the memory of ring and pins; NULL: none */
    air_backend *backend;       /* outlives the pager */
    air_timeline *timeline;     /* that reads and stalls are noted in; outlives the pager; NULL: none */
    int lookahead;              /* whether experts of a later layer are read by a backend's guess */
} air_pager_config;

/* Loads vectors (small reads); no matrix. Errors: AIR_E_NOMEM, AIR_E_BUDGET, AIR_E_IO, AIR_E_THREAD. */
air_status air_pager_open(air_pager **out, const air_pager_config *config, air_error *err);
void air_pager_close(air_pager *pager);

/* The feed of this pager. Its next/release/gather obey backend.h; up to two spans that do not stay may be held while the next is
 * asked for, more are AIR_E_ARGUMENT where the ring has no room for them. Waits end with AIR_E_CANCELLED when *cancel of set_cancel is
 * nonzero. */
const air_feed *air_pager_feed(air_pager *pager);
void air_pager_set_cancel(air_pager *pager, const AIR_ATOMIC(int) *cancel);

/* Between passes: bytes of memory that pins may take (air_tile_memory of each), and experts in what pins leave: all tiles are used in every
 * pass, experts now and then. A smaller target gives memory and budget back at once;
 * a larger one takes budget at once, as far as there is any, and memory as tiles come by. When all tiles are to stay and fit, the ring is
 * given up; it comes back, at the pins' cost, when they no longer do. Errors: AIR_E_BUDGET, AIR_E_NOMEM (no room for the ring). */
air_status air_pager_set_pins(air_pager *pager, uint64_t bytes, air_error *err);

/* Between passes: gives the ring up where nothing comes through it any more, because the backend has its tiles and all others are pins.
 * set_pins brings it back where some stream again. */
void air_pager_trim(air_pager *pager);

/* Between passes, before the first: begins with what that one uses first, so that it finds ring and pins full as later ones do. Of a
 * mapping one tile a call is touched. Returns nonzero while another call would do more. */
int air_pager_read_ahead(air_pager *pager);

/* Before each pass: whether logits are made in it. Where not, the matrix that makes them is handed out as spans that are left out, and not
 * read. Waits for reads of what is read ahead, and then again, only after a pass without that had failed. */
typedef enum air_pager_output { AIR_PAGER_NO_LOGITS, AIR_PAGER_LOGITS } air_pager_output;
void air_pager_begin(air_pager *pager, air_pager_output output);

/* Between passes. After a failed pass: forget where the walk stood and start from the first tile; what can be kept is kept. */
void air_pager_rewind(air_pager *pager);
/* After a pass, before its result is believed: AIR_E_CHANGED if a file changed underneath (mmap faults, sources' check). */
air_status air_pager_check(air_pager *pager, air_error *err);

air_pager_stats air_pager_stats_get(const air_pager *pager);
/* The same, and from that moment on the timeline is off: it has what the statistics have. Any thread. */
air_pager_stats air_pager_timeline_stop(air_pager *pager);
/* Likewise on, with room for so many events. Errors: those of air_timeline_begin; *stats is as it was then. */
air_status air_pager_timeline_begin(air_pager *pager, uint64_t max_events, air_pager_stats *stats, air_error *err);
/* How many rows were sent to each expert of a layer since open; copies min(n, n_experts). Returns n_experts, 0 where the layer has none. */
int32_t air_pager_expert_rows(air_pager *pager, int32_t layer, uint64_t *rows, int32_t n);
/* Stall per layer of the program, ns, [n_layers + 1] (the last: outside layers). */
const uint64_t *air_pager_layer_stall(const air_pager *pager);

AIR_END_C
#endif
