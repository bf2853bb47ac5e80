#include "memory/pager.h"

#include <stdatomic.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "memory/experts.h"
#include "memory/pager_internal.h"
#include "platform/clock.h"
#include "platform/pages.h"

/* Least I/O threads where there are mixtures. The depth probed is that of idle CPUs; beside experts that are being computed, one that ends
 * a read waits for a CPU before it begins the next. */
enum { READERS_OF_EXPERTS = 6 };

int air__pager_cancelled(const air_pager *p) { return p->cancel && atomic_load(p->cancel); }

int32_t air__tile_layer(const air_pager *p, const air_tile *tile)
{
    int32_t layer = p->program->ops[tile->op].layer;
    return layer >= 0 && layer < p->program->n_layers ? layer : p->program->n_layers;
}

int air__left_out(const air_pager *p, uint64_t step)
{
    if (step / p->n_tiles != p->no_logits || p->program->logits == AIR_NONE) return 0;
    return p->program->ops[p->tiles[step % p->n_tiles].op].out == p->program->logits;
}

/* --- the timeline --- */

static int32_t layer_or_none(const air_pager *p, int32_t layer) { return layer < p->program->n_layers ? layer : AIR_NONE; }

/* A read that failed brought nothing. */
void air__note_read(air_pager *p, air_event_kind kind, const air_io_request *request, int32_t layer, int32_t weight, int32_t number)
{
    uint64_t bytes = request->error.status ? 0 : request->bytes;
    p->stats.read_ns += request->ns;
    p->stats.disk_bytes += bytes;
    if (!air_timeline_on(p->timeline)) return;
    air_timeline_add(p->timeline, &(air_event){
        .begin_ns = request->begin_ns, .end_ns = request->begin_ns + request->ns, .bytes = bytes, .kind = (uint16_t)kind,
        .lane = (uint16_t)air_lane(), .layer = layer_or_none(p, layer), .weight = weight, .number = number,
    });
}

void air__note_stall(air_pager *p, uint64_t begin_ns, int32_t layer, int32_t weight, int32_t number)
{
    uint64_t end = air_clock_ns();
    p->stats.stall_ns += end - begin_ns;
    p->layer_stall[layer] += end - begin_ns;
    if (!air_timeline_on(p->timeline)) return;
    air_timeline_add(p->timeline, &(air_event){
        .begin_ns = begin_ns, .end_ns = end, .kind = AIR_EVENT_STALL, .lane = (uint16_t)air_lane(), .layer = layer_or_none(p, layer),
        .weight = weight, .number = number,
    });
}

/* --- the feed --- */

/* Why the walk cannot go on although nothing is being read: the caller holds the ring, or there is none yet. */
static air_status no_place(air_pager *p, air_error *err)
{
    if (!p->n_tiles) return air_fail(err, AIR_E_ARGUMENT, "the program has no matrices to walk");
    if (!p->ring) {
        air_status st = air__ring_open(p, err);
        if (st) return st;
        air__window_fill(p);
    }
    if (p->walk < p->ahead) return AIR_OK;
    return air_fail(err, AIR_E_ARGUMENT, "%llu spans are held, the ring has no room for another",
                    (unsigned long long)(p->walk - p->released));
}

static air_status wait_for_slot(air_pager *p, const air__slot *slot, air_error *err)
{
    if (slot->state == AIR__SLOT_PLACED) {
        uint64_t begin = air_clock_ns();
        while (slot->state == AIR__SLOT_PLACED && !air__pager_cancelled(p))
            (void)air_cond_wait_for(&p->changed, &p->lock, AIR__WAIT_SLICE_NS);
        const air_tile *tile = &p->tiles[p->walk % p->n_tiles];
        air__note_stall(p, begin, air__tile_layer(p, tile), tile->weight, (int32_t)(p->walk % p->n_tiles));
    }
    if (slot->state == AIR__SLOT_FAILED) return air_error_copy(err, &slot->failed->request.error);
    if (slot->state != AIR__SLOT_READY) return air_fail(err, AIR_E_CANCELLED, "pass cancelled");
    return AIR_OK;
}

static air_status direct_next(void *self, air_span *span, air_error *err)
{
    air_pager *p = self;
    *span = (air_span){0};
    if (air__pager_cancelled(p)) return air_fail(err, AIR_E_CANCELLED, "pass cancelled");
    air_mutex_lock(&p->lock);
    air__window_fill(p);
    air_status st = p->walk < p->ahead ? AIR_OK : no_place(p, err);
    if (st) goto done;
    air__slot *slot = &p->slots[p->walk % p->n_tiles];
    const air_tile *tile = &p->tiles[p->walk % p->n_tiles];
    st = wait_for_slot(p, slot, err);
    if (st) goto done;
    int left_out = air__left_out(p, p->walk);
    if (!slot->fresh && slot->memory && !left_out) p->stats.ram_bytes += tile->bytes;
    slot->fresh = 0;
    *span = (air_span){
        .weight = tile->weight,
        .tile = (int32_t)(p->walk % p->n_tiles),
        .first_row = tile->first_row,
        .rows = tile->rows,
        .data = slot->memory ? slot->memory + tile->offset % p->granule : NULL,
        .stays = slot->memory == slot->pin,
        .locked = slot->memory == slot->pin ? slot->pin_locked : p->ring_locked,
        .left_out = left_out,
        .slot = p->walk++,
    };
done:
    air_mutex_unlock(&p->lock);
    return st;
}

static void direct_release(void *self, const air_span *span)
{
    air_pager *p = self;
    air_mutex_lock(&p->lock);
    air__window_release(p, span->slot);
    air__window_fill(p);
    air_mutex_unlock(&p->lock);
}

static void direct_keep(void *self, const air_span *span)
{
    air_pager *p = self;
    air_mutex_lock(&p->lock);
    air__slot *slot = &p->slots[span->slot % p->n_tiles];
    p->elsewhere += !slot->elsewhere;
    slot->elsewhere = 1;
    air__window_release(p, span->slot);
    air__window_fill(p);
    air_mutex_unlock(&p->lock);
}

static void mmap_release(void *self, const air_span *span)
{
    air_pager *p = self;
    p->released = span->slot + 1;
}

/* --- open and close --- */

static air_status check_weight(const air_pager *p, const air_weight *w, air_error *err)
{
    const air_format *format = air_format_by_id(w->type);
    if (!format || w->cols <= 0 || w->rows < 0 || w->cols % format->block ||
        w->row_bytes != (uint64_t)w->cols / format->block * format->bytes || w->bytes / w->row_bytes < (uint64_t)w->rows)
        return air_fail(err, AIR_E_ARGUMENT, "%s: %lld rows of %lld columns do not lie in %llu bytes", w->name, (long long)w->rows,
                        (long long)w->cols, (unsigned long long)w->bytes);
    uint64_t end, there = 0;
    if (w->part < p->parts) there = p->mappings ? air_mapping_bytes(p->mappings[w->part]) : p->sources[w->part]->bytes;
    if (!air_add_u64(w->offset, w->bytes, &end) || end > there)
        return air_fail(err, AIR_E_CHANGED, "%s: its %llu bytes at offset %llu of part %u are beyond the end of the file", w->name,
                        (unsigned long long)w->bytes, (unsigned long long)w->offset, w->part);
    return AIR_OK;
}

static air_status open_direct(air_pager *p, air_error *err)
{
    p->granule = air_max_u64(AIR_PLAN_GRANULE, air_page_bytes());
    for (uint32_t i = 0; i < p->parts; i++) p->granule = air_max_u64(p->granule, p->sources[i]->alignment);
    p->ring_bytes = p->plan->ring_bytes;
    for (uint64_t i = 0; i < p->n_tiles; i++)
        p->ring_bytes = air_max_u64(p->ring_bytes, AIR_RING_TILES * air_tile_memory(&p->tiles[i], p->granule));
    p->slots = air_calloc((size_t)p->n_tiles, sizeof *p->slots);
    if (!p->slots) return air_fail(err, AIR_E_NOMEM, "pager: %llu tiles", (unsigned long long)p->n_tiles);
    int depth = p->plan->depth;
    p->n_reads = 2 * depth; /* as many again wait in the queue, so that a thread that ends one finds the next */
    for (int i = 0; i < p->n_reads; i++) p->reads[i].pager = p;
    p->n_readers = p->program->mixtures ? (int)air_max_u64((uint64_t)depth, READERS_OF_EXPERTS) : depth;
    air_status st = air_async_io_open(&p->io, p->n_readers, err);
    if (!st) st = air__small_open(p, err);
    if (!st) st = air__pins_open(p, err);
    if (!st) st = air__ring_open(p, err);
    return st;
}

air_status air_pager_open(air_pager **out, const air_pager_config *config, air_error *err)
{
    *out = NULL;
    air_pager *p = air_calloc(1, sizeof *p);
    if (!p) return air_fail(err, AIR_E_NOMEM, "pager: %zu bytes", sizeof *p);
    air_mutex_init(&p->lock);
    air_cond_init(&p->changed);
    p->program = config->program;
    p->plan = config->plan;
    p->sources = config->sources;
    p->parts = config->parts;
    p->budget = config->budget;
    p->api = config->api && config->api->lock_pages ? config->api : NULL;
    p->backend = config->backend;
    p->tiles = config->plan->tiles;
    p->n_tiles = (uint64_t)config->plan->n_tiles;
    p->timeline = config->timeline;
    p->no_logits = AIR__NO_PASS;
    int mapped = config->plan->io == AIR_IO_MMAP;

    air_status st = AIR_OK;
    p->layer_stall = air_calloc((size_t)p->program->n_layers + 1, sizeof *p->layer_stall);
    if (!p->layer_stall) st = air_fail(err, AIR_E_NOMEM, "pager: %d layers", (int)p->program->n_layers);
    if (!st && mapped) st = air__mmap_open(p, config->paths, err);
    for (int32_t i = 0; i < p->program->n_weights && !st; i++) st = check_weight(p, &p->program->weights[i], err);
    if (!st && !mapped) st = open_direct(p, err);
    if (!st) st = air__experts_open(&p->experts, p, config->lookahead, err);
    if (!st) st = air__vectors_load(p, err);
    if (st) goto fail;
    p->feed = (air_feed){
        .self = p,
        .next = mapped ? air__mmap_next : direct_next,
        .release = mapped ? mmap_release : direct_release,
        .keep = mapped ? mmap_release : direct_keep,
        .gather = air__gather,
        .vectors = p->vector_of,
        .experts = air__experts_feed,
    };
    *out = p;
    return AIR_OK;

fail:
    air_pager_close(p);
    return st;
}

static void close_direct(air_pager *p)
{
    air_mutex_lock(&p->lock);
    p->stopping = 1;
    p->walk = p->released; /* spans end with their pager */
    air__window_cut(p, p->released);
    air__small_drain(p);
    if (p->experts) air__experts_drain(p->experts);
    air_mutex_unlock(&p->lock);
    air_async_io_close(p->io);
    air__pins_close(p);
    air__ring_close(p);
    air_free(p->slots);
}

void air_pager_close(air_pager *p)
{
    if (!p) return;
    if (p->plan->io == AIR_IO_MMAP) air__mmap_close(p);
    else close_direct(p);
    air__experts_close(p->experts);
    air__small_close(p);
    air_free(p->layer_stall);
    air_cond_deinit(&p->changed);
    air_mutex_deinit(&p->lock);
    air_free(p);
}

/* --- between passes --- */

const air_feed *air_pager_feed(air_pager *pager) { return &pager->feed; }
void air_pager_set_cancel(air_pager *pager, const AIR_ATOMIC(int) *cancel) { pager->cancel = cancel; }

/* Marks the longest prefix of the priority order, behind the device's tiles, that bytes hold and frees the other pins. A freed one in the
 * window ends it there: its place is no longer what the walk expects. Returns up to where tiles are kept, here or there. */
static uint64_t keep_prefix(air_pager *p, uint64_t bytes)
{
    uint64_t count = (uint64_t)p->plan->n_device_tiles;
    p->pin_target = 0;
    for (uint64_t i = 0; i < p->n_tiles; i++) p->slots[i].keep = 0;
    for (; count < p->n_tiles; count++) {
        int32_t t = p->plan->priority[count];
        uint64_t memory = air_tile_memory(&p->tiles[t], p->granule);
        if (memory > bytes - p->pin_target) break;
        p->pin_target += memory;
        p->slots[t].keep = 1;
    }
    for (uint64_t step = p->walk; step < p->ahead; step++) {
        const air__slot *slot = &p->slots[step % p->n_tiles];
        if (slot->pin && !slot->keep) air__window_cut(p, step);
    }
    air__pins_cut(p);
    return count;
}

/* Streaming needs the ring: where it had been given up and its memory is gone, pins make room for it. */
static air_status ring_for_rest(air_pager *p, uint64_t bytes, air_error *err)
{
    air_status st = air__ring_open(p, err);
    if (st != AIR_E_BUDGET) return st;
    (void)keep_prefix(p, bytes > p->ring_bytes ? bytes - p->ring_bytes : 0);
    return air__ring_open(p, err);
}

/* What tiles leave; where all of them are pins, the ring's memory too. The least without which nothing runs came before tiles. */
static void give_to_experts(air_pager *p, uint64_t bytes, int no_ring)
{
    uint64_t left = bytes - air_min_u64(bytes, p->pin_target), more = no_ring ? p->ring_bytes : 0;
    p->expert_target = left > UINT64_MAX - more ? UINT64_MAX : left + more;
    air__experts_resize(p->experts, p->expert_target);
}

air_status air_pager_set_pins(air_pager *p, uint64_t bytes, air_error *err)
{
    if (p->mappings || !p->n_tiles) return AIR_OK;
    air_status st = AIR_OK;
    uint64_t least = p->experts ? air__experts_least(p->program, p->granule) : 0;
    air_mutex_lock(&p->lock);
    uint64_t count = keep_prefix(p, bytes - air_min_u64(bytes, least));
    int no_ring = count == p->n_tiles && p->elsewhere == (uint64_t)p->plan->n_device_tiles && p->elsewhere < p->n_tiles;
    if (p->experts) give_to_experts(p, bytes, no_ring && bytes != UINT64_MAX);
    uint64_t there = air_budget_left(p->budget) + (p->ring ? p->ring_bytes : 0) + atomic_load(&p->budget->held[AIR_HOLD_PINS]);
    if (count < p->n_tiles || p->elsewhere < (uint64_t)p->plan->n_device_tiles || p->pin_target > there) {
        st = ring_for_rest(p, bytes, err);
    } else if (p->ring) {
        air__window_cut(p, p->walk); /* what is in the ring is read again, into its pin */
        air__ring_close(p);
    }
    if (!st) air__pins_grow(p);
    air_mutex_unlock(&p->lock);
    return st;
}

void air_pager_trim(air_pager *p)
{
    uint64_t first = (uint64_t)p->plan->n_device_tiles;
    if (!first || p->mappings) return;
    air_mutex_lock(&p->lock);
    int streams = p->elsewhere < first || !p->ring_region;
    for (uint64_t i = first; i < p->n_tiles && !streams; i++) streams = p->slots[p->plan->priority[i]].pin == NULL;
    if (!streams) {
        air__window_cut(p, p->walk);
        air__ring_close(p);
    }
    air_mutex_unlock(&p->lock);
}

int air_pager_read_ahead(air_pager *p)
{
    if (p->mappings) return air__mmap_read_ahead(p);
    air_mutex_lock(&p->lock);
    int more = air__window_fill(p); /* reads that end submit what remains */
    air_mutex_unlock(&p->lock);
    return more;
}

void air_pager_begin(air_pager *p, air_pager_output output)
{
    if (!p->n_tiles) return;
    air_mutex_lock(&p->lock);
    p->no_logits = output == AIR_PAGER_LOGITS ? AIR__NO_PASS : p->walk / p->n_tiles;
    /* A failed pass may have left the walk where it had begun, and in the window what it had no use for. */
    for (uint64_t step = p->walk; !p->mappings && step < p->ahead; step++) {
        const air__slot *slot = &p->slots[step % p->n_tiles];
        int nothing = slot->state == AIR__SLOT_READY && !slot->memory && !slot->elsewhere;
        if (nothing && !air__left_out(p, step)) air__window_cut(p, step);
    }
    air_mutex_unlock(&p->lock);
}

void air_pager_rewind(air_pager *p)
{
    if (!p->n_tiles) return;
    uint64_t start = air_ceil_div(p->walk, p->n_tiles) * p->n_tiles;
    if (p->mappings) {
        p->walk = p->released = start;
        if (p->experts) air__experts_rewind(p->experts);
        return;
    }
    air_mutex_lock(&p->lock);
    if (p->experts) air__experts_rewind(p->experts);
    for (uint64_t step = p->walk; step < p->ahead; step++)
        if (p->slots[step % p->n_tiles].state == AIR__SLOT_FAILED) air__window_cut(p, step);
    if (start >= p->ahead) {
        /* The walk's end is not in the window: nothing of it serves the next pass but the pins. */
        air__window_cut(p, p->walk);
        air__window_release(p, p->walk);
        p->released = p->walk = p->ahead = p->issue = start;
        p->issue_at = 0;
    } else if (start > p->released) {
        air__window_skip(p, start);
    }
    air_mutex_unlock(&p->lock);
}

air_status air_pager_check(air_pager *p, air_error *err)
{
    if (p->mappings) return air__mmap_check(p, err);
    for (uint32_t i = 0; i < p->parts; i++) {
        air_status st = p->sources[i]->check(p->sources[i], err);
        if (st) return st;
    }
    return AIR_OK;
}

static air_pager_stats stats_now(const air_pager *p)
{
    air_pager_stats stats = p->stats;
    stats.pin_target = p->pin_target;
    stats.expert_bytes = p->experts ? air__experts_held(p->experts) : 0;
    stats.expert_target = p->expert_target;
    stats.ring_bytes = p->n_tiles && p->elsewhere == p->n_tiles ? 0 : p->ring_bytes;
    stats.ring_held = p->ring_region ? p->ring_bytes : 0;
    return stats;
}

air_pager_stats air_pager_stats_get(const air_pager *pager)
{
    air_pager *p = (air_pager *)pager; /* reading takes the lock */
    air_mutex_lock(&p->lock);
    air_pager_stats stats = stats_now(p);
    air_mutex_unlock(&p->lock);
    return stats;
}

air_pager_stats air_pager_timeline_stop(air_pager *p)
{
    air_mutex_lock(&p->lock);
    air_timeline_stop(p->timeline);
    air_pager_stats stats = stats_now(p);
    air_mutex_unlock(&p->lock);
    return stats;
}

air_status air_pager_timeline_begin(air_pager *p, uint64_t max_events, air_pager_stats *stats, air_error *err)
{
    air_mutex_lock(&p->lock);
    air_status st = air_timeline_begin(p->timeline, max_events, err);
    *stats = stats_now(p);
    air_mutex_unlock(&p->lock);
    return st;
}

int32_t air_pager_expert_rows(air_pager *p, int32_t layer, uint64_t *rows, int32_t n)
{
    int32_t experts = p->program->mixtures ? p->program->mixtures[layer].n_experts : 0;
    air_mutex_lock(&p->lock);
    for (int32_t i = 0; i < experts && i < n; i++) rows[i] = air__experts_rows(p->experts, layer)[i];
    air_mutex_unlock(&p->lock);
    return experts;
}

const uint64_t *air_pager_layer_stall(const air_pager *pager) { return pager->layer_stall; }
