#include "engine/state.h"

#include <stdatomic.h>
#include <string.h>

#include "base/alloc.h"
#include "engine/internal.h"

static void point(air_sequence *s, int64_t i)
{
    s->away[i] = s->blocks[i]->home == AIR_STATE_HERE ? -1 : s->blocks[i]->slot;
    for (int32_t layer = 0; layer < s->pool->n_layers; layer++) {
        s->k[layer * s->block_capacity + i] = s->blocks[i]->memory + s->pool->offsets[2 * layer];
        s->v[layer * s->block_capacity + i] = s->blocks[i]->memory + s->pool->offsets[2 * layer + 1];
    }
}

/* Room for n blocks in the tables, which are laid out anew, to be pointed. */
static air_status reserve_blocks(air_sequence *s, int64_t n, air_error *err)
{
    if (n <= s->block_capacity) return AIR_OK;
    int64_t capacity = s->block_capacity ? s->block_capacity : 4;
    while (capacity < n) capacity *= 2;
    size_t entries = (size_t)capacity * (size_t)s->pool->n_layers;
    void **k = air_malloc(entries * sizeof *k), **v = air_malloc(entries * sizeof *v);
    air_block **blocks = air_realloc(s->blocks, (size_t)capacity * sizeof *blocks);
    int32_t *away = air_realloc(s->away, (size_t)capacity * sizeof *away);
    if (blocks) s->blocks = blocks;
    if (away) s->away = away;
    if (!k || !v || !blocks || !away) {
        air_free(k);
        air_free(v);
        return air_fail(err, AIR_E_NOMEM, "state: tables of %lld blocks", (long long)capacity);
    }
    air_free(s->k);
    air_free(s->v);
    s->k = k;
    s->v = v;
    s->block_capacity = capacity;
    s->pointed = 0;
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

static air_status unshare(air_sequence *s, int64_t i, int moves, air_error *err)
{
    air_block *copy;
    air_status st = air__block_new(s->pool, AIR_STATE_PAGED, i, moves, &copy, err);
    if (st) return st;
    st = air__block_copy(s->pool, copy, s->blocks[i], err);
    if (st) {
        air__block_drop(s->pool, copy);
        return st;
    }
    air__block_drop(s->pool, s->blocks[i]);
    s->blocks[i] = copy;
    if (s->pointed > i) s->pointed = i;
    return AIR_OK;
}

air_status air__sequence_extend(air_sequence *s, int64_t length, int moves, air_error *err)
{
    int64_t need = blocks_for(length), had = s->n_blocks;
    air_status st = reserve_tokens(s, length, err);
    if (!st) st = reserve_blocks(s, need, err);
    int64_t shared = st ? -1 : shared_tail(s);
    if (!st && shared >= 0) st = unshare(s, shared, moves, err);
    while (!st && s->n_blocks < need) {
        st = air__block_new(s->pool, AIR_STATE_PAGED, s->n_blocks, moves, &s->blocks[s->n_blocks], err);
        if (!st) s->n_blocks++;
    }
    if (st)
        while (s->n_blocks > had) air__block_drop(s->pool, s->blocks[--s->n_blocks]);
    return st;
}

void air__sequence_cut(air_sequence *s, int64_t length)
{
    length = air__sequence_reach(s, length);
    air__recurrent_forget(s);
    if (length < s->length) air__recurrent_back(s, length);
    s->length = length;
    while (s->n_blocks > blocks_for(length)) air__block_drop(s->pool, s->blocks[--s->n_blocks]);
    if (s->pointed > s->n_blocks) s->pointed = s->n_blocks;
}

/* --- between passes --- */

/* Blocks that are written by it, from this one on. */
static int64_t first_written(const air_state_use *use) { return use->first / AIR_BLOCK_POSITIONS; }

void air__state_count(air_state_pool *pool) { pool->counts++; }

int64_t air__state_count_more(const air_state_use *use, int64_t *written)
{
    const air_sequence *s = use->sequence;
    int64_t from = first_written(use), more = blocks_for(use->end) - from;
    *written = more;
    if (from > s->n_blocks) more += from - s->n_blocks; /* passes before it make them */
    for (int64_t i = 0; i < from && i < s->n_blocks; i++) {
        more += s->blocks[i]->counted != s->pool->counts;
        s->blocks[i]->counted = s->pool->counts;
    }
    return more;
}

/* A shared block is not written: its copy will be, and then this pass has no use for it. */
static void mark_used(const air_state_use *use, uint64_t now)
{
    const air_sequence *s = use->sequence;
    for (int64_t i = 0; i < s->n_blocks; i++) {
        air_block *b = s->blocks[i];
        int written = i >= first_written(use);
        b->slot = -1;
        if (written && atomic_load(&b->owners) > 1) continue;
        if (written || b->used != now + 1) b->used = now + (written != 0);
    }
}

static air_status bring_written(air_state_pool *pool, const air_state_use *use, air_error *err)
{
    const air_sequence *s = use->sequence;
    air_status st = AIR_OK;
    for (int64_t i = first_written(use); i < s->n_blocks && !st; i++) {
        int moved = s->blocks[i]->home == AIR_STATE_HERE;
        if (!moved) st = air__block_bring(pool, s->blocks[i], pool->clock + 1, &moved, err);
        if (!st && !moved)
            st = air_fail(err, AIR_E_BUDGET, "max_vram %.1f MiB has no room for the %.1f MiB of state that a pass writes; raise it",
                          air_mib(pool->budget->limit), air_mib(pool->block_bytes[AIR_STATE_PAGED]));
    }
    return st;
}

/* The newest first, as long as there is room that the pass does not use. */
static air_status bring_read(air_state_pool *pool, const air_state_use *use, air_error *err)
{
    const air_sequence *s = use->sequence;
    air_status st = AIR_OK;
    int moved = 1;
    for (int64_t i = first_written(use) - 1; i >= 0 && moved && !st; i--)
        if (s->blocks[i]->home != AIR_STATE_HERE) st = air__block_bring(pool, s->blocks[i], pool->clock, &moved, err);
    return st;
}

static air_status note_away(air_state_pool *pool, const air_state_use *uses, int32_t n, air_error *err)
{
    air_status st = AIR_OK;
    pool->n_away = 0;
    for (int32_t u = 0; u < n; u++)
        for (int64_t i = 0; i < uses[u].sequence->n_blocks && !st; i++) st = air__pool_note_away(pool, uses[u].sequence->blocks[i], err);
    if (st || pool->n_away <= pool->away_most) return st;
    return air_fail(err, AIR_E_BUDGET, "a pass would read %lld blocks of 64 positions in RAM, max_vram has room for %lld on their way; "
                    "another call took VRAM meanwhile: try again, or raise max_vram", (long long)pool->n_away, (long long)pool->away_most);
}

/* Slots are new in every pass. */
static void point_tables(air_sequence *s)
{
    if (s->moves != s->pool->moves || s->pool->n_away) s->pointed = 0;
    s->moves = s->pool->moves;
    while (s->pointed < s->n_blocks) point(s, s->pointed++);
}

air_status air__state_settle(air_state_pool *pool, const air_state_use *uses, int32_t n, air_error *err)
{
    air_status st = AIR_OK;
    air_mutex_lock(&pool->lock);
    pool->clock += 2;
    air_mutex_unlock(&pool->lock);
    for (int32_t u = 0; u < n; u++) mark_used(&uses[u], pool->clock);
    for (int32_t u = 0; u < n && !st; u++) st = air__recurrent_settle(pool, &uses[u], err); /* before what is read: that may move for it */
    for (int32_t u = 0; u < n && !st; u++) st = air__sequence_extend(uses[u].sequence, uses[u].end, 1, err);
    for (int32_t u = 0; u < n; u++) mark_used(&uses[u], pool->clock); /* what was shared then */
    if (pool->host_budget) {
        for (int32_t u = 0; u < n && !st; u++) st = bring_written(pool, &uses[u], err);
        for (int32_t u = 0; u < n && !st; u++) st = bring_read(pool, &uses[u], err);
        if (!st) st = note_away(pool, uses, n, err);
    }
    for (int32_t u = 0; u < n; u++) point_tables(uses[u].sequence);
    return st;
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
    /* In a forked child its blocks are the parent's: there the lock may be held for ever, and other things lie where the pages were. */
    if (s->engine->process == air_process_id()) air__sequence_cut(s, 0);
    air_free(s->blocks);
    air_free(s->k);
    air_free(s->v);
    air_free(s->away);
    air_free(s->tokens);
    air_free(s);
}

int64_t air_sequence_length(const air_sequence *s) { return s->length; }
const int32_t *air_sequence_tokens(const air_sequence *s) { return s->tokens; }

uint64_t air_sequence_bytes(const air_sequence *s)
{
    uint64_t recurrent = (uint64_t)(s->recurrent != NULL) + (s->kept != NULL);
    return (uint64_t)s->n_blocks * s->pool->block_bytes[AIR_STATE_PAGED] + recurrent * s->pool->block_bytes[AIR_STATE_RECURRENT];
}

uint64_t air_sequence_host_bytes(const air_sequence *s)
{
    uint64_t bytes = 0;
    for (int64_t i = 0; i < s->n_blocks; i++) bytes += air__block_host_bytes(s->pool, s->blocks[i]);
    if (s->recurrent) bytes += air__block_host_bytes(s->pool, s->recurrent);
    if (s->kept) bytes += air__block_host_bytes(s->pool, s->kept);
    return bytes;
}

int64_t air_sequence_reach(const air_sequence *s, int64_t length) { return air__sequence_reach(s, length); }

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
    air_status st = air__sequence_extend(s, had + n, 0, err);
    if (st) return st;
    for (int64_t i = blocks; i < s->n_blocks && !st; i++) st = air__block_copy(s->pool, s->blocks[i], s->blocks[i % blocks], err);
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
        to->blocks[to->n_blocks++] = from->blocks[i];
    }
    to->length = from->length;
    air__recurrent_share(to, from);
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
    if (!st) copy->adapted = s->adapted;
    air__sequence_release(s);
    if (st) {
        air_sequence_free(copy);
        return st;
    }
    *out = copy;
    return AIR_OK;
}
