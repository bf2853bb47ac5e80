/* Walks the tables of kernels: every product of every tier this CPU has (test_functions.c does the rest of the tables).
 *
 *     test_kernels [filter]              tests, as check.h runs them
 *     test_kernels --bench [filter]      times the same calls (bench.c)
 *
 * ref is held against sums in double over exactly decoded weights; the other tiers against ref. Memory is guarded (guard.h). An
 * entry of a table that no test ran fails the last test. */
#include <math.h>

#include "bench.h"
#include "check.h"
#include "guard.h"
#include "kernels/ops.h"
#include "peak.h"
#include "weights.h"

static int product_ran[AIR_TIER_COUNT][AIR_TYPE_COUNT];

static double unit(void)
{
    return (double)(check_random() >> 11) * 0x1p-53;
}

static float gaussian(void)
{
    double sum = -6;
    for (int i = 0; i < 12; i++) sum += unit();
    return (float)sum;
}

static const air_ops *tier_of(int t)
{
    return air_ops_tier((air_cpu_tier)t);
}

/* The table of tier t if it has a product of its own for a type: one from a tier below was tested with that. */
static const air_ops *own_product(int t, uint32_t type)
{
    const air_ops *ops = tier_of(t);
    if (!ops || !ops->product[type].fn) return NULL;
    product_ran[t][type] = 1;
    for (int below = 0; below < t; below++)
        if (tier_of(below) && tier_of(below)->product[type].fn == ops->product[type].fn) return NULL;
    return ops;
}

/* ------------------------------------------------------------------ products */

typedef enum input_kind { INPUT_GAUSSIAN, INPUT_ZERO, INPUT_EQUAL, INPUT_NEGATIVE, INPUT_HUGE, INPUT_TINY, INPUT_OUTLIERS, INPUT_KINDS } input_kind;

static float input_value(input_kind kind)
{
    switch (kind) {
    case INPUT_ZERO: return 0;
    case INPUT_EQUAL: return 1.5f;          /* every q is 127 */
    case INPUT_NEGATIVE: return -1.5f;
    case INPUT_HUGE: return gaussian() * 1e20f;
    case INPUT_TINY: return gaussian() * 1e-20f;
    case INPUT_OUTLIERS: return gaussian() * (check_random() % 64 ? 1.0f : 1000.0f);
    default: return gaussian();
    }
}

typedef struct problem {
    const air_format *format;
    const uint8_t *w;
    size_t      row_bytes;
    int64_t     rows;
    double      least; /* what a weight counts at least in the norm of errors */
    air_columns x;
} problem;

/* Weights at any address, activations aligned; both end at the end of their pages. */
static problem make_problem(const air_format *format, int64_t rows, int64_t n, int64_t k, weights_kind weights, input_kind input)
{
    problem p = {.format = format, .rows = rows, .least = weights >= WEIGHTS_ONES ? 0.125 : 0};
    size_t exact = (size_t)(k / format->block) * format->bytes, spare = check_random() % 3 ? 0 : check_random() % 70;
    p.row_bytes = exact + spare;
    uint8_t *w = guard_new((size_t)(rows - 1) * p.row_bytes + exact, 1);
    for (int64_t r = 0; r < rows; r++) weights_fill(w + (size_t)r * p.row_bytes, format, k, weights, check_random);
    p.w = w;

    size_t stride = (size_t)k + (check_random() & 1 ? 0 : 16);
    float *f32 = guard_new(((size_t)(n - 1) * stride + (size_t)k) * sizeof *f32, 64);
    for (int64_t c = 0; c < n; c++)
        for (int64_t i = 0; i < k; i++) f32[(size_t)c * stride + (size_t)i] = input_value(input);
    p.x = (air_columns){.k = k, .n = n, .f32 = f32, .f32_stride = stride};
    if (air_ops_tier(AIR_TIER_REF)->product[format->id].input == AIR_INPUT_Q8) {
        p.x.q8 = guard_q8(k, n);
        for (int64_t c = 0; c < n; c++)
            air_ops_tier(AIR_TIER_REF)->quantize(f32 + (size_t)c * stride, k, air_q8_at(p.x.q8, k, c, 0));
    }
    return p;
}

static double activation(const problem *p, int64_t c, int64_t i)
{
    if (!p->x.q8.q) return (double)p->x.f32[(size_t)c * p->x.f32_stride + (size_t)i];
    return (double)p->x.q8.q[c * p->x.k + i] * (double)p->x.q8.scale[(c * p->x.k + i) / AIR_Q8_GROUP];
}

/* want[c][r], through the format's decoder. Returns what errors are measured against: the sum of want^2, where a (row, column) counts at
 * least what random signs would give, the sum of its terms' squares: a lone result near zero is no error of the kernel. Nor is the
 * rounding of an offset that weights of 0 were given, where all are 0 beside a scale of 1. */
static double exact_product(const problem *p, double *want)
{
    double norm = 0;
    float *row = malloc((size_t)p->x.k * sizeof *row);
    CHECK(row != NULL);
    for (int64_t r = 0; r < p->rows; r++) {
        p->format->decode(p->w + (size_t)r * p->row_bytes, row, p->x.k / p->format->block);
        for (int64_t c = 0; c < p->x.n; c++) {
            double sum = 0, squares = 0;
            for (int64_t i = 0; i < p->x.k; i++) {
                double x = activation(p, c, i), term = (double)row[i] * x, least = p->least * x;
                sum += term, squares += fmax(term * term, least * least);
            }
            want[c * p->rows + r] = sum;
            norm += fmax(sum * sum, squares);
        }
    }
    free(row);
    return norm;
}

/* y[c * stride + r] with a stride over rows, so that what lies between must stay as it was. */
static float *run_product(const air_ops *ops, const problem *p, size_t *stride)
{
    *stride = (size_t)p->rows + 3;
    size_t count = (size_t)(p->x.n - 1) * *stride + (size_t)p->rows;
    float *y = guard_new(count * sizeof *y, 64);
    for (size_t i = 0; i < count; i++) y[i] = -77;
    ops->product[p->format->id].fn(p->w, p->row_bytes, p->rows, &p->x, y, *stride);
    for (int64_t c = 0; c + 1 < p->x.n; c++)
        for (size_t i = (size_t)p->rows; i < *stride; i++) CHECK(y[(size_t)c * *stride + i] == -77);
    return y;
}

static double nmse(const problem *p, const double *want, double norm, const float *y, size_t stride)
{
    double error = 0;
    for (int64_t c = 0; c < p->x.n; c++)
        for (int64_t r = 0; r < p->rows; r++) {
            double d = (double)y[(size_t)c * stride + (size_t)r] - want[c * p->rows + r];
            error += d * d;
        }
    return error == 0 ? 0 : error / norm; /* a NaN or an infinity in y fails every gate */
}

enum { MOST_COLUMNS = 64 };

/* Every (row, column) alone, and a random rectangle, give the bits they have in company. */
static void check_bits(const air_ops *ops, const problem *p, const float *y, size_t stride)
{
    air_product_fn fn = ops->product[p->format->id].fn;
    for (int round = 0; round < 3; round++) {
        int64_t c0 = (int64_t)(check_random() % (uint64_t)p->x.n), r0 = (int64_t)(check_random() % (uint64_t)p->rows);
        int64_t n = round ? 1 + (int64_t)(check_random() % (uint64_t)(p->x.n - c0)) : 1;
        int64_t rows = round < 2 ? 1 : 1 + (int64_t)(check_random() % (uint64_t)(p->rows - r0));
        air_columns x = p->x;
        x.n = n;
        x.f32 += (size_t)c0 * x.f32_stride;
        if (x.q8.q) x.q8 = air_q8_at(x.q8, x.k, c0, 0);
        float part[MOST_COLUMNS * 32];
        fn(p->w + (size_t)r0 * p->row_bytes, p->row_bytes, rows, &x, part, 32);
        for (int64_t c = 0; c < n; c++)
            CHECK(memcmp(part + 32 * c, y + (size_t)(c0 + c) * stride + (size_t)r0, (size_t)rows * sizeof *y) == 0);
    }
}

static void product_case(const air_format *format, int64_t rows, int64_t n, int64_t k, weights_kind weights, input_kind input)
{
    static double want[MOST_COLUMNS * 32];
    problem p = make_problem(format, rows, n, k, weights, input);
    double gate = 1e-12, norm = exact_product(&p, want);
    for (int t = 0; t < AIR_TIER_COUNT; t++) {
        const air_ops *ops = own_product(t, format->id);
        if (!ops) continue;
        size_t stride;
        float *y = run_product(ops, &p, &stride);
        double error = nmse(&p, want, norm, y, stride);
        if (!(error <= gate)) {
            printf("  %s %s: %lld rows, %lld columns, k %lld, weights %d, input %d: NMSE %.3g\n", ops->name, format->name, (long long)rows,
                   (long long)n, (long long)k, (int)weights, (int)input, error);
            CHECK(error <= gate);
        }
        check_bits(ops, &p, y, stride);
        CHECK(guard_intact());
        if (t != AIR_TIER_REF) continue;
        for (int64_t c = 0; c < n; c++) /* from here on ref is what the others are held against */
            for (int64_t r = 0; r < rows; r++) want[c * rows + r] = (double)y[(size_t)c * stride + (size_t)r];
        gate = p.x.q8.q ? 1e-10 : 1e-12;
    }
    guard_free_all();
}

/* Lengths in blocks; the last is beyond 4096 elements. */
static int64_t length(const air_format *format, int i)
{
    static const int64_t ones[] = {1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 127, 1000, 1024, 1025, 4099};
    static const int64_t groups[] = {1, 2, 3, 7, 8, 9, 15, 16, 28, 35, 129, 137};
    static const int64_t supers[] = {1, 2, 3, 5, 16, 17};
    if (format->block == 1) return i < (int)AIR_COUNT(ones) ? ones[i] : 0;
    if (format->block == 32) return i < (int)AIR_COUNT(groups) ? 32 * groups[i] : 0;
    return i < (int)AIR_COUNT(supers) ? format->block * supers[i] : 0;
}

static void each_product(void (*test)(const air_format *format))
{
    for (size_t i = 0; i < air_format_count(); i++) {
        const air_format *format = air_format_at(i);
        int any = 0;
        for (int t = 0; t < AIR_TIER_COUNT; t++) any |= tier_of(t) && tier_of(t)->product[format->id].fn;
        if (any) test(format);
    }
}

/* Whether this CPU has more than the portable product of a format, which knows no shapes and is tested with fewer. */
static int has_kernel(const air_format *format)
{
    int found = 0;
    for (int t = 1; t < AIR_TIER_COUNT; t++) found |= own_product(t, format->id) != NULL;
    return found;
}

static void shapes(const air_format *format)
{
    int kernel = has_kernel(format);
    for (int i = 0; length(format, i); i++) {
        int64_t k = length(format, i);
        for (int64_t rows = 1; rows <= 17; rows += rows < 9 ? 1 : 8)
            for (int64_t n = 1; n <= 17; n++)
                if ((kernel && k <= 600) || (rows * n) % 7 == 1) product_case(format, rows, n, k, WEIGHTS_PLAIN, INPUT_GAUSSIAN);
    }
}

TEST(products_of_every_shape_agree)
{
    each_product(shapes);
}

/* As many as the engine gives at once, which is more than a kernel takes at once. */
static void many_columns(const air_format *format)
{
    static const int64_t counts[] = {31, 32, 33, 63, MOST_COLUMNS};
    for (size_t i = 0; i < AIR_COUNT(counts); i++)
        for (int64_t rows = 1; rows <= 17; rows += 8)
            product_case(format, rows, counts[i], length(format, 2), WEIGHTS_PLAIN, INPUT_GAUSSIAN);
}

TEST(products_of_many_columns_agree)
{
    each_product(many_columns);
}

static void extremes(const air_format *format)
{
    int lengths = has_kernel(format) ? 6 : 2;
    for (int weights = 0; weights < WEIGHTS_KINDS; weights++)
        for (int input = 0; input < INPUT_KINDS; input++)
            for (int i = 0; length(format, i) && i < lengths; i++)
                product_case(format, 5, 3, length(format, i), (weights_kind)weights, (input_kind)input);
}

TEST(products_of_extreme_values_agree)
{
    each_product(extremes);
}

static void not_a_number(const air_format *format)
{
    for (int t = 0; t < AIR_TIER_COUNT; t++) {
        const air_ops *ops = own_product(t, format->id);
        if (!ops) continue;
        problem p = make_problem(format, 5, 3, 2 * 256, WEIGHTS_PLAIN, INPUT_GAUSSIAN);
        ((float *)(uintptr_t)p.x.f32)[p.x.f32_stride + 5] = NAN;
        if (p.x.q8.q) ops->quantize(p.x.f32 + p.x.f32_stride, p.x.k, air_q8_at(p.x.q8, p.x.k, 1, 0));
        size_t stride;
        float *y = run_product(ops, &p, &stride);
        for (int64_t r = 0; r < p.rows; r++) {
            CHECK(isfinite(y[r]) && isfinite(y[2 * stride + (size_t)r]));
            CHECK(isnan(y[stride + (size_t)r]));
        }
        guard_free_all();
    }
}

TEST(a_nan_stays_in_its_column)
{
    each_product(not_a_number);
}

/* ------------------------------------------------------------------ tables */

TEST(tables_build_on_each_other)
{
    const air_ops *ref = air_ops_tier(AIR_TIER_REF);
    REQUIRE(ref != NULL);
    for (int t = 0; t < AIR_TIER_COUNT; t++) {
        const air_ops *ops = tier_of(t), *best = air_ops_best((air_cpu_tier)t);
        CHECK(!ops || best == ops);
        CHECK(best != NULL && air_tier_by_name(best->name) <= t);
        printf("  %s: %s\n", air_tier_names[t], ops ? "tested" : "this CPU lacks it");
        if (!ops) continue;
        CHECK_EQ(air_tier_by_name(ops->name), t);
        for (int i = 0; i < AIR_TYPE_COUNT; i++) {
            CHECK(!ref->product[i].fn || ops->product[i].fn);
            CHECK(!ops->product[i].fn || ops->product[i].input == ref->product[i].input);
        }
    }
    CHECK_EQ(air_tier_by_name("ref"), AIR_TIER_REF);
    CHECK_EQ(air_tier_by_name("avx512"), AIR_TIER_AVX512);
    CHECK_EQ(air_tier_by_name("i8mm"), AIR_TIER_I8MM);
    CHECK_EQ(air_tier_by_name("sse2"), -1);
    CHECK_EQ(air_tier_by_name(NULL), -1);
    CHECK(air_ops_best(AIR_TIER_REF) == ref);
    CHECK(air_ops_tier(AIR_TIER_COUNT) == NULL);
    for (int t = 0; t < AIR_TIER_COUNT; t++)
        if (tier_of(t)) CHECK(air_tier_by_name(air_ops_best(AIR_TIER_COUNT)->name) >= t);
}

TEST(every_product_of_every_table_was_run)
{
    for (int t = 0; t < AIR_TIER_COUNT; t++)
        for (int i = 0; i < AIR_TYPE_COUNT; i++)
            if (tier_of(t) && tier_of(t)->product[i].fn && !product_ran[t][i]) {
                printf("  %s: the product of type %d has no test\n", tier_of(t)->name, i);
                CHECK(product_ran[t][i]);
            }
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) return bench(argc > 2 ? argv[2] : "");
    if (argc > 1 && strcmp(argv[1], "--peak") == 0) return peaks(argc > 2 ? atoi(argv[2]) : 1);
    check_begin(argc, argv);
    RUN(tables_build_on_each_other);
    RUN(products_of_every_shape_agree);
    RUN(products_of_many_columns_agree);
    RUN(products_of_extreme_values_agree);
    RUN(a_nan_stays_in_its_column);
    if (argc < 2) RUN(every_product_of_every_table_was_run);
    return check_end();
}
