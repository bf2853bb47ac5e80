/* memory/probe_internal.h: what the probes share. */
#ifndef AIR_MEMORY_PROBE_INTERNAL_H
#define AIR_MEMORY_PROBE_INTERNAL_H

#include "memory/plan.h"

/* Sorts n values, at least one; returns that of which share are smaller. */
double air__quantile(double *values, int n, double share);

/* Writes op_s: seconds of an op of a pass of one row beside its bytes. Errors: AIR_E_NOMEM, AIR_E_THREAD. */
air_status air__probe_ops(int threads, int cpu_tier, double seconds, air_bandwidths *out, air_error *err);

#endif
