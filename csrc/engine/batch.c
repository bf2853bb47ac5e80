/* What callers do: check and queue a batch, wait for it, take its results. */
#include <stdatomic.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "engine/internal.h"
#include "platform/clock.h"
#include "platform/threads.h"

static void batch_delete(air_batch *b)
{
    air_free(b->items);
    air_free(b->samplings);
    air_free(b->token_ids);
    air_free(b->positions);
    air_free(b->sequences);
    air_free(b->roles);
    air_free(b->types);
    air_free(b->wanted);
    air_free(b->whole);
    air_free(b->states);
    air_free(b->adapted);
    air_free(b->uses);
    air_free(b->logits);
    air_free(b->hidden);
    air_free(b->candidates);
    air_free(b->log_sums);
    air_free(b->sampled);
    air_free(b->logprobs);
    if (b->engine) air_budget_release(&b->engine->budget, AIR_HOLD_LOGITS, b->logit_bytes);
    if (b->engine) air__adapter_room_release(b->engine, &b->held);
    air_free(b);
}

static air_status fail_context(const air_engine *e, int64_t held, int64_t more, air_error *err)
{
    long long n_ctx = (long long)e->plan->n_ctx, trained = (long long)air_model_hparams(e->model)->n_ctx_trained;
    if (trained > 0 && n_ctx >= trained)
        return air_fail(err, AIR_E_CONTEXT, "%lld tokens and %lld more exceed the %lld positions that the model was trained for; shorten "
                        "the text", (long long)held, (long long)more, trained);
    return air_fail(err, AIR_E_CONTEXT, "%lld tokens and %lld more exceed the context of %lld; shorten the text or open the model with "
                    "a larger n_ctx (trained: %lld)", (long long)held, (long long)more, n_ctx, trained);
}

static air_status check_item(const air_engine *e, const air_batch_item *item, int32_t i, air_error *err)
{
    int64_t n_vocab = air_model_hparams(e->model)->n_vocab, held = item->sequence->length;
    const air_program *p = air_model_program(e->model);
    if (item->sequence->engine != e) return air_fail(err, AIR_E_ARGUMENT, "item %d: its sequence belongs to another model", (int)i);
    if (item->n_tokens < 1) return air_fail(err, AIR_E_ARGUMENT, "item %d has no tokens; a pass needs at least one", (int)i);
    if (item->want < 0 || item->want > item->n_tokens)
        return air_fail(err, AIR_E_ARGUMENT, "item %d wants logits of its last %lld tokens, but has %lld", (int)i,
                        (long long)item->want, (long long)item->n_tokens);
    if (item->sampling && item->want < 1) return air_fail(err, AIR_E_ARGUMENT, "item %d: sampling needs want >= 1", (int)i);
    if (item->n_prompt < 0 || item->n_prompt > held + item->n_tokens)
        return air_fail(err, AIR_E_ARGUMENT, "item %d: n_prompt is %lld of %lld tokens", (int)i, (long long)item->n_prompt,
                        (long long)(held + item->n_tokens));
    for (int64_t t = 0; t < item->n_tokens; t++)
        if (item->tokens[t] < 0 || item->tokens[t] >= n_vocab)
            return air_fail(err, AIR_E_ARGUMENT, "token id %d is outside of the vocabulary of %lld", (int)item->tokens[t],
                            (long long)n_vocab);
    if (p->bidirectional && held)
        return air_fail(err, AIR_E_ARGUMENT, "item %d: its sequence holds %lld tokens, which cannot be gone on with: this model reads a "
                        "text at once, from both ends", (int)i, (long long)held);
    if (item->n_first < 0 || item->n_first > item->n_tokens)
        return air_fail(err, AIR_E_ARGUMENT, "item %d: n_first is %lld of %lld tokens", (int)i, (long long)item->n_first,
                        (long long)item->n_tokens);
    if (held + item->n_tokens > e->plan->n_ctx) return fail_context(e, held, item->n_tokens, err);
    return item->sampling ? air_sampling_check(item->sampling, err) : AIR_OK;
}

/* What a program does not end in cannot be had, and is not sampled from unless it is a token's logits. */
static air_status check_ends(const air_engine *e, const air_batch_request *r, air_error *err)
{
    const air_hparams *hp = air_model_hparams(e->model);
    int samples = 0;
    for (int32_t i = 0; i < r->n_items; i++) samples |= r->items[i].sampling != NULL;
    if (hp->n_labels && samples)
        return air_fail(err, AIR_E_UNSUPPORTED, "the model ends in a classifier of %lld labels: it foretells no token",
                        (long long)hp->n_labels);
    if (hp->foretells || hp->n_labels || r->n_items < 1 || (!samples && r->sampled_only)) return AIR_OK;
    return air_fail(err, AIR_E_UNSUPPORTED, "the model makes embeddings: it foretells no token, and has no logits");
}

static air_status batch_allocate(air_batch *b, const air_batch_request *r, air_error *err)
{
    size_t rows = (size_t)b->rows, items = (size_t)r->n_items;
    b->items = air_calloc(items, sizeof *b->items);
    b->samplings = air_calloc(items, sizeof *b->samplings);
    b->token_ids = air_calloc(rows, sizeof *b->token_ids);
    b->positions = air_calloc(rows, sizeof *b->positions);
    b->sequences = air_calloc(rows, sizeof *b->sequences);
    b->roles = air_calloc(rows, sizeof *b->roles);
    b->types = air_calloc(rows, sizeof *b->types);
    b->wanted = air_calloc((size_t)b->n_wanted, sizeof *b->wanted);
    b->whole = air_calloc((size_t)b->n_wanted, sizeof *b->whole);
    b->states = air_calloc(items, sizeof *b->states);
    b->adapted = air_calloc(items, sizeof *b->adapted);
    b->uses = air_calloc(items, sizeof *b->uses);
    b->sampled = air_calloc(items, sizeof *b->sampled);
    b->logprobs = air_calloc(items, sizeof *b->logprobs);
    if (b->items && b->samplings && b->token_ids && b->positions && b->sequences && b->roles && b->types && b->wanted && b->whole &&
        b->states && b->adapted && b->uses && b->sampled && b->logprobs)
        return AIR_OK;
    return air_fail(err, AIR_E_NOMEM, "batch: %zu tokens", rows);
}

/* The rows that an item wants, from that one on: which of their logits are read. On the CPU, all or none of a batch. */
static void note_whole(air_batch *b, const air_batch_item *item, int64_t wanted, int sampled_only)
{
    int all = !sampled_only || (b->samples && !air__engine_on_device(b->engine));
    for (int64_t i = 0; i < item->want; i++) {
        int sampled = item->sampling && i + 1 == item->want;
        b->whole[wanted + i] = all || (sampled && !air__engine_candidates(b->engine, item->sampling));
        b->n_whole += b->whole[wanted + i];
    }
}

static void batch_copy(air_batch *b, const air_batch_request *r)
{
    int64_t row = 0, wanted = 0;
    int pairs = air_model_hparams(b->engine->model)->n_types > 1;
    for (int32_t i = 0; i < r->n_items; i++) {
        air_batch_item *item = &b->items[i];
        *item = r->items[i];
        if (item->sampling) b->samplings[i] = *item->sampling;
        item->sampling = item->sampling ? &b->samplings[i] : NULL;
        b->sampled[i] = -1;
        b->adapted[i] = item->sequence->adapted;
        b->adapts |= b->adapted[i].adapter != NULL;
        for (int64_t t = 0; t < item->n_tokens; t++) {
            b->token_ids[row + t] = item->tokens[t];
            b->positions[row + t] = (int32_t)(item->sequence->length + t);
            b->sequences[row + t] = i;
            b->roles[row + t] = item->sequence->length + t < item->n_prompt ? AIR_ROW_PROMPT : AIR_ROW_GENERATED;
            b->types[row + t] = pairs && item->n_first && t >= item->n_first;
            if (t >= item->n_tokens - item->want) b->wanted[wanted++] = (int32_t)(row + t);
        }
        note_whole(b, item, wanted - item->want, r->sampled_only);
        item->tokens = b->token_ids + row;
        row += item->n_tokens;
    }
}

/* Marks the sequences as in use; all or none. A sequence named twice is found in use. */
static air_status take_sequences(const air_batch_request *r, air_error *err)
{
    air_status st = AIR_OK;
    int32_t n = 0;
    while (n < r->n_items && !(st = air__sequence_take(r->items[n].sequence, err))) n++;
    if (st)
        while (n > 0) air__sequence_release(r->items[--n].sequence);
    return st;
}

static air_status batch_make(air_batch **out, air_engine *e, const air_batch_request *r, air_error *err)
{
    air_batch *b = air_calloc(1, sizeof *b);
    if (!b) return air_fail(err, AIR_E_NOMEM, "batch: %zu bytes", sizeof *b);
    b->engine = e;
    b->n_items = r->n_items;
    b->keep_hidden = r->keep_hidden;
    b->walk = r->walk;
    b->hold = r->hold;
    b->floats = r->floats;
    air_status st = AIR_OK;
    for (int32_t i = 0; i < r->n_items && !st; i++) {
        st = check_item(e, &r->items[i], i, err);
        const air_batch_item *item = &r->items[i];
        int64_t candidates = item->sampling && !st ? air__engine_candidates(e, item->sampling) : 0;
        if (candidates > b->n_candidates) b->n_candidates = candidates;
        if (item->sampling) b->samples = 1;
        b->rows += item->n_tokens;
        b->n_wanted += item->want;
    }
    if (!st && b->rows > INT32_MAX) st = air_fail(err, AIR_E_ARGUMENT, "batch: %lld tokens", (long long)b->rows);
    if (!st) st = batch_allocate(b, r, err);
    if (st) {
        batch_delete(b);
        return st;
    }
    batch_copy(b, r);
    *out = b;
    return AIR_OK;
}

air_status air_batch_submit(air_batch **out, air_engine *e, const air_batch_request *r, air_error *err)
{
    *out = NULL;
    air_status st = air__engine_usable(e, err);
    if (st) return st;
    if (r->n_items < 1 && !r->walk && !r->hold.host && !r->floats) return air_fail(err, AIR_E_ARGUMENT, "batch: no items");
    st = check_ends(e, r, err);
    if (st) return st;
    st = take_sequences(r, err);
    if (st) return st;
    air_batch *b = NULL;
    st = batch_make(&b, e, r, err);
    if (st) {
        for (int32_t i = 0; i < r->n_items; i++) air__sequence_release(r->items[i].sequence);
        return st;
    }
    air_mutex_lock(&e->lock);
    int closing = e->closing; /* since the check above: the thread that would run it may be gone */
    if (!closing) {
        if (e->last) e->last->next = b;
        else e->first = b;
        e->last = b;
    }
    air_mutex_unlock(&e->lock);
    if (closing) {
        for (int32_t i = 0; i < r->n_items; i++) air__sequence_release(r->items[i].sequence);
        batch_delete(b);
        return air__engine_usable(e, err);
    }
    air_cond_signal(&e->wake); /* not under the lock, which the engine's thread takes first of all */
    *out = b;
    return AIR_OK;
}

void air__batch_end(air_batch *b, air_status status)
{
    for (int32_t i = 0; i < b->n_items; i++) air__sequence_release(b->items[i].sequence);
    b->status = status;
    b->phase = AIR_BATCH_ENDED;
}

/* The thread that would end the batch is not there, and locks may be held for ever. */
static int in_forked_child(const air_batch *b) { return b->engine && b->engine->process != air_process_id(); }

air_status air_batch_wait(air_batch *b, uint64_t timeout_ns, int *done, air_progress *progress, air_error *err)
{
    air_engine *e = b->engine;
    uint64_t deadline;
    if (in_forked_child(b)) {
        *done = 1;
        return air__engine_usable(e, err);
    }
    if (!air_add_u64(air_clock_ns(), timeout_ns, &deadline)) deadline = UINT64_MAX;
    air_mutex_lock(&e->lock);
    for (uint64_t now; b->phase != AIR_BATCH_ENDED && (now = air_clock_ns()) < deadline;)
        (void)air_cond_wait_for(&e->ended, &e->lock, deadline - now);
    *done = b->phase == AIR_BATCH_ENDED;
    air_status st = *done ? b->status : AIR_OK;
    air_mutex_unlock(&e->lock);
    if (progress)
        *progress = (air_progress){
            .layers_done = atomic_load(&b->layers_done), .n_layers = air_model_program(e->model)->n_layers,
            .passes_done = atomic_load(&b->passes_done), .n_passes = atomic_load(&b->n_passes),
        };
    return st ? air_error_copy(err, &b->error) : AIR_OK;
}

/* One that still waits ends here and now, not when its turn comes. */
static void unqueue(air_engine *e, air_batch *b)
{
    air_batch *before = NULL;
    for (air_batch *at = e->first; at && at != b; at = at->next) before = at;
    if (before) before->next = b->next;
    else e->first = b->next;
    if (e->last == b) e->last = before;
    air__batch_end(b, air_fail(&b->error, AIR_E_CANCELLED, "cancelled before it began"));
}

void air_batch_cancel(air_batch *b)
{
    air_engine *e = b->engine;
    if (in_forked_child(b)) return;
    air_mutex_lock(&e->lock);
    atomic_store(&b->cancel, 1);
    if (b->phase == AIR_BATCH_QUEUED) unqueue(e, b);
    air_mutex_unlock(&e->lock);
    air_cond_broadcast(&e->ended);
}

void air_batch_detach(air_batch *b)
{
    air_budget_release(&b->engine->budget, AIR_HOLD_LOGITS, b->logit_bytes);
    b->engine = NULL;
}

air_adapter_room air__batch_take_hold(air_batch *b)
{
    air_adapter_room room = b->held;
    b->held = (air_adapter_room){0};
    return room;
}

float *air_batch_logits(const air_batch *b) { return b->logits; }
float *air_batch_hidden(const air_batch *b) { return b->hidden; }
const int32_t *air_batch_sampled(const air_batch *b) { return b->sampled; }
const float *air_batch_logprobs(const air_batch *b) { return b->logprobs; }
int64_t air_batch_rows_kept(const air_batch *b) { return b->n_wanted; }
air_batch_cost air_batch_cost_get(const air_batch *b) { return b->cost; }

void air_batch_free(air_batch *b)
{
    if (!b || in_forked_child(b)) return; /* a child leaves alone what the parent's thread was writing */
    air_engine *e = b->engine;
    if (e) {
        air_batch_cancel(b);
        air_mutex_lock(&e->lock);
        while (b->phase != AIR_BATCH_ENDED) air_cond_wait(&e->ended, &e->lock);
        air_mutex_unlock(&e->lock);
    }
    batch_delete(b);
}
