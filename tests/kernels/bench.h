/* bench.h: times what test_kernels checks. */
#ifndef AIR_TESTS_BENCH_H
#define AIR_TESTS_BENCH_H

/* Prints a table for every product whose "tier format" contains filter, in whatever case; the exit status, 1 where none does. */
int bench(const char *filter);

#endif
