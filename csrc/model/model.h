/* model/model.h: a GGUF bound to an architecture: checked hyperparameters, weights, and the program that a pass runs.
 *
 * Immutable after open, shared by any number of engines and threads. Borrows the directory (names), which must outlive it. */
#ifndef AIR_MODEL_MODEL_H
#define AIR_MODEL_MODEL_H

#include "backend/op.h"
#include "gguf/open.h"

AIR_BEGIN_C

/* How the hidden states of a text's tokens become one vector: the file's pooling_type. RANK: a classifier's scores of one of them. */
typedef enum air_pooling {
    AIR_POOLING_NONE, AIR_POOLING_MEAN, AIR_POOLING_CLS, AIR_POOLING_LAST, AIR_POOLING_RANK, AIR_POOLING_COUNT,
    AIR_POOLING_UNSPECIFIED = -1
} air_pooling;

/* How a model knows where a token is: q and k are turned, a row of position_embd is added, scores fall with the distance. */
typedef enum air_positions { AIR_POSITIONS_ROPE, AIR_POSITIONS_LEARNED, AIR_POSITIONS_ALIBI } air_positions;

typedef struct air_layer_hparams {
    int64_t n_ff;
    int32_t heads, kv_heads; /* no kv_heads: the layer has no attention, but a mixer of its architecture's */
    int windowed; /* sees `window` positions back, not all */
    int rotated;
} air_layer_hparams;

typedef struct air_expert_hparams { /* zeros where a model has no experts */
    int32_t n_experts, n_used, n_groups, groups_used;
    int64_t width;             /* of what they read and give */
    int64_t n_ff, n_ff_shared; /* of an expert; of those that all rows go to, together, 0: there are none */
    int32_t gating;            /* air_gating + 1 as the file says, 0: it says nothing */
    int normalise;             /* 1 or 0 as the file says, -1: it says nothing */
    double scale;
} air_expert_hparams;

/* Of attention over a compressed state (MLA): ranks of what q and of what keys and values are made of (0: q is made directly), and what a
 * head has when these are made of it. Zeros where attention is over keys and values. */
typedef struct air_latent_hparams { int32_t q_rank, kv_rank, key_dim, value_dim; } air_latent_hparams;

/* q is multiplied by 1 + scale * log(1 + floor((position + shift) / length)), in layers that do not rotate, or in all; scale 0: not. */
typedef struct air_temper { double scale; int64_t length; int32_t shift; int in_all; } air_temper;

typedef struct air_recurrent_hparams { /* zeros where no layer is recurrent */
    int32_t taps;                  /* of convolutions */
    int32_t inner;                 /* width of values, heads × their own */
    int32_t heads, key_heads, key_dim;
} air_recurrent_hparams;

typedef struct air_hparams { /* every field checked against its range and the others at open */
    char arch[32];
    int64_t n_vocab, n_embd, n_ff, n_layers, n_ctx_trained; /* n_ff: of the first layer with one; so heads, kv_heads */
    int32_t heads, kv_heads, key_dim, value_dim, rope_dims;
    air_latent_hparams latent;
    air_temper temper;
    int no_qk_norm;     /* whatever the architecture has */
    double norm_eps;
    int tied_output;
    int parallel;       /* attention and feed-forward read the same */
    int bidirectional;  /* tokens see what comes after them */
    int foretells;      /* ends in logits of the next token */
    int64_t n_labels;   /* scores of a classifier, which takes their place; 0: there is none */
    int64_t n_types;    /* vectors of which one is added to a token, by the text of a pair that it is in; 0: none is */
    int64_t n_dense;    /* rows of the first of two matrices behind the last norm; 0: there are none */
    air_activation activation;
    int32_t pooling;    /* air_pooling, as the file says */
    air_positions positions;
    int64_t window;     /* of windowed layers; 0: there are none */
    double alibi;       /* the slope of the steepest head is 2^(-alibi / heads) */
    double embedding_scale, residual_scale, logit_scale, attention_scale; /* each a factor, 1: none */
    double clamp_kqv, attention_softcap, logit_softcap;                              /* 0: none */
    const air_layer_hparams *layers;                                      /* [n_layers] */
    air_expert_hparams experts;
    air_recurrent_hparams recurrent;
} air_hparams;

typedef struct air_model air_model;

/* Errors: AIR_E_UNSUPPORTED (architecture, expert layers, rope scaling: named, with what is supported), AIR_E_FORMAT (a hyperparameter
 * missing or out of range), AIR_E_MODEL (a tensor missing or mis-shaped: name, shape, what was needed and why), AIR_E_NOMEM. */
air_status air_model_open(air_model **out, const air_gguf_set *set, air_error *err);
void air_model_close(air_model *model);
const air_hparams *air_model_hparams(const air_model *model);
const air_program *air_model_program(const air_model *model);

/* Supported architectures in the order of archs.def; NULL after the last. */
const char *air_arch_name(int index);

AIR_END_C
#endif
