/* Probes of the disk; those of memory and kernels are in probe_compute.c. */
#include "memory/probe.h"

#include "base/alloc.h"
#include "base/checked.h"
#include "base/random.h"
#include "platform/async_io.h"
#include "platform/clock.h"
#include "platform/pages.h"
#include "platform/threads.h"

enum { MIB = 1 << 20, DEPTH_MOST = 8, CHOICES = 12, FINALISTS = 3, BUFFERS_MOST = 64 * MIB };

#define LATENCY_SHARE 0.05 /* of the time: some hundred reads on an SSD */

typedef struct choice {
    uint64_t block;
    int depth;
    uint64_t bytes, ns; /* read so far, and in what time */
} choice;

typedef struct disk_probe {
    air_source *source;
    air_async_io *io;
    uint8_t *buffers;
    uint64_t buffer_bytes, granule; /* of one of DEPTH_MOST */
    air_io_request requests[DEPTH_MOST];
    air_mutex lock;
    air_cond changed;
    uint64_t trials;
    /* of the trial, under lock */
    choice *now;
    uint64_t place;                 /* the next block's number, modulo those of the file */
    uint64_t stop_ns;
    int active;
    air_error error;
} disk_probe;

static air_status probe_read(void *self, uint64_t offset, void *buffer, size_t bytes, const AIR_ATOMIC(int) *cancel, air_error *err)
{
    air_source *source = self;
    return source->read(source, offset, buffer, bytes, cancel, err);
}

/* A trial starts at a random place and goes on from there, block after block, as the pager walks: disks and what lies between them
 * and us treat that unlike reads at random. Different places, so that no trial lives on what another one left in a cache. */
static void submit(disk_probe *p, air_io_request *request)
{
    uint64_t places = air_max_u64(p->source->bytes / p->now->block, 1);
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
    if (!p->error.status && air_clock_ns() < p->stop_ns) submit(p, request);
    else p->active--;
    air_cond_signal(&p->changed);
    air_mutex_unlock(&p->lock);
}

/* Keeps depth reads in flight for ns. All reads that began are waited for and counted, so the rate has no open end. */
static air_status run_trial(disk_probe *p, choice *c, uint64_t ns, air_error *err)
{
    uint64_t begin = air_clock_ns();
    air_mutex_lock(&p->lock);
    p->now = c;
    p->place = air_random_u64(17, p->trials++) >> 1;
    p->stop_ns = begin + ns;
    p->error.status = AIR_OK;
    for (p->active = 0; p->active < c->depth; p->active++) submit(p, &p->requests[p->active]);
    while (p->active) air_cond_wait(&p->changed, &p->lock);
    air_mutex_unlock(&p->lock);
    c->ns += air_clock_ns() - begin;
    return air_error_copy(err, p->error.status ? &p->error : NULL);
}

static double rate(const choice *c) { return c->ns ? (double)c->bytes * 1e9 / (double)c->ns : 0; }

/* Blocks of 1 to 8 MiB and depths of 2, 4, 8, as far as buffers and the file's size go; the smallest always. */
static int make_choices(const disk_probe *p, choice *choices)
{
    int n = 0;
    for (uint64_t block = p->buffer_bytes < MIB ? p->buffer_bytes : MIB; block <= p->buffer_bytes && block <= 8 * MIB; block *= 2)
        for (int depth = 2; depth <= DEPTH_MOST; depth *= 2) choices[n++] = (choice){.block = block, .depth = depth};
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
 * Within 2 % the smaller reads win: they take less of the ring. */
static air_status choose(disk_probe *p, double seconds, air_bandwidths *out, air_error *err)
{
    choice choices[CHOICES];
    int n = make_choices(p, choices), finalists = n < FINALISTS ? n : FINALISTS;
    air_status st = AIR_OK;
    choice single = {.block = p->granule, .depth = 1};
    if (!st) st = run_trial(p, &single, (uint64_t)(seconds * LATENCY_SHARE * 1e9), err);
    for (int i = 0; i < n && !st; i++) st = run_trial(p, &choices[i], (uint64_t)(seconds * (0.4 - LATENCY_SHARE) * 1e9 / n), err);
    sort_by_rate(choices, n);
    for (int i = 0; i < finalists; i++) choices[i].bytes = choices[i].ns = 0;
    for (int turn = 0; turn < 2; turn++)
        for (int i = 0; i < finalists && !st; i++) st = run_trial(p, &choices[i], (uint64_t)(seconds * 0.6e9 / finalists / 2), err);
    if (st) return st;
    sort_by_rate(choices, finalists);
    const choice *best = &choices[0];
    for (int i = 1; i < finalists; i++)
        if (rate(&choices[i]) > 0.98 * rate(&choices[0]) && choices[i].block * (uint64_t)choices[i].depth < best->block * (uint64_t)best->depth)
            best = &choices[i];
    out->disk = rate(best);
    out->block_bytes = best->block;
    out->depth = best->depth;
    double alone = (double)single.ns / 1e9 * (double)single.block / (double)single.bytes, transfer = (double)single.block / out->disk;
    out->latency_s = alone > transfer ? alone - transfer : 0;
    return AIR_OK;
}

static air_status open_probe(disk_probe *p, air_error *err)
{
    uint64_t share = air_min_u64(BUFFERS_MOST, p->source->bytes) / DEPTH_MOST;
    p->granule = air_max_u64(4096, p->source->alignment);
    p->buffer_bytes = p->granule;
    while (p->buffer_bytes * 2 <= share) p->buffer_bytes *= 2;
    p->buffers = air_pages_alloc((size_t)(DEPTH_MOST * p->buffer_bytes + p->granule));
    if (!p->buffers)
        return air_fail(err, AIR_E_NOMEM, "probe: %llu bytes", (unsigned long long)(DEPTH_MOST * p->buffer_bytes));
    air_pages_huge(p->buffers, (size_t)(DEPTH_MOST * p->buffer_bytes + p->granule)); /* as the ring is */
    uint64_t address = (uint64_t)(uintptr_t)p->buffers;
    uint8_t *aligned = p->buffers + (air_round_up(address, p->granule) - address);
    for (int i = 0; i < DEPTH_MOST; i++)
        p->requests[i] = (air_io_request){
            .read = probe_read, .source = p->source, .buffer = aligned + (uint64_t)i * p->buffer_bytes, .done = probe_done, .context = p};
    return air_async_io_open(&p->io, DEPTH_MOST, err);
}

air_status air_probe_disk(air_source *source, double seconds, air_bandwidths *out, air_error *err)
{
    disk_probe *p = air_calloc(1, sizeof *p);
    if (!p) return air_fail(err, AIR_E_NOMEM, "probe: %zu bytes", sizeof *p);
    p->source = source;
    air_mutex_init(&p->lock);
    air_cond_init(&p->changed);
    air_status st = open_probe(p, err);
    if (!st) st = choose(p, seconds, out, err);
    air_async_io_close(p->io);
    air_pages_free(p->buffers, (size_t)(DEPTH_MOST * p->buffer_bytes + p->granule));
    air_cond_deinit(&p->changed);
    air_mutex_deinit(&p->lock);
    air_free(p);
    return st;
}
