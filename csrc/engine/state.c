#include "engine/state.h"

#include <stdatomic.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "engine/internal.h"
#include "platform/pages.h"

static size_t state_bytes(const air_attention_shape *a, air_state_type type, int value)
{
    return (size_t)a->kv_heads * air_state_head_bytes(type, value ? a->value_dim : a->key_dim);
}

uint64_t air__state_block_bytes(const air_program *program, air_state_type type)
{
    uint64_t total = 0;
    for (int32_t i = 0; i < program->n_layers; i++)
        total += state_bytes(&program->attention[i], type, 0) + state_bytes(&program->attention[i], type, 1);
    return air_round_up(total, air_page_bytes());
}

air_status air__state_pool_init(air_state_pool *pool, const air_program *program, air_state_type type, air_error *err)
{
    pool->offsets = air_calloc((size_t)program->n_layers * 2, sizeof *pool->offsets);
    if (!pool->offsets) return air_fail(err, AIR_E_NOMEM, "state: %d layers", (int)program->n_layers);
    size_t at = 0;
    for (int32_t i = 0; i < program->n_layers * 2; i++) {
        pool->offsets[i] = at;
        at += state_bytes(&program->attention[i / 2], type, i & 1);
    }
    pool->type = type;
    pool->n_layers = program->n_layers;
    pool->block_bytes = (size_t)air__state_block_bytes(program, type);
    return AIR_OK;
}

void air__state_pool_deinit(air_state_pool *pool)
{
    air_free(pool->offsets);
    pool->offsets = NULL;
}

static air_status block_new(air_state_pool *pool, air_block **out, air_error *err)
{
    air_status st = air_budget_reserve(pool->budget, AIR_HOLD_STATE, pool->block_bytes, err);
    if (st) return st;
    air_block *b = air_malloc(sizeof *b);
    void *memory = NULL;
    st = b ? pool->api->state_alloc(pool->backend, &memory, pool->block_bytes, err) : air_fail(err, AIR_E_NOMEM, "state: a block");
    if (st) {
        air_free(b);
        air_budget_release(pool->budget, AIR_HOLD_STATE, pool->block_bytes);
        return st;
    }
    atomic_init(&b->owners, 1);
    b->memory = memory;
    *out = b;
    return AIR_OK;
}

static void block_drop(air_state_pool *pool, air_block *b)
{
    if (atomic_fetch_sub(&b->owners, 1) > 1) return;
    pool->api->state_free(pool->backend, b->memory, pool->block_bytes);
    air_free(b);
    air_budget_release(pool->budget, AIR_HOLD_STATE, pool->block_bytes);
}

static void point(air_sequence *s, int64_t i)
{
    for (int32_t layer = 0; layer < s->pool->n_layers; layer++) {
        s->k[layer * s->block_capacity + i] = s->blocks[i]->memory + s->pool->offsets[2 * layer];
        s->v[layer * s->block_capacity + i] = s->blocks[i]->memory + s->pool->offsets[2 * layer + 1];
    }
}

/* Room for n blocks in the tables, which are laid out anew. */
static air_status reserve_blocks(air_sequence *s, int64_t n, air_error *err)
{
    if (n <= s->block_capacity) return AIR_OK;
    int64_t capacity = s->block_capacity ? s->block_capacity : 4;
    while (capacity < n) capacity *= 2;
    size_t entries = (size_t)capacity * (size_t)s->pool->n_layers;
    void **k = air_malloc(entries * sizeof *k), **v = air_malloc(entries * sizeof *v);
    air_block **blocks = air_realloc(s->blocks, (size_t)capacity * sizeof *blocks);
    if (blocks) s->blocks = blocks;
    if (!k || !v || !blocks) {
        air_free(k);
        air_free(v);
        return air_fail(err, AIR_E_NOMEM, "state: tables of %lld blocks", (long long)capacity);
    }
    air_free(s->k);
    air_free(s->v);
    s->k = k;
    s->v = v;
    s->block_capacity = capacity;
    for (int64_t i = 0; i < s->n_blocks; i++) point(s, i);
    return AIR_OK;
}

static air_status reserve_tokens(air_sequence *s, int64_t n, air_error *err)
{
    if (n <= s->token_capacity) return AIR_OK;
    int64_t capacity = s->token_capacity ? s->token_capacity : 64;
    while (capacity < n) capacity *= 2;
    int32_t *tokens = air_realloc(s->tokens, (size_t)capacity * sizeof *tokens);
    if (!tokens) return air_fail(err, AIR_E_NOMEM, "sequence: %lld token ids", (long long)capacity);
    s->tokens = tokens;
    s->token_capacity = capacity;
    return AIR_OK;
}

/* The block that holds the next position if it is begun and shared, else -1. */
static int64_t shared_tail(const air_sequence *s)
{
    int64_t i = s->length / AIR_BLOCK_POSITIONS;
    return s->length % AIR_BLOCK_POSITIONS && atomic_load(&s->blocks[i]->owners) > 1 ? i : -1;
}

static int64_t blocks_for(int64_t length) { return (length + AIR_BLOCK_POSITIONS - 1) / AIR_BLOCK_POSITIONS; }

int64_t air__sequence_missing(const air_sequence *s, int64_t length)
{
    int64_t more = blocks_for(length) - s->n_blocks;
    return (more > 0 ? more : 0) + (length > s->length && shared_tail(s) >= 0);
}

static air_status unshare(air_sequence *s, int64_t i, air_error *err)
{
    air_block *copy;
    air_status st = block_new(s->pool, &copy, err);
    if (st) return st;
    st = s->pool->api->state_copy(s->pool->backend, copy->memory, s->blocks[i]->memory, s->pool->block_bytes, err);
    if (st) {
        block_drop(s->pool, copy);
        return st;
    }
    block_drop(s->pool, s->blocks[i]);
    s->blocks[i] = copy;
    point(s, i);
    return AIR_OK;
}

air_status air__sequence_extend(air_sequence *s, int64_t length, air_error *err)
{
    int64_t need = blocks_for(length), had = s->n_blocks;
    air_status st = reserve_tokens(s, length, err);
    if (!st) st = reserve_blocks(s, need, err);
    int64_t shared = st ? -1 : shared_tail(s);
    if (!st && shared >= 0) st = unshare(s, shared, err);
    while (!st && s->n_blocks < need) {
        st = block_new(s->pool, &s->blocks[s->n_blocks], err);
        if (!st) point(s, s->n_blocks++);
    }
    if (st)
        while (s->n_blocks > had) block_drop(s->pool, s->blocks[--s->n_blocks]);
    return st;
}

void air__sequence_cut(air_sequence *s, int64_t length)
{
    s->length = length;
    while (s->n_blocks > blocks_for(length)) block_drop(s->pool, s->blocks[--s->n_blocks]);
}

air_status air__sequence_take(air_sequence *s, air_error *err)
{
    air_status st = air__engine_usable(s->engine, err);
    int idle = 0;
    if (st || atomic_compare_exchange_strong(&s->busy, &idle, 1)) return st;
    return air_fail(err, AIR_E_CLOSED, "the sequence is in use by another call; give each thread a sequence of its own");
}

void air__sequence_release(air_sequence *s) { atomic_store(&s->busy, 0); }

/* --- public --- */

air_status air_sequence_new(air_sequence **out, air_engine *engine, air_error *err)
{
    *out = NULL;
    air_status st = air__engine_usable(engine, err);
    if (st) return st;
    air_sequence *s = air_calloc(1, sizeof *s);
    if (!s) return air_fail(err, AIR_E_NOMEM, "sequence: %zu bytes", sizeof *s);
    s->engine = engine;
    s->pool = &engine->pool;
    *out = s;
    return AIR_OK;
}

void air_sequence_free(air_sequence *s)
{
    if (!s) return;
    air__sequence_cut(s, 0);
    air_free(s->blocks);
    air_free(s->k);
    air_free(s->v);
    air_free(s->tokens);
    air_free(s);
}

int64_t air_sequence_length(const air_sequence *s) { return s->length; }
const int32_t *air_sequence_tokens(const air_sequence *s) { return s->tokens; }
uint64_t air_sequence_bytes(const air_sequence *s) { return (uint64_t)s->n_blocks * s->pool->block_bytes; }

air_status air_sequence_truncate(air_sequence *s, int64_t length, air_error *err)
{
    air_status st = air__sequence_take(s, err);
    if (st) return st;
    if (length < 0 || length > s->length)
        st = air_fail(err, AIR_E_ARGUMENT, "cannot truncate a sequence of %lld tokens to %lld", (long long)s->length,
                      (long long)length);
    else
        air__sequence_cut(s, length);
    air__sequence_release(s);
    return st;
}

static air_status repeat(air_sequence *s, int64_t n, air_error *err)
{
    int64_t had = s->length, blocks = s->n_blocks;
    if (had == 0 || had % AIR_BLOCK_POSITIONS || n < 0 || n > s->engine->plan->n_ctx - had)
        return air_fail(err, AIR_E_ARGUMENT, "cannot repeat %lld tokens for %lld more: whole blocks of 64, in a context of %lld",
                        (long long)had, (long long)n, (long long)s->engine->plan->n_ctx);
    air_status st = air__sequence_extend(s, had + n, err);
    if (st) return st;
    for (int64_t i = blocks; i < s->n_blocks && !st; i++)
        st = s->pool->api->state_copy(s->pool->backend, s->blocks[i]->memory, s->blocks[i % blocks]->memory, s->pool->block_bytes, err);
    if (st) {
        air__sequence_cut(s, had);
        return st;
    }
    for (int64_t i = had; i < had + n; i++) s->tokens[i] = s->tokens[i % had];
    s->length = had + n;
    return AIR_OK;
}

air_status air_sequence_repeat(air_sequence *s, int64_t n, air_error *err)
{
    air_status st = air__sequence_take(s, err);
    if (st) return st;
    st = repeat(s, n, err);
    air__sequence_release(s);
    return st;
}

static air_status share(air_sequence *to, const air_sequence *from, air_error *err)
{
    air_status st = reserve_tokens(to, from->length, err);
    if (!st) st = reserve_blocks(to, from->n_blocks, err);
    if (st) return st;
    if (from->length) memcpy(to->tokens, from->tokens, (size_t)from->length * sizeof *to->tokens);
    for (int64_t i = 0; i < from->n_blocks; i++) {
        atomic_fetch_add(&from->blocks[i]->owners, 1);
        to->blocks[i] = from->blocks[i];
        point(to, to->n_blocks++);
    }
    to->length = from->length;
    return AIR_OK;
}

air_status air_sequence_fork(air_sequence **out, air_sequence *s, air_error *err)
{
    *out = NULL;
    air_status st = air__sequence_take(s, err);
    if (st) return st;
    air_sequence *copy = NULL;
    st = air_sequence_new(&copy, s->engine, err);
    if (!st) st = share(copy, s, err);
    air__sequence_release(s);
    if (st) {
        air_sequence_free(copy);
        return st;
    }
    *out = copy;
    return AIR_OK;
}
