#include "bench.h"

#include <ctype.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/random.h"
#include "kernels/ops.h"
#include "platform/pages.h"
#include "weights.h"

enum { COLUMNS = 16, K = 4096 };
static const int64_t column_counts[] = {1, 2, 4, 8, 16};
static const size_t cold_bytes = (size_t)256 << 20, warm_bytes = (size_t)512 << 10; /* beyond L3, within L2 */

static uint64_t next_random(void)
{
    static uint64_t counter;
    return air_random_u64(1, counter++);
}

static double seconds(void)
{
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The bound: a plain sum over the same memory, eight streams of 64-bit words. GB/s. */
static double read_speed(const uint64_t *p, size_t words)
{
    double best = 0;
    for (int round = 0; round < 5; round++) {
        uint64_t sum[8] = {0};
        double start = seconds();
        for (size_t i = 0; i + 8 <= words; i += 8)
            for (size_t j = 0; j < 8; j++) sum[j] += p[i + j];
        double speed = (double)words * 8e-9 / (seconds() - start);
        volatile uint64_t sink = sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
        (void)sink;
        best = speed > best ? speed : best;
    }
    return best;
}

/* The best of several passes over rows of weights; seconds per pass. */
static double time_product(const air_ops *ops, const air_format *f, const uint8_t *w, int64_t rows, const air_columns *x, float *y)
{
    size_t row_bytes = (size_t)(K / f->block) * f->bytes;
    int repeats = rows * (int64_t)row_bytes > (int64_t)warm_bytes * 2 ? 1 : 20;
    double best = 1e30;
    for (int round = 0; round < 5; round++) {
        double start = seconds();
        for (int i = 0; i < repeats; i++) ops->product[f->id].fn(w, row_bytes, rows, x, y, (size_t)rows);
        double took = (seconds() - start) / repeats;
        best = took < best ? took : best;
    }
    return best;
}

static void bench_product(const air_ops *ops, const air_format *f, const uint8_t *w, air_columns x, float *y)
{
    size_t row_bytes = (size_t)(K / f->block) * f->bytes;
    for (int cold = 1; cold >= 0; cold--) {
        int64_t rows = (int64_t)((cold ? cold_bytes : warm_bytes) / row_bytes);
        if (cold && ops == air_ops_tier(AIR_TIER_REF)) rows /= 16; /* a second is enough */
        printf("%-7s %-5s %-5s", ops->name, f->name, cold ? "DRAM" : "L2");
        double one = 0;
        for (size_t i = 0; i < AIR_COUNT(column_counts); i++) {
            x.n = column_counts[i];
            double t = time_product(ops, f, w, rows, &x, y);
            one = i == 0 ? t : one;
            printf("  %6.1f %6.0f %5.2f", (double)row_bytes * (double)rows / t * 1e-9, 2e-9 * K * (double)rows * (double)x.n / t, t / one);
            fflush(stdout);
        }
        printf("\n");
    }
}

/* Whether "tier format" contains filter, in whatever case: names of formats are written in both. */
static int matches(const air_ops *ops, const air_format *f, const char *filter)
{
    char name[64], part[64] = "";
    (void)snprintf(name, sizeof name, "%s %s", ops->name, f->name);
    size_t n = strlen(filter);
    if (n >= sizeof part) return 0;
    for (char *c = name; *c; c++) *c = (char)tolower((unsigned char)*c);
    for (size_t i = 0; i < n; i++) part[i] = (char)tolower((unsigned char)filter[i]);
    return strstr(name, part) != NULL;
}

int bench(const char *filter)
{
    uint8_t *w = air_pages_alloc(cold_bytes); /* as the pager holds weights: on huge pages where there are any */
    float *x = malloc(COLUMNS * K * sizeof *x);
    void *memory = malloc(air_q8_bytes(K, COLUMNS));
    float *y = malloc(COLUMNS * cold_bytes / K * 2 * sizeof *y);
    if (!w || !x || !memory || !y) return EXIT_FAILURE;
    air_pages_huge(w, cold_bytes);
    for (int i = 0; i < COLUMNS * K; i++) x[i] = (float)air_random_unit(2, (uint64_t)i) - 0.5f;
    air_columns columns = {.k = K, .n = 1, .f32 = x, .f32_stride = K, .q8 = air_q8_place(memory, K, COLUMNS)};
    air_ops_tier(AIR_TIER_REF)->quantize(x, COLUMNS * K, columns.q8);
    memset(w, 0, cold_bytes);
    printf("one thread, k %d; a plain sum over %zu MiB reads %.1f GB/s\n", K, cold_bytes >> 20,
           read_speed((const uint64_t *)(void *)w, cold_bytes / 8));
    printf("%-19s", "");
    for (size_t i = 0; i < AIR_COUNT(column_counts); i++) printf("  n=%-2lld: GB/s GOPS T/T1", (long long)column_counts[i]);
    printf("\n");

    int rows = 0;
    for (size_t i = 0; i < air_format_count(); i++)
        for (int t = 0; t < AIR_TIER_COUNT; t++) {
            const air_format *f = air_format_at(i);
            const air_ops *ops = air_ops_tier((air_cpu_tier)t);
            if (!ops || !ops->product[f->id].fn || !matches(ops, f, filter)) continue;
            size_t row = (size_t)(K / f->block) * f->bytes, sample = row * 64;
            weights_fill(w, f, K * 64, WEIGHTS_PLAIN, next_random);
            for (size_t at = sample; at + sample <= cold_bytes; at += sample) memcpy(w + at, w, sample);
            bench_product(ops, f, w, columns, y);
            rows++;
        }
    air_pages_free(w, cold_bytes);
    free(x), free(memory), free(y);
    if (!rows) printf("no product matches \"%s\"; a filter is a part of \"tier format\", such as \"avx2 Q4_K\"\n", filter);
    return rows ? EXIT_SUCCESS : EXIT_FAILURE;
}
