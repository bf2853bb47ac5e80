/* test_base.c: the heap with its fault injection, arenas, checked arithmetic, random numbers, errors. */
#include "check.h"

#include "base/alloc.h"
#include "base/arena.h"
#include "base/checked.h"
#include "base/random.h"
#include "base/status.h"

TEST(blocks_of_every_size_are_aligned_to_a_cache_line_and_keep_their_bytes)
{
    int64_t live = air_alloc_live();
    for (size_t bytes = 0; bytes < 300; bytes++) {
        unsigned char *p = air_malloc(bytes);
        REQUIRE(p != NULL);
        CHECK_EQ((uintptr_t)p % AIR_CACHE_LINE, 0);
        memset(p, (int)bytes, bytes);
        p = air_realloc(p, bytes * 3 + 1);
        REQUIRE(p != NULL);
        for (size_t i = 0; i < bytes; i++) CHECK_EQ(p[i], bytes & 255);
        p = air_realloc(p, bytes / 2);
        REQUIRE(p != NULL);
        for (size_t i = 0; i < bytes / 2; i++) CHECK_EQ(p[i], bytes & 255);
        CHECK_EQ(air_alloc_live(), live + 1);
        air_free(p);
    }
    air_free(NULL);
    CHECK_EQ(air_alloc_live(), live);
}

TEST(calloc_zeroes_and_refuses_a_product_that_overflows)
{
    unsigned char *p = air_malloc(4096);
    REQUIRE(p != NULL);
    memset(p, 255, 4096);
    air_free(p);
    p = air_calloc(64, 64);
    REQUIRE(p != NULL);
    for (int i = 0; i < 4096; i++) CHECK_EQ(p[i], 0);
    air_free(p);
    volatile size_t huge = SIZE_MAX / 2 + 1; /* volatile: the compiler would warn of what is tested here */
    CHECK(air_calloc(huge, 2) == NULL);
    CHECK(air_calloc(2, huge) == NULL);
    CHECK(air_malloc(huge * 2 - 1) == NULL);
}

TEST(a_refused_realloc_leaves_the_old_block)
{
    char *p = air_strdup("weights");
    REQUIRE(p != NULL);
    air_alloc_fail_at(1);
    CHECK(air_realloc(p, 1 << 20) == NULL);
    CHECK(air_alloc_failed());
    CHECK_STR_EQ(p, "weights");
    air_free(p);
}

TEST(the_armed_failure_happens_at_its_call_and_once)
{
    for (uint64_t n = 1; n < 6; n++) {
        air_alloc_fail_at(n);
        for (uint64_t i = 1; i < 8; i++) {
            void *p = air_malloc(10);
            CHECK_EQ(p == NULL, i == n);
            CHECK_EQ(air_alloc_failed(), i >= n);
            air_free(p);
        }
    }
    air_alloc_fail_at(1);
    air_alloc_fail_at(0);
    void *p = air_malloc(10);
    CHECK(p != NULL && !air_alloc_failed());
    air_free(p);
}

TEST(an_arena_hands_out_zeroed_aligned_memory_that_dies_at_once)
{
    int64_t live = air_alloc_live();
    air_arena arena = {0};
    unsigned char *all[400];
    for (size_t i = 0; i < AIR_COUNT(all); i++) {
        all[i] = air_arena_alloc(&arena, i, 7);
        REQUIRE(all[i] != NULL);
        CHECK_EQ((uintptr_t)all[i] % 16, 0);
        for (size_t k = 0; k < i * 7; k++) CHECK_EQ(all[i][k], 0);
        memset(all[i], (int)(i & 255), i * 7);
    }
    for (size_t i = 0; i < AIR_COUNT(all); i++)
        for (size_t k = 0; k < i * 7; k++) CHECK_EQ(all[i][k], i & 255); /* nobody else wrote there */
    CHECK_STR_EQ(air_arena_copy(&arena, "token_embd.weight", 10), "token_embd");
    CHECK(air_arena_alloc(&arena, 1, 1 << 20) != NULL); /* larger than a chunk */
    CHECK(arena.total >= (1 << 20) + 400 * 399 / 2 * 7);
    air_arena_deinit(&arena);
    CHECK_EQ(air_alloc_live(), live);
    CHECK(arena.chunks == NULL);
}

TEST(an_arena_refuses_overflow_and_passes_on_the_heaps_refusal)
{
    air_arena arena = {0};
    CHECK(air_arena_alloc(&arena, SIZE_MAX / 4, 8) == NULL);
    CHECK(air_arena_copy(&arena, "x", SIZE_MAX) == NULL);
    air_alloc_fail_at(1);
    CHECK(air_arena_alloc(&arena, 1, 1) == NULL);
    CHECK(air_arena_alloc(&arena, 1, 1) != NULL);
    air_arena_deinit(&arena);
}

TEST(checked_arithmetic_agrees_with_128_bits)
{
    const uint64_t edges[] = {0, 1, 2, 63, 64, UINT32_MAX, UINT64_C(1) << 32, UINT64_MAX / 2, UINT64_MAX - 63, UINT64_MAX - 1,
                              UINT64_MAX};
    for (int i = 0; i < 20000; i++) {
        uint64_t a = i < 121 ? edges[i / 11] : check_random() >> (check_random() % 64);
        uint64_t b = i < 121 ? edges[i % 11] : check_random() >> (check_random() % 64);
        uint64_t align = UINT64_C(1) << (check_random() % 63), out = 42;
        __extension__ typedef unsigned __int128 wide;
        wide sum = (wide)a + b, product = (wide)a * b, up = ((wide)a + align - 1) / align * align;
        CHECK_EQ(air_add_u64(a, b, &out), sum <= UINT64_MAX);
        CHECK_EQ(out, sum <= UINT64_MAX ? (uint64_t)sum : 42);
        out = 42;
        CHECK_EQ(air_mul_u64(a, b, &out), product <= UINT64_MAX);
        CHECK_EQ(out, product <= UINT64_MAX ? (uint64_t)product : 42);
        out = 42;
        CHECK_EQ(air_align_u64(a, align, &out), up <= UINT64_MAX);
        CHECK_EQ(out, up <= UINT64_MAX ? (uint64_t)up : 42);
        CHECK_EQ(air_round_down(a, align), a / align * align);
        if (b) CHECK_EQ(air_ceil_div(a, b), a / b + (a % b ? 1 : 0));
        CHECK_EQ(air_min_u64(a, b) + (air_max_u64(a, b) - air_min_u64(a, b)), air_max_u64(a, b));
    }
}

/* The first outputs of SplitMix64 from state 0, as its authors' splitmix64.c prints them. */
TEST(the_mixer_is_splitmix64)
{
    const uint64_t want[] = {UINT64_C(0xe220a8397b1dcdaf), UINT64_C(0x6e789e6aa1b965f4), UINT64_C(0x06c45d188009454f)};
    for (uint64_t i = 0; i < 3; i++) CHECK_EQ(air_mix64(i * UINT64_C(0x9e3779b97f4a7c15)), want[i]);
}

TEST(random_units_are_uniform_and_depend_on_seed_and_counter_alone)
{
    int bins[16] = {0};
    double sum = 0;
    for (uint64_t i = 0; i < 160000; i++) {
        double x = air_random_unit(7, i);
        CHECK(x >= 0 && x < 1);
        bins[(int)(x * 16)]++;
        sum += x;
    }
    for (int i = 0; i < 16; i++) CHECK(bins[i] > 9500 && bins[i] < 10500); /* 5 standard deviations */
    CHECK(sum / 160000 > 0.496 && sum / 160000 < 0.504);
    CHECK_EQ(air_random_u64(7, 3), air_random_u64(7, 3));
    CHECK(air_random_u64(7, 3) != air_random_u64(8, 3));
    CHECK(air_random_u64(7, 3) != air_random_u64(7, 4));
}

TEST(an_error_carries_status_and_numbers_and_is_cut_to_fit)
{
    air_error err, copy;
    CHECK_EQ(air_fail(&err, AIR_E_BUDGET, "too small by %d MiB", 85), AIR_E_BUDGET);
    CHECK_EQ(err.status, AIR_E_BUDGET);
    CHECK_STR_EQ(err.text, "too small by 85 MiB");
    CHECK_EQ(air_error_copy(&copy, &err), AIR_E_BUDGET);
    CHECK_STR_EQ(copy.text, err.text);
    CHECK_EQ(air_error_copy(NULL, &err), AIR_E_BUDGET);
    CHECK_EQ(air_fail(NULL, AIR_E_IO, "nobody listens"), AIR_E_IO);
    char name[2000];
    memset(name, 'x', sizeof name);
    name[sizeof name - 1] = 0;
    CHECK_EQ(air_fail(&err, AIR_E_FORMAT, "%s", name), AIR_E_FORMAT);
    CHECK_EQ(strlen(err.text), AIR_ERROR_TEXT - 1);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(blocks_of_every_size_are_aligned_to_a_cache_line_and_keep_their_bytes);
    RUN(calloc_zeroes_and_refuses_a_product_that_overflows);
    RUN(a_refused_realloc_leaves_the_old_block);
    RUN(the_armed_failure_happens_at_its_call_and_once);
    RUN(an_arena_hands_out_zeroed_aligned_memory_that_dies_at_once);
    RUN(an_arena_refuses_overflow_and_passes_on_the_heaps_refusal);
    RUN(checked_arithmetic_agrees_with_128_bits);
    RUN(the_mixer_is_splitmix64);
    RUN(random_units_are_uniform_and_depend_on_seed_and_counter_alone);
    RUN(an_error_carries_status_and_numbers_and_is_cut_to_fit);
    return check_end();
}
