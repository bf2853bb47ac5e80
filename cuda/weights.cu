/* How weights come to the devices: a tile that stays goes to its place once; others go through a ring of a few tiles, again in every pass.
 * What is there is computed with before the op's other rows are asked for, so that it waits for no copy and no disk.
 *
 *     copy stream:     wait used[s] · copy into slot s · record copied[s]
 *     compute stream:                      wait copied[s] · kernels · record used[s]
 *
 * Each device has a ring, and streams of its own, so that all links are busy at once: neighbouring tiles are different devices'.
 *
 * Copies are from the feed's own memory where that is page-locked. A span that stays goes back at once; one whose memory is used again
 * when the copy is done, of which two may be under way: only they, and staging, are ever waited for by the host. From pageable memory (a
 * mapped file, or where locking was refused) they go through a few pieces of page-locked memory, which the host fills again as copies
 * leave them. */
#include <string.h>

#include "cuda/backend.h"

static uint64_t round_up(uint64_t bytes) { return (bytes + AIR_DEVICE_ALIGN - 1) / AIR_DEVICE_ALIGN * AIR_DEVICE_ALIGN; }

/* --- life --- */

/* Who stays, by tile and by op. */
static void index_kept(air_backend *h, air_cuda_device *d, const air_backend_device *c)
{
    d->stay.assign(c->kept, c->kept + c->n_kept);
    d->come.assign((size_t)c->n_kept, 0);
    for (int32_t i = 0; i < c->n_kept; i++) h->weights.stays[(size_t)c->kept[i].tile] = i;
    for (int32_t op = 0, i = 0; op <= h->program->n_ops; op++) {
        while (i < c->n_kept && c->kept[i].op < op) i++;
        d->of_op.push_back(i);
    }
}

/* What streams through a device: the CPU's tiles are the first's for rows of prompts. */
static bool any_streams(const air_backend *h, int32_t device)
{
    const air_cuda_weights *w = &h->weights;
    for (size_t i = 0; i < w->who.size(); i++)
        if (w->stays[i] == AIR_NONE && (w->who[i] == device || (w->who[i] == AIR_NONE && device == 0))) return true;
    return false;
}

static air_status open_ring(air_cuda_device *d, uint64_t tile_bytes, air_error *err)
{
    uint64_t each = round_up(tile_bytes);
    air_status st = air_cuda_vram((void **)&d->ring, each * AIR_DEVICE_RING_TILES, "weights on their way", err);
    if (st) return st;
    for (int i = 0; i < AIR_DEVICE_RING_TILES; i++) {
        d->slots[i].data = d->ring + each * (uint64_t)i;
        st = air_cuda_make_event(&d->slots[i].copied, err);
        if (!st) st = air_cuda_make_event(&d->slots[i].used, err);
        if (st) return st;
    }
    return AIR_OK;
}

static air_status open_on_device(air_backend *h, int32_t device, const air_backend_config *c, air_error *err)
{
    air_cuda_device *d = &h->devices[device];
    d->kept_bytes = c->devices[device].kept_bytes;
    air_status st = d->kept_bytes ? air_cuda_vram((void **)&d->kept, d->kept_bytes, "weights that stay", err) : AIR_OK;
    if (!st) st = air_cuda_make_event(&d->kept_copied, err);
    if (!st && any_streams(h, device)) st = open_ring(d, c->tile_bytes, err);
    auto *make = h->share.host.copy ? air_cuda_make_event : air_cuda_make_waited_event; /* threads that wait to copy spin as well */
    for (int i = 0; i < AIR_DEVICE_STAGING_PIECES && !st; i++) st = make(&d->staged[i], err);
    for (int i = 0; i < AIR_CUDA_READING && !st; i++) st = air_cuda_make_waited_event(&d->read[i], err);
    return st;
}

air_status air_cuda_weights_open(air_backend *h, const air_backend_config *c, air_error *err)
{
    air_cuda_weights *w = &h->weights;
    w->who.assign(c->who, c->who + c->n_tiles);
    w->stays.assign((size_t)c->n_tiles, AIR_NONE);
    w->held.resize((size_t)c->n_tiles);
    w->to_come = c->n_tiles;
    w->op_of.assign((size_t)h->program->n_weights, AIR_NONE);
    for (int32_t i = 0; i < h->program->n_ops; i++)
        if (h->program->ops[i].kind == AIR_OP_PRODUCT) w->op_of[(size_t)h->program->ops[i].weight] = i;
    for (int32_t i = 0; i < h->n_devices; i++) index_kept(h, &h->devices[i], &c->devices[i]);
    w->piece_bytes = air_device_staging_piece(c->tile_bytes);
    air_status st = air_cuda_locked((void **)&w->staging, air_device_staging_bytes(c->tile_bytes), "copies of weights", err);
    for (int32_t i = h->n_devices - 1; i >= 0 && !st; i--) { /* so that the first is the thread's in the end */
        st = air_cuda_use(h, i, err);
        if (!st) st = open_on_device(h, i, c, err);
    }
    return st;
}

static void free_event(cudaEvent_t event)
{
    if (event) (void)cudaEventDestroy(event);
}

void air_cuda_weights_close(air_backend *h)
{
    for (int32_t i = 0; i < h->n_devices; i++) {
        air_cuda_device *d = &h->devices[i];
        for (int slot = 0; slot < AIR_DEVICE_RING_TILES; slot++) {
            free_event(d->slots[slot].copied);
            free_event(d->slots[slot].used);
        }
        for (cudaEvent_t event : d->staged) free_event(event);
        for (cudaEvent_t event : d->read) free_event(event);
        free_event(d->kept_copied);
        (void)cudaFree(d->ring);
        (void)cudaFree(d->kept);
    }
    (void)cudaFreeHost(h->weights.staging);
}

/* --- copies through staging --- */

air_status air_cuda_copy_staged(air_backend *h, air_cuda_device *d, uint8_t *to, const uint8_t *from, uint64_t bytes, cudaStream_t stream,
                                air_error *err)
{
    air_cuda_weights *w = &h->weights;
    for (uint64_t at = 0; at < bytes; at += w->piece_bytes) {
        uint64_t left = bytes - at;
        int i = (int)(w->pieces % AIR_DEVICE_STAGING_PIECES);
        uint8_t *piece = w->staging + (size_t)i * w->piece_bytes;
        size_t n = (size_t)(left < w->piece_bytes ? left : w->piece_bytes);
        if (w->pieces >= AIR_DEVICE_STAGING_PIECES) AIR_CUDA_TRY(cudaEventSynchronize(w->staged_by[i]), "copying", err);
        if (h->share.host.copy) h->share.host.copy(h->share.host.self, piece, from + at, n);
        else memcpy(piece, from + at, n);
        AIR_CUDA_TRY(cudaMemcpyAsync(to + at, piece, n, cudaMemcpyHostToDevice, stream), "copying", err);
        AIR_CUDA_TRY(cudaEventRecord(d->staged[i], stream), "copying", err);
        w->staged_by[i] = d->staged[i];
        w->pieces++;
    }
    return AIR_OK;
}

air_status air_cuda_upload(air_backend *h, int32_t device, void **out, const void *from, size_t bytes, const char *what, air_error *err)
{
    air_cuda_device *d = &h->devices[device];
    air_status st = air_cuda_use(h, device, err);
    if (!st) st = air_cuda_vram(out, bytes, what, err);
    if (st) return st;
    st = air_cuda_copy_staged(h, d, (uint8_t *)*out, (const uint8_t *)from, bytes, d->copy, err);
    cudaError_t error = air_cuda_settle(h, d->copy);
    if (!st && error != cudaSuccess) st = air_cuda_fail(error, what, err);
    if (!st) return AIR_OK;
    (void)cudaFree(*out);
    *out = nullptr;
    return st;
}

/* --- giving spans back --- */

/* Whether the feed uses a span's memory again once it has it back. */
static int used_again(const air_span *span) { return span->data && !span->stays; }

static void give_back(air_backend *h, const air_span *span, int keep)
{
    if (keep) h->feed->keep(h->feed->self, span);
    else h->feed->release(h->feed->self, span);
}

static void give_back_oldest(air_backend *h)
{
    air_cuda_weights *w = &h->weights;
    const air_cuda_held *held = &w->held[w->first_held++];
    give_back(h, &held->span, held->keep);
    w->reading -= used_again(&held->span);
    if (w->first_held == w->n_held) w->first_held = w->n_held = 0;
}

/* From now on air_cuda_weights_here names it. */
static void note_come(air_backend *h, const air_cuda_tile *tile)
{
    int32_t stays = h->weights.stays[(size_t)tile->span.tile];
    if (!tile->rows || stays == AIR_NONE) return;
    h->devices[tile->device].come[(size_t)stays] = 1;
    h->weights.to_come--;
}

void air_cuda_weights_drain(air_backend *h)
{
    air_cuda_weights *w = &h->weights;
    while (w->n_held) give_back_oldest(h);
    for (; w->asked < w->brought; w->asked++) note_come(h, &w->ahead[w->asked % AIR_CUDA_SPANS_AHEAD]);
    w->brought = w->asked = 0;
    w->read_last = w->reads;
    w->reads = false;
    for (int32_t i = 0; i < h->n_devices; i++) h->devices[i].left = h->devices[i].taken;
}

/* Whether the oldest span can go back now; where as many as may be are held, waits until its copy is done. */
static air_status oldest_done(air_backend *h, bool wait, bool *done, air_error *err)
{
    const air_cuda_held *oldest = &h->weights.held[h->weights.first_held];
    *done = !oldest->computing;
    if (!*done || !oldest->copied) return AIR_OK;
    if (wait) {
        AIR_CUDA_TRY(cudaEventSynchronize(oldest->copied), "copying weights", err);
        return AIR_OK;
    }
    cudaError_t error = cudaEventQuery(oldest->copied);
    *done = error == cudaSuccess;
    if (error == cudaErrorNotReady) return (void)cudaGetLastError(), AIR_OK;
    AIR_CUDA_TRY(error, "copying weights", err);
    return AIR_OK;
}

/* Gives back what has been read. Where two copies are under way it waits for one, or says that there is no room. */
static air_status make_room(air_backend *h, bool wait, bool *room, air_error *err)
{
    air_cuda_weights *w = &h->weights;
    bool done = true;
    while (w->n_held && done) {
        air_status st = oldest_done(h, wait && w->reading == AIR_CUDA_READING, &done, err);
        if (st) return st;
        if (done) give_back_oldest(h);
    }
    *room = w->reading < AIR_CUDA_READING;
    return AIR_OK;
}

/* Its copy has been enqueued, or has failed to be. Spans go back in order: one that could at once waits for those before it. */
static void leave_span(air_backend *h, const air_span *span, cudaEvent_t copied, int keep, int computing)
{
    air_cuda_weights *w = &h->weights;
    if (copied || computing || w->n_held) {
        w->held[w->n_held++] = air_cuda_held{*span, copied, keep, computing};
        w->reading += used_again(span);
    } else {
        give_back(h, span, keep);
    }
}

/* --- bringing them --- */

static air_status copy(air_backend *h, air_cuda_device *d, uint8_t *to, const air_span *span, uint64_t bytes, cudaEvent_t copied,
                       air_error *err)
{
    if (span->locked) AIR_CUDA_TRY(cudaMemcpyAsync(to, span->data, bytes, cudaMemcpyHostToDevice, d->copy), "copying weights", err);
    air_status st = span->locked ? AIR_OK : air_cuda_copy_staged(h, d, to, span->data, bytes, d->copy, err);
    if (st) return st;
    AIR_CUDA_TRY(cudaEventRecord(copied, d->copy), "copying weights", err);
    return AIR_OK;
}

static air_status bring_to_stay(air_backend *h, air_cuda_device *d, const air_span *span, uint64_t bytes, uint8_t *to, air_error *err)
{
    if (to + bytes > d->kept + d->kept_bytes)
        return air_fail(err, AIR_E_ARGUMENT, "cuda: weights of %llu bytes were to stay, of which tile %d is none",
                        (unsigned long long)d->kept_bytes, (int)span->tile);
    return copy(h, d, to, span, bytes, d->kept_copied, err);
}

static air_status bring_through_ring(air_backend *h, air_cuda_device *d, const air_span *span, uint64_t bytes, air_cuda_slot *slot,
                                     air_error *err)
{
    if (d->taken >= AIR_DEVICE_RING_TILES) AIR_CUDA_TRY(cudaStreamWaitEvent(d->copy, slot->used, 0), "copying weights", err);
    air_status st = copy(h, d, slot->data, span, bytes, slot->copied, err);
    if (!st) d->taken++;
    return st;
}

/* After a span's copy, which is from memory that the feed uses again when it has the span back. */
static air_status note_reading(air_backend *h, air_cuda_device *d, cudaEvent_t *copied, air_error *err)
{
    cudaEvent_t event = d->read[h->weights.readings % AIR_CUDA_READING];
    AIR_CUDA_TRY(cudaEventRecord(event, d->copy), "copying weights", err);
    h->weights.readings++;
    *copied = event;
    return AIR_OK;
}

/* To the device that computes with it; nowhere for which it has no columns. */
static air_status bring_to_device(air_backend *h, air_cuda_tile *tile, int32_t stays, cudaEvent_t *copied, air_error *err)
{
    air_cuda_device *d = &h->devices[tile->device];
    const air_span *span = &tile->span;
    uint64_t bytes = (uint64_t)span->rows * h->program->weights[span->weight].row_bytes;
    air_status st;
    if (stays != AIR_NONE) {
        uint8_t *to = d->kept + d->stay[(size_t)stays].place;
        tile->data = to;
        tile->copied = d->kept_copied;
        st = bring_to_stay(h, d, span, bytes, to, err);
    } else {
        tile->slot = &d->slots[d->taken % AIR_DEVICE_RING_TILES];
        tile->data = tile->slot->data;
        tile->copied = tile->slot->copied;
        st = bring_through_ring(h, d, span, bytes, tile->slot, err);
    }
    return !st && span->locked && !span->stays ? note_reading(h, d, copied, err) : st;
}

static air_status bring(air_backend *h, air_cuda_tile *tile, air_error *err)
{
    air_cuda_weights *w = &h->weights;
    const air_span span = tile->span;
    int32_t stays = w->stays[(size_t)span.tile], who = w->who[(size_t)span.tile], in = h->program->ops[w->op_of[(size_t)span.weight]].in;
    if (stays != AIR_NONE && h->devices[who].come[(size_t)stays]) {
        leave_span(h, &span, nullptr, 1, 0);
        return AIR_OK;
    }
    if (span.left_out) { /* what has come is: it brings nothing then, also of what is to stay */
        leave_span(h, &span, nullptr, 0, 0);
        return AIR_OK;
    }
    cudaEvent_t copied = nullptr;
    bool prompt = air_cuda_has_role(h, in, AIR_ROW_PROMPT), generated = air_cuda_has_role(h, in, AIR_ROW_GENERATED);
    tile->first_row = span.first_row;
    tile->rows = span.rows;
    tile->device = who == AIR_NONE ? 0 : who;
    tile->host = who == AIR_NONE && generated;
    air_status st = AIR_OK;
    if (stays != AIR_NONE || prompt || (generated && who != AIR_NONE)) st = bring_to_device(h, tile, stays, &copied, err);
    leave_span(h, &span, copied, !st && stays != AIR_NONE, !st && tile->host && !span.stays);
    return st;
}

static air_status take(air_backend *h, air_error *err)
{
    air_cuda_weights *w = &h->weights;
    air_cuda_tile *tile = &w->ahead[w->brought % AIR_CUDA_SPANS_AHEAD];
    *tile = air_cuda_tile{};
    air_status st = h->feed->next(h->feed->self, &tile->span, err);
    if (st) return st;
    w->reads = w->reads || used_again(&tile->span);
    st = bring(h, tile, err);
    if (st) tile->rows = 0;
    w->brought++;
    return st;
}

/* Whether the next span can be brought before it is asked for. Spans come in the order of their numbers, so it is known which that is; one
 * that the feed has to read is waited for, so that few are asked for that early. */
static bool may_bring(const air_backend *h)
{
    const air_cuda_weights *w = &h->weights;
    if (w->brought == w->who.size()) return false;
    int32_t who = w->who[(size_t)w->brought];
    const air_cuda_device *d = &h->devices[who == AIR_NONE ? 0 : who];
    uint64_t most = w->reads || w->read_last ? (uint64_t)AIR_DEVICE_RING_TILES : (uint64_t)AIR_CUDA_SPANS_AHEAD;
    return w->brought - w->asked < most && d->taken - d->left < AIR_DEVICE_RING_TILES;
}

air_status air_cuda_weights_ahead(air_backend *h, air_error *err)
{
    air_status st = AIR_OK;
    while (!st && may_bring(h)) {
        bool room = false;
        st = make_room(h, false, &room, err);
        if (st || !room) return st;
        st = take(h, err);
    }
    return st;
}

air_status air_cuda_weights_next(air_backend *h, air_cuda_tile *tile, air_error *err)
{
    air_cuda_weights *w = &h->weights;
    bool room;
    air_status st = AIR_OK;
    if (w->asked == w->brought) {
        st = make_room(h, true, &room, err);
        if (!st) st = take(h, err);
    }
    if (st) return st;
    *tile = w->ahead[w->asked++ % AIR_CUDA_SPANS_AHEAD];
    note_come(h, tile);
    if (tile->copied) AIR_CUDA_TRY(cudaStreamWaitEvent(h->devices[tile->device].compute, tile->copied, 0), "copying weights", err);
    return AIR_OK;
}

bool air_cuda_weights_here(const air_backend *h, int32_t device, int32_t op, int32_t *at, air_cuda_tile *tile)
{
    const air_cuda_device *d = &h->devices[device];
    int32_t i = d->of_op[(size_t)op] + *at, end = d->of_op[(size_t)op + 1];
    while (i < end && !d->come[(size_t)i]) i++;
    if (i == end) return false;
    const air_kept_tile *first = &d->stay[(size_t)i];
    *tile = air_cuda_tile{};
    tile->first_row = first->first_row;
    tile->rows = first->rows;
    tile->data = d->kept + first->place;
    tile->device = device;
    for (i++; i < end && d->come[(size_t)i] && d->stay[(size_t)i].first_row == tile->first_row + tile->rows; i++)
        tile->rows += d->stay[(size_t)i].rows;
    *at = i - d->of_op[(size_t)op];
    return true;
}

void air_cuda_weights_settle(air_backend *h)
{
    air_cuda_weights *w = &h->weights;
    if (!w->staging || w->to_come || h->vector_of.empty() || h->shuttle.most || h->program->mixtures) return;
    (void)cudaFreeHost(w->staging);
    w->staging = nullptr;
}

bool air_cuda_weights_resident(const air_backend *h) { return h->n_devices == 1 && h->weights.to_come == 0; }

air_status air_cuda_weights_leave(air_backend *h, const air_cuda_tile *tile, air_error *err)
{
    air_cuda_weights *w = &h->weights;
    for (size_t i = w->first_held; tile->host && i < w->n_held; i++)
        if (w->held[i].span.tile == tile->span.tile) w->held[i].computing = 0;
    if (!tile->slot) return AIR_OK;
    AIR_CUDA_TRY(cudaEventRecord(tile->slot->used, h->devices[tile->device].compute), "computing", err);
    h->devices[tile->device].left++;
    return AIR_OK;
}
