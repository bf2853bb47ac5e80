/* The recurrent state of a sequence: one block at its end, one kept to go back to, and what a batch makes of them. */
#include <stdatomic.h>
#include <stddef.h>

#include "engine/state.h"

static int has(const air_state_pool *pool) { return pool->block_bytes[AIR_STATE_RECURRENT] != 0; }

/* --- a batch --- */

int64_t air__recurrent_missing(const air_sequence *s, int64_t keep) { return has(s->pool) ? 1 + (keep > s->length) : 0; }

static int keeps(const air_state_use *use) { return use->keep > use->first && use->keep <= use->end; }

/* Whether the pass goes on behind what it keeps, or keeps nothing. */
static int goes_on(const air_state_use *use) { return !keeps(use) || use->keep < use->end; }

int64_t air__recurrent_of_pass(const air_state_use *use)
{
    return has(use->sequence->pool) ? (use->first > 0) + keeps(use) + goes_on(use) : 0;
}

static air_block *block_before(const air_sequence *s) { return s->reached ? s->reached : s->recurrent; }

static air_status bring(air_state_pool *pool, air_block *b, air_error *err)
{
    int moved = 1;
    if (!b) return AIR_OK;
    b->used = pool->clock + 1;
    if (b->home == AIR_STATE_HERE) return AIR_OK;
    air_status st = air__block_bring(pool, b, pool->clock + 1, &moved, err);
    if (st || moved) return st;
    return air_fail(err, AIR_E_BUDGET, "max_vram %.1f MiB has no room for the %.1f MiB of recurrent state that a pass reads; raise it",
                    air_mib(pool->budget->limit), air_mib(pool->block_bytes[AIR_STATE_RECURRENT]));
}

static air_status make(air_state_pool *pool, air_block **block, air_error *err)
{
    return *block ? AIR_OK : air__block_new(pool, AIR_STATE_RECURRENT, 0, 1, block, err);
}

air_status air__recurrent_settle(air_state_pool *pool, const air_state_use *use, air_error *err)
{
    air_sequence *s = use->sequence;
    if (!has(pool)) return AIR_OK;
    air_status st = bring(pool, block_before(s), err);
    if (!st && keeps(use)) st = make(pool, &s->next_kept, err);
    if (!st && keeps(use)) st = bring(pool, s->next_kept, err);
    if (!st && goes_on(use)) st = make(pool, &s->next, err);
    if (!st && goes_on(use)) st = bring(pool, s->next, err);
    return st;
}

/* Rows up to `end` go from the block that was reached to `to`. */
static void add_span(air_sequence *s, air_recurrent_span *span, int64_t row, int64_t rows, air_block *to)
{
    const air_block *before = block_before(s);
    *span = (air_recurrent_span){.first = row, .rows = rows, .before = before ? before->memory : NULL, .after = to->memory};
    s->reached = to;
}

int32_t air__recurrent_spans(const air_state_use *use, int64_t row, air_recurrent_span *out)
{
    air_sequence *s = use->sequence;
    int64_t first = use->first;
    int32_t n = 0;
    if (!has(s->pool)) return 0;
    if (keeps(use)) {
        add_span(s, &out[n++], row, use->keep - first, s->next_kept);
        s->next_kept_length = use->keep;
        row += use->keep - first;
        first = use->keep;
    }
    if (goes_on(use)) add_span(s, &out[n++], row, use->end - first, s->next);
    return n;
}

/* *to's block goes, *from's comes. */
static void replace(air_state_pool *pool, air_block **to, air_block **from)
{
    if (*to) air__block_drop(pool, *to);
    *to = *from;
    *from = NULL;
}

void air__sequence_advance(air_sequence *s, int64_t n)
{
    s->length += n;
    if (s->next_kept) {
        replace(s->pool, &s->kept, &s->next_kept);
        s->kept_length = s->next_kept_length;
    }
    if (s->next) replace(s->pool, &s->recurrent, &s->next);
    s->reached = NULL;
}

void air__recurrent_forget(air_sequence *s)
{
    if (s->next) air__block_drop(s->pool, s->next);
    if (s->next_kept) air__block_drop(s->pool, s->next_kept);
    s->next = s->next_kept = s->reached = NULL;
}

/* --- beside batches --- */

static air_block *own(air_block *block)
{
    if (block) atomic_fetch_add(&block->owners, 1);
    return block;
}

void air__recurrent_share(air_sequence *to, const air_sequence *from)
{
    to->recurrent = own(from->recurrent);
    to->kept = own(from->kept);
    to->kept_length = from->kept_length;
}

int64_t air__sequence_reach(const air_sequence *s, int64_t length)
{
    if (!s->recurrent || length >= s->length) return length;
    return s->kept && s->kept_length <= length ? s->kept_length : 0;
}

void air__recurrent_back(air_sequence *s, int64_t length)
{
    air_block *back = length && s->kept && s->kept_length == length ? own(s->kept) : NULL;
    if (!back && s->kept) {
        air__block_drop(s->pool, s->kept);
        s->kept = NULL;
    }
    replace(s->pool, &s->recurrent, &back);
}
