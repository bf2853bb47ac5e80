/* Hyperparameters: GGUF's keys (docs/gguf.md of the ggml project), each within a range that no later arithmetic overflows. */
#include <stdio.h>
#include <string.h>

#include "model/builder.h"

air_key air__key(const air_hparams *hp, const char *suffix)
{
    air_key key;
    (void)snprintf(key.text, sizeof key.text, "%s.%s", hp->arch, suffix);
    return key;
}

typedef struct field {
    const char *suffix;
    uint64_t min, max;
    int required;
} field;

/* Integer keys may be arrays with one number a layer; they are accepted where all are equal. */
static air_status read_u64(const air_gguf *gguf, const air_hparams *hp, field f, uint64_t *out, air_error *err)
{
    air_key key = air__key(hp, f.suffix);
    const air_gguf_value *value = air_gguf_find(gguf, key.text);
    if (!value) {
        if (!f.required) return AIR_OK;
        return air_fail(err, AIR_E_FORMAT, "the file has no %s, which a model needs", key.text);
    }
    if (value->type != AIR_GGUF_ARRAY) return air_gguf_get_u64(gguf, key.text, f.min, f.max, out, err);
    if (!value->count || (value->element != AIR_GGUF_I32 && value->element != AIR_GGUF_U32))
        return air_fail(err, AIR_E_FORMAT, "%s is an array, but not of 32-bit integers", key.text);
    const uint32_t *items = value->as.items;
    for (uint64_t i = 1; i < value->count; i++)
        if (items[i] != items[0])
            return air_fail(err, AIR_E_UNSUPPORTED, "%s differs between layers (%u and %u), which is unsupported", key.text, items[0],
                            items[i]);
    if (items[0] < f.min || items[0] > f.max)
        return air_fail(err, AIR_E_FORMAT, "%s is %u, outside of %llu to %llu", key.text, items[0], (unsigned long long)f.min,
                        (unsigned long long)f.max);
    *out = items[0];
    return AIR_OK;
}

static air_status read_i64(const air_gguf *gguf, const air_hparams *hp, field f, int64_t *out, air_error *err)
{
    uint64_t value = (uint64_t)*out;
    air_status st = read_u64(gguf, hp, f, &value, err);
    if (!st) *out = (int64_t)value;
    return st;
}

static air_status read_i32(const air_gguf *gguf, const air_hparams *hp, field f, int32_t *out, air_error *err)
{
    int64_t value = *out;
    air_status st = read_i64(gguf, hp, f, &value, err);
    if (!st) *out = (int32_t)value;
    return st;
}

static air_status read_sizes(const air_gguf *gguf, air_hparams *hp, air_error *err)
{
    enum { WIDEST = 1 << 20, LAYERS = 4096, HEADS = 4096, HEAD = 4096 };
    air_status st;
    if ((st = read_i64(gguf, hp, (field){"block_count", 1, LAYERS, 1}, &hp->n_layers, err))) return st;
    if ((st = read_i64(gguf, hp, (field){"context_length", 1, 1u << 30, 1}, &hp->n_ctx_trained, err))) return st;
    if ((st = read_i64(gguf, hp, (field){"embedding_length", 1, WIDEST, 1}, &hp->n_embd, err))) return st;
    if ((st = read_i64(gguf, hp, (field){"feed_forward_length", 1, WIDEST, 1}, &hp->n_ff, err))) return st;
    if ((st = read_i32(gguf, hp, (field){"attention.head_count", 1, HEADS, 1}, &hp->heads, err))) return st;
    hp->kv_heads = hp->heads;
    if ((st = read_i32(gguf, hp, (field){"attention.head_count_kv", 1, HEADS, 0}, &hp->kv_heads, err))) return st;
    if (hp->heads % hp->kv_heads)
        return air_fail(err, AIR_E_FORMAT, "%s.attention.head_count %d is not a multiple of head_count_kv %d", hp->arch, hp->heads,
                        hp->kv_heads);
    hp->key_dim = (int32_t)(hp->n_embd / hp->heads);
    if ((st = read_i32(gguf, hp, (field){"attention.key_length", 1, HEAD, 0}, &hp->key_dim, err))) return st;
    hp->value_dim = hp->key_dim;
    if ((st = read_i32(gguf, hp, (field){"attention.value_length", 1, HEAD, 0}, &hp->value_dim, err))) return st;
    hp->rope_dims = hp->key_dim;
    if ((st = read_i32(gguf, hp, (field){"rope.dimension_count", 2, HEAD, 0}, &hp->rope_dims, err))) return st;
    if (hp->key_dim < 1 || hp->rope_dims > hp->key_dim || hp->rope_dims % 2)
        return air_fail(err, AIR_E_FORMAT, "%s.rope.dimension_count %d is odd or larger than the head size %d", hp->arch,
                        hp->rope_dims, hp->key_dim);
    return AIR_OK;
}

static air_status refuse_experts(const air_gguf *gguf, const air_hparams *hp, air_error *err)
{
    uint64_t experts = 0;
    air_status st = read_u64(gguf, hp, (field){"expert_count", 0, 1u << 16, 0}, &experts, err);
    if (st || !experts) return st;
    return air_fail(err, AIR_E_UNSUPPORTED, "%s.expert_count is %llu: mixtures of experts are unsupported; use a dense model",
                    hp->arch, (unsigned long long)experts);
}

static air_status read_vocabulary(const air_gguf *gguf, air_hparams *hp, air_error *err)
{
    const air_tensor *table = air_gguf_tensor(gguf, "token_embd.weight");
    if (!table && !air_gguf_tensor_count(gguf))
        return air_fail(err, AIR_E_MODEL, "the file holds no tensors, only metadata (a vocabulary?): there is nothing to run");
    if (!table) return air_fail(err, AIR_E_MODEL, "the file has no tensor token_embd.weight, which %s needs", hp->arch);
    if (table->shape[1] > INT32_MAX)
        return air_fail(err, AIR_E_MODEL, "token_embd.weight has %llu rows; token ids have 31 bits",
                        (unsigned long long)table->shape[1]);
    hp->n_vocab = (int64_t)table->shape[1];
    hp->tied_output = air_gguf_tensor(gguf, "output.weight") == NULL;
    return AIR_OK;
}

air_status air__hparams_read(const air_gguf *gguf, air_hparams *hp, air_error *err)
{
    air_status st = refuse_experts(gguf, hp, err);
    if (st) return st;
    if ((st = read_sizes(gguf, hp, err))) return st;
    if ((st = read_vocabulary(gguf, hp, err))) return st;
    air_key key = air__key(hp, "attention.layer_norm_rms_epsilon");
    if (!air_gguf_find(gguf, key.text)) return air_fail(err, AIR_E_FORMAT, "the file has no %s, which a model needs", key.text);
    return air_gguf_get_f64(gguf, key.text, 0, 1, &hp->rms_eps, err);
}
