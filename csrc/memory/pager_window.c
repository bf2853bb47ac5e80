/* The window of tiles between the pass and the disk: places in ring and pins, reads in flight. Everything here is under p->lock. */
#include <stdatomic.h>

#include "base/checked.h"
#include "memory/pager_internal.h"
#include "platform/pages.h"

static air__slot *slot_at(air_pager *p, uint64_t step) { return &p->slots[step % p->n_tiles]; }
static const air_tile *tile_at(const air_pager *p, uint64_t step) { return &p->tiles[step % p->n_tiles]; }
static uint64_t memory_of(const air_pager *p, const air_tile *tile) { return air_tile_memory(tile, p->granule); }
static int in_ring(const air__slot *slot) { return slot->ring_begin != slot->ring_end; }

uint64_t air__block_of(const air_pager *p, uint64_t memory)
{
    uint64_t blocks = air_ceil_div(memory, p->plan->block_bytes);
    return air_round_up(air_ceil_div(memory, blocks), p->granule);
}

/* --- reads --- */

static air__read *free_read(air_pager *p)
{
    for (int i = 0; i < p->n_reads; i++)
        if (p->reads[i].state == AIR__READ_FREE) return &p->reads[i];
    return NULL;
}

static air_status read_block(void *self, uint64_t offset, void *buffer, size_t bytes, const AIR_ATOMIC(int) *closing,
                             air_error *err)
{
    air__read *read = self;
    air_source *source = read->pager->sources[tile_at(read->pager, read->step)->part];
    (void)closing; /* the pager cancels each read by itself before it closes the threads */
    if (atomic_load(&read->cancel)) return air_fail(err, AIR_E_CANCELLED, "read cancelled before it began");
    return source->read(source, offset, buffer, bytes, &read->cancel, err);
}

static void submit_reads(air_pager *p);

static void read_done(air_io_request *request)
{
    air__read *read = request->context;
    air_pager *p = read->pager;
    air_mutex_lock(&p->lock);
    air__slot *slot = slot_at(p, read->step);
    const air_tile *tile = tile_at(p, read->step);
    air__note_read(p, AIR_EVENT_READ, request, air__tile_layer(p, tile), tile->weight, (int32_t)(read->step % p->n_tiles));
    read->state = AIR__READ_FREE;
    if (request->error.status) {
        if (!slot->failed) {
            slot->failed = read;
            read->state = AIR__READ_FAILED;
        }
        slot->state = AIR__SLOT_FAILED;
        p->failed = 1;
    } else if (--slot->reads_left == 0 && slot->state == AIR__SLOT_PLACED) {
        slot->state = AIR__SLOT_READY;
        if (!in_ring(slot)) p->stats.pinned_bytes += memory_of(p, tile);
    }
    submit_reads(p);
    air_cond_broadcast(&p->changed);
    air_mutex_unlock(&p->lock);
}

/* Submits the blocks of the tile at issue; 0 if some are left for want of a free request. */
static int submit_tile(air_pager *p, const air__slot *slot, const air_tile *tile)
{
    uint64_t memory = memory_of(p, tile), block = air__block_of(p, memory);
    while (p->issue_at < memory) {
        air__read *read = free_read(p);
        if (!read) return 0;
        uint64_t bytes = air_min_u64(block, memory - p->issue_at);
        read->state = AIR__READ_BUSY;
        read->step = p->issue;
        atomic_store(&read->cancel, 0);
        read->request.read = read_block;
        read->request.source = read;
        read->request.offset = air_round_down(tile->offset, p->granule) + p->issue_at;
        read->request.buffer = slot->memory + p->issue_at;
        read->request.bytes = (size_t)bytes;
        read->request.done = read_done;
        read->request.context = read;
        p->issue_at += bytes;
        air_async_io_submit(p->io, &read->request);
    }
    return 1;
}

static void submit_reads(air_pager *p)
{
    while (p->issue < p->ahead && !p->failed && !p->stopping) {
        const air__slot *slot = slot_at(p, p->issue);
        if (slot->state == AIR__SLOT_PLACED && !submit_tile(p, slot, tile_at(p, p->issue))) return;
        p->issue++;
        p->issue_at = 0;
    }
}

/* --- places --- */

static size_t region_bytes(const air_pager *p, uint64_t bytes)
{
    return (size_t)(bytes + (p->granule > air_page_bytes() ? p->granule : 0));
}

/* A region that will be locked is no child's: none of an engine's is of use there. */
uint8_t *air__region_alloc(const air_pager *p, uint64_t bytes)
{
    uint8_t *region = air_pages_alloc(region_bytes(p, bytes));
    if (region && p->api) air_pages_not_for_children(region, region_bytes(p, bytes));
    return region;
}

/* Huge pages: a direct read takes hold of each page it fills. On a virtual disk of 2.7 GB/s that is what 2 MiB pages reach;
 * with pages of 4 KiB it was 1.1. */
void air__region_huge(const air_pager *p, uint8_t *region, uint64_t bytes)
{
    if (region) air_pages_huge(region, region_bytes(p, bytes));
}

void air__region_free(const air_pager *p, uint8_t *region, uint64_t bytes) { air_pages_free(region, region_bytes(p, bytes)); }

uint8_t *air__region_data(const air_pager *p, uint8_t *region)
{
    uint64_t address = (uint64_t)(uintptr_t)region;
    return region + (air_round_up(address, p->granule) - address);
}

int air__pages_lock(const air_pager *p, uint8_t *memory, uint64_t bytes)
{
    return p->api && p->api->lock_pages(p->backend, memory, (size_t)bytes);
}

void air__pages_unlock(const air_pager *p, uint8_t *memory) { p->api->unlock_pages(p->backend, memory); }

air_status air__ring_open(air_pager *p, air_error *err)
{
    if (p->ring_region || !p->n_tiles) return AIR_OK;
    air_status st = air_budget_reserve(p->budget, AIR_HOLD_RING, p->ring_bytes, err);
    if (st) return st;
    p->ring_region = air__region_alloc(p, p->ring_bytes);
    air__region_huge(p, p->ring_region, p->ring_bytes);
    if (!p->ring_region) {
        air_budget_release(p->budget, AIR_HOLD_RING, p->ring_bytes);
        return air_fail(err, AIR_E_NOMEM, "ring: %llu bytes", (unsigned long long)p->ring_bytes);
    }
    p->ring = air__region_data(p, p->ring_region);
    p->ring_locked = air__pages_lock(p, p->ring, p->ring_bytes);
    p->head = p->tail = 0;
    return AIR_OK;
}

void air__ring_close(air_pager *p)
{
    if (!p->ring_region) return;
    if (p->ring_locked) air__pages_unlock(p, p->ring);
    p->ring_locked = 0;
    air__region_free(p, p->ring_region, p->ring_bytes);
    air_budget_release(p->budget, AIR_HOLD_RING, p->ring_bytes);
    p->ring = p->ring_region = NULL;
}

static int place_in_ring(air_pager *p, air__slot *slot, uint64_t memory)
{
    if (!p->ring || memory > p->ring_bytes) return 0;
    if (p->head == p->tail) p->head = p->tail = air_ceil_div(p->head, p->ring_bytes) * p->ring_bytes;
    uint64_t begin = p->head, rest = p->ring_bytes - begin % p->ring_bytes;
    if (memory > rest) begin += rest; /* one piece: what is left before the wrap stays unused this time */
    if (begin + memory - p->tail > p->ring_bytes) return 0;
    slot->ring_begin = p->head;
    slot->ring_end = p->head = begin + memory;
    slot->memory = p->ring + begin % p->ring_bytes;
    return 1;
}

/* A pin is locked when it is first to be filled: that takes as long as touching its pages, which the read would else wait for. */
static int place_in_pin(const air_pager *p, air__slot *slot, uint64_t memory, int *locked)
{
    if (!slot->pin) return 0;
    *locked = !slot->pin_locked && air__pages_lock(p, slot->pin, memory);
    slot->pin_locked |= *locked;
    slot->ring_begin = slot->ring_end = p->head;
    slot->memory = slot->pin;
    return 1;
}

/* One new lock a call: it takes milliseconds, in which neither reads that end nor the walker go on. */
int air__window_fill(air_pager *p)
{
    int locked = 0;
    while (p->ahead - p->released < p->n_tiles && !p->failed && !locked) {
        air__slot *slot = slot_at(p, p->ahead);
        if (slot->state == AIR__SLOT_EMPTY && air__left_out(p, p->ahead)) {
            slot->state = AIR__SLOT_READY;
            slot->ring_begin = slot->ring_end = p->head;
        } else if (slot->state == AIR__SLOT_EMPTY) {
            uint64_t memory = memory_of(p, tile_at(p, p->ahead));
            if (!place_in_pin(p, slot, memory, &locked) && !place_in_ring(p, slot, memory)) break;
            slot->state = AIR__SLOT_PLACED;
            slot->fresh = 1;
            slot->reads_left = (uint32_t)air_ceil_div(memory, air__block_of(p, memory));
        }
        p->ahead++;
    }
    submit_reads(p);
    return locked;
}

/* --- the ends of the window --- */

/* Forgets what a step holds, with no read of it in flight. A pin that is complete stays so. */
static void drop_step(air_pager *p, uint64_t step)
{
    air__slot *slot = slot_at(p, step);
    if (slot->failed) slot->failed->state = AIR__READ_FREE;
    slot->failed = NULL;
    if (!in_ring(slot) && slot->state == AIR__SLOT_READY && slot->memory) return;
    slot->state = slot->elsewhere ? AIR__SLOT_READY : AIR__SLOT_EMPTY;
    slot->memory = NULL;
}

void air__window_release(air_pager *p, uint64_t step)
{
    for (; p->released <= step && p->released < p->walk; p->released++) {
        air__slot *slot = slot_at(p, p->released);
        if (in_ring(slot)) p->tail = slot->ring_end;
        drop_step(p, p->released);
        slot->ring_begin = slot->ring_end = 0;
    }
}

static int busy_between(const air_pager *p, uint64_t begin, uint64_t end)
{
    for (int i = 0; i < p->n_reads; i++)
        if (p->reads[i].state == AIR__READ_BUSY && p->reads[i].step >= begin && p->reads[i].step < end) return 1;
    return 0;
}

static void cancel_reads(air_pager *p, uint64_t begin, uint64_t end)
{
    for (int i = 0; i < p->n_reads; i++)
        if (p->reads[i].step >= begin && p->reads[i].step < end) atomic_store(&p->reads[i].cancel, 1);
    while (busy_between(p, begin, end)) air_cond_wait(&p->changed, &p->lock);
}

/* Whether a step of the window has failed; submitting goes on when none has. */
static void find_failures(air_pager *p)
{
    p->failed = 0;
    for (uint64_t step = p->released; step < p->ahead; step++) p->failed |= slot_at(p, step)->state == AIR__SLOT_FAILED;
}

void air__window_cut(air_pager *p, uint64_t step)
{
    if (step >= p->ahead) return;
    uint64_t end = p->ahead;
    p->ahead = step; /* from here on reads that end submit nothing beyond it */
    if (p->issue >= step) {
        p->issue = step;
        p->issue_at = 0;
    }
    cancel_reads(p, step, end);
    while (end-- > step) {
        air__slot *slot = slot_at(p, end);
        if (in_ring(slot)) p->head = slot->ring_begin;
        drop_step(p, end);
        slot->ring_begin = slot->ring_end = 0;
    }
    find_failures(p);
}

void air__window_skip(air_pager *p, uint64_t step)
{
    p->failed = 1; /* holds back new reads until the window stands */
    cancel_reads(p, p->released, step);
    p->walk = step;
    air__window_release(p, step - 1);
    if (p->issue < step) {
        p->issue = step;
        p->issue_at = 0;
    }
    find_failures(p);
}
