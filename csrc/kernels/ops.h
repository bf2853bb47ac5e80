/* kernels/ops.h: what a kernel computes, whatever the CPU. One table (air_ops) per tier; dispatch.c picks one.
 *
 * Kernels allocate nothing, read no file, know no tier of memory; they assume no alignment of weights and alignment to 64 bytes of
 * everything else they are given (activations, outputs, scratch) at its start, not at each row. All are reentrant and thread-safe.
 *
 * Bits (docs/design.md, invariant 1). On one tier the value y[r][c] of a product depends on weight row r, activation column c and
 * k, and on nothing else: not on how many rows or columns are asked for at once, nor on alignment. Each product sums exact integers
 * inside a scale group of 32, or several whose scales are integers, then adds floats in one order fixed by the tier. The same
 * holds for every other function: the result for one row does not depend on other rows. */
#ifndef AIR_KERNELS_OPS_H
#define AIR_KERNELS_OPS_H

#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"
#include "kernels/state.h"
#include "quant/format.h"

AIR_BEGIN_C

enum { AIR_Q8_GROUP = 32, AIR_Q8_SUM_GROUP = 16, AIR_Q8_TILE = 256 };

/* The 8-bit form of activations. Per column: q in [-127, 127], x ~= scale * q over each group of 32; sums of q over each 16, which
 * formats with minima or offsets need. turned holds q once more, for products of several columns: in tiles of 256, the last one filled
 * up with zeros, and in each byte b of dword j of group g is byte b of dword g of the j-th 32 bytes. What is added up across these
 * eight vectors belongs to one group in each dword. */
typedef struct air_q8 {
    int8_t  *q;      /* [k] */
    int8_t  *turned; /* [tiles of k][256], columns air_q8_turned_bytes apart */
    int16_t *sums;   /* [k/16] */
    float   *scale;  /* [k/32] */
} air_q8;

static inline int64_t air_q8_tiles(int64_t k) { return (k + AIR_Q8_TILE - 1) / AIR_Q8_TILE; }

/* An odd number of tiles, so that a tile of many columns does not fall on the same few sets of a cache. */
static inline int64_t air_q8_turned_bytes(int64_t k) { return (air_q8_tiles(k) | 1) * AIR_Q8_TILE; }

/* Bytes of n columns, and their arrays one after the other in so much memory, aligned to 64 bytes. */
static inline size_t air_q8_bytes(int64_t k, int64_t n)
{
    int64_t each = k + air_q8_turned_bytes(k) + k / AIR_Q8_SUM_GROUP * 2 + k / AIR_Q8_GROUP * 4;
    return (size_t)(n * each) + 4 * 64;
}
air_q8 air_q8_place(void *memory, int64_t k, int64_t n);

/* From element at, a multiple of 32, of column c on; turned from the start of its tile. */
static inline air_q8 air_q8_at(air_q8 x, int64_t k, int64_t c, int64_t at)
{
    int64_t i = c * k + at;
    air_q8 from = {
        x.q + i, x.turned + c * air_q8_turned_bytes(k) + at / AIR_Q8_TILE * AIR_Q8_TILE, x.sums + i / AIR_Q8_SUM_GROUP,
        x.scale + i / AIR_Q8_GROUP,
    };
    return from;
}

/* n activation vectors of k elements, n and k >= 1, as products read them. f32 always there; the 8-bit form only when asked for by
 * air_ops.product[type].input (k is then a multiple of 32).
 *
 * Columns follow each other at the strides below. */
typedef struct air_columns {
    int64_t k;
    int64_t n;
    const float *f32;
    size_t f32_stride; /* elements from one column to the next */
    air_q8 q8;         /* of the first column; only read */
} air_columns;

typedef enum air_input { AIR_INPUT_F32, AIR_INPUT_Q8 } air_input;

/* y[c * y_stride + r] = sum over k of W[r][k] * x[c][k], for rows r in [0, rows) and every column c.
 * w: first row, rows row_bytes apart, in the format's packed blocks. Any n and rows, small ones included. */
typedef void (*air_product_fn)(const void *w, size_t row_bytes, int64_t rows, const air_columns *x, float *y, size_t y_stride);

typedef struct air_product {
    air_product_fn fn; /* NULL: no direct product; decode a row (quant/format.h), then the F32 product on it */
    air_input input;
} air_product;

typedef enum air_rope_pairs {
    AIR_ROPE_NORMAL, /* (0,1), (2,3) … */
    AIR_ROPE_NEOX,   /* (0, n/2), (1, n/2 + 1) … */
} air_rope_pairs;

/* Of one number; a feed-forward's. */
typedef enum air_activation {
    AIR_ACTIVATION_NONE,     /* x */
    AIR_ACTIVATION_SILU,     /* x / (1 + e^-x) */
    AIR_ACTIVATION_GELU,     /* x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) */
    AIR_ACTIVATION_GELU_ERF, /* x / 2 (1 + erf(x / sqrt(2))) */
    AIR_ACTIVATION_RELU2,    /* max(x, 0)^2 */
    AIR_ACTIVATION_SWIGLU_OAI, /* m / (1 + e^-1.702m), m = min(x, 7); what it is a gate of is clamped to 7 above and below 0, and 1 more */
    AIR_ACTIVATION_SIGMOID,  /* 1 / (1 + e^-x) */
    AIR_ACTIVATION_COUNT
} air_activation;

/* Attention of query rows that follow each other in a sequence over one K/V head (kernels/state.h), for the group of query heads that
 * share it (GQA), over one segment of positions: those from segment * AIR_SEGMENT_POSITIONS on that the row may see.
 * Segments are fixed, each has an online softmax of its own, updated once per block, and they are merged in order: the bits are the
 * same whoever takes which. `attention` leaves a segment in scratch; `attention_merge`, called with the same arguments for one
 * segment after the other, folds it into out and totals, which it begins at a row's first segment and ends at its last. */
typedef struct air_attention_total { float max, sum; } air_attention_total;

typedef struct air_attention_args {
    const float *q;             /* [rows][group][head_dim], rows q_stride apart */
    float *out;                 /* [rows][group][value_dim], rows out_stride apart */
    air_attention_total *totals; /* [rows][group]: of the segments merged so far */
    float *scratch;             /* air_attention_scratch(rows * group, head_dim, value_dim, values_in_keys) floats */
    const void *const *k_blocks;
    const void *const *v_blocks;
    size_t k_offset, v_offset;  /* bytes: the head in its blocks */
    air_state_type type;
    int64_t segment;
    int64_t rows, q_stride, out_stride;
    int64_t positions;          /* row r attends the last `window` positions before positions + r */
    int64_t window;             /* INT64_MAX: all */
    int64_t ahead;              /* and so many positions after its own, of the `stored` ones; 0: none (causal) */
    int64_t stored;             /* read where ahead is not 0: positions that the sequence has */
    int64_t chunk;              /* 0: none; else of those, what lies in the row's own chunk of so many positions, counted from 0 */
    const float *slopes;        /* [group]: score -= slope * the distance from the row's own position, before softcap (ALiBi); or NULL */
    const float *sinks;         /* [group]: a score that counts in the softmax's sum and has no value; or NULL */
    int64_t group, head_dim, value_dim;
    int values_in_keys;         /* V is the first value_dim elements of K, and v_blocks nothing */
    float scale;                /* of q.k, before softcap */
    float softcap;              /* 0: none; else s = softcap * tanh(s / softcap) */
} air_attention_args;

/* The first position that a row attends. */
static inline int64_t air_attention_first(const air_attention_args *a, int64_t row)
{
    int64_t end = a->positions + row, window = end > a->window ? end - a->window : 0;
    int64_t chunk = a->chunk ? (end - 1) / a->chunk * a->chunk : 0;
    return window > chunk ? window : chunk;
}

/* The position after the last that a row attends. */
static inline int64_t air_attention_end(const air_attention_args *a, int64_t row)
{
    int64_t own = a->positions + row;
    return a->ahead && own < a->stored ? (a->stored - own < a->ahead ? a->stored : own + a->ahead) : own;
}

/* Floats of the values that are turned at once where they are in keys: 64 elements of a block, which with what they are made of fit a
 * first cache. */
enum { AIR_ATTENTION_PANEL = AIR_BLOCK_POSITIONS * 64 };

static inline size_t air_attention_scratch(int64_t heads, int64_t head_dim, int64_t value_dim, int values_in_keys)
{
    int64_t panel = values_in_keys ? AIR_ATTENTION_PANEL : 0;
    return (size_t)(panel + heads * (head_dim + AIR_BLOCK_POSITIONS + air_state_padded(value_dim) + 4));
}

/* A causal convolution of each of some channels over positions that follow each other: row r's y[c] = bias[c] + the sum over j of
 * weight[c][j] x[c] of row r - (taps - 1) + j, where `before` has the rows before the first, the oldest first, and NULL is zeros.
 * `after`, which may be `before`, gets the last taps - 1 rows. Added up from bias on in the order of j. */
enum { AIR_CONVOLVE_TAPS = 8 }; /* at most; at least 2 */

typedef struct air_convolve_args {
    const float *x; /* [rows][channels], rows x_stride apart */
    float *y;       /* likewise; not x */
    int64_t rows, channels, x_stride, y_stride;
    const float *weight; /* [channels][taps] */
    const float *bias;   /* [channels], or NULL */
    int64_t taps;
    const float *before; /* [taps - 1][channels], rows window_stride apart */
    float *after;
    int64_t window_stride;
} air_convolve_args;

/* One head's recurrence over positions that follow each other, with S [key_dim][value_dim] (backend/op.h): of each row
 *     S = decay S, u = write (v - S' k) where it is a delta rule, else write v, S = S + k u', out = S' q + skip v
 * S comes from `before`, NULL being zeros, and goes to `after`, which may be the same: in tiles of AIR_STATE_TILE columns,
 * [tile][key_dim][column in tile], the last one filled up. Bits do not depend on how rows are cut into calls. */
typedef struct air_scan_args {
    const float *q, *k, *v; /* of the first row; rows their strides apart */
    int64_t q_stride, k_stride, v_stride;
    const float *decay, *write; /* [rows] */
    float skip;
    int delta;
    float *out; /* [rows][value_dim], rows out_stride apart */
    int64_t out_stride;
    const float *before;
    float *after;
    int64_t rows, key_dim, value_dim;
} air_scan_args;

typedef struct air_ops {
    const char *name; /* one of air_tier_names */
    air_product product[AIR_TYPE_COUNT]; /* by GGML type id */

    /* k elements of one column (a multiple of 32) from the start of a tile on. A group of zeros has scale 0. Non-finite input gives a
     * non-finite scale, so that it shows in the result. The same bits on every tier. */
    void (*quantize)(const float *x, int64_t k, air_q8 out);

    /* y[i] = x[i] / sqrt(mean(x^2) + eps) * weight[i]; weight NULL: 1. x == y allowed. */
    void (*rms_norm)(const float *x, const float *weight, float *y, int64_t n, float eps);

    /* y[i] = (x[i] - mean(x)) / sqrt(variance(x) + eps) * weight[i] + bias[i]; weight NULL: 1; bias NULL: 0. x == y allowed. */
    void (*layer_norm)(const float *x, const float *weight, const float *bias, float *y, int64_t n, float eps);

    /* Rotates the first 2 * pairs elements of each of heads vectors (stride head_dim) in place by cos[i], sin[i], i < pairs. */
    void (*rope)(float *x, int64_t heads, int64_t head_dim, int64_t pairs, air_rope_pairs kind, const float *cos, const float *sin);

    void (*attention)(const air_attention_args *args);
    void (*attention_merge)(const air_attention_args *args);

    void (*convolve)(const air_convolve_args *args);
    void (*scan)(const air_scan_args *args);

    /* y[i] = f(x[i]); y[i] = f(gate[i]) * up[i], of SWIGLU_OAI as said there; any of them may be the same array. */
    void (*activate[AIR_ACTIVATION_COUNT])(const float *x, float *y, int64_t n);
    void (*gated[AIR_ACTIVATION_COUNT])(const float *gate, const float *up, float *y, int64_t n);
    /* In place: cap tanh(x / cap), to within some 1e-7 cap. */
    void (*softcap)(float *x, int64_t n, float cap);
    void (*add)(float *y, const float *x, int64_t n); /* y += x */
    /* In place; returns the logarithm of the sum of exponents (max included), so that log-probabilities follow. */
    float (*softmax)(float *x, int64_t n);

    void (*f32_to_f16)(const float *x, uint16_t *y, int64_t n); /* round to nearest even */
} air_ops;

/* From worst to best, those of one architecture after another's. */
typedef enum air_cpu_tier {
    AIR_TIER_REF,
    AIR_TIER_AVX2,
    AIR_TIER_AVX512,
    AIR_TIER_NEON,
    AIR_TIER_DOTPROD,
    AIR_TIER_I8MM,
    AIR_TIER_COUNT
} air_cpu_tier;

/* The best table this CPU and the system allow, no later in the list than cap (AIR_TIER_COUNT: no cap). Never fails: ref is always there. A tier's
 * table is the one below it, overridden function by function. The table is built on first use, then const; thread-safe. */
const air_ops *air_ops_best(air_cpu_tier cap);
/* The table of exactly this tier, or NULL where the CPU lacks it. */
const air_ops *air_ops_tier(air_cpu_tier tier);
/* "ref", "avx2" …, the tables' names, and back; -1 if no tier has it. */
extern const char *const air_tier_names[AIR_TIER_COUNT];
int air_tier_by_name(const char *name);

AIR_END_C
#endif
