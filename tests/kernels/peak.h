/* peak.h: what a CPU's multipliers give where nothing else is in their way: the bound of products of many columns. */
#ifndef AIR_TESTS_PEAK_H
#define AIR_TESTS_PEAK_H

#include "kernels/ops.h"

typedef struct peak { /* per second, all threads together; 0: no loop for this tier here */
    double int8;  /* operations, a multiply and an add each, of 8-bit integers, summed up as the tier's instructions allow */
    double f32;   /* the same of floats */
    double clock; /* cycles of one thread */
} peak;

/* The best of what fits into so many seconds. */
peak peak_of(air_cpu_tier tier, int threads, double seconds);

/* Prints a line for every tier; the exit status. */
int peaks(int threads);

double now_seconds(void);

#endif
