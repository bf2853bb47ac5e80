/* bench.h: times what test_kernels checks. */
#ifndef AIR_TESTS_BENCH_H
#define AIR_TESTS_BENCH_H

/* Prints a line for every figure of every kernel whose "tier kernel" contains filter, in whatever case; the exit status, 1 where none
 * does. One thread; a kernel is a format of weights, or a function of air_ops. share: of the bound, reading at the speed of a plain sum
 * or computing at the multipliers' peak, whichever is longer. tests/bench/kernels.py reads the lines. */
int bench(const char *filter);

#endif
