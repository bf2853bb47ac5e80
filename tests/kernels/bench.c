#include "bench.h"

#include <ctype.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "kernels/ops.h"
#include "peak.h"
#include "platform/pages.h"
#include "weights.h"

enum { COLUMNS = 64, COLD_COLUMNS = 4, K = 4096, DIM = 128, HEADS = 4, POSITIONS = 512, BLOCKS = POSITIONS / AIR_BLOCK_POSITIONS };
enum { LATENT_KEY = 576, LATENT_VALUE = 512, MOST_HEADS = 64 * HEADS }; /* DeepSeek's; of all rows of a call */
enum { ROUNDS = 7 };
#define PATIENCE 0.25 /* seconds for the rounds of one figure, beyond the first */
static const int64_t column_counts[] = {1, 4, 16, 64};
static const size_t cold_bytes = (size_t)256 << 20, warm_bytes = (size_t)256 << 10; /* beyond L3, within L2 */

typedef struct memory { /* that kernels work on */
    uint8_t *w;    /* cold_bytes of weights */
    float *x, *y;  /* activations of COLUMNS, results */
    void *q8;
    uint16_t *kv;  /* BLOCKS of K and of V */
    float *scratch;
} memory;

typedef struct bounds { /* of one thread, per second */
    double cold, warm; /* bytes that a plain sum reads */
    peak peak;
} bounds;

/* One figure: what a call reads and writes, what it computes on which peak, and the units its cycles are given for. */
typedef struct figure {
    const char *tier, *kernel, *from;
    int64_t n;
    double bytes, ops, units;
    int is_float;
} figure;

static uint64_t next_random(void)
{
    static uint64_t counter;
    return air_random_u64(1, counter++);
}

/* The best of a few rounds; seconds of a call. */
static double best_time(void (*call)(void *context), void *context)
{
    double best = 1e30, until = now_seconds() + PATIENCE;
    int repeats = 1;
    for (int round = 0; round < ROUNDS && (round == 0 || now_seconds() < until); round++) {
        double start = now_seconds();
        for (int i = 0; i < repeats; i++) call(context);
        double took = now_seconds() - start;
        best = took / repeats < best ? took / repeats : best;
        if (took < 1e-3) repeats *= 1e-3 / (took + 1e-9) < 64 ? 8 : 64; /* a clock's tick must not show */
    }
    return best;
}

static const char *filter;

/* Whether "tier kernel" contains filter, in whatever case: names of formats are written in both. */
static int wanted(const air_ops *ops, const char *kernel)
{
    char name[64], part[64] = "";
    (void)snprintf(name, sizeof name, "%s %s", ops->name, kernel);
    size_t n = strlen(filter);
    if (n >= sizeof part) return 0;
    for (char *c = name; *c; c++) *c = (char)tolower((unsigned char)*c);
    for (size_t i = 0; i < n; i++) part[i] = (char)tolower((unsigned char)filter[i]);
    return strstr(name, part) != NULL;
}

/* --- the bounds --- */

typedef struct words {
    const uint64_t *p;
    size_t n;
} words;

static void read_words(void *context)
{
    enum { PAGE = 4096 / sizeof(uint64_t), SIDE_BY_SIDE = 4 }; /* pages, each a stream that hardware follows: memory gives most so */
    const words *w = context;
    uint64_t sum[8] = {0};
    for (size_t at = 0; at + PAGE * SIDE_BY_SIDE <= w->n; at += PAGE * SIDE_BY_SIDE)
        for (size_t i = at; i < at + PAGE; i += 8)
            for (size_t side = 0; side < SIDE_BY_SIDE; side++)
                for (size_t j = 0; j < 8; j++) sum[j] += w->p[side * PAGE + i + j];
    volatile uint64_t sink = sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
    (void)sink;
}

static double read_speed(const uint8_t *w, size_t bytes)
{
    words all = {(const uint64_t *)(const void *)w, bytes / sizeof(uint64_t)};
    return (double)bytes / best_time(read_words, &all);
}

static void print_figure(const figure *f, double seconds, const bounds *b)
{
    double adds = f->is_float ? b->peak.f32 : b->peak.int8, bytes = strcmp(f->from, "DRAM") == 0 ? b->cold : b->warm;
    double least = fmax(f->bytes / bytes, adds > 0 ? f->ops / adds : 0);
    printf("%s %s %lld %s %.2f %.2f %.3f %.3f\n", f->tier, f->kernel, (long long)f->n, f->from, f->bytes / seconds * 1e-9,
           f->ops / seconds * 1e-9, seconds * b->peak.clock / f->units, adds > 0 || !(f->ops > 0) ? least / seconds : 0.0);
    fflush(stdout);
}

/* --- products --- */

typedef struct product_call {
    const air_ops *ops;
    const air_format *format;
    const uint8_t *w;
    int64_t rows;
    air_columns x;
    float *y;
} product_call;

static void call_product(void *context)
{
    const product_call *c = context;
    size_t row_bytes = (size_t)(K / c->format->block) * c->format->bytes;
    c->ops->product[c->format->id].fn(c->w, row_bytes, c->rows, &c->x, c->y, (size_t)c->rows);
}

static void bench_product(const air_ops *ops, const air_format *f, const memory *m, bounds *b)
{
    size_t row_bytes = (size_t)(K / f->block) * f->bytes;
    b->cold = read_speed(m->w, cold_bytes); /* beside each other, as memory's speed moves */
    for (int cold = 1; cold >= 0; cold--)
        for (size_t i = 0; i < AIR_COUNT(column_counts) && (!cold || column_counts[i] <= COLD_COLUMNS); i++) {
            int64_t n = column_counts[i], rows = (int64_t)((cold ? cold_bytes : warm_bytes) / row_bytes);
            if (cold && ops == air_ops_tier(AIR_TIER_REF)) rows /= 16; /* a second is enough */
            air_columns x = {.k = K, .n = n, .f32 = m->x, .f32_stride = K, .q8 = air_q8_place(m->q8, K, COLUMNS)};
            product_call call = {ops, f, m->w, rows, x, m->y};
            double adds = (double)K * (double)rows * (double)n;
            figure one = {
                .tier = ops->name, .kernel = f->name, .from = cold ? "DRAM" : "L2", .n = n, .bytes = (double)row_bytes * (double)rows,
                .ops = 2 * adds, .units = adds / AIR_Q8_GROUP, .is_float = ops->product[f->id].input == AIR_INPUT_F32,
            };
            print_figure(&one, best_time(call_product, &call), b);
        }
}

/* --- the other functions, K elements each --- */

typedef struct function_call {
    const air_ops *ops;
    const memory *m;
    air_attention_args attention;
} function_call;

static void call_quantize(void *context)
{
    const function_call *c = context;
    c->ops->quantize(c->m->x, K, air_q8_place(c->m->q8, K, COLUMNS));
}

static void call_norm(void *context)
{
    const function_call *c = context;
    c->ops->rms_norm(c->m->x, c->m->x + K, c->m->y, K, 1e-5f);
}

static void call_rope(void *context)
{
    const function_call *c = context;
    c->ops->rope(c->m->y, K / DIM, DIM, DIM / 2, AIR_ROPE_NEOX, c->m->x, c->m->x + K);
}

static void call_swiglu(void *context)
{
    const function_call *c = context;
    c->ops->gated[AIR_ACTIVATION_SILU](c->m->x, c->m->x + K, c->m->y, K);
}

static void call_gelu(void *context)
{
    const function_call *c = context;
    c->ops->activate[AIR_ACTIVATION_GELU](c->m->x, c->m->y, K);
}

static void call_gelu_erf(void *context)
{
    const function_call *c = context;
    c->ops->activate[AIR_ACTIVATION_GELU_ERF](c->m->x, c->m->y, K);
}

static void call_layer_norm(void *context)
{
    const function_call *c = context;
    c->ops->layer_norm(c->m->x, c->m->x + K, c->m->x + K, c->m->y, K, 1e-5f);
}

static void call_add(void *context)
{
    const function_call *c = context;
    c->ops->add(c->m->y, c->m->x, K);
}

static void call_softmax(void *context)
{
    const function_call *c = context;
    (void)c->ops->softmax(c->m->y, K);
}

static void call_f16(void *context)
{
    const function_call *c = context;
    c->ops->f32_to_f16(c->m->x, (uint16_t *)c->m->y, K);
}

static void call_attention(void *context)
{
    const function_call *c = context;
    air_attention_args a = c->attention;
    for (a.segment = 0; a.segment * AIR_SEGMENT_POSITIONS < POSITIONS; a.segment++) {
        c->ops->attention(&a);
        c->ops->attention_merge(&a);
    }
}

static const struct function {
    const char *name;
    void (*call)(void *context);
    double bytes; /* of each element, read and written */
} functions[] = {
    {"quantize", call_quantize, 4 + 2 + 2.0 / AIR_Q8_SUM_GROUP + 4.0 / AIR_Q8_GROUP}, {"rms_norm", call_norm, 12}, {"rope", call_rope, 8},
    {"layer_norm", call_layer_norm, 16}, {"swiglu", call_swiglu, 12}, {"gelu", call_gelu, 8}, {"gelu_erf", call_gelu_erf, 8}, {"add", call_add, 12}, {"softmax", call_softmax, 8}, {"f32_to_f16", call_f16, 6},
};

/* Of one K/V head; a figure's n is how many rows. */
static const struct attention_shape {
    const char *name;
    int64_t rows, group, head_dim, value_dim;
    int values_in_keys;
} attentions[] = {
    {"attention", 1, HEADS, DIM, DIM, 0},
    {"attention", 64, HEADS, DIM, DIM, 0},
    {"latent-attention-of-8", 1, 8, LATENT_KEY, LATENT_VALUE, 1}, /* a thread's half of 16 heads */
    {"latent-attention-of-16", 1, 16, LATENT_KEY, LATENT_VALUE, 1},
    {"latent-attention-of-16", 2, 16, LATENT_KEY, LATENT_VALUE, 1},
    {"latent-attention-of-128", 1, 128, LATENT_KEY, LATENT_VALUE, 1},
};

static void bench_attention(const air_ops *ops, const memory *m, const bounds *b, const struct attention_shape *s)
{
    const void *k[BLOCKS], *v[BLOCKS];
    air_attention_total totals[MOST_HEADS];
    size_t block = (size_t)AIR_BLOCK_POSITIONS * (size_t)s->head_dim;
    for (size_t i = 0; i < BLOCKS; i++) k[i] = m->kv + i * block, v[i] = s->values_in_keys ? NULL : m->kv + (BLOCKS + i) * block;
    function_call call = {ops, m, {
        .q = m->x, .out = m->y, .totals = totals, .scratch = m->scratch, .k_blocks = k, .v_blocks = v, .type = AIR_STATE_F16,
        .rows = s->rows, .q_stride = s->group * s->head_dim, .out_stride = s->group * s->value_dim, .positions = POSITIONS - s->rows + 1,
        .window = INT64_MAX, .group = s->group, .head_dim = s->head_dim, .value_dim = s->value_dim, .values_in_keys = s->values_in_keys,
        .scale = 0.1f,
    }};
    double positions = POSITIONS - (double)(s->rows - 1) / 2; /* that a row sees; q by k, and the weights by v */
    double adds = (double)((s->head_dim + s->value_dim) * s->group * s->rows) * positions;
    double bytes = 2.0 * (double)(s->head_dim + (s->values_in_keys ? 0 : s->value_dim)) * POSITIONS;
    figure one = {.tier = ops->name, .kernel = s->name, .from = "L2", .n = s->rows, .bytes = bytes, .ops = 2 * adds,
                  .units = adds / AIR_Q8_GROUP, .is_float = 1};
    print_figure(&one, best_time(call_attention, &call), b);
}

static int bench_functions(const air_ops *ops, const memory *m, const bounds *b)
{
    int found = 0;
    for (size_t i = 0; i < AIR_COUNT(functions); i++) {
        if (!wanted(ops, functions[i].name)) continue;
        memcpy(m->y, m->x, K * sizeof *m->y);
        function_call call = {.ops = ops, .m = m};
        figure one = {.tier = ops->name, .kernel = functions[i].name, .from = "L2", .n = 1, .bytes = functions[i].bytes * K, .units = K};
        print_figure(&one, best_time(functions[i].call, &call), b);
        found++;
    }
    for (size_t i = 0; i < AIR_COUNT(attentions); i++) {
        if (!wanted(ops, attentions[i].name)) continue;
        bench_attention(ops, m, b, &attentions[i]);
        found++;
    }
    return found;
}

/* --- all of them --- */

static int take_memory(memory *m)
{
    size_t state = (size_t)POSITIONS * LATENT_KEY, scratch = air_attention_scratch(MOST_HEADS, LATENT_KEY, LATENT_VALUE, 1);
    _Static_assert((int)LATENT_KEY >= 2 * DIM, "memory for the largest state");
    m->w = air_pages_alloc(cold_bytes); /* as the pager holds weights: on huge pages where there are any */
    m->x = air_pages_alloc(COLUMNS * K * sizeof *m->x);
    m->y = air_pages_alloc(COLD_COLUMNS * cold_bytes / (K / 8) * sizeof *m->y); /* no format has less than a bit for a weight */
    m->q8 = air_pages_alloc(air_q8_bytes(K, COLUMNS));
    m->kv = air_pages_alloc(state * sizeof *m->kv);
    m->scratch = air_pages_alloc(scratch * sizeof *m->scratch);
    if (!m->w || !m->x || !m->y || !m->q8 || !m->kv || !m->scratch) return 0;
    air_pages_huge(m->w, cold_bytes);
    memset(m->w, 0, cold_bytes);
    const air_ops *ref = air_ops_tier(AIR_TIER_REF);
    air_q8 q8 = air_q8_place(m->q8, K, COLUMNS);
    for (int i = 0; i < COLUMNS * K; i++) m->x[i] = (float)air_random_unit(2, (uint64_t)i) - 0.5f;
    for (int c = 0; c < COLUMNS; c++) ref->quantize(m->x + (size_t)c * K, K, air_q8_at(q8, K, c, 0));
    for (size_t at = 0; at < state; at += COLUMNS * K) ref->f32_to_f16(m->x, m->kv + at, COLUMNS * K < state - at ? COLUMNS * K : (int64_t)(state - at));
    return 1;
}

static int bench_formats(const air_ops *ops, const memory *m, bounds *b)
{
    int found = 0;
    for (size_t i = 0; i < air_format_count(); i++) {
        const air_format *f = air_format_at(i);
        if (!ops->product[f->id].fn || !wanted(ops, f->name)) continue;
        size_t sample = (size_t)(K / f->block) * f->bytes * 64;
        weights_fill(m->w, f, K * 64, WEIGHTS_PLAIN, next_random);
        for (size_t at = sample; at + sample <= cold_bytes; at += sample) memcpy(m->w + at, m->w, sample);
        bench_product(ops, f, m, b);
        found++;
    }
    return found;
}

int bench(const char *part_of_name)
{
    memory m;
    int found = 0;
    filter = part_of_name;
    if (!take_memory(&m)) return EXIT_FAILURE;
    bounds b = {.cold = read_speed(m.w, cold_bytes), .warm = read_speed(m.w, warm_bytes)};
    printf("# one thread, %d elements; plain sums read %.1f GB/s from DRAM, %.1f from L2; cycles: for 32 multiply-adds, or an element\n", K,
           b.cold * 1e-9, b.warm * 1e-9);
    printf("tier kernel n from GB/s Gop/s cycles share\n");
    for (int t = 0; t < AIR_TIER_COUNT; t++) {
        const air_ops *ops = air_ops_tier((air_cpu_tier)t);
        if (!ops) continue;
        b.peak = peak_of((air_cpu_tier)t, 1, 0.3);
        found += bench_formats(ops, &m, &b) + bench_functions(ops, &m, &b);
    }
    if (!found) printf("# no kernel matches \"%s\"; a filter is a part of \"tier kernel\", such as \"avx2 q4_k\"\n", filter);
    return found ? EXIT_SUCCESS : EXIT_FAILURE; /* memory goes with the process */
}
