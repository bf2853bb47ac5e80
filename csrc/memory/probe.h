/* memory/probe.h: measures what a plan needs: disk, memory and product bandwidths. Short (well under a second all together), on the
 * actual files and threads. Callers keep the figures (airpy stores them per device and CPU). */
#ifndef AIR_MEMORY_PROBE_H
#define AIR_MEMORY_PROBE_H

#include "memory/plan.h"
#include "memory/source.h"

AIR_BEGIN_C

enum { AIR_PROBE_SLICE_NS = 50 * 1000 * 1000 };

/* Asked on the calling thread every AIR_PROBE_SLICE_NS or more often; an answer other than 0 ends the probe with AIR_E_CANCELLED.
 * stop NULL: never. */
typedef struct air_probe_watch {
    int (*stop)(void *context);
    void *context;
} air_probe_watch;

/* Direct reads at spread offsets, for some block sizes and depths; writes disk, block_bytes, depth, and latency_s, of
 * small reads one after the other. seconds bounds the time. */
air_status air_probe_disk(air_source *source, double seconds, air_probe_watch watch, air_bandwidths *out, air_error *err);

/* Read bandwidth of threads threads over a buffer larger than the last cache, and one-column and many-column products of the
 * types whose bit is set in types (bit = GGML type id; all ids are below 64); and what an op takes beside its bytes, from passes of a
 * tiny program. Takes up to bytes of memory while it runs. seconds bounds the trials; touching the memory takes as much again at
 * most, where it is slow down to 128 MiB of it. */
air_status air_probe_compute(int threads, int cpu_tier, uint64_t types, uint64_t bytes, double seconds, air_probe_watch watch,
                             air_bandwidths *out, air_error *err);

AIR_END_C
#endif
