#include "engine/blocks.h"

#include <stdatomic.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "platform/pages.h"

static size_t layer_bytes(const air_attention_shape *a, air_state_type type, int value)
{
    if (value && a->values_in_keys) return 0;
    return (size_t)a->kv_heads * air_state_head_bytes(type, value ? a->value_dim : a->key_dim);
}

uint64_t air__state_block_bytes(const air_program *program, air_state_type type)
{
    uint64_t total = 0;
    for (int32_t i = 0; i < program->n_layers; i++) {
        uint64_t layer = layer_bytes(&program->attention[i], type, 0) + layer_bytes(&program->attention[i], type, 1);
        total = program->bidirectional ? air_max_u64(total, layer) : total + layer;
    }
    return air_round_up(total ? total : 1, air_page_bytes()); /* a model without attention counts positions all the same */
}

uint64_t air__recurrent_block_bytes(const air_program *program) { return air_round_up(program->recurrent_bytes, air_page_bytes()); }

air_status air__state_pool_init(air_state_pool *pool, const air_program *program, air_state_type type, air_error *err)
{
    pool->offsets = air_calloc((size_t)program->n_layers * 2, sizeof *pool->offsets);
    if (!pool->offsets) return air_fail(err, AIR_E_NOMEM, "state: %d layers", (int)program->n_layers);
    air_mutex_init(&pool->lock);
    size_t at = 0;
    for (int32_t i = 0; i < program->n_layers * 2; i++) {
        if (program->bidirectional && !(i & 1)) at = 0;
        pool->offsets[i] = at;
        at += layer_bytes(&program->attention[i / 2], type, i & 1);
    }
    pool->type = type;
    pool->n_layers = program->n_layers;
    pool->state_bytes[AIR_STATE_PAGED] = (size_t)air__state_block_bytes(program, type);
    pool->state_bytes[AIR_STATE_RECURRENT] = (size_t)air__recurrent_block_bytes(program);
    memcpy(pool->block_bytes, pool->state_bytes, sizeof pool->block_bytes);
    return AIR_OK;
}

void air__state_pool_deinit(air_state_pool *pool)
{
    if (!pool->offsets) return;
    air__pool_keep_spare(pool, 0);
    air_mutex_deinit(&pool->lock);
    air_free(pool->offsets);
    air_free(pool->away);
    pool->offsets = NULL;
    pool->away = NULL;
}

/* --- memory of either home, under the lock --- */

static air_status take_here(air_state_pool *pool, air_state_kind kind, char **out, air_error *err)
{
    void *memory;
    air_status st = air_budget_reserve(pool->budget, AIR_HOLD_STATE, pool->block_bytes[kind], err);
    if (st) return st;
    st = pool->api->state_alloc(pool->backend, &memory, pool->block_bytes[kind], err);
    if (st) air_budget_release(pool->budget, AIR_HOLD_STATE, pool->block_bytes[kind]);
    else atomic_fetch_add(&pool->here[kind], 1);
    *out = memory;
    return st;
}

static air_status take_of_host(air_state_pool *pool, air_state_kind kind, char **out, air_state_home *home, air_error *err)
{
    air_status st = air_budget_reserve(pool->host_budget, AIR_HOLD_STATE, pool->state_bytes[kind], err);
    if (st) return st;
    *out = air_pages_alloc(pool->state_bytes[kind]);
    if (!*out) {
        air_budget_release(pool->host_budget, AIR_HOLD_STATE, pool->state_bytes[kind]);
        return air_fail(err, AIR_E_NOMEM, "state: %zu bytes", pool->state_bytes[kind]);
    }
    air_pages_not_for_children(*out, pool->state_bytes[kind]);
    int locked = pool->api->lock_pages && pool->api->lock_pages(pool->backend, *out, pool->state_bytes[kind]);
    *home = locked ? AIR_STATE_LOCKED : AIR_STATE_PAGEABLE;
    atomic_fetch_add(&pool->away_held[kind], 1);
    return AIR_OK;
}

static void give_memory(air_state_pool *pool, air_state_kind kind, char *memory, air_state_home home)
{
    if (home == AIR_STATE_HERE) {
        atomic_fetch_sub(&pool->here[kind], 1);
        pool->api->state_free(pool->backend, memory, pool->block_bytes[kind]);
        air_budget_release(pool->budget, AIR_HOLD_STATE, pool->block_bytes[kind]);
        return;
    }
    atomic_fetch_sub(&pool->away_held[kind], 1);
    if (home == AIR_STATE_LOCKED) pool->api->unlock_pages(pool->backend, memory);
    air_pages_free(memory, pool->state_bytes[kind]);
    air_budget_release(pool->host_budget, AIR_HOLD_STATE, pool->state_bytes[kind]);
}

/* Its contents come along; memory and home are the block's then. On failure they go. */
static air_status settle_in(air_state_pool *pool, air_block *b, char *memory, air_state_home home, air_error *err)
{
    int pageable = home == AIR_STATE_PAGEABLE || b->home == AIR_STATE_PAGEABLE;
    air_status st = pool->api->state_copy(pool->backend, memory, b->memory, pool->state_bytes[b->kind], pageable, err);
    give_memory(pool, b->kind, st ? memory : b->memory, st ? home : b->home);
    if (st) return st;
    b->memory = memory;
    b->home = home;
    pool->moves++;
    return AIR_OK;
}

static air_status move_out(air_state_pool *pool, air_block *b, air_error *err)
{
    char *memory;
    air_state_home home = AIR_STATE_PAGEABLE;
    air_status st = take_of_host(pool, b->kind, &memory, &home, err);
    return st ? st : settle_in(pool, b, memory, home, err);
}

/* Of those in the device's memory that were used before, the one used longest ago, and the oldest positions of these. */
static air_block *next_out(const air_state_pool *pool, uint64_t before)
{
    air_block *found = NULL;
    for (air_block *b = pool->first; b; b = b->next) {
        if (b->home != AIR_STATE_HERE || b->used >= before) continue;
        if (!found || b->used < found->used || (b->used == found->used && b->number < found->number)) found = b;
    }
    return found;
}

/* *out is NULL where all that is there was used since. */
static air_status take_moving(air_state_pool *pool, air_state_kind kind, uint64_t since, char **out, air_error *err)
{
    *out = NULL;
    while (air_budget_left(pool->budget) < pool->block_bytes[kind]) {
        air_block *b = next_out(pool, since);
        if (!b) return AIR_OK;
        air_status st = move_out(pool, b, err);
        if (st) return st;
    }
    return take_here(pool, kind, out, err);
}

/* --- blocks --- */

static air_status take_for_new(air_state_pool *pool, int moves, air_block *b, air_error *err)
{
    b->home = AIR_STATE_HERE;
    if (!pool->host_budget) return take_here(pool, b->kind, &b->memory, err);
    if (moves) {
        air_status st = take_moving(pool, b->kind, pool->clock + 1, &b->memory, err);
        if (st || b->memory) return st;
        return air_fail(err, AIR_E_BUDGET, "max_vram %.1f MiB has no room for the blocks that one pass writes, of %.1f MiB each; raise it",
                        air_mib(pool->budget->limit), air_mib(pool->block_bytes[b->kind]));
    }
    if (air_budget_left(pool->budget) >= pool->block_bytes[b->kind]) return take_here(pool, b->kind, &b->memory, err);
    return take_of_host(pool, b->kind, &b->memory, &b->home, err);
}

/* Under the lock. NULL where there is none. */
static air_block *take_spare(air_state_pool *pool, air_state_kind kind)
{
    air_block *b = kind == AIR_STATE_RECURRENT ? pool->spare : NULL;
    if (!b) return NULL;
    pool->spare = b->next;
    pool->n_spare--;
    b->previous = NULL;
    return b;
}

static void free_block(air_state_pool *pool, air_block *b)
{
    give_memory(pool, b->kind, b->memory, b->home);
    air_free(b);
}

void air__pool_keep_spare(air_state_pool *pool, int64_t most)
{
    air_mutex_lock(&pool->lock);
    pool->spare_most = most;
    while (pool->n_spare > most) free_block(pool, take_spare(pool, AIR_STATE_RECURRENT));
    air_mutex_unlock(&pool->lock);
}

int64_t air__pool_spare(air_state_pool *pool)
{
    air_mutex_lock(&pool->lock);
    int64_t n = pool->n_spare;
    air_mutex_unlock(&pool->lock);
    return n;
}

air_status air__block_new(air_state_pool *pool, air_state_kind kind, int64_t number, int moves, air_block **out, air_error *err)
{
    air_status st = AIR_OK;
    air_mutex_lock(&pool->lock);
    air_block *b = take_spare(pool, kind);
    int made = !b;
    if (made) b = air_calloc(1, sizeof *b);
    if (!b) st = air_fail(err, AIR_E_NOMEM, "state: a block");
    if (b) b->kind = kind;
    if (!st && made) st = take_for_new(pool, moves, b, err);
    if (!st) {
        b->number = number;
        b->slot = -1;
        b->used = pool->clock + (moves != 0);
        b->next = pool->first;
        if (b->next) b->next->previous = b;
        pool->first = b;
    }
    air_mutex_unlock(&pool->lock);
    if (st) {
        air_free(b);
        return st;
    }
    atomic_init(&b->owners, 1);
    *out = b;
    return AIR_OK;
}

void air__block_drop(air_state_pool *pool, air_block *b)
{
    if (atomic_fetch_sub(&b->owners, 1) > 1) return;
    air_mutex_lock(&pool->lock);
    *(b->previous ? &b->previous->next : &pool->first) = b->next;
    if (b->next) b->next->previous = b->previous;
    if (b->kind == AIR_STATE_RECURRENT && b->home == AIR_STATE_HERE && pool->n_spare < pool->spare_most) {
        b->next = pool->spare;
        pool->spare = b;
        pool->n_spare++;
    } else {
        free_block(pool, b);
    }
    air_mutex_unlock(&pool->lock);
}

air_status air__block_copy(air_state_pool *pool, air_block *to, const air_block *from, air_error *err)
{
    air_mutex_lock(&pool->lock);
    int pageable = to->home == AIR_STATE_PAGEABLE || from->home == AIR_STATE_PAGEABLE;
    air_status st = pool->api->state_copy(pool->backend, to->memory, from->memory, pool->state_bytes[to->kind], pageable, err);
    air_mutex_unlock(&pool->lock);
    return st;
}

uint64_t air__block_host_bytes(air_state_pool *pool, const air_block *b)
{
    if (!pool->host_budget) return pool->block_bytes[b->kind];
    air_mutex_lock(&pool->lock);
    uint64_t bytes = b->home == AIR_STATE_HERE ? 0 : pool->state_bytes[b->kind];
    air_mutex_unlock(&pool->lock);
    return bytes;
}

/* --- between passes --- */

air_status air__block_bring(air_state_pool *pool, air_block *b, uint64_t since, int *moved, air_error *err)
{
    char *memory;
    air_mutex_lock(&pool->lock);
    air_status st = take_moving(pool, b->kind, since, &memory, err);
    *moved = !st && memory;
    if (*moved) st = settle_in(pool, b, memory, AIR_STATE_HERE, err);
    air_mutex_unlock(&pool->lock);
    return st;
}

air_status air__pool_shrink(air_state_pool *pool, uint64_t bytes, air_error *err)
{
    air_status st = AIR_OK;
    air_mutex_lock(&pool->lock);
    while (!st && atomic_load(&pool->budget->held[AIR_HOLD_STATE]) > bytes) {
        air_block *b = next_out(pool, UINT64_MAX);
        if (!b) break;
        st = move_out(pool, b, err);
    }
    air_mutex_unlock(&pool->lock);
    return st;
}

air_status air__pool_note_away(air_state_pool *pool, air_block *b, air_error *err)
{
    if (b->home == AIR_STATE_HERE || b->slot >= 0) return AIR_OK;
    if (pool->n_away == pool->away_capacity) {
        int64_t capacity = pool->away_capacity ? 2 * pool->away_capacity : 64;
        air_state_away *more = air_realloc(pool->away, (size_t)capacity * sizeof *more);
        if (!more) return air_fail(err, AIR_E_NOMEM, "state: %lld blocks in RAM", (long long)capacity);
        pool->away = more;
        pool->away_capacity = capacity;
    }
    b->slot = (int32_t)pool->n_away;
    pool->away[pool->n_away++] = (air_state_away){.memory = b->memory, .home = b->home,
                                                  .end = (b->number + 1) * AIR_BLOCK_POSITIONS};
    return AIR_OK;
}
