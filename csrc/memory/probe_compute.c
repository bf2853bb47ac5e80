/* Probes of memory and kernels: what all threads together get through, reading from memory larger than any cache. */
#include <stdatomic.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "kernels/ops.h"
#include "memory/probe.h"
#include "memory/probe_internal.h"
#include "platform/clock.h"
#include "platform/pages.h"
#include "platform/pool.h"
#include "quant/format.h"

enum {
    K = 4096,            /* columns of the matrices: a multiple of every block */
    MANY = 64,           /* columns of activations that count as many */
    ROWS_AT_ONCE = 64,   /* what a thread takes from the deal */
    ROWS_MANY = 16,
    SIDE_BY_SIDE = 4,    /* rows that plain reading takes at a time */
    TURNS = 64,          /* that are looked at, at most */
    TURNS_IN_TIME = 16,
    BYTES_MOST = 512 * 1024 * 1024, /* several times the last cache of any host, of which a guest may see a part */
    BYTES_IN_TIME = 128 * 1024 * 1024, /* that are filled however long it takes, where so many are allowed */
    FILL_SLICE = 8 * 1024 * 1024, /* filled at a time: a guest's first touch of its host's memory has been seen at 250 MB/s */
    MIB = 1 << 20,
    /* Every byte of the weights. As a half it is 0.066, as a float 2.4e-12, and any power of two or quant is a moderate number:
     * no denormals, no NaN, in any format. Kernels take the same time for all such values. */
    FILL = 0x2c,
};

#define OPS_SHARE 0.05 /* of the time: tens of passes */

typedef struct compute_probe {
    air_pool *pool;
    const air_ops *ops;
    int threads;
    uint8_t *weights;
    uint64_t bytes, filled; /* allocated; of them, in memory and used */
    /* activations of MANY columns */
    float *x, *y, *row; /* y [threads][MANY * ROWS_AT_ONCE], row [threads][K] */
    void *q8;
    /* the trial */
    const air_format *format; /* NULL: plain reading */
    int64_t columns, rows_at_once;
    int64_t places, place; /* chunks of rows_at_once in the weights; the next turn's first */
    air_pool_job job;
    AIR_ATOMIC(uint64_t) sink; /* so that what was read is used */
    air_probe_watch watch;
    uint64_t asked_ns;     /* when watch was asked last */
    int stop;              /* what it said */
} compute_probe;

static air_columns columns_of(const compute_probe *p, int64_t n)
{
    return (air_columns){.k = K, .n = n, .f32 = p->x, .f32_stride = K, .q8 = air_q8_place(p->q8, K, MANY)};
}

/* Rows of K bytes, so many at a time, a multiple of SIDE_BY_SIDE: each is a page, which hardware follows on its own. Memory gave up to
 * half as much again as to one row after the other, with prefetches or without (Zen 3: 36 GB/s, 24 to 28). */
static uint64_t sum_rows(const uint64_t *words, int64_t rows)
{
    enum { WORDS = K / sizeof(uint64_t) };
    uint64_t sums[8] = {0};
    for (int64_t row = 0; row < rows; row += SIDE_BY_SIDE, words += SIDE_BY_SIDE * WORDS)
        for (int i = 0; i < WORDS; i += 8)
            for (int side = 0; side < SIDE_BY_SIDE; side++)
                for (int j = 0; j < 8; j++) sums[j] += words[side * WORDS + i + j];
    return sums[0] + sums[1] + sums[2] + sums[3] + sums[4] + sums[5] + sums[6] + sums[7];
}

/* Rows of one format, as the CPU backend computes them: straight from the packed bytes, or a row decoded first. */
static void multiply(const compute_probe *p, int index, const uint8_t *w, size_t row_bytes, int64_t rows)
{
    air_columns x = columns_of(p, p->columns);
    const air_product *product = &p->ops->product[p->format->id];
    float *y = p->y + (int64_t)index * MANY * ROWS_AT_ONCE, *row = p->row + (int64_t)index * K;
    if (product->fn) {
        product->fn(w, row_bytes, rows, &x, y, ROWS_AT_ONCE);
        return;
    }
    for (int64_t r = 0; r < rows; r++) {
        p->format->decode(w + (size_t)r * row_bytes, row, K / p->format->block);
        p->ops->product[AIR_TYPE_F32].fn(row, K * sizeof *row, 1, &x, y + r, ROWS_AT_ONCE);
    }
}

static size_t row_bytes_of(const air_format *format) { return format ? K / format->block * (size_t)format->bytes : K; }

static void trial_body(void *context, int index)
{
    compute_probe *p = context;
    size_t row_bytes = row_bytes_of(p->format);
    uint64_t sum = 0;
    for (int64_t chunk; (chunk = air_pool_job_take(&p->job)) >= 0;) {
        const uint8_t *w = p->weights + (size_t)((p->place + chunk) % p->places * p->rows_at_once) * row_bytes;
        if (p->format) multiply(p, index, w, row_bytes, p->rows_at_once);
        else sum += sum_rows((const uint64_t *)(const void *)w, p->rows_at_once);
    }
    atomic_fetch_add(&p->sink, sum);
}

static double turn_seconds(compute_probe *p, int64_t chunks)
{
    air_pool_job_reset(&p->job, chunks);
    uint64_t begin = air_clock_ns();
    air_pool_run(p->pool, trial_body, p);
    double seconds = (double)(air_clock_ns() - begin + 1) * 1e-9;
    p->place = (p->place + chunks) % p->places;
    return seconds;
}

static int ask(compute_probe *p)
{
    p->asked_ns = air_clock_ns();
    if (!p->stop && p->watch.stop) p->stop = p->watch.stop(p->watch.context) != 0;
    return p->stop;
}

static int stopped(compute_probe *p) { return p->stop || (air_clock_ns() - p->asked_ns >= AIR_PROBE_SLICE_NS && ask(p)); }

/* Chunks whose turn takes about seconds; one for each thread where that takes longer. */
static int64_t chunks_for(compute_probe *p, double seconds)
{
    int64_t chunks = p->threads;
    while (turn_seconds(p, chunks) < seconds / 2 && !stopped(p)) chunks *= 2;
    return chunks;
}

double air__quantile(double *values, int n, double share)
{
    for (int i = 1; i < n; i++)
        for (int j = i; j > 0 && values[j] < values[j - 1]; j--) {
            double t = values[j];
            values[j] = values[j - 1];
            values[j - 1] = t;
        }
    return values[(int)(share * n)];
}

/* Bytes per second that share of the turns do not reach: memory's is a bound, which one turn in four may exceed, a product's what is to
 * be expected. Others use the machine as well, and now and then a turn has luck with a clock or a cache. A turn begins where the last
 * one ended, so that it finds in a cache only what a buffer of this size leaves there. */
static double typical_rate(compute_probe *p, const air_format *format, int64_t columns, double share, double seconds)
{
    double rates[TURNS];
    int turns = 0;
    uint64_t until = air_clock_ns() + (uint64_t)(seconds * 1e9);
    int64_t all = (int64_t)(p->filled / row_bytes_of(format));
    p->format = format;
    p->columns = columns;
    p->rows_at_once = columns > 1 ? ROWS_MANY : ROWS_AT_ONCE;
    if (p->rows_at_once > all) p->rows_at_once = all;
    p->places = all / p->rows_at_once;
    p->place = 0;
    int64_t chunks = chunks_for(p, seconds / TURNS_IN_TIME);
    double bytes = (double)(chunks * p->rows_at_once) * (double)row_bytes_of(format);
    while (turns < TURNS && (turns < 2 || air_clock_ns() < until) && !stopped(p)) rates[turns++] = bytes / turn_seconds(p, chunks);
    return turns ? air__quantile(rates, turns, share) : 0;
}

static void measure(compute_probe *p, uint64_t types, double seconds, air_bandwidths *out)
{
    int trials = 1;
    for (uint32_t id = 0; id < AIR_TYPE_COUNT; id++) trials += (types >> id & 1) && air_format_by_id(id) ? 2 : 0;
    double each = seconds / trials;
    out->memory = typical_rate(p, NULL, 1, 0.75, each);
    for (uint32_t id = 0; id < AIR_TYPE_COUNT; id++) {
        const air_format *format = air_format_by_id(id);
        if (!(types >> id & 1) || !format || stopped(p)) continue;
        out->product[id] = typical_rate(p, format, 1, 0.5, each);
        out->product_columns[id] = typical_rate(p, format, MANY, 0.5, each) * MANY;
    }
}

/* --- set-up --- */

static void close_compute(compute_probe *p)
{
    air_pool_close(p->pool);
    air_pages_free(p->weights, (size_t)p->bytes);
    air_free(p->x);
    air_free(p->y);
    air_free(p->row);
    air_free(p->q8);
    air_free(p);
}

static uint64_t next_slice(const compute_probe *p) { return air_min_u64(FILL_SLICE, p->bytes - p->filled); }

static void fill_slice(void *context, int index)
{
    compute_probe *p = context;
    uint64_t slice = next_slice(p), share = slice / (uint64_t)p->threads, begin = (uint64_t)index * share;
    memset(p->weights + p->filled + begin, FILL, (size_t)(index == p->threads - 1 ? slice - begin : share));
}

/* Memory that was never touched may cost more time than all trials; then fewer bytes have to do. */
static void fill_weights(compute_probe *p, double seconds)
{
    uint64_t until = air_clock_ns() + (uint64_t)(seconds * 1e9);
    while (p->filled < p->bytes && (p->filled < BYTES_IN_TIME || air_clock_ns() < until) && !ask(p)) {
        air_pool_run(p->pool, fill_slice, p);
        p->filled += next_slice(p);
    }
}

static air_status open_compute(compute_probe *p, int cpu_tier, uint64_t bytes, double seconds, air_error *err)
{
    air_status st = air_pool_open(&p->pool, p->threads, err);
    if (st) return st;
    p->ops = air_ops_best((air_cpu_tier)cpu_tier);
    size_t threads = (size_t)p->threads;
    p->x = air_malloc(MANY * K * sizeof *p->x);
    p->y = air_malloc(threads * MANY * ROWS_AT_ONCE * sizeof *p->y);
    p->row = air_malloc(threads * K * sizeof *p->row);
    p->q8 = air_malloc(air_q8_bytes(K, MANY));
    /* Hardly anything is left in the last cache when its turn comes again, where so much is allowed. */
    p->bytes = air_max_u64(air_min_u64(bytes, BYTES_MOST), MIB);
    p->weights = air_pages_alloc((size_t)p->bytes);
    if (!p->x || !p->y || !p->row || !p->q8 || !p->weights)
        return air_fail(err, AIR_E_NOMEM, "probe: %llu bytes", (unsigned long long)p->bytes);
    air_pages_huge(p->weights, (size_t)p->bytes);
    fill_weights(p, seconds);
    for (int i = 0; i < MANY * K; i++) p->x[i] = (float)(i % 17) - 8.0f;
    for (int c = 0; c < MANY; c++) p->ops->quantize(p->x + c * K, K, air_q8_at(air_q8_place(p->q8, K, MANY), K, c, 0));
    return AIR_OK;
}

air_status air_probe_compute(int threads, int cpu_tier, uint64_t types, uint64_t bytes, double seconds, air_probe_watch watch,
                             air_bandwidths *out, air_error *err)
{
    compute_probe *p = air_calloc(1, sizeof *p);
    if (!p) return air_fail(err, AIR_E_NOMEM, "probe: %zu bytes", sizeof *p);
    p->threads = threads;
    p->watch = watch;
    p->asked_ns = air_clock_ns();
    air_status st = open_compute(p, cpu_tier, bytes, seconds, err);
    if (!st && !p->stop) measure(p, types, (1 - OPS_SHARE) * seconds, out);
    if (!st && p->stop) st = air_fail(err, AIR_E_CANCELLED, "probe cancelled");
    close_compute(p);
    if (!st) st = air__probe_ops(threads, cpu_tier, OPS_SHARE * seconds, out, err); /* with threads of its own */
    return st;
}
