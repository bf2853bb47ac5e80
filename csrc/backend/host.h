/* backend/host.h: inside the CPU backend: what its files share. host.c: memory and the walk; host_stages.c: the list of stages;
 * host_ops.c: ops by rows; host_attention.c; host_recurrent.c: what goes on from one position to the next; host_products.c: products and
 * the belt of spans they read; host_adapters.c: what is added to them; host_experts.c: mixtures.
 *
 * A pass walks stages: runs of ops whose jobs do not depend on each other, made once from the program. All threads take jobs of one
 * stage until none is left; one barrier leads to the next, and the last thread to arrive there prepares it alone (or runs it, when one
 * thread does it as fast). */
#ifndef AIR_BACKEND_HOST_H
#define AIR_BACKEND_HOST_H

#include "backend/backend.h"
#include "platform/pool.h"

AIR_BEGIN_C

enum {
    AIR__CHUNK_ROWS = 256,   /* weight rows of one job at most */
    AIR__ATTENTION_HEADS = 32, /* query heads, of several rows, that one call of attention takes at most, unless one row has more */
    AIR__CHUNK_COLUMNS = 64, /* columns of one kernel call at most: with the rows, what a thread's scratch holds */
    AIR__BELT_SPANS = 3,     /* held at once: two are, when a feed is asked for the next (backend.h) */
};

typedef enum air__stage_kind {
    AIR__STAGE_ALONE,     /* one op of one thread: embed, select */
    AIR__STAGE_ROWS,      /* all ops on a row, one after the other; jobs are rows */
    AIR__STAGE_ATTENTION, /* one op; jobs are K/V heads of some rows, or segments of them */
    AIR__STAGE_RECURRENT, /* one op; jobs are some channels, or a head, of a sequence */
    AIR__STAGE_PRODUCTS,  /* products that read the same input; jobs are chunks of weight rows */
    AIR__STAGE_EXPERTS,   /* one op, in steps with a barrier between them (host_experts.c) */
} air__stage_kind;

typedef struct air__stage {
    air__stage_kind kind;
    int32_t first, n_ops; /* of the program */
    int32_t layer;
    int32_t quantize;     /* ROWS: an op whose input's 8-bit form is made after these, as it reads it; AIR_NONE */
    uint64_t bytes;       /* that it reads for a row: weights, or of ROWS the buffers; 0: depends on the pass */
} air__stage;

/* A span that products are being computed from. Written by the thread that takes it from the feed, before ready counts it. */
typedef struct air__belt_span {
    air_pool_job job;         /* chunks of chunk_rows of its rows */
    AIR_ATOMIC(int) left;     /* threads that have found nothing more to do in it; the last of them gives it back */
    air_span span;
    const air_op *op;
    uint32_t op_first;        /* number of the op's first span */
    int64_t chunk_rows;
    int last;                 /* of its stage */
} air__belt_span;

/* The spans of a pass, numbered as they come: every thread goes through all of them in order, at its own pace.
 * released <= ready <= asked <= released + AIR__BELT_SPANS. */
typedef struct air__belt {
    air__belt_span spans[AIR__BELT_SPANS]; /* span n in [n % AIR__BELT_SPANS] */
    AIR_ATOMIC(uint32_t) asked, ready, released;
    AIR_ATOMIC(int) stopped; /* no more will come, or somebody has left before the end: the pass fails */
    air_gate moved;          /* counts changes of ready, released and stopped */
    int32_t op, end;         /* op of the next span, and where the stage ends; the asking thread's */
    uint32_t op_first, stage_first;
} air__belt;

/* A unit is a K/V head of some rows, for some of the query heads that share it: all, unless units are fewer than threads. Where they are
 * few they are split into segments of positions, which are merged in order. */
typedef struct air__attention_jobs {
    int64_t rows, heads, parts;    /* of a unit; parts of a group of query heads */
    int64_t units;
    int64_t positions, segments;   /* of the longest row */
    int split;
} air__attention_jobs;

/* The steps of a mixture: UP to DOWN for the experts of a round, again and again, then ADD. */
typedef enum air__mixture_step {
    AIR__MIXTURE_UP,       /* hidden = silu(gate x) * (up x); jobs are chunks of weight rows of experts */
    AIR__MIXTURE_QUANTIZE, /* its 8-bit form; jobs are columns */
    AIR__MIXTURE_DOWN,     /* results = down hidden; chunks again */
    AIR__MIXTURE_ADD,      /* out = sum of a row's results; jobs are rows */
    AIR__MIXTURE_DONE,
} air__mixture_step;

/* A mixture being run. Rows that experts get are columns, n_used for each row of the pass, sorted by expert. */
typedef struct air__mixture_run {
    air__mixture_step step;
    int32_t rows[AIR_EXPERTS_MOST], first[AIR_EXPERTS_MOST]; /* of each expert: how many columns, and which is its first */
    int32_t experts[AIR_EXPERTS_MOST], counts[AIR_EXPERTS_MOST], n_experts; /* those that get any */
    air_expert taken[AIR_EXPERTS_MOST]; /* of the round */
    int32_t n_taken;
    int64_t chunk_rows;
    int reads_q8, reads_f32;            /* gate and up: which form of the input */
    int32_t *sent, *place;              /* [columns]: the row that it is of; [rows][n_used]: the column of a row's j-th expert */
    float *hidden, *results;            /* [columns][n_ff]; [columns][rows of down] */
    void *q8;                           /* of hidden */
} air__mixture_run;

/* Byte offsets of its memory for passes of some rows; total 0 where the program has no mixtures. */
typedef struct air__mixture_layout { size_t sent, place, hidden, results, q8, total; } air__mixture_layout;

/* What is not atomic here is written by one thread alone at a barrier (walk, host.c), but for the belt and a feed's failure. */
struct air_backend {
    const air_program *program;
    const air_ops *ops;
    air_pool *pool;
    int threads;
    int64_t n_ctx;
    air__stage *stages;
    int32_t n_stages;

    int64_t rows_cap, wanted_cap; /* what the memory below is made for */
    void *memory;                 /* one region: activations, 8-bit form, rope tables, per-thread scratch */
    size_t memory_bytes;
    float *rows, *wanted;         /* activations; buffers lie in them as the program's layout says */
    void *q8;                     /* 8-bit form of the input of the next products: an air_q8 of all its columns */
    float *cos, *sin;             /* of each rope [rows][pairs] */
    float *scratch;               /* [threads][scratch_floats] */
    size_t scratch_floats;
    air_attention_total *totals;  /* air__attention_totals of them */
    AIR_ATOMIC(int32_t) *turns;   /* by unit that is split: the segment to be merged next */

    const air_pass *pass;
    const air_feed *feed;
    const air__stage *stage; /* the walk's; NULL before the first and after the last */
    air_status status;
    air_error error;
    air_pool_job job;        /* of a stage of rows or attention */
    air_pool_job adapting;   /* of a stage of products, before them */
    air__belt belt;
    air__attention_jobs attention;
    air__mixture_run mixture;
    air_gate merged;         /* counts segments merged */
    uint64_t layer_started_ns;
    air_timeline *timeline;  /* of this pass; NULL: nothing is noted */
    int noted;               /* whether threads note their parts of the stage */
    uint64_t noted_ns;       /* when the last thread was done with the last stage that was */
};

float *air__host_buffer(const air_backend *h, int32_t buffer);
int64_t air__host_rows(const air_backend *h, int32_t buffer); /* rows of this pass that the buffer has */

/* What an op of weights reads of a row: n parts of k elements each, from the first on a step apart. */
typedef struct air__input_parts { int64_t n, k, first, step; } air__input_parts;
air__input_parts air__input_parts_of(const air_backend *h, const air_op *op);
/* Where the 8-bit form of a row's part is, while products read it; the rows of a part are columns, one after the other. */
air_q8 air__q8_of(const air_backend *h, const air_op *op, int64_t part, int64_t row);

float *air__host_scratch(const air_backend *h, int index);
size_t air__host_scratch_floats(const air_program *program); /* that any op needs, per thread */
size_t air__attention_totals(const air_program *program, int threads);
size_t air__attention_turns(int threads);
size_t air__recurrent_scratch_floats(const air_program *program);
int air__host_cancelled(const air_backend *h);

/* The stages of the program, to stages and n_stages. Errors: AIR_E_NOMEM. */
air_status air__stages_make(air_backend *h, air_error *err);

/* --- one thread, at the barrier before the stage --- */
void air__alone(air_backend *h);          /* runs the op; may set status */
void air__rows_begin(air_backend *h);     /* these make the stage's jobs */
void air__attention_begin(air_backend *h);
void air__recurrent_begin(air_backend *h);
void air__products_begin(air_backend *h); /* takes the first span too; may set status */

/* --- all threads --- */
void air__rows_run(air_backend *h, int index);
void air__attention_run(air_backend *h, int index);
void air__recurrent_run(air_backend *h, int index);
void air__products_run(air_backend *h, int index);

/* host_adapters.c. Before a stage of products, one thread; then what all do first of all in it; then what is added to results y of `rows`
 * weight rows from `row` on, for n columns from `column` on, before anything else is done to them. */
void air__adapters_begin(air_backend *h);
void air__adapters_run(air_backend *h);
void air__adapters_add(const air_backend *h, const air_op *op, int64_t row, int64_t rows, int64_t column, int64_t n, float *y,
                       size_t y_stride);

/* Gives back what a pass that failed has left on the belt, and of experts. */
void air__belt_clear(air_backend *h);
void air__experts_clear(air_backend *h);

/* host_experts.c. A row's experts, by its router's logits; memory; whether an op of experts reads its input's 8-bit form; its steps: begin
 * and next, at barriers, return whether there are jobs for all threads. */
void air__route(const air_backend *h, const air_op *op, int64_t row);
air__mixture_layout air__mixture_layout_of(const air_program *program, int64_t rows);
size_t air__mixture_scratch_floats(const air_program *program);
int air__experts_read_q8(const air_backend *h, const air_op *op);
int air__experts_begin(air_backend *h);
int air__experts_next(air_backend *h);
void air__experts_run(air_backend *h, int index);

/* host_products.c. Whether a product reads its input's 8-bit form; rows that a thread takes at a time of so many; results of rows weight
 * rows for the columns of x, to y, by the format's own kernel or through a decoded row. */
int air__product_reads_q8(const air_backend *h, const air_op *op);
/* 8-bit forms of the input of any op for so many rows: of the widest, or of one taken apart by heads. */
size_t air__host_q8_bytes(const air_program *p, int64_t rows);
int air__reads_q8(const air_ops *ops, const air_weight *weight);
int64_t air__chunk_rows(int threads, int64_t rows);
void air__multiply(const air_ops *ops, const air_weight *w, const uint8_t *data, int64_t rows, const air_columns *x, float *y,
                   size_t y_stride, float *decoded);

AIR_END_C
#endif
