/* memory/plan.h: decides what stays, what streams and how long a pass takes. A pure function of sizes and bandwidths: no I/O.
 *
 * Weights that are matrices are cut into tiles: a row range of one weight, at most tile_bytes, never across weights. Tiles are walked in
 * the program's order. Which tiles stay is the prefix of one fixed priority order (bit-reversed tile numbers), so that pinned and
 * streamed tiles interleave evenly for any amount of pins, and a smaller amount is a subset of a larger one.
 *
 * The ring holds four of the largest tiles at least, so that two may be held while the next finds room in one piece. It is as small as
 * keeps the disk busy: then what is read is still in the last cache when it is computed with, and more memory is left for pins.
 *
 * With a device, which has memory of its own and computes every op, each of the two memories has a budget and the same parts: what is
 * fixed, state, activations, a ring, and weights in what is left. State and activations are the device's, for the whole context and
 * max_rows rows, for good; host memory holds the page-locked copies of what goes up and comes back. Where an n_ctx that is asked for is
 * more than the device holds beside the rest, the host's memory has the blocks beyond, and the device room for two layers of them (the
 * shuttle). The tiles of one order:
 *
 *     priority: [ 0 … n_device_tiles | the next, pins of host memory | the rest, read from disk in every pass ]
 *                 in device memory     └──────── over the link in every pass, through the device's ring ────┘
 *
 * So whatever the two budgets are, what lies in either is spread evenly, and disk, link and device are busy at once.
 *
 * Of mixtures, a device's memory has places for experts in what its tiles leave, a few at least: those that rows are sent to most stay
 * there, the next in host memory, the rest is read as it is asked for. The first device computes with them.
 *
 * Products may be shared. Where the link bounds a pass, the CPU computes the first tiles that no device holds, as many as it takes as long
 * for as the link does for the rest. Of several devices the first computes what is no product; tiles are dealt to all, so that they are
 * done with a token at the same time: those that stay by what each has memory for, and where that is more than all tiles by what its
 * memory gives, those that stream by what its link gives while all are busy, less what it is busy with already. Who computes what is
 * fixed by the plan: a row's bits do not depend on other rows. So that it stays what it is from plan to plan, who computes what can be
 * decided by other rates than those that times are predicted from. */
#ifndef AIR_MEMORY_PLAN_H
#define AIR_MEMORY_PLAN_H

#include <stdint.h>

#include "backend/backend.h"
#include "backend/device.h"
#include "base/checked.h"
#include "base/status.h"

AIR_BEGIN_C

typedef enum air_io_mode { AIR_IO_AUTO, AIR_IO_DIRECT, AIR_IO_MMAP, AIR_IO_COUNT } air_io_mode;
const char *air_io_name(air_io_mode mode);

/* What a pass waits for. */
typedef enum air_bound { AIR_BOUND_COMPUTE, AIR_BOUND_DEVICE, AIR_BOUND_LINK, AIR_BOUND_DISK, AIR_BOUND_COUNT } air_bound;
const char *air_bound_name(air_bound bound); /* "compute": the CPU; "device", "link", "disk" */

typedef struct air_tile {
    int32_t weight;
    int32_t op; /* the product that uses it */
    int64_t first_row, rows;
    uint32_t part;
    uint64_t offset, bytes; /* in the part's file */
} air_tile;

enum {
    AIR_PLAN_GRANULE = 4096, AIR_RING_TILES = 4, AIR_DEPTH_MOST = 32, AIR_RING_LEAST = 8 << 20,
};

/* Bytes of the ring that a plan takes by itself where it has the memory, and a probe of the disk reads into: its figure then holds
 * what memory of that size costs, in the last cache or beyond it. */
static inline uint64_t air_ring_wanted(uint64_t block_bytes, int depth)
{
    return air_max_u64(AIR_RING_LEAST, 2 * (uint64_t)depth * block_bytes);
}

/* Memory that holds a tile: from its file offset rounded down to its end rounded up. The plan counts in AIR_PLAN_GRANULE; a pager
 * whose pages or direct reads are coarser takes that. All figures of pins are in this measure, a little above the weights' bytes. */
static inline uint64_t air_tile_memory(const air_tile *tile, uint64_t granule)
{
    return air_round_up(tile->offset + tile->bytes, granule) - air_round_down(tile->offset, granule);
}

/* Device memory that holds a tile: its own bytes, at an offset of its own. */
static inline uint64_t air_tile_device_memory(const air_tile *tile) { return air_round_up(tile->bytes, AIR_DEVICE_ALIGN); }

typedef struct air_bandwidths { /* bytes per second, probed or given */
    double disk;                            /* direct reads at the chosen block and depth */
    double memory;                          /* read bandwidth of all threads together */
    double product[AIR_TYPE_COUNT];         /* one-column product from memory, all threads, packed bytes; 0: not measured */
    double product_columns[AIR_TYPE_COUNT]; /* packed bytes × columns per second with many columns; 0: not measured */
    uint64_t block_bytes;                   /* read size and number in flight (at most AIR_DEPTH_MOST) that gave disk */
    int32_t depth;
    double latency_s;                       /* one read of 64 KiB, waited for, takes beside its bytes; 0: not measured */
    double op_s;                            /* one op of a program takes beside its bytes; 0: not measured */
    air_device_rates devices[AIR_DEVICES_MOST]; /* the first's, then the helpers'; one whose memory is 0 is taken to be as the first */
} air_bandwidths;

typedef struct air_device_request {
    uint64_t budget; /* max_vram; 0: no device, the CPU computes */
    uint64_t fixed;  /* of it, what the driver's context, small weights and tables take */
    uint64_t reach;  /* the largest budget that there is memory for; 0: not known */
    uint64_t graph;  /* of the first device, beside all weights where it holds them */
    uint64_t away_per_block;    /* memory of the host for a block of state that is not in the device's; 0: there are none */
    uint64_t shuttle_per_block; /* of the device, so that passes can read it */
} air_device_request;

#define AIR_SHARE_AUTO (-1.0)

typedef struct air_plan_request {
    const air_program *program;
    air_state_type state_type;     /* for those who read the plan */
    uint64_t budget;               /* max_ram */
    uint64_t fixed;                /* FIXED + VECTORS */
    uint64_t state_per_block;      /* bytes of one 64-position block over all layers, K and V */
    uint64_t recurrent;            /* bytes of a sequence's recurrent state, whatever the context: now, next and kept; 0: it has none */
    int64_t n_ctx;                 /* wanted; 0: min(trained, 4096), lowered to what fits beside rows of prompts */
    int64_t n_ctx_trained;
    uint64_t (*pass_bytes)(const air_program *program, int64_t rows, int64_t n_wanted, int threads);
    int threads;
    air_io_mode io;
    uint64_t file_bytes;           /* of all parts */
    uint64_t available;            /* memory that could hold a mapped file: DESIGN's default budget */
    uint64_t reach;                /* the largest budget that there is memory for, where advice ends; 0: not known */
    uint64_t ring_bytes;           /* 0: chosen */
    uint64_t tile_bytes;           /* 0: chosen; at least one row whatever it says */
    int64_t max_rows;              /* rows per pass; 0: chosen */
    air_device_request device;     /* which computes all but its helpers' and the CPU's shares of products */
    air_device_request helpers[AIR_DEVICES_MOST - 1];
    int32_t n_helpers;
    double cpu_share;              /* of weights that no device holds, what the CPU computes of generated rows: 0 to 1, AIR_SHARE_AUTO */
    air_bandwidths bandwidths;
    air_bandwidths deciding;       /* by which is decided who computes what; where the first device's memory is 0: bandwidths */
} air_plan_request;

/* Tiles that follow each other in the priority order, and who computes with them. */
typedef struct air_share {
    int32_t n_tiles;
    int32_t device; /* 0: the first; 1 …: the helpers; AIR_NONE: the CPU, of generated rows */
    int stays;      /* in that device's memory; else it crosses that device's link in every pass */
} air_share;

/* A device that computes products alone. */
typedef struct air_plan_helper {
    uint64_t budget, fixed;
    uint64_t buffer_bytes;       /* columns of a pass, and one part of its results */
    uint64_t ring_bytes;         /* as device_ring_bytes */
    uint64_t pin_bytes, weight_bytes; /* of the tiles that stay there: memory, their own bytes */
    uint64_t linked_bytes;       /* of weights that cross its link in a pass */
    int32_t n_tiles, linked_tiles;
} air_plan_helper;

/* What a device does for a token. It is idle for the rest of pass_s. */
typedef struct air_plan_work {
    uint64_t weight_bytes, linked_bytes; /* that it computes with; of them, those that cross its link */
    double link_s, device_s;
} air_plan_work;

typedef struct air_plan {
    air_io_mode io;               /* DIRECT or MMAP */
    uint64_t budget, fixed;
    air_state_type state_type;    /* the request's */
    int64_t n_ctx, max_rows;      /* max_rows: rows of one pass at most; a longer prompt takes several, or, where the program is
                                   * bidirectional, is none: n_ctx is no more than that */
    uint64_t tile_bytes, ring_bytes, block_bytes;
    uint64_t gather_bytes;        /* buffers of small reads, of the embedding's rows, and the rows that are kept */
    int64_t kept_rows;            /* of them; 0 where a mapping has them all */
    uint64_t staging_bytes;       /* with a device: page-locked memory through which weights go that do not lie in such */
    int32_t depth;
    double disk_rate;             /* B/s, of depth reads of block_bytes at a time */
    uint64_t weight_bytes;        /* W: all matrices of a pass */
    uint64_t pin_bytes;           /* memory of the tiles that stay, with an empty context and one row per pass */
    uint64_t pin_bytes_full;      /* with the context full */
    /* Experts of mixtures (memory/mixtures.h), which are fetched as rows are sent to them and stay as far as there is memory; else 0. */
    uint64_t expert_weight_bytes; /* of all of them, beside weight_bytes */
    uint64_t expert_token_bytes;  /* of those that one row is sent to */
    uint64_t expert_bytes, expert_bytes_full; /* memory for them, as pin_bytes and pin_bytes_full */
    uint64_t device_expert_bytes; /* likewise of the first device's memory, whatever the context */
    double expert_hit;            /* of those asked for, as many are expected in memory: were all used alike, their share that is there */
    double device_expert_hit;     /* of those, in the device's; where both are 0, there are no mixtures */
    uint64_t state_bytes_full;    /* KV cache at n_ctx; with a device: away_blocks, and one on its way there, else 0 */
    uint64_t recurrent_bytes;     /* of one sequence, from its first token on, where its K and V are; 0: it has none */
    uint64_t activation_bytes, activation_bytes_full; /* one row; max_rows rows; with a device, the copies for it */
    uint64_t logit_bytes;
    /* With a device, else 0. In use at any time: fixed, parts, state, activations of max_rows rows, ring, pins. */
    uint64_t device_budget, device_fixed, device_graph_bytes;
    uint64_t part_bytes, device_part_bytes; /* results of others on their way into it: one; all */
    int32_t n_device_tiles;
    uint64_t device_pin_bytes;    /* air_tile_device_memory of these tiles */
    uint64_t device_weight_bytes; /* their own bytes, of weight_bytes; helpers' included, as in n_device_tiles */
    uint64_t device_ring_bytes;   /* AIR_DEVICE_RING_TILES of the largest tile; 0 where every tile is a device tile */
    uint64_t device_state_bytes;  /* KV cache of one sequence at n_ctx, but for away_blocks */
    int64_t away_blocks;          /* of it, blocks of 64 positions in host memory; as many a pass can read */
    uint64_t device_shuttle_bytes; /* through which they come */
    uint64_t device_activation_bytes, device_activation_bytes_full;
    /* Products that others compute. share_bytes: host memory that the CPU's share takes. */
    air_plan_helper helpers[AIR_DEVICES_MOST - 1];
    int32_t n_helpers, n_host_tiles;
    uint64_t host_weight_bytes, share_bytes;
    air_share shares[2 * AIR_DEVICES_MOST + 1]; /* of the priority order */
    int32_t n_shares;
    air_plan_work work[AIR_DEVICES_MOST]; /* [1 + n_helpers], with a device */
    double disk_s, link_s, device_s, compute_s; /* predicted, one token; of several devices the slowest; compute: on the CPU */
    double pass_s;                /* the largest of them */
    air_bound bound;              /* which that is */
    double full_s;                /* predicted, one token with the context full, of attention only what crosses the link */
    double prompt_s;              /* predicted, a pass of max_rows rows */
    air_tile *tiles;              /* [n_tiles] in the order of use */
    int32_t n_tiles;
    int32_t *priority;            /* [n_tiles]: tile numbers: the device's, then the first to pin first */
    int32_t *rank;                /* [n_tiles]: a tile's place in that order; and as many to sort them with */
} air_plan;

/* Largest tiles are row ranges of equal size, a multiple of 16 rows where that is possible.
 * Errors: AIR_E_BUDGET: the message says what each part takes, the max_ram or max_vram that would do, what it is more, and the n_ctx
 * that would fit; of two budgets that are too small the device's is the first to be told of;
 * AIR_E_NOMEM; AIR_E_ARGUMENT (ring or tile size impossible, n_ctx beyond the trained one). */
air_status air_plan_make(air_plan **out, const air_plan_request *request, air_error *err);
void air_plan_free(air_plan *plan);

/* A device's tiles in the order of use, with places for them in its pin_bytes; and who computes with each tile, as air_backend_config has
 * them. *out [*n], [n_tiles] is the caller's to free. Errors: AIR_E_NOMEM. */
air_status air_plan_device_places(air_kept_tile **out, int32_t *n, const air_plan *plan, int32_t device, air_error *err);
air_status air_plan_who(int8_t **out, const air_plan *plan, air_error *err);

/* Seconds of a pass of rows rows when pinned bytes of memory hold tiles and experts, as air_pager_set_pins shares them out: max((W - C)
 * / B_disk, compute), C the weights in them. With a device max((W - D - C) / B_disk, (W - D) / B_link, the device's compute), D the
 * weights of the device's tiles, before which no pin is; its compute has the hand-over of a token in it, whose logits come back. Reads
 * smaller than those that gave B_disk cost their share of a read's latency besides, which is what bounds tiny rings. Compute is the
 * products' bytes, op_s for each op and, in direct mode, the latency of the rows that are read of tables: small models' passes. A
 * bandwidth that is not known bounds nothing. In mmap mode C is W where the files fit the memory available, else 0: a scan in a circle
 * finds nothing left of itself in a page cache that is too small. Without a device, experts' reads wait for the other products. */
double air_plan_predict(const air_plan_request *request, const air_plan *plan, uint64_t pinned, int64_t rows);

AIR_END_C
#endif
