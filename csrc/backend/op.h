/* backend/op.h: what a pass is made of: weights as extents, ops over named buffers.
 *
 * A recipe (model/arch) runs once, at load, and emits these lists; they are plain data, immutable afterwards, and everything that
 * executes, plans, measures or explains a pass walks them. Nothing here knows an architecture by name. */
#ifndef AIR_BACKEND_OP_H
#define AIR_BACKEND_OP_H

#include <stdint.h>

#include "base/compiler.h"
#include "kernels/ops.h"

AIR_BEGIN_C

enum { AIR_NONE = -1 };

typedef enum air_weight_use {
    AIR_WEIGHT_MATRIX, /* streamed by row ranges, in the order of the program's ops */
    AIR_WEIGHT_VECTOR, /* norms, biases, factors: small, decoded to float32 once at open, always resident */
    AIR_WEIGHT_TABLE,  /* gathered by row (token embedding), never read whole */
    AIR_WEIGHT_EXPERTS, /* matrices of a mixture's experts, one after the other: fetched one by one, those that rows are sent to */
} air_weight_use;

typedef struct air_weight {
    const char *name;  /* the tensor's; borrowed from the directory */
    air_weight_use use;
    uint32_t type;     /* GGML type id */
    uint32_t part;     /* file of the set */
    uint64_t offset;   /* in that file */
    uint64_t bytes;
    int64_t rows, cols; /* y = W x: rows outputs, cols inputs; a vector has rows 1; of one expert */
    uint64_t row_bytes;
} air_weight;

/* A buffer holds width float32 for each row of the pass (or each wanted row), row after row. */
typedef enum air_rows { AIR_ROWS_ALL, AIR_ROWS_WANTED } air_rows;
typedef struct air_buffer_desc {
    const char *name;
    int64_t width;
    air_rows rows;
    int64_t offset; /* in floats per row, where the program's layout puts it; buffers whose lives do not meet may share */
} air_buffer_desc;

typedef enum air_op_kind {
    AIR_OP_EMBED,     /* out = row of table[weight] for the row's token, times scale */
    AIR_OP_EMBED_POSITION, /* out = row of table[weight] for the row's position */
    AIR_OP_RMS_NORM,  /* out = rms_norm(in) * vector[weight], in groups of head_dim where that is not 0 (q/k norms) */
    AIR_OP_LAYER_NORM, /* out = layer_norm(in) * vector[weight] + vector[bias], likewise */
    AIR_OP_COPY,      /* out = in, of each head a part of head_dim: from and to say where */
    AIR_OP_ADD,       /* out += in; with in2, of one number a row: out += sigmoid(in2) * in */
    AIR_OP_ADD_TYPE,  /* in and out the same: += vector[weight] of the row's type, of the vectors that follow each other there */
    AIR_OP_MULTIPLY,  /* out *= f(in), f its activation */
    AIR_OP_PRODUCT,   /* out = matrix[weight] · in, then its epilogue; with heads, as many matrices as there are, one after the other in
                       * weight, each for a head's part of in and of out */
    AIR_OP_ROPE,      /* in and out the same: heads × head_dim rotated by the row's position */
    AIR_OP_TEMPER,    /* in and out the same, all of a row times 1 + scale * log(1 + floor((position + shift) / period)) */
    AIR_OP_STORE,     /* in = k, in2 = v of the row, AIR_NONE where values are in keys: to the layer's state at the row's position */
    AIR_OP_ATTENTION, /* out = attention(in = q) over the layer's state up to the row's position, or as far as the layer's shape says */
    AIR_OP_CONVOLVE,  /* out = activation(weight, bias convolved over the sequence with in, channel by channel): air_recurrent_shape */
    AIR_OP_SCAN,      /* out = the layer's recurrence over the sequence; in = queries, keys and values, in2 = steps: air_recurrent_shape */
    AIR_OP_SELECT,    /* out (rows wanted) = in (all rows) */
    AIR_OP_ROUTE,     /* out = the row's experts and their weights, of the layer's mixture; in = the router's logits */
    AIR_OP_EXPERTS,   /* out = sum of the row's experts' results for in, each times its weight, then its epilogue; in2 = what ROUTE made */
} air_op_kind;

/* Of a product with the result r = softcap(clamp(scale * (W · in + bias))), f its activation. */
typedef enum air_epilogue {
    AIR_EPILOGUE_SET,    /* out = f(r) */
    AIR_EPILOGUE_ADD,    /* out += r: the residual */
    AIR_EPILOGUE_GATED,  /* out = f(out) * r: out holds the gate */
} air_epilogue;

/* Where the parts of heads lie in a row: the first one's, and how far from one's to the next's. */
typedef struct air_head_parts { int32_t first, step; } air_head_parts;

typedef struct air_op {
    air_op_kind kind;
    int32_t layer;        /* AIR_NONE before the first and after the last */
    int32_t in, in2, out; /* buffer numbers, AIR_NONE where unused */
    int32_t weight;       /* number of the weight, AIR_NONE; a norm's has a group's elements, or all groups', and may be AIR_NONE: ones */
    int32_t bias;         /* PRODUCT, LAYER_NORM, CONVOLVE: a vector that is added; ATTENTION: a vector of sinks, one a head; AIR_NONE */
    air_epilogue epilogue;
    air_activation activation;
    int32_t heads, head_dim; /* ROPE: of in; norms: groups; ATTENTION: query heads; COPY; PRODUCT: heads alone */
    air_head_parts from, to; /* COPY, PRODUCT with heads: of in and out; ROPE, norms: from, where parts are not side by side (step 0) */
    int32_t rope;         /* ROPE: which of the program's */
    int32_t shift, period; /* TEMPER */
    float eps, scale;     /* scale: EMBED, ATTENTION, TEMPER; PRODUCT, where 0 is none */
    float clamp, softcap; /* PRODUCT: clamp: to so much above and below 0; 0: none */
} air_op;

/* Rotation: the angle of pair i at position p is p * frequency[i] / factor[i]; cos and sin are multiplied by magnitude (yarn). */
typedef struct air_rope {
    air_rope_pairs kind;
    int64_t pairs;
    const double *frequency; /* [pairs] */
    int32_t factors;         /* vector weight of [pairs] (llama3's rope_freqs), AIR_NONE */
    int32_t long_factors;    /* instead of them where a sequence may have more positions than long_beyond (longrope), AIR_NONE */
    int64_t long_beyond;
    double magnitude;
    int64_t first;           /* pairs of the ropes before it */
} air_rope;

/* The vector of a rope's factors for sequences of up to n_ctx positions, AIR_NONE. */
static inline int32_t air_rope_factors(const air_rope *rope, int64_t n_ctx)
{
    return rope->long_factors != AIR_NONE && n_ctx > rope->long_beyond ? rope->long_factors : rope->factors;
}

typedef struct air_attention_shape {
    int32_t heads, kv_heads, key_dim, value_dim; /* per head; no kv_heads: the layer has no attention */
    int32_t window;                              /* positions seen back, itself included; 0: all */
    int32_t values_in_keys;                      /* V is the first value_dim elements of K: the state has no V */
    int32_t chunk;                               /* of those, what lies in a position's own chunk of so many, from 0 on; 0: all */
    int32_t ahead;                               /* positions seen after its own; INT32_MAX: all; 0 unless the program is bidirectional */
    float softcap;
    const float *slopes;                         /* [heads]: ALiBi's; NULL: none */
} air_attention_shape;

/* What of a sequence a layer keeps in a fixed number of bytes, whatever its length: the window of a convolution, and a matrix for each
 * head of a recurrence. All float32, at `offset` bytes of the sequence's recurrent state. What a position adds cannot be
 * taken away again: to go back is to begin anew, or from a state that was kept.
 *
 * CONVOLVE: out[c] = bias[c] + the sum of weight[c][j] in[c] of the position taps - 1 - j before, of none before the sequence begins.
 * SCAN: of head h with S [key_dim][value_dim], q and k of its key head (heads / key_heads share one, which follow
 * each other, or in_turn are so far apart as there are key heads), v its own, t its step:
 *     STATE_SPACE (Mamba-2, arXiv 2405.21060):     d = softplus(t + step_bias), g = e^(rate d): S = g S + k (d v)', out = S' q + skip v
 *     DELTA (gated delta rule, arXiv 2412.06464):  d = sigmoid(b), g = e^(rate softplus(a + step_bias)), q and k divided by their lengths,
 *                                                  q by the root of key_dim too: S = g S, S = S + k (d (v - S' k))', out = S' q
 * where in2 holds t [heads], or of each key head first b of the heads that share it, then a; in_turn: b of all heads, then a of all. */
typedef enum air_recurrence { AIR_RECURRENCE_STATE_SPACE, AIR_RECURRENCE_DELTA } air_recurrence;

typedef struct air_recurrent_shape {
    int32_t channels, taps;        /* of the convolution; 0: there is none */
    air_recurrence kind;
    int32_t heads, key_heads;      /* of the recurrence; 0: there is none */
    int32_t key_dim, value_dim;
    int in_turn;                   /* DELTA: head h has key head h % key_heads */
    int32_t q, k, v;               /* where in a row of the input their heads begin */
    int32_t rate, step_bias, skip; /* vectors of [heads]; skip AIR_NONE: none */
    float eps;                     /* DELTA: is added to the squares of q's and k's lengths */
    uint64_t offset;
} air_recurrent_shape;

enum { AIR_RECURRENT_SPANS = 2 }; /* of a sequence in a pass: up to a position whose state is kept, and behind it */

/* In floats. A matrix lies in tiles of AIR_STATE_TILE of its columns, [tile][key_dim][column in tile], the last one filled up. */
static inline int64_t air_recurrent_window(const air_recurrent_shape *s) { return s->taps ? (int64_t)(s->taps - 1) * s->channels : 0; }
static inline int64_t air_recurrent_matrix(const air_recurrent_shape *s) { return s->key_dim * air_state_padded(s->value_dim); }
static inline int64_t air_recurrent_matrices_at(const air_recurrent_shape *s) { return (air_recurrent_window(s) + 15) & ~(int64_t)15; }
static inline int64_t air_recurrent_floats(const air_recurrent_shape *s)
{
    return air_recurrent_matrices_at(s) + s->heads * air_recurrent_matrix(s);
}

enum { AIR_EXPERTS_MOST = 1024 }; /* of a mixture */

/* How a router's logits become weights of experts. */
#define AIR_SPARSE_MIXER_NEAR 0.02f
typedef enum air_gating {
    AIR_GATING_SOFTMAX, /* over all experts */
    AIR_GATING_SIGMOID, /* each by itself */
    AIR_GATING_CHOSEN,  /* the largest logits are chosen, and are the weights' logits in a softmax over them alone */
    /* One after the other the largest logit m of those that are left is chosen, by its weight in a softmax over it and those of them that
     * are near it, |m - x| at most AIR_SPARSE_MIXER_NEAR of the larger of |x| and m (SparseMixer-v2, arXiv 2409.12136, as it infers) */
    AIR_GATING_SPARSE_MIXER,
} air_gating;

/* A layer's experts: y = down (f(gate x) * (up x)) each, f its activation, or down f(up x) where there is no gate. A row goes to the n_used
 * of them with the largest weights, to which bias is added for the choice alone, of the groups_used groups of experts whose two largest add
 * up to most (of the largest alone, where there is no bias). AIR_OP_ROUTE leaves n_used floats that are numbers of experts, ascending, and
 * then their weights. */
typedef struct air_mixture {
    int32_t n_experts, n_used;      /* n_experts 0: the layer has none */
    int32_t n_groups, groups_used;  /* 0: no groups */
    air_gating gating;
    int normalise;                  /* weights of the chosen are divided by their sum */
    int weighs_input;               /* weights multiply what an expert reads, not what it gives; of those with a gate alone */
    float scale;                    /* and multiplied by this */
    int32_t bias;                   /* vector of [n_experts], AIR_NONE */
    int32_t gate, up, down;         /* weights; gate AIR_NONE: there is none */
    int32_t gate_bias, up_bias, down_bias; /* vectors of [n_experts][rows], added to what they give, AIR_NONE */
    air_activation activation;
    int64_t n_ff;                   /* rows of gate and up, columns of down */
    /* What the router reads: matrix[router] · rms_norm(the buffer residual) * vector[norm] + vector[router_bias], where that is not
     * AIR_NONE. So a layer before can guess what it will say, of what is in that buffer then. router AIR_NONE: it cannot. */
    int32_t router, router_bias, norm, residual;
    float norm_eps;
} air_mixture;

typedef struct air_program {
    const air_op *ops;
    int32_t n_ops;
    const air_weight *weights;
    int32_t n_weights;
    const air_buffer_desc *buffers;
    int32_t n_buffers;
    int64_t row_floats;    /* floats per row of all AIR_ROWS_ALL buffers, after sharing */
    int64_t wanted_floats; /* the same for AIR_ROWS_WANTED buffers, logits not included */
    int64_t max_cols;      /* widest input of a product */
    int32_t n_layers;
    int64_t positions_most; /* that a sequence may have: rows of a table of positions; INT64_MAX: any */
    const air_attention_shape *attention; /* [n_layers] */
    const air_rope *ropes;
    int32_t n_ropes;
    int64_t rope_pairs;    /* of all of them */
    const air_mixture *mixtures;          /* [n_layers], NULL where no layer has experts */
    const air_recurrent_shape *recurrent; /* [n_layers], NULL where no layer is */
    uint64_t recurrent_bytes;             /* of a sequence's recurrent state, all layers together */
    int32_t logits; /* buffer that holds [wanted][n_vocab] at the end, AIR_NONE: the program ends with the hidden state */
    int32_t hidden; /* buffer that holds the final normed hidden state of wanted rows */
    int64_t n_vocab, n_embd; /* n_vocab: of logits: tokens, or the labels of a classifier; 0 where there are none */
    /* Whether rows see what comes later in their sequence. Then all of a sequence are in one pass, and what a layer stores is read in
     * that pass alone: layers share its memory. */
    int bidirectional;
} air_program;

AIR_END_C
#endif
