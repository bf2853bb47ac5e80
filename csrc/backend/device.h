/* backend/device.h: memory that a pass takes on a device with memory of its own: pure sizes, the same for the plan, which has no
 * device at hand, and for the plugin, which allocates them. All offsets are multiples of AIR_DEVICE_ALIGN. */
#ifndef AIR_BACKEND_DEVICE_H
#define AIR_BACKEND_DEVICE_H

#include "backend/op.h"

AIR_BEGIN_C

enum {
    AIR_DEVICES_MOST = 8,
    AIR_SHARE_COLUMNS = 16,                /* that the CPU computes at a time */
    AIR_DEVICE_PARTS = 2,                  /* results from elsewhere that are under way, of each who computes some */
    AIR_DEVICE_PART_MOST = 4 << 20,        /* bytes of one, but for one column of the largest tile */
    AIR_DEVICE_ALIGN = 512,                /* as CUDA rounds small allocations: so sums of sizes are what is taken */
    AIR_DEVICE_TABLES = 16 << 10,          /* that kernels look up, at most */
    AIR_DEVICE_RING_TILES = 3,             /* of weights on their way: one is copied, one computed with, one handed over */
    /* Of the largest logits of a row: how many come down at most, from how many at a time they are chosen, and of how many rows. With 128
     * vocabularies up to 2^19 take three launches, with 256 those above 2^17 a fourth; who samples from more is rare, and gets all. */
    AIR_DEVICE_CANDIDATES = 128,
    AIR_DEVICE_CANDIDATE_PART = 2048,
    AIR_DEVICE_CANDIDATE_ROWS = 16,
    AIR_DEVICE_ATTENTION_PART = 256,       /* positions whose results are merged with those of others */
    AIR_DEVICE_SHUTTLE = 2,                /* layers of state on their way: one is copied, one is attended */
    AIR_DEVICE_ATTENTION_MOST = 64 << 20,  /* scratch of attention, beyond which rows take turns, but for what one row needs */
    AIR_DEVICE_RAW_MOST = 16 << 20,        /* of results before adapters add to them, but for what one column needs */
    AIR_DEVICE_STAGING_PIECES = 4,         /* of page-locked memory between weights in pageable memory and the device */
    AIR_DEVICE_STAGING_BYTES = 2 << 20,    /* of each, but no more than a tile: large enough that a copy costs more than its launch */
    /* Of the first device's memory, what each launch or copy of a captured pass takes: NVIDIA's cccl has seen about 10 KB (its pull request
     * 3768). Streams and events take little, which what follows has room for. */
    AIR_DEVICE_GRAPH_NODE = 16 << 10,
    /* What CUDA takes for a process that uses a device, before anything is allocated: of the device's memory, kernels included, where
     * nobody measured (250 to 536 MiB as seen of drivers 525 to 580), or by multiprocessors where that is more (555 MiB were seen of one
     * with 188, 529 to 536 of one with 132), and of the host's, anonymous (22 to 27 MiB seen). tests/gpu/check.py measures both. */
    AIR_DEVICE_CONTEXT = 576 << 20,
    AIR_DEVICE_CONTEXT_PROCESSOR = 4 << 20,
    AIR_DEVICE_HOST_CONTEXT = 64 << 20,
};

/* What CUDA takes of a device for an allocation: from 1 MiB on whole pages of 2 MiB. State is allocated by the block, so it counts. */
static inline uint64_t air_device_allocation(uint64_t bytes)
{
    uint64_t unit = bytes > 1 << 20 ? 2 << 20 : AIR_DEVICE_ALIGN;
    return (bytes + unit - 1) / unit * unit;
}

/* One of the largest logits of a row. token is -1 where there is none, of all where one of the row is not finite. */
typedef struct air_candidate {
    int32_t token;
    float logit;
} air_candidate;

/* Rows of one sequence in a pass: the first one, after which come the ends of spans, as air_state_view of backend.h has them. */
typedef struct air_device_course {
    int32_t first, spans;
    int32_t ends[AIR_RECURRENT_SPANS];
    const char *before;
    char *after[AIR_RECURRENT_SPANS];
} air_device_course;

/* What the rows of a sequence have of an adapter (backend/adapter.h). */
typedef struct air_device_adapted {
    const struct air_adapter_part *parts; /* [n_weights], in the device's memory; NULL: nothing */
    float scale;
} air_device_adapted;

/* Of a part of a row: the largest logit, the sum of exponents relative to it, and whether one is not finite. */
typedef struct air_device_candidate_part {
    float max, sum;
    int32_t wrong;
} air_device_candidate_part;

/* Offsets in bytes into one region. */
typedef struct air_device_layout {
    size_t rows, wanted; /* float buffers of the program, as its layout says; the logits are a buffer of their own */
    size_t logits;
    size_t q8;           /* 8-bit form of the input of the next products */
    size_t cos, sin;     /* [rows][pairs] */
    size_t tokens;       /* int32 [rows] each: positions, sequences; then [n_wanted] wanted rows; then air_device_more_numbers */
    size_t blocks;       /* pointers to state blocks: of each row's sequence at most, those of n_ctx positions */
    size_t courses;      /* air_device_course [rows], where the program has recurrent layers */
    size_t adapted;      /* air_device_adapted [rows]: of each sequence */
    size_t attention;    /* scratch; and of products by heads what they read, head by head */
    /* Of mixtures, where there are any. Rows are sent to experts so many times in all: which row each time, sorted by expert, and of a row
     * which times are its; the inputs of those times, as they are and in 8 bits as far as either is read; what gate and up make of
     * them, and its 8-bit form; the experts' results. */
    size_t sent, place, gathered, gathered_q8, hidden, hidden_q8, results;
    size_t candidates, candidate_scratch; /* of wanted rows */
    size_t total;
} air_device_layout;

/* Scratch of the search for candidates: lists of them, in turns, and parts. */
typedef struct air_device_candidate_layout {
    size_t lists, better, parts, total;
} air_device_candidate_layout;

air_device_candidate_layout air_device_candidate_layout_of(int64_t rows, int64_t n_vocab);
/* How many candidates a device makes where so many are needed: 0, 1 or AIR_DEVICE_CANDIDATES, so that passes are alike; 0 where they are
 * too many. Bytes of them: [rows][n], and then for each row the logarithm of its sum of exponents, a float. */
int64_t air_device_candidates(int64_t needed);
uint64_t air_device_candidate_bytes(int64_t rows, int64_t n);

/* What a product reads of its columns, by the type of its weights. */
air_input air_device_input(uint32_t type);

air_device_layout air_device_layout_of(const air_program *program, int64_t rows, int64_t n_wanted, int64_t n_ctx);
uint64_t air_device_pass_bytes(const air_program *program, int64_t rows, int64_t n_wanted, int64_t n_ctx);
/* A layer's K and V in one block of 64 positions. */
size_t air_device_state_bytes(const air_attention_shape *a, air_state_type type);
/* What passes take beside that where sequences have adapters, of that rank at most; in one region. rank 0: nothing. */
typedef struct air_device_adapting {
    size_t reduced; /* A x: [rows][rank] */
    size_t raw;     /* results of products that are added to what their output holds, or gated with it, before they are */
    int64_t raw_floats; /* so many; at least a column of any of them */
    size_t total;
} air_device_adapting;

air_device_adapting air_device_adapting_of(const air_program *program, int64_t rows, int64_t rank);
/* Of each of the AIR_DEVICE_SHUTTLE layers, what takes one block of 64 positions that lies in the host's memory. */
size_t air_device_shuttle_block(const air_program *program, air_state_type type);
/* Page-locked memory through which weights go that do not lie in such, for tiles up to so many bytes. */
uint64_t air_device_staging_piece(uint64_t tile_bytes); /* of AIR_DEVICE_STAGING_PIECES */
uint64_t air_device_staging_bytes(uint64_t tile_bytes);
/* Where a matrix of a layer's experts begins in a place for one: 0 gate, 1 up, 2 down. */
uint64_t air_device_expert_part(const air_program *program, int32_t layer, int part);
/* Of all layers, the most times that a row is sent to an expert. 0: there are no mixtures. */
int64_t air_device_sent_most(const air_program *program);
/* int32 more of each row that a program's kernels look up, of which the first are how many positions each sequence has, and the others the
 * rows' types: 2, or 0 where neither is asked for. */
int64_t air_device_more_numbers(const air_program *program);
/* Ops that gather rows of a table. */
int64_t air_device_embeds(const air_program *program);
/* Host memory of the same pass: page-locked copies of what goes up (embeddings, angles, positions, blocks) and of the logits. */
uint64_t air_device_host_bytes(const air_program *program, int64_t rows, int64_t n_wanted, int64_t n_ctx);

/* Of a device that holds all weights, for a pass as a graph: an op is two launches at most, its input's 8-bit form among them, one by
 * heads a few more where tiles begin within a head; a few more bring inputs and take results. */
uint64_t air_device_graph_bytes(const air_program *program);
uint64_t air_device_adapting_graph_bytes(const air_program *program); /* more of a pass with adapters: two launches to a product */

/* So many columns of a product's input; and what other devices than the first need of them: as they come, then in 8 bits. */
uint64_t air_device_column_bytes(const air_program *program, int64_t columns);
uint64_t air_device_input_bytes(const air_program *program, int64_t columns);
/* Host memory, page-locked, of the CPU's share: columns on their way to it, and its results, so many bytes each. */
uint64_t air_device_host_share_bytes(const air_program *program, uint64_t part_bytes);

/* Bytes of partial results of attention, for rows that take turns beyond AIR_DEVICE_ATTENTION_MOST. Never less than for fewer rows or
 * positions: rows that see but a window need less each, and may be more at a time. */
size_t air_device_attention_bytes(int64_t rows, int64_t heads, int64_t value_dim, int64_t n_ctx);

AIR_END_C
#endif
