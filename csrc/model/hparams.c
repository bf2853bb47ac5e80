/* Hyperparameters: GGUF's keys (docs/gguf.md of the ggml project), each within a range that no later arithmetic overflows. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/arch.h"

enum { WIDEST = 1 << 20, LAYERS = 4096, HEADS = 4096, HEAD = 4096, POSITIONS = 1 << 30 };

air_key air__key(const air_hparams *hp, const char *suffix)
{
    air_key key;
    (void)snprintf(key.text, sizeof key.text, "%s.%s", hp->arch, suffix);
    return key;
}

/* What the functions here share: they read keys of gguf into hp, and a failure ends them. */
typedef struct reader {
    const air_gguf *gguf;
    const air_arch *arch;
    air_hparams *hp;
    air_layer_hparams *layers; /* hp's */
    int64_t blocks;            /* in the file; hp's n_layers are the first of them */
    air_error *err;
} reader;

typedef struct field {
    const char *suffix;
    uint64_t min, max;
    int required;
} field;

static const air_gguf_value *find(const reader *r, const char *suffix) { return air_gguf_find(r->gguf, air__key(r->hp, suffix).text); }

static air_status missing(const reader *r, const char *suffix)
{
    return air_fail(r->err, AIR_E_FORMAT, "the file has no %s, which a model needs", air__key(r->hp, suffix).text);
}

static air_status read_i64(const reader *r, field f, int64_t *out)
{
    uint64_t value = (uint64_t)*out;
    if (f.required && !find(r, f.suffix)) return missing(r, f.suffix);
    air_status st = air_gguf_get_u64(r->gguf, air__key(r->hp, f.suffix).text, f.min, f.max, &value, r->err);
    if (!st) *out = (int64_t)value;
    return st;
}

static air_status read_i32(const reader *r, field f, int32_t *out)
{
    int64_t value = *out;
    air_status st = read_i64(r, f, &value);
    if (!st) *out = (int32_t)value;
    return st;
}

static air_status read_f64(const reader *r, const char *suffix, double min, double max, double *out)
{
    return air_gguf_get_f64(r->gguf, air__key(r->hp, suffix).text, min, max, out, r->err);
}

/* A number for all layers, or an array with one for each, to out[layer]. Untouched where the key is not there. */
static air_status read_each(const reader *r, field f, int64_t *out)
{
    air_key key = air__key(r->hp, f.suffix);
    const air_gguf_value *value = find(r, f.suffix);
    int64_t one = 0;
    if (!value || value->type != AIR_GGUF_ARRAY) {
        air_status st = read_i64(r, f, &one);
        for (int64_t i = 0; value && !st && i < r->hp->n_layers; i++) out[i] = one;
        return st;
    }
    if (value->element != AIR_GGUF_I32 && value->element != AIR_GGUF_U32)
        return air_fail(r->err, AIR_E_FORMAT, "%s is an array, but not of 32-bit integers", key.text);
    if (value->count != (uint64_t)r->blocks)
        return air_fail(r->err, AIR_E_FORMAT, "%s has %llu numbers for %lld layers", key.text, (unsigned long long)value->count,
                        (long long)r->blocks);
    const uint32_t *items = value->as.items;
    for (int64_t i = 0; i < r->hp->n_layers; i++) {
        if (items[i] < f.min || items[i] > f.max)
            return air_fail(r->err, AIR_E_FORMAT, "%s of layer %lld is %u, outside of %llu to %llu", key.text, (long long)i, items[i],
                            (unsigned long long)f.min, (unsigned long long)f.max);
        out[i] = items[i];
    }
    return AIR_OK;
}

/* --- layers --- */

static air_status read_heads(const reader *r)
{
    int64_t n = r->hp->n_layers, each[LAYERS];
    uint64_t least = r->arch->mixer == AIR_MIXER_NONE;
    air_status st = read_each(r, (field){"attention.head_count", least, HEADS, 1}, each);
    for (int64_t i = 0; i < n && !st; i++) r->layers[i].heads = (int32_t)each[i];
    if (!st) st = read_each(r, (field){"attention.head_count_kv", least, HEADS, 0}, each); /* where it says nothing, as many */
    for (int64_t i = 0; i < n && !st; i++) {
        r->layers[i].kv_heads = (int32_t)each[i];
        if (!each[i]) continue;
        if (each[i] > r->layers[i].heads || r->layers[i].heads % each[i])
            return air_fail(r->err, AIR_E_FORMAT, "%s.attention.head_count %d is not a multiple of head_count_kv %d", r->hp->arch,
                            r->layers[i].heads, r->layers[i].kv_heads);
    }
    return st;
}

static air_status read_ffn(const reader *r)
{
    int64_t each[LAYERS];
    air_status st = read_each(r, (field){"feed_forward_length", !r->arch->layers_of_one, WIDEST, 1}, each);
    for (int64_t i = r->hp->n_layers; i-- > 0 && !st;) {
        r->layers[i].n_ff = each[i];
        if (each[i]) r->hp->n_ff = each[i];
    }
    return st;
}

/* Of so many layers the last sees all; or a flag for each layer. */
static air_status read_pattern(const reader *r, int64_t period)
{
    static const char suffix[] = "attention.sliding_window_pattern";
    const air_gguf_value *value = find(r, suffix);
    int flags = value && value->type == AIR_GGUF_ARRAY;
    if (flags && (value->element != AIR_GGUF_BOOL || value->count != (uint64_t)r->blocks))
        return air_fail(r->err, AIR_E_FORMAT, "%s is not an array of a bool for each of %lld layers", air__key(r->hp, suffix).text,
                        (long long)r->blocks);
    air_status st = flags ? AIR_OK : read_i64(r, (field){suffix, 1, LAYERS, 0}, &period);
    for (int64_t i = 0; i < r->hp->n_layers && !st; i++)
        r->layers[i].windowed = flags ? ((const uint8_t *)value->as.items)[i]
                                      : period == 1 || i % period != (r->arch->window_first_sees_all ? 0 : period - 1);
    return st;
}

static air_status read_windows(const reader *r)
{
    air_hparams *hp = r->hp;
    hp->window = r->arch->window;
    if (!r->arch->window_period) return AIR_OK;
    air_status st = read_i64(r, (field){"attention.sliding_window", 0, POSITIONS, 0}, &hp->window);
    return !st && hp->window ? read_pattern(r, r->arch->window_period) : st;
}

/* length: of the context before it was stretched, where the file has no key for it alone. */
static air_status read_temper(const reader *r)
{
    air_temper *t = &r->hp->temper;
    *t = r->arch->temper;
    air_status st = read_f64(r, "attention.temperature_scale", 0, 1e3, &t->scale);
    if (!st) st = read_i64(r, (field){"rope.scaling.original_context_length", 1, POSITIONS, 0}, t->length ? &(int64_t){0} : &t->length);
    if (!st) st = read_i64(r, (field){"attention.temperature_length", 1, POSITIONS, 0}, &t->length);
    if (st || t->scale == 0 || t->length) return st;
    return missing(r, "rope.scaling.original_context_length");
}

static air_status set_rotated(const reader *r)
{
    static const char switch_key[] = "rope.scaling.finetuned";
    int32_t rope = 1;
    air_status st = r->arch->rope_by_key ? air_gguf_get_bool(r->gguf, air__key(r->hp, switch_key).text, &rope, r->err) : AIR_OK;
    for (int64_t i = 0; i < r->hp->n_layers; i++) {
        int64_t period = r->arch->no_rope_period;
        int skipped = period && i % period == period - 1;
        int hidden = r->arch->rope_layers == AIR_ROPE_IN_WINDOWED && r->hp->window && !r->layers[i].windowed;
        r->layers[i].rotated = r->hp->positions == AIR_POSITIONS_ROPE && rope && !skipped && !hidden;
    }
    return st;
}

/* --- sizes and scales --- */

static air_status read_sizes(const reader *r)
{
    air_hparams *hp = r->hp;
    air_status st;
    if ((st = read_i64(r, (field){"context_length", 1, POSITIONS, 1}, &hp->n_ctx_trained))) return st;
    if ((st = read_i64(r, (field){"embedding_length", 1, WIDEST, 1}, &hp->n_embd))) return st;
    if ((st = read_heads(r))) return st;
    if ((st = read_ffn(r))) return st;
    int64_t first = 0; /* with attention */
    while (first + 1 < hp->n_layers && !r->layers[first].kv_heads) first++;
    hp->heads = r->layers[first].heads;
    hp->kv_heads = r->layers[first].kv_heads;
    if (!hp->heads) return AIR_OK; /* there is no attention */
    hp->key_dim = (int32_t)(hp->n_embd / hp->heads);
    if ((st = read_i32(r, (field){"attention.key_length", 1, HEAD, 0}, &hp->key_dim))) return st;
    if (hp->key_dim < 1)
        return air_fail(r->err, AIR_E_FORMAT, "%s.embedding_length %lld is less than head_count %d, and no attention.key_length says how "
                        "large heads are", hp->arch, (long long)hp->n_embd, hp->heads);
    hp->value_dim = hp->key_dim;
    if ((st = read_i32(r, (field){"attention.value_length", 1, HEAD, 0}, &hp->value_dim))) return st;
    hp->rope_dims = hp->key_dim;
    if (r->arch->positions != AIR_POSITIONS_ROPE) return AIR_OK;
    if ((st = read_i32(r, (field){"rope.dimension_count", 2, HEAD, 0}, &hp->rope_dims))) return st;
    if (hp->rope_dims > hp->key_dim || hp->rope_dims % 2)
        return air_fail(r->err, AIR_E_FORMAT, "%s.rope.dimension_count %d is odd or larger than the head size %d", hp->arch,
                        hp->rope_dims, hp->key_dim);
    return AIR_OK;
}

/* Attention over a compressed state: key_length and value_length are of what it holds, the keys with _mla of a head. Files from before
 * these were written keep keys and values as one matrix, which cannot be taken apart without a copy. */
static air_status read_latent(const reader *r)
{
    air_hparams *hp = r->hp;
    air_latent_hparams *l = &hp->latent;
    air_status st;
    if (!r->arch->latent) return AIR_OK;
    if ((st = read_i32(r, (field){"attention.kv_lora_rank", 1, HEAD, 1}, &l->kv_rank))) return st;
    if ((st = read_i32(r, (field){"attention.q_lora_rank", 0, WIDEST, 0}, &l->q_rank))) return st;
    if (!find(r, "attention.key_length_mla"))
        return air_fail(r->err, AIR_E_UNSUPPORTED, "the file has no %s: it was made before keys and values were kept apart for each head "
                        "(attn_k_b, attn_v_b); convert the model anew", air__key(hp, "attention.key_length_mla").text);
    if ((st = read_i32(r, (field){"attention.key_length_mla", 1, HEAD, 1}, &l->key_dim))) return st;
    if ((st = read_i32(r, (field){"attention.value_length_mla", 1, HEAD, 1}, &l->value_dim))) return st;
    int fits = hp->kv_heads == 1 && hp->value_dim == l->kv_rank && hp->key_dim == l->kv_rank + hp->rope_dims && l->key_dim > hp->rope_dims;
    if (fits) return AIR_OK;
    return air_fail(r->err, AIR_E_FORMAT, "%s: attention.key_length %d, value_length %d and head_count_kv %d are not kv_lora_rank %d + "
                    "rope.dimension_count %d, kv_lora_rank and 1, or key_length_mla %d has room for rotated elements alone", hp->arch,
                    hp->key_dim, hp->value_dim, hp->kv_heads, l->kv_rank, hp->rope_dims, l->key_dim);
}

/* Scores of latent attention are scaled by a head's keys, and by yarn, which rotates a part of them alone, once for q and once for k. */
static air_status scale_latent(const reader *r)
{
    air_hparams *hp = r->hp;
    air_string type = {"none", 4};
    double factor = 1, more = 0;
    air_status st = air_gguf_get_string(r->gguf, air__key(hp, "rope.scaling.type").text, &type, r->err);
    if (!st) st = read_f64(r, "rope.scaling.factor", 1e-3, 1e6, &factor);
    if (!st) st = read_f64(r, "rope.scaling.yarn_log_multiplier", 0, 1e3, &more);
    double yarn = !st && strcmp(type.data, "yarn") == 0 && factor > 1 ? 1 + more * log(factor) : 1;
    hp->attention_scale = yarn * yarn / sqrt((double)hp->latent.key_dim);
    return st;
}

static air_status read_scales(const reader *r)
{
    air_hparams *hp = r->hp;
    air_status st;
    if (r->arch->latent && (st = scale_latent(r))) return st;
    if ((st = read_f64(r, "attention.scale", 0, 1e3, &hp->attention_scale))) return st;
    if ((st = read_f64(r, "embedding_scale", 0, 1e6, &hp->embedding_scale))) return st;
    if ((st = read_f64(r, "residual_scale", 0, 1e3, &hp->residual_scale))) return st;
    double logits = r->arch->logit_scale == AIR_LOGIT_SCALE_DIVIDES ? 1 / hp->logit_scale : hp->logit_scale;
    if (r->arch->logit_scale != AIR_LOGIT_SCALE_NONE && (st = read_f64(r, "logit_scale", 1e-6, 1e6, &logits))) return st;
    hp->logit_scale = r->arch->logit_scale == AIR_LOGIT_SCALE_DIVIDES ? 1 / logits : logits;
    if ((st = read_f64(r, "attn_logit_softcapping", 0, 1e6, &hp->attention_softcap))) return st;
    if ((st = read_f64(r, "attention.clamp_kqv", 0, 1e6, &hp->clamp_kqv))) return st;
    if ((st = read_f64(r, "final_logit_softcapping", 0, 1e6, &hp->logit_softcap))) return st;
    if ((st = read_f64(r, "attention.max_alibi_bias", 0, 1e3, &hp->alibi))) return st;
    if (hp->positions == AIR_POSITIONS_ALIBI && hp->alibi == 0)
        return air_fail(r->err, AIR_E_UNSUPPORTED, "the file has no %s: %s models without ALiBi are unsupported",
                        air__key(hp, "attention.max_alibi_bias").text, hp->arch);
    /* As files say that have none of their own. */
    if (hp->attention_scale == 0 && hp->heads) hp->attention_scale = 1 / sqrt((double)hp->key_dim);
    if (hp->embedding_scale == 0) hp->embedding_scale = 1;
    if (hp->residual_scale == 0) hp->residual_scale = 1;
    return AIR_OK;
}

static air_status read_eps(const reader *r)
{
    int rms = r->arch->norm == AIR_NORM_RMS || r->arch->rms_epsilon;
    static const char of_mean[] = "attention.layer_norm_epsilon";
    const char *suffix = rms ? "attention.layer_norm_rms_epsilon" : of_mean;
    if (!find(r, suffix) && find(r, of_mean)) suffix = of_mean; /* as some of Nemotron's files have it */
    if (!find(r, suffix)) return missing(r, suffix);
    return read_f64(r, suffix, 0, 1, &r->hp->norm_eps);
}

static air_status read_order(const reader *r)
{
    static const char suffix[] = "use_parallel_residual";
    r->hp->parallel = r->arch->order == AIR_ORDER_PARALLEL;
    if (r->arch->order != AIR_ORDER_BY_KEY) return AIR_OK;
    const air_gguf_value *value = find(r, suffix);
    if (!value) return missing(r, suffix);
    if (value->type != AIR_GGUF_BOOL) return air_fail(r->err, AIR_E_FORMAT, "%s is not a bool", air__key(r->hp, suffix).text);
    r->hp->parallel = value->as.u != 0;
    return AIR_OK;
}

static air_status read_vocabulary(const reader *r)
{
    air_hparams *hp = r->hp;
    const air_tensor *table = air_gguf_tensor(r->gguf, "token_embd.weight");
    if (!table && !air_gguf_tensor_count(r->gguf))
        return air_fail(r->err, AIR_E_MODEL, "the file holds no tensors, only metadata (a vocabulary?): there is nothing to run");
    if (!table) return air_fail(r->err, AIR_E_MODEL, "the file has no tensor token_embd.weight, which %s needs", hp->arch);
    if (table->shape[1] > INT32_MAX)
        return air_fail(r->err, AIR_E_MODEL, "token_embd.weight has %llu rows; token ids have 31 bits",
                        (unsigned long long)table->shape[1]);
    hp->n_vocab = (int64_t)table->shape[1];
    hp->tied_output = air_gguf_tensor(r->gguf, "output.weight") == NULL;
    return AIR_OK;
}

/* --- what encoders have --- */

/* Rows of a tensor that is a matrix of so many columns; 0 where the file has none. */
static air_status rows_of(const reader *r, const char *name, int64_t columns, int64_t most, int64_t *rows)
{
    const air_tensor *t = air_gguf_tensor(r->gguf, name);
    *rows = 0;
    if (!t) return AIR_OK;
    if (t->shape[0] != (uint64_t)columns || t->shape[1] > (uint64_t)most)
        return air_fail(r->err, AIR_E_MODEL, "%s is [%llu, %llu], but needs columns for embedding_length, %lld, and at most %lld rows",
                        name, (unsigned long long)t->shape[0], (unsigned long long)t->shape[1], (long long)columns, (long long)most);
    *rows = (int64_t)t->shape[1];
    return AIR_OK;
}

static air_status read_activation(const reader *r)
{
    air_string name = {NULL, 0};
    air_key key = air__key(r->hp, "hidden_activation");
    r->hp->activation = r->arch->activation;
    if (!r->arch->activation_by_key) return AIR_OK;
    air_status st = air_gguf_get_string(r->gguf, key.text, &name, r->err);
    if (st || !name.data || strcmp(name.data, "gelu") == 0) return st;
    r->hp->activation = AIR_ACTIVATION_SILU;
    if (strcmp(name.data, "silu") == 0) return AIR_OK;
    return air_fail(r->err, AIR_E_UNSUPPORTED, "%s is \"%.40s\"; supported are gelu and silu", key.text, name.data);
}

/* How far tokens see, and what comes of the last hidden state. A classifier behind a norm, or one that reads a mean, is left alone. */
static air_status read_ends(const reader *r)
{
    enum { TYPES = 256, LABELS = 4096 };
    air_hparams *hp = r->hp;
    int causal = !r->arch->encoder;
    uint64_t pooling = AIR_POOLING_COUNT;
    air_status st = air_gguf_get_bool(r->gguf, air__key(hp, "attention.causal").text, &causal, r->err);
    if (!st) st = air_gguf_get_u64(r->gguf, air__key(hp, "pooling_type").text, 0, AIR_POOLING_COUNT - 1, &pooling, r->err);
    if (!st) st = rows_of(r, "token_types.weight", hp->n_embd, TYPES, &hp->n_types);
    if (!st) st = rows_of(r, "cls.output.weight", hp->n_embd, LABELS, &hp->n_labels);
    if (!st) st = rows_of(r, "dense_2.weight", hp->n_embd, WIDEST, &hp->n_dense);
    hp->bidirectional = !causal;
    hp->foretells = causal && !r->arch->encoder;
    hp->pooling = pooling == AIR_POOLING_COUNT ? AIR_POOLING_UNSPECIFIED : (int32_t)pooling;
    if (air_gguf_tensor(r->gguf, "cls.norm.weight") || find(r, "classifier.pooling_type")) hp->n_labels = 0;
    return st ? st : read_activation(r);
}

/* --- mixtures of experts --- */

static air_status read_groups(const reader *r, air_expert_hparams *x)
{
    air_status st = read_i32(r, (field){"expert_group_count", 0, (uint64_t)x->n_experts, 0}, &x->n_groups);
    x->groups_used = x->n_groups;
    if (!st) st = read_i32(r, (field){"expert_group_used_count", 0, (uint64_t)x->n_experts, 0}, &x->groups_used);
    if (st || !x->n_groups) return st;
    int32_t each = x->n_experts / x->n_groups;
    if (x->n_experts % x->n_groups || x->groups_used < 1 || x->groups_used > x->n_groups || x->groups_used * each < x->n_used)
        return air_fail(r->err, AIR_E_FORMAT, "%s: %d experts, %d of them for a row, do not lie in %d groups, %d of them for a row",
                        r->hp->arch, x->n_experts, x->n_used, x->n_groups, x->groups_used);
    return AIR_OK;
}

static air_status read_gating(const reader *r, air_expert_hparams *x)
{
    enum { LAST = AIR_GATING_CHOSEN + 1 };
    x->normalise = -1;
    x->scale = 1;
    air_status st = read_i32(r, (field){"expert_gating_func", 0, LAST, 0}, &x->gating);
    if (!st) st = air_gguf_get_bool(r->gguf, air__key(r->hp, "expert_weights_norm").text, &x->normalise, r->err);
    if (!st) st = read_f64(r, "expert_weights_scale", -1e6, 1e6, &x->scale);
    if (x->scale == 0) x->scale = 1; /* as converters write where a model has none */
    return st;
}

/* Their sizes; the model's feed_forward_length where the file does not say an expert's, as files of Mixtral's kind. */
static air_status read_experts(const reader *r)
{
    air_expert_hparams *x = &r->hp->experts;
    int64_t shared = 0;
    air_status st = read_i32(r, (field){"expert_count", 0, AIR_EXPERTS_MOST, 0}, &x->n_experts);
    if (st || !x->n_experts) return st;
    x->n_ff = r->hp->n_ff;
    if ((st = read_i32(r, (field){"expert_used_count", 1, (uint64_t)x->n_experts, 1}, &x->n_used))) return st;
    if ((st = read_i64(r, (field){"expert_feed_forward_length", 1, WIDEST, 0}, &x->n_ff))) return st;
    if ((st = read_i64(r, (field){"expert_shared_count", 0, 64, 0}, &shared))) return st;
    x->n_ff_shared = shared ? shared * x->n_ff : r->arch->experts.has_shared ? x->n_ff : 0;
    if ((st = read_i64(r, (field){"expert_shared_feed_forward_length", 0, WIDEST, 0}, &x->n_ff_shared))) return st;
    x->width = r->hp->n_embd;
    if ((st = read_i64(r, (field){"moe_latent_size", 1, WIDEST, 0}, &x->width))) return st;
    if ((st = read_groups(r, x))) return st;
    return read_gating(r, x);
}

static air_status read_state_space(const reader *r, air_recurrent_hparams *x)
{
    air_status st = read_i32(r, (field){"ssm.conv_kernel", 2, AIR_CONVOLVE_TAPS, 1}, &x->taps);
    if (!st) st = read_i32(r, (field){"ssm.inner_size", 1, WIDEST, 1}, &x->inner);
    if (!st) st = read_i32(r, (field){"ssm.state_size", 1, HEAD, 1}, &x->key_dim);
    if (!st) st = read_i32(r, (field){"ssm.time_step_rank", 1, HEADS, 1}, &x->heads);
    x->key_heads = 1;
    if (!st) st = read_i32(r, (field){"ssm.group_count", 1, HEADS, 0}, &x->key_heads);
    if (st || (x->inner % x->heads == 0 && x->heads % x->key_heads == 0)) return st;
    return air_fail(r->err, AIR_E_FORMAT, "%s: ssm.inner_size %d is not divided by ssm.time_step_rank %d, or that not by ssm.group_count "
                    "%d", r->hp->arch, x->inner, x->heads, x->key_heads);
}

static air_status read_delta_net(const reader *r, air_recurrent_hparams *x)
{
    int64_t interval = 4;
    air_status st = read_i64(r, (field){"full_attention_interval", 1, LAYERS, 0}, &interval);
    for (int64_t i = 0; i < r->hp->n_layers; i++)
        if ((i + 1) % interval) r->layers[i].kv_heads = 0;
    return st ? st : read_state_space(r, x);
}

static air_status read_recurrent(const reader *r)
{
    air_recurrent_hparams *x = &r->hp->recurrent;
    if (r->arch->mixer == AIR_MIXER_SHORT_CONVOLUTION) return read_i32(r, (field){"shortconv.l_cache", 2, AIR_CONVOLVE_TAPS, 1}, &x->taps);
    if (r->arch->mixer == AIR_MIXER_DELTA_NET) return read_delta_net(r, x);
    return r->arch->mixer == AIR_MIXER_STATE_SPACE ? read_state_space(r, x) : AIR_OK;
}

/* Layers that foretell a second token, behind the others, are left alone. */
static air_status read_layers(reader *r)
{
    int64_t foretelling = 0;
    air_status st = read_i64(r, (field){"block_count", 1, LAYERS, 1}, &r->blocks);
    if (!st) st = read_i64(r, (field){"nextn_predict_layers", 0, (uint64_t)r->blocks - 1, 0}, &foretelling);
    r->hp->n_layers = r->blocks - foretelling;
    return st;
}

air_status air__hparams_read(const air_gguf *gguf, const air_arch *arch, air_arena *arena, air_hparams *hp, air_error *err)
{
    reader r = {.gguf = gguf, .arch = arch, .hp = hp, .err = err};
    hp->positions = arch->positions;
    hp->alibi = 8; /* of the paper's models, which say nothing */
    hp->embedding_scale = hp->residual_scale = hp->logit_scale = 1;
    hp->attention_softcap = arch->attention_softcap;
    hp->logit_softcap = arch->logit_softcap;
    air_status st = read_layers(&r);
    if (st) return st;
    r.layers = air_arena_alloc(arena, (size_t)hp->n_layers, sizeof *r.layers);
    if (!r.layers) return air_fail(err, AIR_E_NOMEM, "model: %lld layers", (long long)hp->n_layers);
    hp->layers = r.layers;
    if ((st = read_sizes(&r))) return st;
    if ((st = read_latent(&r))) return st;
    if ((st = read_experts(&r))) return st;
    if ((st = read_recurrent(&r))) return st;
    if (arch->adjust) arch->adjust(hp);
    if ((st = read_windows(&r))) return st;
    if ((st = read_scales(&r))) return st;
    if ((st = read_temper(&r))) return st;
    if ((st = read_order(&r))) return st;
    if ((st = read_vocabulary(&r))) return st;
    if ((st = read_ends(&r))) return st;
    if (arch->embed_scale == AIR_EMBED_SCALE_ROOT) hp->embedding_scale = sqrt((double)hp->n_embd);
    if ((st = set_rotated(&r))) return st;
    return read_eps(&r);
}
