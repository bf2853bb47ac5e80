/* How weights come to the device: a tile that stays goes to its place once; others go through a ring of a few tiles, again in every pass.
 * What is there is computed with before the op's other rows are asked for, so that it waits for no copy and no disk.
 *
 *     copy stream:     wait used[s] · copy into slot s · record copied[s]
 *     compute stream:                      wait copied[s] · kernels · record used[s]
 *
 * Copies are from the feed's own memory where that is page-locked. A span that stays goes back at once; one whose memory is used again when
 * the copy is done, of which two may be under way: only they, and staging, are ever waited for by the host. From pageable memory (a mapped file, or where locking was refused) they go through a few pieces of page-locked memory, which the
 * host fills again as copies leave them. */
#include <string.h>

#include "cuda/backend.h"

static uint64_t round_up(uint64_t bytes) { return (bytes + AIR_DEVICE_ALIGN - 1) / AIR_DEVICE_ALIGN * AIR_DEVICE_ALIGN; }

static air_status make_event(cudaEvent_t *event, air_error *err)
{
    AIR_CUDA_TRY(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "an event", err);
    return AIR_OK;
}

/* One that the host waits for: a copy takes long enough to sleep. */
static air_status make_waited_event(cudaEvent_t *event, air_error *err)
{
    AIR_CUDA_TRY(cudaEventCreateWithFlags(event, cudaEventDisableTiming | cudaEventBlockingSync), "an event", err);
    return AIR_OK;
}

/* Who stays, by tile and by op. */
static void index_kept(air_backend *h, const air_backend_config *c)
{
    air_cuda_weights *w = &h->weights;
    w->stay.assign(c->kept, c->kept + c->n_kept);
    w->come.assign((size_t)c->n_kept, 0);
    w->stays.assign((size_t)c->n_tiles, AIR_NONE);
    for (int32_t i = 0; i < c->n_kept; i++) w->stays[(size_t)c->kept[i].tile] = i;
    for (int32_t op = 0, i = 0; op <= h->program->n_ops; op++) {
        while (i < c->n_kept && c->kept[i].op < op) i++;
        w->of_op.push_back(i);
    }
}

static air_status open_ring(air_cuda_weights *w, uint64_t tile_bytes, air_error *err)
{
    uint64_t each = round_up(tile_bytes);
    AIR_CUDA_TRY(cudaMalloc((void **)&w->ring, each * AIR_DEVICE_RING_TILES), "VRAM for weights on their way", err);
    for (int i = 0; i < AIR_DEVICE_RING_TILES; i++) {
        w->slots[i].data = w->ring + each * (uint64_t)i;
        air_status st = make_event(&w->slots[i].copied, err);
        if (!st) st = make_event(&w->slots[i].used, err);
        if (st) return st;
    }
    return AIR_OK;
}

air_status air_cuda_weights_open(air_backend *h, const air_backend_config *c, air_error *err)
{
    air_cuda_weights *w = &h->weights;
    index_kept(h, c);
    w->held.resize((size_t)c->n_tiles);
    if (c->kept_bytes) AIR_CUDA_TRY(cudaMalloc((void **)&w->kept, c->kept_bytes), "VRAM for weights that stay", err);
    w->kept_bytes = c->kept_bytes;
    air_status st = make_event(&w->kept_copied, err);
    if (!st && c->n_kept < c->n_tiles) st = open_ring(w, c->tile_bytes, err);
    if (st) return st;
    w->piece_bytes = round_up(c->tile_bytes + 1);
    if (w->piece_bytes > AIR_CUDA_STAGING_BYTES) w->piece_bytes = AIR_CUDA_STAGING_BYTES;
    size_t staging = (size_t)w->piece_bytes * AIR_CUDA_STAGING_PIECES;
    AIR_CUDA_TRY(cudaHostAlloc((void **)&w->staging, staging, cudaHostAllocDefault), "page-locked memory for copies", err);
    for (int i = 0; i < AIR_CUDA_STAGING_PIECES && !st; i++) st = make_waited_event(&w->staged[i], err);
    for (int i = 0; i < AIR_CUDA_READING && !st; i++) st = make_waited_event(&w->read[i], err);
    return st;
}

static void free_event(cudaEvent_t event)
{
    if (event) (void)cudaEventDestroy(event);
}

void air_cuda_weights_close(air_backend *h)
{
    air_cuda_weights *w = &h->weights;
    for (int i = 0; i < AIR_DEVICE_RING_TILES; i++) {
        free_event(w->slots[i].copied);
        free_event(w->slots[i].used);
    }
    for (int i = 0; i < AIR_CUDA_STAGING_PIECES; i++) free_event(w->staged[i]);
    for (cudaEvent_t event : w->read) free_event(event);
    free_event(w->kept_copied);
    (void)cudaFreeHost(w->staging);
    (void)cudaFree(w->ring);
    (void)cudaFree(w->kept);
}

/* From pageable memory to the device, on the copy stream. When it returns, from has been read. */
static air_status copy_staged(air_backend *h, uint8_t *to, const uint8_t *from, uint64_t bytes, air_error *err)
{
    air_cuda_weights *w = &h->weights;
    for (uint64_t at = 0; at < bytes; at += w->piece_bytes) {
        uint64_t left = bytes - at;
        int i = (int)(w->pieces % AIR_CUDA_STAGING_PIECES);
        uint8_t *piece = w->staging + (size_t)i * w->piece_bytes;
        size_t n = (size_t)(left < w->piece_bytes ? left : w->piece_bytes);
        if (w->pieces >= AIR_CUDA_STAGING_PIECES) AIR_CUDA_TRY(cudaEventSynchronize(w->staged[i]), "copying weights", err);
        memcpy(piece, from + at, n);
        AIR_CUDA_TRY(cudaMemcpyAsync(to + at, piece, n, cudaMemcpyHostToDevice, h->copy), "copying weights", err);
        AIR_CUDA_TRY(cudaEventRecord(w->staged[i], h->copy), "copying weights", err);
        w->pieces++;
    }
    return AIR_OK;
}

air_status air_cuda_upload(air_backend *h, void **out, const void *from, size_t bytes, const char *what, air_error *err)
{
    AIR_CUDA_TRY(cudaMalloc(out, bytes), what, err);
    air_status st = copy_staged(h, (uint8_t *)*out, (const uint8_t *)from, bytes, err);
    cudaError_t error = air_cuda_settle(h, h->copy);
    if (!st && error != cudaSuccess) st = air_cuda_fail(error, what, err);
    if (!st) return AIR_OK;
    (void)cudaFree(*out);
    *out = nullptr;
    return st;
}

/* --- giving spans back --- */

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
    if (held->copied) w->reading--;
    if (w->first_held == w->n_held) w->first_held = w->n_held = 0;
}

void air_cuda_weights_drain(air_backend *h)
{
    while (h->weights.n_held) give_back_oldest(h);
}

/* Gives back what has been copied, and waits for a copy where two are under way. */
static air_status make_room(air_backend *h, air_error *err)
{
    air_cuda_weights *w = &h->weights;
    while (w->n_held) {
        cudaEvent_t copied = w->held[w->first_held].copied;
        if (copied && w->reading == AIR_CUDA_READING) AIR_CUDA_TRY(cudaEventSynchronize(copied), "copying weights", err);
        else if (copied) {
            cudaError_t error = cudaEventQuery(copied);
            if (error == cudaErrorNotReady) return (void)cudaGetLastError(), AIR_OK;
            AIR_CUDA_TRY(error, "copying weights", err);
        }
        give_back_oldest(h);
    }
    return AIR_OK;
}

/* Its copy has been enqueued, or has failed to be. Spans go back in order: one that could at once waits for those before it. */
static void leave_span(air_backend *h, const air_span *span, cudaEvent_t copied, int keep)
{
    air_cuda_weights *w = &h->weights;
    if (copied) w->reading++;
    if (copied || w->n_held) w->held[w->n_held++] = air_cuda_held{*span, copied, keep};
    else give_back(h, span, keep);
}

/* --- bringing them --- */

static air_status copy(air_backend *h, uint8_t *to, const air_span *span, uint64_t bytes, cudaEvent_t copied, air_error *err)
{
    if (span->locked) AIR_CUDA_TRY(cudaMemcpyAsync(to, span->data, bytes, cudaMemcpyHostToDevice, h->copy), "copying weights", err);
    air_status st = span->locked ? AIR_OK : copy_staged(h, to, span->data, bytes, err);
    if (st) return st;
    AIR_CUDA_TRY(cudaEventRecord(copied, h->copy), "copying weights", err);
    AIR_CUDA_TRY(cudaStreamWaitEvent(h->compute, copied, 0), "copying weights", err);
    return AIR_OK;
}

static air_status bring_to_stay(air_backend *h, const air_span *span, uint64_t bytes, uint8_t *to, air_error *err)
{
    air_cuda_weights *w = &h->weights;
    if (to + bytes > w->kept + w->kept_bytes)
        return air_fail(err, AIR_E_ARGUMENT, "cuda: weights of %llu bytes were to stay, of which tile %d is none",
                        (unsigned long long)w->kept_bytes, (int)span->tile);
    return copy(h, to, span, bytes, w->kept_copied, err);
}

static air_status bring_through_ring(air_backend *h, const air_span *span, uint64_t bytes, air_cuda_slot *slot, air_error *err)
{
    air_cuda_weights *w = &h->weights;
    if (w->taken >= AIR_DEVICE_RING_TILES) AIR_CUDA_TRY(cudaStreamWaitEvent(h->copy, slot->used, 0), "copying weights", err);
    air_status st = copy(h, slot->data, span, bytes, slot->copied, err);
    if (!st) w->taken++;
    return st;
}

/* After a span's copy, which is from memory that the feed uses again when it has the span back. */
static air_status note_reading(air_backend *h, cudaEvent_t *copied, air_error *err)
{
    air_cuda_weights *w = &h->weights;
    cudaEvent_t event = w->read[w->readings % AIR_CUDA_READING];
    AIR_CUDA_TRY(cudaEventRecord(event, h->copy), "copying weights", err);
    w->readings++;
    *copied = event;
    return AIR_OK;
}

static air_status bring(air_backend *h, const air_span *span, air_cuda_tile *tile, air_error *err)
{
    air_cuda_weights *w = &h->weights;
    int32_t stays = w->stays[(size_t)span->tile];
    uint64_t bytes = (uint64_t)span->rows * h->program->weights[span->weight].row_bytes;
    cudaEvent_t copied = nullptr;
    air_status st = AIR_OK;
    if (stays != AIR_NONE && w->come[(size_t)stays]) {
        leave_span(h, span, nullptr, 1);
        return AIR_OK;
    }
    *tile = air_cuda_tile{span->first_row, span->rows, nullptr, nullptr};
    if (stays != AIR_NONE) {
        uint8_t *to = w->kept + w->stay[(size_t)stays].place;
        tile->data = to;
        st = bring_to_stay(h, span, bytes, to, err);
    } else {
        tile->slot = &w->slots[w->taken % AIR_DEVICE_RING_TILES];
        tile->data = tile->slot->data;
        st = bring_through_ring(h, span, bytes, tile->slot, err);
    }
    if (!st && span->locked && !span->stays) st = note_reading(h, &copied, err);
    if (!st && stays != AIR_NONE) w->come[(size_t)stays] = 1;
    leave_span(h, span, copied, !st && stays != AIR_NONE);
    return st;
}

bool air_cuda_weights_here(const air_backend *h, int32_t op, int32_t *at, air_cuda_tile *tile)
{
    const air_cuda_weights *w = &h->weights;
    int32_t i = w->of_op[(size_t)op] + *at, end = w->of_op[(size_t)op + 1];
    while (i < end && !w->come[(size_t)i]) i++;
    if (i == end) return false;
    const air_kept_tile *first = &w->stay[(size_t)i];
    *tile = air_cuda_tile{first->first_row, first->rows, w->kept + first->place, nullptr};
    for (i++; i < end && w->come[(size_t)i] && w->stay[(size_t)i].first_row == tile->first_row + tile->rows; i++)
        tile->rows += w->stay[(size_t)i].rows;
    *at = i - w->of_op[(size_t)op];
    return true;
}

air_status air_cuda_weights_next(air_backend *h, air_span *span, air_cuda_tile *tile, air_error *err)
{
    *tile = air_cuda_tile{};
    air_status st = make_room(h, err);
    if (!st) st = h->feed->next(h->feed->self, span, err);
    return st ? st : bring(h, span, tile, err);
}

air_status air_cuda_weights_leave(air_backend *h, const air_cuda_tile *tile, air_error *err)
{
    if (tile->slot) AIR_CUDA_TRY(cudaEventRecord(tile->slot->used, h->compute), "computing", err);
    return AIR_OK;
}
