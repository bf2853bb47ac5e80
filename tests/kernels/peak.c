#include "peak.h"

#include <stdio.h>
#include <stdlib.h>

#include "platform/clock.h"
#include "platform/cpuid.h"
#include "platform/pool.h"

/* A loop does `turns` of what it measures and returns the operations, of one thread. */
typedef double (*loop)(int64_t turns);

enum { UNROLL = 10 }; /* sums that do not wait for each other: two units with a latency of five at most */

#if defined(__x86_64__)

#include <immintrin.h>

/* One step for each of ten sums. The instructions are written out: a compiler would see that their inputs never change. */
#define STEP(text, i) __asm__ volatile(text : "+v"(s[i]) : "v"(a), "v"(a) : "xmm15");
#define TEN(text) \
    STEP(text, 0) STEP(text, 1) STEP(text, 2) STEP(text, 3) STEP(text, 4) STEP(text, 5) STEP(text, 6) STEP(text, 7) STEP(text, 8) STEP(text, 9)
#define LOOP(name, isa, type, zero, lanes, text) \
    __attribute__((target(isa))) static double name(int64_t turns) \
    { \
        type a = zero, s[UNROLL]; \
        for (int i = 0; i < UNROLL; i++) s[i] = a; \
        for (int64_t t = 0; t < turns; t++) { TEN(text) } \
        return 2.0 * lanes * UNROLL * (double)turns; \
    }
/* Products are taken in pairs, sums of pairs in 16 bits: without the second instruction nothing is added up. */
LOOP(int8_avx2, "avx2", __m256i, _mm256_setzero_si256(), 32, "vpmaddubsw %2, %1, %%ymm15\n\tvpaddw %%ymm15, %0, %0")
LOOP(int8_avx_vnni, "avx2", __m256i, _mm256_setzero_si256(), 32, "%{vex%} vpdpbusd %2, %1, %0")
LOOP(int8_avx512, "avx512f,avx512bw", __m512i, _mm512_setzero_si512(), 64, "vpmaddubsw %2, %1, %%zmm15\n\tvpaddw %%zmm15, %0, %0")
LOOP(int8_avx512_vnni, "avx512f,avx512bw", __m512i, _mm512_setzero_si512(), 64, "vpdpbusd %2, %1, %0")
LOOP(f32_avx2, "avx2,fma", __m256, _mm256_setzero_ps(), 8, "vfmadd231ps %2, %1, %0")
LOOP(f32_avx512, "avx512f", __m512, _mm512_setzero_ps(), 16, "vfmadd231ps %2, %1, %0")

static loop int8_loop(air_cpu_tier tier)
{
    uint32_t have = air_cpu_features();
    if (tier == AIR_TIER_AVX2) return have & AIR_CPU_AVX_VNNI ? int8_avx_vnni : int8_avx2;
    if (tier == AIR_TIER_AVX512) return have & AIR_CPU_AVX512_VNNI ? int8_avx512_vnni : int8_avx512;
    return NULL;
}

static loop f32_loop(air_cpu_tier tier)
{
    return tier == AIR_TIER_AVX2 ? f32_avx2 : tier == AIR_TIER_AVX512 ? f32_avx512 : NULL;
}

#else

static loop int8_loop(air_cpu_tier tier) { return (void)tier, NULL; }
static loop f32_loop(air_cpu_tier tier) { return (void)tier, NULL; }

#endif

/* A chain of sums, each waiting for the one before: one a cycle on every CPU there is a tier for. */
static double chain(int64_t turns)
{
    uint64_t x = 1, y = 3;
    for (int64_t t = 0; t < turns; t++)
        for (int i = 0; i < UNROLL; i++) {
            x += y;
#if defined(__GNUC__)
            __asm__ volatile("" : "+r"(x), "+r"(y));
#endif
        }
    volatile uint64_t sink = x;
    (void)sink;
    return UNROLL * (double)turns;
}

typedef struct job {
    loop run;
    int64_t turns;
    double each; /* operations of one thread */
} job;

static void body(void *context, int index)
{
    job *j = context;
    double each = j->run(j->turns);
    if (index == 0) j->each = each;
}

double now_seconds(void) { return (double)air_clock_ns() * 1e-9; }

static double best_rate(loop run, int threads, double seconds)
{
    air_pool *pool;
    air_error err;
    if (!run || air_pool_open(&pool, threads, &err)) return 0;
    job j = {.run = run, .turns = 200000};
    double best = 0;
    for (double until = now_seconds() + seconds, start; (start = now_seconds()) < until;) {
        air_pool_run(pool, body, &j);
        double rate = j.each * threads / (now_seconds() - start);
        best = rate > best ? rate : best;
    }
    air_pool_close(pool);
    return best;
}

peak peak_of(air_cpu_tier tier, int threads, double seconds)
{
    return (peak){
        .int8 = best_rate(int8_loop(tier), threads, seconds / 3),
        .f32 = best_rate(f32_loop(tier), threads, seconds / 3),
        .clock = best_rate(chain, 1, seconds / 3),
    };
}

int peaks(int threads)
{
    if (threads < 1 || threads > 256) return EXIT_FAILURE;
    printf("tier int8 f32 clock\n");
    for (int t = 0; t < AIR_TIER_COUNT; t++) {
        if (!air_ops_tier((air_cpu_tier)t)) continue;
        peak p = peak_of((air_cpu_tier)t, threads, 0.6);
        printf("%s %.4g %.4g %.4g\n", air_tier_names[t], p.int8, p.f32, p.clock);
    }
    return EXIT_SUCCESS;
}
