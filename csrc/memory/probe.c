/* Probes of the disk; those of memory and kernels are in probe_compute.c. */
#include "memory/probe.h"

#include <stdatomic.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/random.h"
#include "platform/async_io.h"
#include "platform/clock.h"
#include "platform/pages.h"
#include "platform/threads.h"

enum { MIB = 1 << 20, DEPTH_MOST = 8, CHOICES = 12, FINALISTS = 3, RING_MOST = 32 * MIB };

enum { SMALL_READ = 64 * 1024 }; /* what plans of tiny budgets read at once; a page is faster than its share of that */
#define LATENCY_SHARE 0.05       /* of the time: a hundred reads and more on an SSD */

typedef struct choice {
    uint64_t block;
    int depth;
    uint64_t bytes, ns; /* read so far, and in what time */
} choice;

typedef struct disk_probe {
    air_source *source;
    air_async_io *io;
    air_probe_watch watch;
    uint64_t asked_ns;              /* when watch was asked last */
    AIR_ATOMIC(int) cancel;         /* it said stop */
    uint8_t *region, *ring;         /* what reads fill in turns: as much of it as a plan would take for the trial's choice */
    uint8_t *small;                 /* on small pages, as rings of tiny budgets are: that costs a direct read as much again */
    uint64_t ring_bytes, granule;
    air_io_request requests[DEPTH_MOST];
    air_mutex lock;
    air_cond changed;
    uint64_t trials;
    /* of the trial, under lock */
    choice *now;
    uint8_t *target;                /* where reads go, round and round over so many blocks */
    uint64_t blocks, turns[DEPTH_MOST];
    uint64_t place;                 /* the next block's number, modulo those of the file */
    uint64_t stop_ns;
    int active;
    air_error error;
} disk_probe;

static air_status probe_read(void *self, uint64_t offset, void *buffer, size_t bytes, const AIR_ATOMIC(int) *closing, air_error *err)
{
    disk_probe *p = self;
    (void)closing; /* trials wait for their reads before the pool closes */
    return p->source->read(p->source, offset, buffer, bytes, &p->cancel, err);
}

static void ask_watch(disk_probe *p)
{
    uint64_t now = air_clock_ns();
    if (!p->watch.stop || now - p->asked_ns < AIR_PROBE_SLICE_NS || atomic_load(&p->cancel)) return;
    p->asked_ns = now;
    if (p->watch.stop(p->watch.context)) atomic_store(&p->cancel, 1);
}

/* A trial starts at a random place and goes on from there, block after block into a ring, as the pager walks: disks and what lies
 * between them and us treat that unlike reads at random, and reads into few bytes of memory stay in the last cache, which those into
 * many do not. Different places, so that no trial lives on what another one left in a cache. Each request has blocks of its own, every
 * depth-th: however late one is, no other reads into the same. */
static void submit(disk_probe *p, air_io_request *request)
{
    uint64_t i = (uint64_t)(request - p->requests), depth = (uint64_t)p->now->depth;
    uint64_t places = air_max_u64(p->source->bytes / p->now->block, 1);
    uint64_t own = (p->blocks - i + depth - 1) / depth;
    request->buffer = p->target + (i + p->turns[i]++ % own * depth) * p->now->block;
    request->offset = p->place++ % places * p->now->block;
    request->bytes = (size_t)p->now->block;
    air_async_io_submit(p->io, request);
}

static void probe_done(air_io_request *request)
{
    disk_probe *p = request->context;
    air_mutex_lock(&p->lock);
    if (request->error.status) (void)air_error_copy(&p->error, &request->error);
    else p->now->bytes += request->bytes;
    if (!p->error.status && !atomic_load(&p->cancel) && air_clock_ns() < p->stop_ns) submit(p, request);
    else p->active--;
    air_cond_signal(&p->changed);
    air_mutex_unlock(&p->lock);
}

/* Keeps depth reads into target in flight for ns. All reads that began are waited for and counted, so the rate has no open end. */
static air_status run_trial(disk_probe *p, choice *c, uint64_t ns, air_error *err)
{
    uint64_t begin = air_clock_ns();
    ask_watch(p);
    air_mutex_lock(&p->lock);
    p->now = c;
    p->place = air_random_u64(17, p->trials++) >> 1;
    p->stop_ns = begin + ns;
    p->error.status = AIR_OK;
    for (p->active = 0; p->active < c->depth; p->active++) submit(p, &p->requests[p->active]);
    while (p->active) {
        (void)air_cond_wait_for(&p->changed, &p->lock, AIR_PROBE_SLICE_NS);
        ask_watch(p);
    }
    air_mutex_unlock(&p->lock);
    c->ns += air_clock_ns() - begin;
    if (atomic_load(&p->cancel)) return air_fail(err, AIR_E_CANCELLED, "probe cancelled");
    return air_error_copy(err, p->error.status ? &p->error : NULL);
}

static double rate(const choice *c) { return c->ns ? (double)c->bytes * 1e9 / (double)c->ns : 0; }

static air_status run_in_ring(disk_probe *p, choice *c, double seconds, air_error *err)
{
    p->target = p->ring;
    p->blocks = air_min_u64(air_ring_wanted(c->block, c->depth), p->ring_bytes) / c->block;
    return run_trial(p, c, (uint64_t)(seconds * 1e9), err);
}

/* Blocks of 1 to 8 MiB and depths of 2, 4, 8, as far as the largest ring and the file's size go; the smallest always. */
static int make_choices(const disk_probe *p, choice *choices)
{
    int n = 0;
    uint64_t least = p->granule;
    while (least < MIB && 2 * least * 2 * DEPTH_MOST <= p->ring_bytes) least *= 2;
    for (uint64_t block = least; block <= 8 * MIB; block *= 2)
        for (int depth = 2; depth <= DEPTH_MOST; depth *= 2)
            if (block == least || 2 * (uint64_t)depth * block <= p->ring_bytes) choices[n++] = (choice){.block = block, .depth = depth};
    return n;
}

static void sort_by_rate(choice *choices, int n)
{
    for (int i = 1; i < n; i++)
        for (int j = i; j > 0 && rate(&choices[j]) > rate(&choices[j - 1]); j--) {
            choice t = choices[j];
            choices[j] = choices[j - 1];
            choices[j - 1] = t;
        }
}

/* A short look at all, then the rest of the time for the best, from fresh counts: the first look's luck must not stay in the figure.
 * Within 5 % the smaller reads win: their ring leaves more for pins. */
static air_status choose(disk_probe *p, double seconds, air_bandwidths *out, air_error *err)
{
    choice choices[CHOICES];
    int n = make_choices(p, choices), finalists = n < FINALISTS ? n : FINALISTS;
    air_status st = AIR_OK;
    for (int i = 0; i < n && !st; i++) st = run_in_ring(p, &choices[i], seconds * 0.4 / n, err);
    sort_by_rate(choices, n);
    for (int i = 0; i < finalists; i++) choices[i].bytes = choices[i].ns = 0;
    for (int turn = 0; turn < 2; turn++)
        for (int i = 0; i < finalists && !st; i++) st = run_in_ring(p, &choices[i], seconds * 0.6 / finalists / 2, err);
    if (st) return st;
    sort_by_rate(choices, finalists);
    const choice *best = &choices[0];
    for (int i = 1; i < finalists; i++) {
        const choice *other = &choices[i];
        int smaller = other->block * (uint64_t)other->depth < best->block * (uint64_t)best->depth;
        if (smaller && rate(other) > 0.95 * rate(&choices[0])) best = other;
    }
    out->disk = rate(best);
    out->block_bytes = best->block;
    out->depth = best->depth;
    return AIR_OK;
}

static uint8_t *aligned(const disk_probe *p, uint8_t *memory)
{
    uint64_t address = (uint64_t)(uintptr_t)memory;
    return memory + (air_round_up(address, p->granule) - address);
}

static size_t small_bytes(const disk_probe *p) { return (size_t)(air_max_u64(p->granule, SMALL_READ) + p->granule); }

/* One read after the other, each asked for and waited for by this thread, as the walker does: waking up is a part of it. */
static air_status find_latency(disk_probe *p, double seconds, air_bandwidths *out, air_error *err)
{
    choice single = {.block = air_max_u64(p->granule, SMALL_READ), .depth = 1};
    p->target = aligned(p, p->small);
    p->blocks = 1;
    uint64_t until = air_clock_ns() + (uint64_t)(seconds * 1e9);
    air_status st;
    do st = run_trial(p, &single, 0, err);
    while (!st && air_clock_ns() < until);
    if (st) return st;
    double alone = (double)single.ns / 1e9 * (double)single.block / (double)single.bytes, transfer = (double)single.block / out->disk;
    out->latency_s = alone > transfer ? alone - transfer : 0;
    return AIR_OK;
}

static air_status open_probe(disk_probe *p, air_error *err)
{
    p->granule = air_max_u64(4096, p->source->alignment);
    p->ring_bytes = air_max_u64(air_min_u64(RING_MOST, p->source->bytes), 2 * DEPTH_MOST * p->granule);
    p->region = air_pages_alloc((size_t)(p->ring_bytes + p->granule));
    p->small = air_pages_alloc(small_bytes(p));
    if (!p->region || !p->small) return air_fail(err, AIR_E_NOMEM, "probe: %llu bytes", (unsigned long long)p->ring_bytes);
    air_pages_huge(p->region, (size_t)(p->ring_bytes + p->granule)); /* as the pager's ring is */
    p->ring = aligned(p, p->region);
    for (int i = 0; i < DEPTH_MOST; i++)
        p->requests[i] = (air_io_request){.read = probe_read, .source = p, .done = probe_done, .context = p};
    return air_async_io_open(&p->io, DEPTH_MOST, err);
}

air_status air_probe_disk(air_source *source, double seconds, air_probe_watch watch, air_bandwidths *out, air_error *err)
{
    disk_probe *p = air_calloc(1, sizeof *p);
    if (!p) return air_fail(err, AIR_E_NOMEM, "probe: %zu bytes", sizeof *p);
    p->source = source;
    p->watch = watch;
    p->asked_ns = air_clock_ns();
    air_mutex_init(&p->lock);
    air_cond_init(&p->changed);
    air_status st = open_probe(p, err);
    if (!st) st = choose(p, (1 - LATENCY_SHARE) * seconds, out, err);
    if (!st) st = find_latency(p, LATENCY_SHARE * seconds, out, err);
    air_async_io_close(p->io);
    air_pages_free(p->small, small_bytes(p));
    air_pages_free(p->region, (size_t)(p->ring_bytes + p->granule));
    air_cond_deinit(&p->changed);
    air_mutex_deinit(&p->lock);
    air_free(p);
    return st;
}
