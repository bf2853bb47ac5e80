/* runtime.h: the emulated CUDA runtime, as a test sees it.
 *
 * Code under test calls cudaMalloc, cudaMemcpyAsync, air_launch and so on; here a test says on what devices, in what order streams
 * advance, and what fails. Devices are memory of this process; kernels run in simt/engine.h's engine. Everything is thread-safe, but
 * cfg changes only while no work is pending and no other thread is in a call; reset() after it.
 *
 * A plugin that Python loads is set from outside, by the same words as configure(), once, when it is loaded:
 *
 *     AIRPY_EMU="devices=2,vram=64MiB,mode=sched,seed=7,order=random,fail=cudaMalloc:3"
 *
 *     devices=N            0: calls say cudaErrorNoDevice                      driver=12020, runtime=13000   versions; a driver of an
 *     vram=SIZE[/SIZE…]    of each device, the last one for the rest              older major, or 0: cudaErrorInsufficientDriver
 *     sm=80[/SM…], sms=4   compute capability, of each; multiprocessors        image=80   kernels are built for no older device
 *     optin=SIZE           shared memory of a block that asks for more         peer=0|1   whether devices can reach each other
 *     mode=sync|threads|sched   when work is done: see Mode                    copy=early|late|spread, h2d=GB/s, d2h=GB/s, kernel_us=
 *     links=GB/s[/GB/s…]   instead of h2d, of each device     root=GB/s   of all copies from the host together, in mode=threads
 *     seed=N               of mode=sched; 0: the laziest order                 poison=0|1 new memory is NaN
 *     order=forward|reverse|random, order_seed=N   of threads in a kernel      strict_exit=0|1, tsan_coarse=0|1
 *     pinned=SIZE          page-locked bytes in all                            register=SIZE   those by cudaHostRegister; 0 refuses all
 *     fail=API:N[:CODE]    the N-th call of API (or *) returns CODE            fail_op=N[:CODE]   the N-th operation that is run fails
 *     lose=DEVICE:N        the device is gone from its N-th operation on
 *
 * air_emu_report, exported, tells such a process's caller what is left and what was complained about; air_emu_configure is configure(). */
#ifndef AIR_CUDA_EMU_RUNTIME_H
#define AIR_CUDA_EMU_RUNTIME_H

#include <array>
#include <cstddef>
#include <string>

#include "simt.h"

namespace air::fake {

enum class Mode {
    sync,     /* at once, in the call: finds nothing that is about order */
    threads,  /* by a thread per stream; with ThreadSanitizer, with modelled bandwidths */
    sched     /* only when the host waits, by the waiting thread. seed 0: the least that the wait needs, so that what is not waited for
               * has not happened; else also other streams' work, at random, so that it has happened early */
};

/* When a modelled copy (h2d, d2h; Mode::threads) reads its source: at its start, at its end, piece by piece. */
enum class Copy { early, late, spread };

enum { MAX_DEVICES = 8 };

struct DeviceConfig {
    std::string name = "Emulated GPU";
    size_t vram = size_t(8) << 30;
    int capability = 80;                 /* 10 × major + minor */
    int multiprocessors = 4;
    size_t shared_optin = 99 * 1024;     /* what a block gets after cudaFuncSetAttribute, static included; 48 KiB without */
    int memory_clock_khz = 1000000, bus_bits = 256;
    double link_gbs = 0;                 /* instead of h2d_gbs */
};

struct Config {
    int devices = 1;
    std::array<DeviceConfig, MAX_DEVICES> device;
    int driver = 13000, runtime = 13000; /* 1000 × major + 10 × minor; driver 0: none is installed */
    int image = 0;                       /* kernels exist for devices of at least this capability */
    bool peer = false;
    size_t page_locked_limit = SIZE_MAX, register_limit = SIZE_MAX;
    Mode mode = Mode::sync;
    unsigned seed = 0;
    Copy copy = Copy::late;
    double h2d_gbs = 0, d2h_gbs = 0;     /* 10^9 bytes per second; 0: no delay */
    double root_gbs = 0;                 /* what copies to all devices together have at most, beside that of each; 0: any */
    double kernel_us = 0;                /* delay of each kernel in Mode::threads */
    bool poison = true;                  /* new device and pinned memory is 0xFF: NaN in every float format */
};

extern Config cfg;

struct DeviceStats {
    size_t vram_used, vram_peak;
    long ops;                            /* run */
};

/* live_: not yet given back, whatever reset() did; the others count since reset(). */
struct Stats {
    long live_device, live_host, live_registered, live_streams, live_events, live_graphs;
    long calls, ops;
    long graph_launches;
    long downloaded;                     /* bytes from devices to the host */
    long host_waits;                     /* calls that wait for an event or a stream */
    long pageable_async;                 /* asynchronous copies of memory that is not page-locked: they are not asynchronous */
    long null_stream_async;              /* work on the null stream */
    long unrecorded_waits;               /* waits for events that were never recorded: no waits */
    size_t page_locked, vram_used, vram_peak;
    std::array<DeviceStats, MAX_DEVICES> device;

    bool leaks() const { return live_device || live_host || live_registered || live_streams || live_events || live_graphs; }
};

Stats stats();

/* Forgets errors, faults, lost devices, counters, the log and this thread's device. Work that is pending stays pending. */
void reset();

/* Sets cfg and emu::options from words as above, on top of the defaults, and resets. "" or what is wrong with the words. */
std::string configure(const std::string &words);

/* The nth call of an API ("*": of any), counted from reset(), returns error. Calls that release something do their work all the same. */
void fault(const std::string &api, long nth, cudaError_t error);
/* The nth operation run fails, and all that its device is asked for after it, as on a GPU, until reset() or cudaDeviceReset. */
void fault_op(long nth, cudaError_t error);
/* The device is gone for good, from its nth operation from now on; 0: at once. */
void lose_device(int device, long nth = 0);

/* What was done that CUDA forbids or hides: a line each, "" if nothing. */
std::string log();

}  // namespace air::fake

extern "C" {
/* "live_device 0\nlive_host 0\n…log …": stats() and log(). Valid until the next call. */
__attribute__((visibility("default"))) const char *air_emu_report(void);
/* configure() */
__attribute__((visibility("default"))) const char *air_emu_configure(const char *words);
}

#endif
