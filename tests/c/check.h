/* check.h: the harness of the C tests. One executable per file, no dependencies, no allocation.
 *
 *     TEST(a_block_of_zeros_decodes_to_zeros) { CHECK_EQ(sum, 0); }
 *     int main(int argc, char **argv)
 *     {
 *         check_begin(argc, argv);                      // argv[1], if given, selects tests whose name contains it
 *         RUN(a_block_of_zeros_decodes_to_zeros);
 *         return check_end();                           // prints "N passed, N failed"; 0 only if all that ran passed
 *     }
 *
 * A failing CHECK prints file:line and goes on; REQUIRE leaves the function (it must return void). CHECKs may run in any thread,
 * the harness itself belongs to main's. Random input comes from check_random, seeded from AIR_TEST_SEED or 1; the seed is printed. */
#ifndef AIR_TESTS_CHECK_H
#define AIR_TESTS_CHECK_H

#ifdef __cplusplus /* the tests of tests/cuda_emu */
#include <atomic>
using std::atomic_fetch_add;
using std::atomic_int;
using std::atomic_load;
using std::atomic_store;
#else
#include <stdatomic.h>
#endif
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHECK_MAX_PRINTED = 20 };        /* per test: an exhaustive loop that fails must not flood the log */

static struct {
    const char *filter;
    uint64_t    random;
    int         passed, failed;
    atomic_int  failures;               /* of the running test */
} check_state;

static inline void check_begin(int argc, char **argv)
{
    const char *seed = getenv("AIR_TEST_SEED");
    check_state.filter = argc > 1 ? argv[1] : "";
    check_state.random = seed ? strtoull(seed, NULL, 0) : 1;
    printf("seed %llu (AIR_TEST_SEED)\n", (unsigned long long)check_state.random);
}

/* 64 uniform bits (splitmix64); main's thread only. */
static inline uint64_t check_random(void)
{
    uint64_t z = check_state.random += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static inline int check_note_failure(const char *file, int line)
{
    int n = atomic_fetch_add(&check_state.failures, 1);
    if (n == CHECK_MAX_PRINTED) printf("  ... more failures in this test\n");
    if (n >= CHECK_MAX_PRINTED) return 0;
    printf("  %s:%d: ", file, line);
    return 1;
}

static inline int check_true(int ok, const char *text, const char *file, int line)
{
    if (!ok && check_note_failure(file, line)) printf("CHECK(%s)\n", text);
    return ok;
}

static inline void check_equal(long long a, long long b, const char *ta, const char *tb, const char *file, int line)
{
    if (a != b && check_note_failure(file, line))
        printf("%s is %lld (0x%llx), %s is %lld (0x%llx)\n", ta, a, (unsigned long long)a, tb, b, (unsigned long long)b);
}

static inline void check_strings(const char *a, const char *b, const char *ta, const char *tb, const char *file, int line)
{
    if ((!a || !b || strcmp(a, b) != 0) && check_note_failure(file, line))
        printf("%s is \"%s\", %s is \"%s\"\n", ta, a ? a : "(null)", tb, b ? b : "(null)");
}

static inline void check_run(const char *name, void (*test)(void))
{
    if (!strstr(name, check_state.filter)) return;
    atomic_store(&check_state.failures, 0);
    test();
    int ok = atomic_load(&check_state.failures) == 0;
    printf("%s %s\n", ok ? "ok    " : "FAILED", name);
    fflush(stdout);
    if (ok) check_state.passed++; else check_state.failed++;
}

static inline int check_end(void)
{
    printf("%d passed, %d failed\n", check_state.passed, check_state.failed);
    if (check_state.passed + check_state.failed == 0) printf("no test matches \"%s\"\n", check_state.filter);
    return check_state.failed == 0 && check_state.passed > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

#define TEST(name)          static void name(void)
#define RUN(name)           check_run(#name, name)
#define CHECK(cond)         ((void)check_true((cond) != 0, #cond, __FILE__, __LINE__))
#define REQUIRE(cond)       do { if (!check_true((cond) != 0, #cond, __FILE__, __LINE__)) return; } while (0)
#define CHECK_EQ(a, b)      check_equal((long long)(a), (long long)(b), #a, #b, __FILE__, __LINE__)   /* integers, enums */
#define CHECK_STR_EQ(a, b)  check_strings((a), (b), #a, #b, __FILE__, __LINE__)

#endif
