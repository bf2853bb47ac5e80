/* cuda/kernels.h: what the device computes. csrc/kernels/ops.h is the specification, function by function; docs there hold here.
 *
 * Launchers for the backend's host code. All pointers are device memory unless said; sizes are int64, at least 1 unless said. A launcher
 * enqueues on the stream and returns what the launch returned (cudaErrorInvalidValue: arguments no kernel takes). It allocates nothing,
 * waits for nothing, and is thread-safe. Buffers of activations begin at multiples of 256 bytes, their rows do not; rows of weights
 * begin anywhere in a tile that begins at a multiple of 256.
 *
 * Bits (docs/design.md, invariant 1): a result depends on its weight row, its column and k alone, not on how many rows or columns a
 * launch has nor on the grid. No float atomics. Quantising gives the CPU's bits; sums of floats have an order of their own. */
#ifndef AIR_CUDA_KERNELS_H
#define AIR_CUDA_KERNELS_H

#include "backend/adapter.h"
#include "backend/device.h"
#include "backend/op.h"
#include "cuda/dialect.h"
#include "kernels/ops.h"

/* --- activations in 8 bits: as air_q8 of ops.h, without its turned copy --- */

typedef struct air_cuda_q8 {
    int8_t *q;     /* [n][k] */
    int16_t *sums; /* [n][k/16] */
    float *scale;  /* [n][k/32] */
} air_cuda_q8;

/* Bytes of n columns of k elements (a multiple of 32), and the arrays in so much memory, each at a multiple of 256. */
size_t air_cuda_q8_bytes(int64_t k, int64_t n);
air_cuda_q8 air_cuda_q8_place(void *memory, int64_t k, int64_t n);

cudaError_t air_cuda_quantize(const float *x, int64_t k, int64_t n, air_cuda_q8 out, cudaStream_t stream);

/* Where parts of rows of `width` elements begin: the first one, and from one to the next. */
typedef struct air_cuda_parts { int64_t width, first, step; } air_cuda_parts;
/* The same of `parts` parts of k elements of each of n rows of x: column part * n + row is that row's part. */
cudaError_t air_cuda_quantize_parts(const float *x, air_cuda_parts from, int64_t k, int64_t parts, int64_t n, air_cuda_q8 out,
                                    cudaStream_t stream);

/* air_compiled_for of a kernel here, which is that of all of them. */
int air_cuda_compiled_for(void);

/* What rows are, which who makes a pass knows and no count of rows says; the order of float sums, so a row's bits, are those of its role. */
typedef enum air_cuda_role { AIR_CUDA_DECODE, AIR_CUDA_PROMPT } air_cuda_role;

/* --- products: cuda/product*.cu --- */

/* As op.h says: what becomes of W · x + bias. */
typedef struct air_cuda_epilogue {
    air_epilogue kind;
    air_activation activation;
    float scale, clamp, softcap; /* 0: none */
} air_cuda_epilogue;

/* Roles: of few columns, bound by the weights' bytes, and of many, bound by arithmetic. Below compute capability 7.5 weights that are plain
 * numbers have but one. */

/* out[c * out_stride + r] = W[r] · x[c] + bias[r], folded in as the epilogue says, for rows r of a tile and n columns. */
typedef struct air_cuda_product {
    uint32_t type;         /* GGML type id of the weights */
    air_cuda_role role;
    const uint8_t *w;      /* first row; readable to the end of the 4 aligned bytes that hold the last row's last */
    size_t row_bytes;
    int64_t rows, k, n;
    const float *x;        /* [n][k]: read where the type's input is AIR_INPUT_F32 */
    air_cuda_q8 q8;        /* of the same columns: read where it is AIR_INPUT_Q8 */
    const float *bias;     /* [rows] of this tile, or NULL */
    air_cuda_epilogue epilogue;
    float *out;            /* column 0, row 0 of the tile */
    int64_t out_stride;
    const void *tables;    /* air_cuda_tables, on the device */
    /* As many matrices, each of so many rows, one after the other from w on; 0 as 1. From one's first column to the next one's, and from its
     * results to the next one's, in floats. There is no bias where there is more than one. */
    int64_t heads, head_columns, head_out;
} air_cuda_product;

/* A prompt's rows have at most 2^24 weights, and bytes. */
cudaError_t air_cuda_product_run(const air_cuda_product *p, cudaStream_t stream);

/* What a product without bias and epilogue has given elsewhere, part [n][rows], folded in as one here would have been: the same bits. */
typedef struct air_cuda_folding {
    const float *part, *bias; /* bias [rows], or NULL */
    int64_t rows, n;
    air_cuda_epilogue epilogue;
    float *out;               /* of column 0: row 0's place, or, with heads, the first head's */
    int64_t out_stride;
    /* Of matrices of heads: rows of each, 0: there are none; in which of all the part's first row is; from one head's results to the next
     * one's. */
    int64_t head_rows, first_row, head_out;
} air_cuda_folding;
cudaError_t air_cuda_fold(const air_cuda_folding *f, cudaStream_t stream);

/* --- adapters: cuda/lora.cu --- */

/* Which columns of a product have what. */
typedef struct air_cuda_adapted {
    const air_device_adapted *of; /* [sequences] */
    const int32_t *sequences;     /* [rows] of the pass: index into of */
    const int32_t *wanted;        /* which row each column is; NULL: columns are rows */
    int32_t weight;
    int64_t rank;                 /* the largest of the columns' for it, or more */
    float *reduced;               /* [columns][rank] */
} air_cuda_adapted;

/* reduced[c] = its scale times A x[c], x [n][k], of columns that have an A. */
cudaError_t air_cuda_reduce(const air_cuda_adapted *a, const float *x, int64_t k, int64_t n, cudaStream_t stream);

/* Rows from first_row on of columns from `column` on, n of them, of a product without bias and epilogue. */
typedef struct air_cuda_adapted_part {
    const float *part;            /* that column c of them is part[c * part_stride ...] of */
    int64_t part_stride, first_row, rows, column, n;
    const float *bias;            /* [rows] or NULL */
    air_cuda_epilogue epilogue;
    float *out;                   /* the first row of the first column; may be part, with its stride, where nothing that it held is read */
    int64_t out_stride;
} air_cuda_adapted_part;

/* As air_cuda_fold, with B reduced[c] added to each part whose column has a B: the same bits of those that have none. */
cudaError_t air_cuda_fold_adapted(const air_cuda_adapted *a, const air_cuda_adapted_part *f, cudaStream_t stream);

/* Whether there is a kernel for weights of a type; air_device_input says what it reads. */
int air_cuda_product_supports(uint32_t type);

/* Grids and value tables of the formats that look weights up (quant/iq_tables.h): bytes, and the same written to host memory, to be
 * copied to the device once. */
size_t air_cuda_tables_bytes(void);
void air_cuda_tables_fill(void *host);

/* --- by rows: cuda/rows.cu --- */

/* Of rows of `width`, in groups of `group` elements, of which it is a multiple; or of groups `step` apart from the element `first` on, as
 * many as begin in a row: those have a weight of one group's elements, or none, and no 8-bit form. */
typedef struct air_cuda_norm {
    bool centers; /* a layer norm, else an RMS norm */
    int64_t first, step; /* step 0: groups side by side */
    const float *x, *weight, *bias; /* weight and bias [weights] or NULL; bias of a layer norm alone */
    float *y;     /* may be x */
    int64_t rows, width, group, weights; /* weights: group, or width */
    float eps;
    air_cuda_q8 q8; /* its 8-bit form too, unless q8.q is NULL */
} air_cuda_norm;
cudaError_t air_cuda_norm_run(const air_cuda_norm *norm, cudaStream_t stream);
/* y += x, n elements. */
cudaError_t air_cuda_add(float *y, const float *x, int64_t n, cudaStream_t stream);
/* The first 2 * pairs elements of `heads` parts of each row of x, in place; cos, sin [rows][pairs]. */
cudaError_t air_cuda_rope(float *x, air_cuda_parts at, int64_t rows, int64_t heads, int64_t pairs, air_rope_pairs kind, const float *cos,
                          const float *sin, cudaStream_t stream);
/* x [rows][width] in place, each row times 1 + scale * log(1 + floor((its position + shift) / period)). */
cudaError_t air_cuda_temper(float *x, const int32_t *positions, int64_t rows, int64_t width, int32_t shift, int32_t period, float scale,
                            cudaStream_t stream);
/* Of rows of x, so many parts of `each` elements to those of y. */
cudaError_t air_cuda_copy(float *y, air_cuda_parts to, const float *x, air_cuda_parts from, int64_t rows, int64_t parts, int64_t each,
                          cudaStream_t stream);
/* y[r] += vectors[types[r]], rows of width. */
cudaError_t air_cuda_add_type(float *y, const float *vectors, const int32_t *types, int64_t rows, int64_t width, cudaStream_t stream);
/* out[i] = in[wanted[i]], rows of width. */
cudaError_t air_cuda_select(const float *in, const int32_t *wanted, int64_t n, int64_t width, float *out, cudaStream_t stream);

/* --- mixtures of experts: cuda/mixture.cu --- */

/* What AIR_OP_ROUTE leaves: of m, n_experts at most AIR_EXPERTS_MOST, those of logits [rows][n_experts], bias [n_experts] or NULL, to
 * out [rows][2 * n_used]. A number that is none is less than all others. */
cudaError_t air_cuda_route(const air_mixture *m, const float *logits, const float *bias, int64_t rows, float *out, cudaStream_t stream);

/* out[r] = the sum of results[place[r][j]] times the weight j of its routing, in order of j, or of those that are weighed already; added to
 * out, or in its place. */
typedef struct air_cuda_mixed {
    const float *results;  /* [any][width] */
    const float *routing;  /* [rows][2 * used], as air_cuda_route leaves it */
    const int32_t *place;  /* [rows][used] */
    float *out;            /* [rows][width] */
    int64_t rows, width, used;
    bool adds, weighed;
} air_cuda_mixed;
cudaError_t air_cuda_mix(const air_cuda_mixed *m, cudaStream_t stream);
/* Of times [first, first + n) that rows were sent to experts, whose rows sent has and whose places m: x [n][m->width] in place, each times
 * its weight. Of m it reads routing, place, width and used. */
cudaError_t air_cuda_weigh(float *x, const air_cuda_mixed *m, const int32_t *sent, int64_t first, int64_t n, cudaStream_t stream);
/* y += sigmoid(gate) * x, of rows of width; gate [rows]. */
cudaError_t air_cuda_add_gated(float *y, const float *x, const float *gate, int64_t rows, int64_t width, cudaStream_t stream);

/* --- recurrent state: cuda/recurrent.cu --- */

enum { AIR_CUDA_SCAN_KEYS = 256 }; /* elements of a key at most */

/* Of a pass, where each sequence's state comes from and goes to; of a layer, where in that its own lies. */
typedef struct air_cuda_recurrent {
    const air_device_course *courses; /* [n] */
    const int32_t *sequences;         /* [rows] */
    int64_t rows, n;
    size_t offset;                    /* bytes: of the window, or of the first matrix */
} air_cuda_recurrent;

/* As air_convolve_args of ops.h, of all rows, then activated. */
typedef struct air_cuda_convolution {
    air_cuda_recurrent at;
    const float *x, *weight, *bias; /* [rows][channels], [channels][taps], [channels] or NULL */
    float *y;                       /* not x */
    int64_t channels, taps;
    air_activation activation;
} air_cuda_convolution;
cudaError_t air_cuda_convolve(const air_cuda_convolution *c, cudaStream_t stream);

/* As backend/op.h has AIR_OP_SCAN, of all heads and rows. */
typedef struct air_cuda_scan {
    air_cuda_recurrent at;
    air_recurrence kind;
    int64_t heads, key_heads, key_dim, value_dim;
    int in_turn;
    const float *in, *steps;              /* [rows][in_width], [rows][steps_width] */
    int64_t in_width, steps_width, q, k, v; /* where in a row of in their heads begin */
    const float *rate, *step_bias, *skip; /* [heads]; skip may be NULL */
    float eps;
    float *out;                           /* [rows][heads * value_dim] */
} air_cuda_scan;
cudaError_t air_cuda_scan_run(const air_cuda_scan *s, cudaStream_t stream);
int air_cuda_scan_takes(int64_t key_dim);
/* y *= f(x), n elements. */
cudaError_t air_cuda_multiply(float *y, const float *x, int64_t n, air_activation activation, cudaStream_t stream);

/* --- the largest logits: cuda/candidates.cu --- */

/* Of logits [rows][n]: out [rows][k], as air_pass of backend.h has them, and log_sums [rows]. k is 1 or AIR_DEVICE_CANDIDATES. scratch: as
 * air_device_candidate_layout_of those rows says, at most AIR_DEVICE_CANDIDATE_ROWS of them: more take turns. Neither k nor rows change a
 * row's bits. */
cudaError_t air_cuda_candidates(const float *logits, int64_t rows, int64_t n, int64_t k, void *scratch, air_candidate *out, float *log_sums,
                                cudaStream_t stream);

/* --- probes: cuda/read.cu --- */

/* Reads from, aligned to 16 bytes and so many of them, by that many blocks of threads; *out may be written, or not. */
cudaError_t air_cuda_read(const void *from, size_t bytes, unsigned blocks, unsigned *out, cudaStream_t stream);

/* --- state and attention: cuda/state.cu, cuda/attention.cu; blocks are laid out as kernels/state.h says --- */

typedef struct air_cuda_state {
    const uint8_t *const *blocks; /* [sequences][stride]: where each block of 64 positions begins; of one that is only read, an odd entry
                                   * says that this layer's K, then V, lie entry / 2 bytes behind shuttle */
    int64_t stride;
    const int32_t *sequences, *positions; /* [rows] of the pass */
    size_t k_offset, v_offset;    /* of the layer's K and V in a block */
    const uint8_t *shuttle;
    air_state_type type;
    int64_t heads, kv_heads, key_dim, value_dim;
    bool values_in_keys;          /* V is the first value_dim elements of K, at most AIR_CUDA_LATENT_KEYS, and v_offset nothing */
} air_cuda_state;

enum { AIR_CUDA_LATENT_KEYS = 1024 };

/* k [rows][kv_heads * key_dim], v likewise, or NULL where values are in keys, to their places in the blocks. */
cudaError_t air_cuda_store(const air_cuda_state *state, const float *k, const float *v, int64_t rows, cudaStream_t stream);

/* DECODE: any rows of any sequences, as exact as in float (attention_decode.cu). PROMPT: rows that follow each other in one sequence; tensor
 * cores see queries, state and weights as halves. What they do not take is done as DECODE: F32 state, keys that are no multiple of 16, dims
 * above 256, devices below compute capability 8.0. What is not finite in a later row of a prompt may show in an earlier one. Values in keys
 * have kernels of their own for both (attention_latent.cu), from 7.5, for keys of whole 32 elements, 576 at most; what these do not take,
 * slopes and soft caps among it, is done in float. */
typedef struct air_cuda_attention {
    air_cuda_state state;
    const float *q;       /* [rows][heads * key_dim] */
    float *out;           /* [rows][heads * value_dim] */
    int64_t rows;
    int64_t max_position; /* the largest of the rows' positions */
    int64_t window;       /* INT64_MAX: all */
    int64_t chunk;        /* 0: none; these as air_attention_args of ops.h has them, slopes and sinks [heads] */
    int64_t ahead;        /* positions after its own that a row sees, INT64_MAX: all; 0: none */
    const int32_t *ends;  /* [sequences]: positions that each has; read where ahead is not 0 */
    const float *slopes, *sinks;
    float scale, softcap;
    void *scratch;        /* air_cuda_attention_scratch bytes */
    air_cuda_role role;
} air_cuda_attention;

cudaError_t air_cuda_attention_run(const air_cuda_attention *a, cudaStream_t stream);
/* Bytes that rows up to that position may need, never less than fewer rows or positions would; bounded, since many rows go in turns. */
size_t air_cuda_attention_scratch(int64_t rows, int64_t heads, int64_t value_dim, int64_t max_position);

#endif
