/* model/arch.h: an architecture as data: what of the shared blocks it uses, and the few things it does its own way.
 *
 * The shared blocks (model/blocks) read these fields; no other place asks for an architecture by name. What a field does not say is as
 * in Llama: RMS norms before attention and feed-forward, which follow each other, and rotary positions in every layer. */
#ifndef AIR_MODEL_ARCH_H
#define AIR_MODEL_ARCH_H

#include "model/builder.h"

AIR_BEGIN_C

typedef enum air_norm_kind { AIR_NORM_RMS, AIR_NORM_LAYER, AIR_NORM_LAYER_PLAIN /* without weights */ } air_norm_kind;

/* Where a block's norms are: x += f(norm(x)), x += norm(f(x)), x += norm(f(norm(x))), x = norm(x + f(x)). */
typedef enum air_norm_place { AIR_NORM_BEFORE, AIR_NORM_AFTER, AIR_NORM_AROUND, AIR_NORM_OF_SUM } air_norm_place;

/* Norms of q and k, before they are rotated or after: of each head, by one vector for all of them or by one each (where the file has
 * them), or of all heads together. */
typedef enum air_qk_norm {
    AIR_QK_NORM_NONE, AIR_QK_NORM_PER_HEAD, AIR_QK_NORM_PER_HEAD_OPTIONAL, AIR_QK_NORM_PER_HEAD_OWN, AIR_QK_NORM_WHOLE,
    AIR_QK_NORM_PLAIN /* of each head, without weights, in layers that rotate; but for what adjust says */,
} air_qk_norm;

/* Whether a layer's feed-forward reads what its attention has added to, or both read the same: always, where the file says so
 * (use_parallel_residual), where the layer has no ffn_norm. */
typedef enum air_layer_order { AIR_ORDER_IN_TURN, AIR_ORDER_PARALLEL, AIR_ORDER_BY_KEY, AIR_ORDER_BY_NORM } air_layer_order;

/* Of experts too. */
typedef enum air_ffn_kind { AIR_FFN_GATED /* down(f(gate) * up) */, AIR_FFN_PLAIN /* down(f(up)) */ } air_ffn_kind;
/* Which layers turn q and k: all, or of a model with windows those that have one. */
typedef enum air_rope_layers { AIR_ROPE_IN_ALL, AIR_ROPE_IN_WINDOWED } air_rope_layers;
typedef enum air_window_rope { AIR_WINDOW_ROPE_SAME, AIR_WINDOW_ROPE_UNSCALED /* a rope of their own, never stretched */ } air_window_rope;
/* What the key logit_scale does. */
typedef enum air_logit_scale { AIR_LOGIT_SCALE_NONE, AIR_LOGIT_SCALE_MULTIPLIES, AIR_LOGIT_SCALE_DIVIDES } air_logit_scale;
typedef enum air_embed_scale { AIR_EMBED_SCALE_NONE, AIR_EMBED_SCALE_ROOT /* of embedding_length */ } air_embed_scale;

/* What an architecture has in attention's place, in some layers: a short convolution between two gates, Mamba-2's state space, a gated
 * delta net. Those that the file gives no heads of keys and values (head_count_kv 0); with a delta net, all but the last of
 * full_attention_interval. */
typedef enum air_mixer { AIR_MIXER_NONE, AIR_MIXER_SHORT_CONVOLUTION, AIR_MIXER_STATE_SPACE, AIR_MIXER_DELTA_NET } air_mixer;

/* How an architecture routes where its files do not say. */
typedef struct air_arch_experts {
    air_gating gating;
    int normalise;
    air_bias bias;       /* of the router and of every expert's matrices */
    int weighs_input;    /* weights multiply what an expert reads */
    int has_shared;      /* one expert that all rows go to, as large as the others */
    int shared_is_gated; /* what the shared experts give is multiplied by a sigmoid of the row's own */
} air_arch_experts;

struct air_arch {
    const char *name;
    air_norm_kind norm;
    air_norm_place norm_place;
    air_bias norm_bias;          /* of layer norms */
    int rms_epsilon;             /* whatever norms there are, files give the epsilon of RMS norms */
    int first_norm_optional;     /* the first layer's attention has none where the file has none */
    const char *ffn_norm;        /* "blk.%d.…", where it is not called ffn_norm */
    air_layer_order order;

    int layers_of_one;           /* a layer is a feed-forward, where the file gives it a length of one, or attention or a mixer, alone */
    int latent;                  /* attention is over a compressed state (MLA) */
    air_mixer mixer;             /* of layers without attention */
    int mixer_beside;            /* of all layers: those with attention have both, which read the same */
    int keys_in_turn;            /* of a delta net: heads take those of keys in turn, and their steps come of two matrices */
    const char *output_norm;     /* where it is not called output_norm */
    int gated_attention;         /* attn_q has of each head a query, and then a gate of what it attends */
    int attention_gate;          /* attn_gate has that gate */
    air_positions positions;
    air_rope_pairs rope;
    air_rope_layers rope_layers;
    int rope_by_key;             /* rope.scaling.finetuned says whether there is any */
    int32_t no_rope_period;      /* of so many layers the last has no rope; 0: none is without */
    air_qk_norm qk_norm;
    int qk_norm_after_rope;
    int32_t window_period;       /* of so many layers the last sees all positions, the others attention.sliding_window; 1: no layer sees
                                  * all; 0: all do, whatever the file says */
    int window_first_sees_all;   /* the first of so many, instead of the last */
    int64_t window;              /* where the file does not say */
    int chunked;                 /* windows are chunks: a position sees what lies in its own */
    air_window_rope window_rope; /* of layers with a window */
    double window_rope_base;     /* where the file does not say; 0: as of other layers */
    double attention_softcap, logit_softcap; /* where the file does not say */
    air_temper temper;           /* where the file does not say */
    int sinks;                   /* each head has a score that counts in the softmax's sum and has no value */
    int yarn_between_pairs;      /* yarn's ramp begins and ends where its formulas say, not at whole pairs */

    air_ffn_kind ffn;
    air_activation activation;
    int activation_by_key;       /* unless hidden_activation names another */
    air_bias qkv_bias, attention_out_bias, ffn_bias, output_bias;
    int encoder;                 /* ends with the hidden state, and tokens see what comes after them, unless attention.causal is true */
    air_embed_scale embed_scale;
    int embed_norm;              /* a norm of the embedding, token_embd_norm */
    air_logit_scale logit_scale;
    air_arch_experts experts;

    /* What follows from sizes and is no field: called when those are known, before what the file says of scales. */
    void (*adjust)(air_hparams *hp);
};

typedef enum air_block_kind { AIR_BLOCK_ATTENTION, AIR_BLOCK_FFN } air_block_kind;

/* Blocks: each appends its ops to the program and returns the buffer that holds the result. A failure is kept in the builder. */
int32_t air__block_embed(air_builder *b);
/* name: without ".weight", which some files leave out too; a norm after a block may be written over its input, out == in; AIR_NONE: a
 * buffer of its own. */
int32_t air__block_norm(air_builder *b, int32_t layer, int32_t in, int32_t out, const char *name);
/* One layer: x += attention, x += feed-forward, as the architecture orders and norms them. */
void air__block_layer(air_builder *b, int32_t layer, int32_t x);
void air__block_attention(air_builder *b, int32_t layer, int32_t in, int32_t x);
/* Queries of layers that are tempered. */
void air__block_temper(air_builder *b, int32_t layer, int32_t q);
/* Over a compressed state, in attention's place. */
void air__block_latent_attention(air_builder *b, int32_t layer, int32_t in, int32_t x);
/* The architecture's mixer, in layers without attention. */
void air__block_recurrent(air_builder *b, int32_t layer, int32_t in, int32_t x);
void air__block_ffn(air_builder *b, int32_t layer, int32_t in, int32_t x);
/* A mixture in the feed-forward's place, in layers that have a router. */
void air__block_experts(air_builder *b, int32_t layer, int32_t in, int32_t x);
/* x += a block's last product, whose input, weight and bias the op has, normed as the architecture norms that. */
void air__block_residual(air_builder *b, int32_t layer, int32_t x, air_op product, air_block_kind of);
/* Where a block's result goes: x, to be added to it, or a buffer of its own, to be normed first; and what is done when it is there. */
int32_t air__block_result(air_builder *b, int32_t x);
void air__block_join(air_builder *b, int32_t layer, int32_t result, int32_t x, air_block_kind of);
void air__block_head(air_builder *b, int32_t x);

#define ARCH(name) extern const air_arch air_arch_##name;
#include "model/archs.def"
#undef ARCH

AIR_END_C
#endif
