/* Small reads: vectors at open, rows of tables in a pass. Some are in flight at a time, their results are taken in order. */
#include <stdatomic.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "memory/pager_internal.h"
#include "memory/tiles.h"
#include "platform/clock.h"

/* Some blocks of a weight in the file, and where their floats go. */
typedef struct small_item {
    const air_weight *weight;
    uint64_t offset, bytes;
    float *out;
} small_item;

/* What one run reads: rows of one table, or all vectors. */
typedef struct small_job {
    const air_pager *pager;
    int32_t table;         /* AIR_NONE: the vectors */
    const int32_t *rows;   /* of the table */
    const int32_t *vectors;/* weight numbers */
    int64_t n;
    float *out;            /* rows of the table */
} small_job;

static small_item item_at(const small_job *job, int64_t i)
{
    const air_weight *weights = job->pager->program->weights;
    if (job->table == AIR_NONE) {
        const air_weight *w = &weights[job->vectors[i]];
        /* The floats lie in memory of ours; only readers see them as const. */
        float *out = job->pager->vectors + (job->pager->vector_of[job->vectors[i]] - job->pager->vectors);
        return (small_item){w, w->offset, (uint64_t)w->rows * w->row_bytes, out};
    }
    const air_weight *w = &weights[job->table];
    return (small_item){w, w->offset + (uint64_t)job->rows[i] * w->row_bytes, w->row_bytes, job->out + i * w->cols};
}

static void decode(const small_item *item, const uint8_t *data)
{
    const air_format *format = air_format_by_id(item->weight->type);
    format->decode(data, item->out, (int64_t)(item->bytes / format->bytes));
}

/* --- reads --- */

static air_status read_small(void *self, uint64_t offset, void *buffer, size_t bytes, const AIR_ATOMIC(int) *closing,
                             air_error *err)
{
    air__small *small = self;
    air_source *source = small->request.context;
    (void)closing;
    if (atomic_load(&small->cancel)) return air_fail(err, AIR_E_CANCELLED, "read cancelled before it began");
    return source->read(source, offset, buffer, bytes, &small->cancel, err);
}

static void small_done(air_io_request *request)
{
    air__small *small = request->source;
    air_pager *p = small->pager;
    air_mutex_lock(&p->lock);
    air__note_read(p, AIR_EVENT_ROW, request, p->program->n_layers, small->weight, AIR_NONE);
    small->busy = 0;
    air_cond_broadcast(&p->changed);
    air_mutex_unlock(&p->lock);
}

static void submit(air_pager *p, air__small *small, const small_item *item)
{
    uint64_t begin = air_round_down(item->offset, p->granule), end = air_round_up(item->offset + item->bytes, p->granule);
    small->busy = 1;
    small->weight = (int32_t)(item->weight - p->program->weights);
    atomic_store(&small->cancel, 0);
    small->request.read = read_small;
    small->request.source = small;
    small->request.offset = begin;
    small->request.buffer = small->buffer;
    small->request.bytes = (size_t)(end - begin);
    small->request.done = small_done;
    small->request.context = p->sources[item->weight->part];
    air_async_io_submit(p->io, &small->request);
}

static air_status wait_for(air_pager *p, const air__small *small, air_error *err)
{
    while (small->busy) {
        if (air__pager_cancelled(p)) return air_fail(err, AIR_E_CANCELLED, "pass cancelled");
        (void)air_cond_wait_for(&p->changed, &p->lock, AIR__WAIT_SLICE_NS);
    }
    return AIR_OK;
}

/* Ends a run that was given up: its reads may still stand in the queue behind others. */
static air_status wait_for_all(air_pager *p, air_error *err)
{
    air_status st = AIR_OK;
    for (int i = 0; i < p->n_small && !st; i++) st = wait_for(p, &p->small[i], err);
    return st;
}

static void cancel_all(air_pager *p)
{
    for (int i = 0; i < p->n_small; i++) atomic_store(&p->small[i].cancel, 1);
}

void air__small_drain(air_pager *p)
{
    cancel_all(p);
    for (int i = 0; i < p->n_small; i++)
        while (p->small[i].busy) air_cond_wait(&p->changed, &p->lock);
}

/* --- rows that were read before --- */

static air__kept_row *kept_row(const air_pager *p, int64_t i)
{
    return (air__kept_row *)(void *)(p->kept_rows + (uint64_t)i * p->kept_row_bytes);
}

/* The place of an item's row among them, NULL where there is none. */
static air__kept_row *place_of(const small_job *job, int64_t i)
{
    int64_t n = job->pager->plan->kept_rows;
    return job->table == AIR_NONE || !n ? NULL : kept_row(job->pager, job->rows[i] % n);
}

/* Decodes an item if it is there. Outside of the lock. */
static int decode_kept(const small_job *job, int64_t i)
{
    const air__kept_row *kept = place_of(job, i);
    if (!kept || kept->weight != job->table || kept->row != job->rows[i]) return 0;
    small_item item = item_at(job, i);
    decode(&item, kept->data);
    return 1;
}

static void keep_row(const small_job *job, int64_t i, const uint8_t *data)
{
    air__kept_row *kept = place_of(job, i);
    if (!kept) return;
    kept->weight = job->table;
    kept->row = job->rows[i];
    memcpy(kept->data, data, (size_t)job->pager->program->weights[job->table].row_bytes);
}

/* Under the lock, but while it decodes. */
static void ask(air_pager *p, air__small *small, const small_job *job, int64_t i)
{
    small_item item = item_at(job, i);
    air_mutex_unlock(&p->lock);
    small->done = decode_kept(job, i);
    air_mutex_lock(&p->lock);
    if (small->done) p->stats.ram_bytes += item.bytes;
    else submit(p, small, &item);
}

/* Items go round over the buffers, so the oldest read is always the next to be taken. Decoding is done outside of the lock. */
static air_status run_direct(air_pager *p, const small_job *job, air_error *err)
{
    air_mutex_lock(&p->lock);
    air_status st = wait_for_all(p, err);
    int64_t asked = 0;
    for (int64_t i = 0; i < job->n && !st; i++) {
        for (; asked < job->n && asked < i + p->n_small; asked++) ask(p, &p->small[asked % p->n_small], job, asked);
        const air__small *small = &p->small[i % p->n_small];
        if (small->done) continue;
        uint64_t begin = air_clock_ns();
        st = wait_for(p, small, err);
        if (!st && small->request.error.status) st = air_error_copy(err, &small->request.error);
        air__note_stall(p, begin, p->program->n_layers, small->weight, AIR_NONE);
        if (st) break;
        small_item item = item_at(job, i);
        air_mutex_unlock(&p->lock);
        decode(&item, small->buffer + item.offset % p->granule);
        keep_row(job, i, small->buffer + item.offset % p->granule);
        air_mutex_lock(&p->lock);
    }
    if (st) cancel_all(p); /* what is in flight ends in buffers that stay; the next run waits for it */
    air_mutex_unlock(&p->lock);
    return st;
}

static air_status run(air_pager *p, const small_job *job, air_error *err)
{
    if (!p->mappings) return run_direct(p, job, err);
    for (int64_t i = 0; i < job->n; i++) {
        small_item item = item_at(job, i);
        decode(&item, air_mapping_data(p->mappings[item.weight->part]) + item.offset);
    }
    return AIR_OK;
}

/* --- what the pager needs --- */

air_status air__gather(void *self, int32_t weight, const int32_t *rows, int64_t n, float *out, air_error *err)
{
    air_pager *p = self;
    if (weight < 0 || weight >= p->program->n_weights || p->program->weights[weight].use != AIR_WEIGHT_TABLE)
        return air_fail(err, AIR_E_ARGUMENT, "weight %d is not a table", (int)weight);
    for (int64_t i = 0; i < n; i++)
        if (rows[i] < 0 || rows[i] >= p->program->weights[weight].rows)
            return air_fail(err, AIR_E_ARGUMENT, "%s has %lld rows, row %d is asked for", p->program->weights[weight].name,
                            (long long)p->program->weights[weight].rows, (int)rows[i]);
    small_job job = {.pager = p, .table = weight, .rows = rows, .n = n, .out = out};
    return run(p, &job, err);
}

static uint64_t kept_rows_memory(const air_pager *p) { return (uint64_t)p->plan->kept_rows * p->kept_row_bytes; }

static air_status open_kept_rows(air_pager *p, air_error *err)
{
    int64_t n = p->plan->kept_rows;
    if (!n) return AIR_OK;
    uint64_t rows;
    p->kept_row_bytes = air__table_row(p->program, &rows);
    air_status st = air_budget_reserve(p->budget, AIR_HOLD_RING, kept_rows_memory(p), err);
    if (st) {
        p->kept_row_bytes = 0;
        return st;
    }
    p->kept_rows = air_malloc((size_t)kept_rows_memory(p));
    if (!p->kept_rows)
        return air_fail(err, AIR_E_NOMEM, "pager: %lld rows of %llu bytes", (long long)n, (unsigned long long)p->kept_row_bytes);
    for (int64_t i = 0; i < n; i++) kept_row(p, i)->weight = AIR_NONE;
    return AIR_OK;
}

air_status air__small_open(air_pager *p, air_error *err)
{
    p->small_bytes = air__small_memory(p->program, p->granule);
    if (!p->small_bytes) return AIR_OK;
    uint64_t count = (uint64_t)p->n_reads / 2, bytes = count * p->small_bytes;
    air_status st = air_budget_reserve(p->budget, AIR_HOLD_RING, bytes, err);
    if (st) return st;
    p->small = air_calloc((size_t)count, sizeof *p->small);
    if (p->small) p->small_region = air__region_alloc(p, bytes);
    air__region_huge(p, p->small_region, bytes);
    if (!p->small_region) {
        air_budget_release(p->budget, AIR_HOLD_RING, bytes);
        return air_fail(err, AIR_E_NOMEM, "pager: %llu bytes for small reads", (unsigned long long)bytes);
    }
    p->n_small = (int)count;
    for (uint64_t i = 0; i < count; i++) {
        p->small[i].pager = p;
        p->small[i].buffer = air__region_data(p, p->small_region) + i * p->small_bytes;
    }
    return open_kept_rows(p, err);
}

void air__small_close(air_pager *p)
{
    uint64_t bytes = (uint64_t)p->n_small * p->small_bytes;
    air__region_free(p, p->small_region, bytes);
    air_free(p->small);
    air_budget_release(p->budget, AIR_HOLD_RING, bytes);
    air_free(p->kept_rows);
    air_budget_release(p->budget, AIR_HOLD_RING, kept_rows_memory(p));
    air_budget_release(p->budget, AIR_HOLD_VECTORS, p->vector_bytes);
    air_free(p->vectors);
    air_free(p->vector_of);
}

/* Each vector starts on a cache line. */
static uint64_t vector_floats(const air_weight *w) { return air_round_up((uint64_t)(w->rows * w->cols), 16); }

air_status air__vectors_load(air_pager *p, air_error *err)
{
    const air_program *program = p->program;
    size_t n_weights = (size_t)program->n_weights;
    int64_t n = 0;
    uint64_t floats = 0;
    for (size_t i = 0; i < n_weights; i++) {
        if (program->weights[i].use != AIR_WEIGHT_VECTOR) continue;
        floats += vector_floats(&program->weights[i]);
        n++;
    }
    air_status st = air_budget_reserve(p->budget, AIR_HOLD_VECTORS, floats * sizeof(float), err);
    if (st) return st;
    p->vector_bytes = floats * sizeof(float);
    p->vectors = air_malloc((size_t)p->vector_bytes);
    p->vector_of = air_calloc(n_weights, sizeof *p->vector_of);
    int32_t *numbers = air_calloc((size_t)n, sizeof *numbers);
    if (!p->vectors || !p->vector_of || !numbers) {
        air_free(numbers);
        return air_fail(err, AIR_E_NOMEM, "pager: %llu bytes of small weights", (unsigned long long)p->vector_bytes);
    }
    float *at = p->vectors;
    n = 0;
    for (size_t i = 0; i < n_weights; i++) {
        if (program->weights[i].use != AIR_WEIGHT_VECTOR) continue;
        p->vector_of[i] = at;
        at += vector_floats(&program->weights[i]);
        numbers[n++] = (int32_t)i;
    }
    small_job job = {.pager = p, .table = AIR_NONE, .vectors = numbers, .n = n};
    st = run(p, &job, err);
    air_free(numbers);
    return st;
}
