#include "model/model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "model/arch.h"

struct air_model {
    air_hparams hp;
    air_program program;
    air_arena arena;
};

static const air_arch *const archs[] = {
#define ARCH(name) &air_arch_##name,
#include "model/archs.def"
#undef ARCH
};

const char *air_arch_name(int index)
{
    return index >= 0 && (size_t)index < AIR_COUNT(archs) ? archs[index]->name : NULL;
}

static air_status find_arch(const air_gguf *gguf, const air_arch **arch, air_error *err)
{
    air_string name = {NULL, 0};
    air_status st = air_gguf_get_string(gguf, "general.architecture", &name, err);
    if (st) return st;
    if (!name.data) return air_fail(err, AIR_E_FORMAT, "the file has no general.architecture: it names no kind of model");
    for (size_t i = 0; i < AIR_COUNT(archs); i++)
        if (strcmp(archs[i]->name, name.data) == 0) {
            *arch = archs[i];
            return AIR_OK;
        }
    char known[400] = ""; /* what a message has room for */
    for (size_t i = 0, at = 0; i < AIR_COUNT(archs); i++) {
        int fits = at + strlen(archs[i]->name) + sizeof ", and more" < sizeof known;
        at += (size_t)snprintf(known + at, sizeof known - at, "%s%s", i ? ", " : "", fits ? archs[i]->name : "and more");
        if (!fits) break;
    }
    return air_fail(err, AIR_E_UNSUPPORTED, "architecture \"%.64s\" is unsupported; supported are %s", name.data, known);
}

static void emit_layers(air_builder *b)
{
    int32_t x = air__block_embed(b);
    for (int32_t layer = 0; layer < b->hp->n_layers && !b->status; layer++) air__block_layer(b, layer, x);
    air__block_head(b, x);
}

/* ALiBi's slopes (arXiv 2108.12409): for a power of two of heads a geometric series, which ends at 2^-alibi and begins where it leads to
 * by as many equal steps; for another number those of the power below, and between them every other one of twice as many. */
static const float *make_slopes(air_builder *b, air_arena *arena, int32_t heads)
{
    float *slopes = air_arena_alloc(arena, (size_t)heads, sizeof *slopes);
    int32_t power = 1;
    while (2 * power <= heads) power *= 2;
    for (int32_t i = 0; slopes && i < heads; i++)
        slopes[i] = (float)pow(2, -b->hp->alibi * (i < power ? (double)(i + 1) / power : (double)(2 * (i - power) + 1) / (2 * power)));
    return slopes;
}

/* A window is half before and half after a token; without one it sees all. */
static void look_ahead(air_attention_shape *shape)
{
    shape->ahead = shape->window ? shape->window / 2 : INT32_MAX;
    if (shape->window) shape->window = shape->window / 2 + 1;
}

static void fill_attention(air_builder *b, air_arena *arena, air_program *program)
{
    const air_hparams *hp = b->hp;
    air_attention_shape *shapes = air_arena_alloc(arena, (size_t)hp->n_layers, sizeof *shapes);
    int alibi = hp->positions == AIR_POSITIONS_ALIBI, failed = !shapes;
    for (int64_t i = 0; !failed && i < hp->n_layers; i++) {
        const air_layer_hparams *layer = &hp->layers[i];
        shapes[i] = (air_attention_shape){
            .heads = layer->heads, .kv_heads = layer->kv_heads, .key_dim = hp->key_dim, .value_dim = hp->value_dim,
            .values_in_keys = b->arch->latent, .window = layer->windowed && !b->arch->chunked ? (int32_t)hp->window : 0,
            .chunk = layer->windowed && b->arch->chunked ? (int32_t)hp->window : 0, .softcap = (float)hp->attention_softcap,
        };
        if (hp->bidirectional) look_ahead(&shapes[i]);
        if (!alibi) continue;
        int again = i && layer->heads == layer[-1].heads;
        shapes[i].slopes = again ? shapes[i - 1].slopes : make_slopes(b, arena, layer->heads);
        failed = !shapes[i].slopes;
    }
    if (failed) b->status = air_fail(b->err, AIR_E_NOMEM, "model: %lld layers", (long long)hp->n_layers);
    program->attention = shapes;
}

static air_status build(air_model *m, const air_gguf *gguf, const air_arch *arch, air_error *err)
{
    air_builder b = {.gguf = gguf, .arch = arch, .hp = &m->hp, .logits = AIR_NONE, .hidden = AIR_NONE, .err = err};
    m->program.n_layers = (int32_t)m->hp.n_layers;
    m->program.n_vocab = m->hp.n_labels ? m->hp.n_labels : m->hp.foretells ? m->hp.n_vocab : 0;
    m->program.bidirectional = m->hp.bidirectional;
    m->program.n_embd = m->hp.n_embd;
    m->program.positions_most = m->hp.positions == AIR_POSITIONS_LEARNED ? m->hp.n_ctx_trained : INT64_MAX;
    emit_layers(&b);
    air__ropes_read(&b, &m->arena, &m->program);
    if (!b.status) fill_attention(&b, &m->arena, &m->program);
    air__builder_finish(&b, &m->arena, &m->program);
    air__builder_deinit(&b);
    return b.status;
}

air_status air_model_open(air_model **out, const air_gguf_set *set, air_error *err)
{
    *out = NULL;
    const air_arch *arch = NULL;
    air_status st = find_arch(set->gguf, &arch, err);
    if (st) return st;
    air_model *m = air_calloc(1, sizeof *m);
    if (!m) return air_fail(err, AIR_E_NOMEM, "model: %zu bytes", sizeof *m);
    (void)snprintf(m->hp.arch, sizeof m->hp.arch, "%s", arch->name);
    st = air__hparams_read(set->gguf, arch, &m->arena, &m->hp, err);
    if (!st) st = build(m, set->gguf, arch, err);
    if (st) {
        air_model_close(m);
        return st;
    }
    *out = m;
    return AIR_OK;
}

void air_model_close(air_model *model)
{
    if (!model) return;
    air_arena_deinit(&model->arena);
    air_free(model);
}

const air_hparams *air_model_hparams(const air_model *model) { return &model->hp; }
const air_program *air_model_program(const air_model *model) { return &model->program; }
