/* simt/engine.h: runs CUDA kernels on the CPU, one block at a time, a fiber for each of its threads that has to wait.
 *
 * This is the part of the engine that kernels, through simt.h, and the emulated runtime call. Grids may run in several OS threads
 * at once; each such thread owns an engine, and a kernel never leaves the thread it began in. Threads of a block run one
 * after another until they wait, in the order that options say; shared memory starts out as NaN in every block.
 *
 * What a GPU would hang on or leave undefined is an error of the engine, with file and line: barriers or warp collectives that
 * not all threads reach, or reach at different lines, a trap, too much shared memory. run_grid then gives up the grid and
 * returns cudaErrorLaunchFailure; last_error says more. */
#ifndef AIR_CUDA_EMU_ENGINE_H
#define AIR_CUDA_EMU_ENGINE_H

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "simt/types.h"

/* __thread, not thread_local: kernels read these all the time, and no initialiser must be asked about. */
extern __thread uint3 threadIdx, blockIdx, blockDim, gridDim;
static const int warpSize = 32;

namespace air::emu {

/* --- for tests --- */

enum class Order { forward, reverse, random };  /* of blocks, of warps in a block, of lanes in a warp */

struct Options {
    Order order = Order::forward;
    unsigned seed = 1;          /* of Order::random */
    bool strict_exit = true;    /* __syncthreads after some thread of the block has returned is an error; devices let it pass */
    bool tsan_coarse = false;   /* ThreadSanitizer: a whole kernel is one actor, for tests of streams rather than of kernels */
};

struct Stats {
    uint64_t launches, blocks, threads, switches, barriers, collectives;
};

extern Options options;         /* set while no kernel runs */
Stats stats();                  /* of the process so far */
std::string last_error();       /* the first failure since clear_error, or "" */
void clear_error();

/* --- for the runtime --- */

using Body = std::function<void()>;  /* one CUDA thread: the kernel with its arguments */

struct Grid {
    const char *name;
    dim3 grid, block;
    size_t shared_bytes;        /* dynamic */
    size_t shared_limit;        /* dynamic and static together */
    int capability;             /* 10 × major + minor of the device */
};

bool valid_grid(dim3 grid, dim3 block);
cudaError_t run_grid(const Grid &grid, const Body &body);  /* of a valid grid */

/* --- for simt.h: called by kernels, in a grid --- */

enum class Collective { shuffle, vote, barrier, reduce, matrix };
enum class Count { any, all, number };

void block_barrier(const char *file, int line);
int block_barrier_count(Count what, bool predicate, const char *file, int line);

/* What each of the mask's lanes brought, once all have: 32 values, valid until the lane's next collective but one. */
const uint64_t *warp_exchange(unsigned mask, uint64_t value, Collective kind, const char *file, int line);

enum { WIDE_BYTES = 64 };
/* The same for up to WIDE_BYTES a lane: 32 × WIDE_BYTES. */
const unsigned char *warp_exchange_wide(unsigned mask, const void *value, size_t bytes, Collective kind, const char *file, int line);

int lane();
void *static_shared(const void *key, size_t bytes, size_t align, const char *name);
void *dynamic_shared();

/* cp.async: copied as late as may be, in the wait; a missing wait reads NaN. */
void async_copy(void *to, const void *from, int bytes, const char *file, int line);
void async_commit();
void async_wait(int pending);

[[noreturn]] void device_trap(const char *what, const char *file, int line);
bool has_capability(int capability);
/* A trap on devices below it, as nvcc's wrappers in cuda/dialect.h. */
void needs_capability(int capability, const char *what, const char *file, int line);

}  // namespace air::emu

#endif
