/* memory/plan_internal.h: inside the plan: what plan.c (sizes), plan_device.c (a device's memory) and plan_time.c (seconds) share.
 *
 * A plan shares out one memory, or two: the device's, then the host's. For both that is the same: `air__memory` says what lies in it
 * whatever the context and the rows are, what a context and rows take, and what the ring does; plan.c walks them in this order. */
#ifndef AIR_MEMORY_PLAN_INTERNAL_H
#define AIR_MEMORY_PLAN_INTERNAL_H

#include "memory/plan.h"

enum {
    AIR__TILE_MOST = 32 << 20,
    AIR__TILE_SHARED = 8 << 20, /* where several compute a matrix, so that each finds some of it */
    AIR__PROMPT_ROWS = 512, /* of a pass, as many as a context we choose leaves room for: compute bounds more of them */
    AIR__ROWS_SHARE = 4,    /* rows take one part in so many of what weights could have at most */
};

/* Sums that cannot wrap: what is absurdly large stays too large to fit. */
static inline uint64_t air__plus(uint64_t a, uint64_t b) { return air_add_u64(a, b, &a) ? a : UINT64_MAX; }
static inline uint64_t air__times(uint64_t a, uint64_t b) { return air_mul_u64(a, b, &a) ? a : UINT64_MAX; }
static inline uint64_t air__less(uint64_t a, uint64_t b) { return a > b ? a - b : 0; }

typedef enum air__where { AIR__DEVICE, AIR__HOST, AIR__MEMORIES } air__where;

typedef struct air__memory {
    air__where where;
    const char *option;       /* as messages name its budget */
    const char *fixed_name;   /* and what is fixed */
    uint64_t budget, reach;
    uint64_t fixed, logits, gather; /* gather: buffers on the weights' way, beside the ring */
    uint64_t shuttle;         /* of state on its way */
    uint64_t mapped;          /* of files */
    uint64_t recurrent;       /* state of a sequence, whatever the context */
    uint64_t state_per_block; /* 0: no state lies here */
    uint64_t first_block, end_block; /* of a context, those that lie here */
    uint64_t (*activations)(const air_plan_request *r, int64_t rows, int64_t n_ctx);
    uint64_t ring;            /* where anything streams */
    uint64_t weights_least;   /* room for weights without which nothing runs: the ring, or all of them where that is less, and experts */
    uint64_t experts_least;   /* of it */
    int ring_always;          /* it also loads another memory, so it stays where all weights do */
    uint64_t (*tile)(const air_tile *tile); /* memory that one takes */
    int64_t rows_most;        /* of a pass, where we choose */
} air__memory;

/* Those of a request under the ring and tiles chosen so far; returns how many, 1 or 2. */
int air__plan_memories(const air_plan_request *r, const air_plan *p, air__memory out[AIR__MEMORIES]);

/* Bytes of the largest tile when they are cut to tile_bytes. */
uint64_t air__largest_tile(const air_program *program, uint64_t tile_bytes);
uint64_t air__blocks(int64_t positions);
uint64_t air__state_bytes(const air__memory *m, int64_t positions);

/* plan_device.c. The device's memory; what a pass takes of the host's for it; the ring in host memory that tiles of a good size for a
 * device make, and the largest tile that its own memory allows. */
air__memory air__device_memory(const air_plan_request *r, const air_plan *p);
uint64_t air__device_host_activations(const air_plan_request *r, int64_t rows, int64_t n_ctx);
uint64_t air__device_ring_wanted(void);
uint64_t air__device_tile_most(const air_plan_request *r);
/* Where device memory m, which has room for so many bytes beside all but state, does not hold an n_ctx that is asked for: leaves what it
 * cannot hold to the host, and the shuttle in its place. */
void air__plan_away(air_plan *p, const air_plan_request *r, const air__memory *m, uint64_t room);

/* plan_shares.c. Whether products may be shared, which sizes of parts then come before all others, and smaller matrices, where one
 * device alone is beside the CPU; helpers' sizes, once rows of a pass are known (AIR_E_BUDGET); tiles that stay dealt to devices, left
 * being what device 0 has beside all but a ring; what streams dealt to CPU and links, pinned being what is in host memory. */
int air__plan_shares_products(const air_plan_request *r);
int air__plan_small_first(const air_plan_request *r);
void air__plan_part_sizes(air_plan *p, const air_plan_request *r);
air_status air__plan_helper_sizes(air_plan *p, const air_plan_request *r, uint64_t ring, air_error *err);
void air__plan_deal_tiles(air_plan *p, const air_plan_request *r, uint64_t left, uint64_t ring);
void air__plan_share_rest(air_plan *p, const air_plan_request *r, uint64_t pinned);
double air__host_share_seconds(const air_plan_request *r, const air_plan *p); /* of the CPU, one token; hand-overs included */

/* plan_experts.c. Sizes that depend on no memory; the share of experts that so much host memory holds with the device's, and the device's
 * alone; of those that a pass of rows rows needs, seconds of reading what neither holds, and bytes of what the device does not. */
void air__plan_experts(air_plan *p, const air_program *program);
double air__expert_share(const air_plan_request *r, const air_plan *p, uint64_t memory);
double air__expert_device_share(const air_plan_request *r, const air_plan *p);
double air__expert_read_seconds(const air_plan_request *r, const air_plan *p, uint64_t memory, int64_t rows);
double air__expert_link_bytes(const air_plan_request *r, const air_plan *p, int64_t rows);
double air__expert_pass_bytes(const air_program *program, int32_t layer, int64_t rows); /* of experts that so many rows are sent to */

/* plan_time.c. What is known of a device, and the rate of its link while all are busy; 0: not known. Seconds for everything that it does
 * beside products, and for each byte of weights, the products' mean; 0: not known. Of all links in use the slowest: rows of a prompt take
 * the CPU's share along. */
const air_device_rates *air__rates_of_device(const air_plan_request *r, int32_t device);
double air__link_rate(const air_plan_request *r, int32_t device);
double air__device_beside(const air_plan_request *r, const air_plan *p, int32_t device);
double air__device_per_byte(const air_plan_request *r, const air_plan *p, int32_t device, int64_t rows);
double air__link_seconds(const air_plan_request *r, const air_plan *p, int64_t rows);
/* Fills the plan's seconds. prompt_pins: pins beside a pass of max_rows rows. */
void air__plan_times(air_plan *p, const air_plan_request *r, uint64_t prompt_pins);

#endif
