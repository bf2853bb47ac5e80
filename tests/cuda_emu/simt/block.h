/* simt/block.h: the engine's state; private to simt/.
 *
 * One Engine per OS thread that runs grids, reached through `engine`. It owns the fibers and the arena of shared memory; all
 * else describes the block that runs now. A thread of a block is a number; bit `lane` of a warp's words stands for it there. */
#ifndef AIR_CUDA_EMU_BLOCK_H
#define AIR_CUDA_EMU_BLOCK_H

#include <vector>

#include "simt/engine.h"
#include "simt/fiber.h"

namespace air::emu {

enum { LANES = 32, MAX_WARPS = 32, MAX_THREADS = 1024, MAX_MASKS = 16, MAX_SHARED = 32, MAX_ASYNC = 64 };

/* Lanes of a warp that meet under one mask. Two generations, since a lane may arrive again before the slowest has read. */
struct Meeting {
    unsigned mask, arrived, generation;
    Collective kind;
    const char *file;
    int line;
    uint64_t values[2][LANES];
    unsigned char wide[2][LANES][WIDE_BYTES];
};

struct Warp {
    unsigned exist, alive;  /* lanes it began with; those that have not returned */
    unsigned fresh;         /* lanes that have not begun: they have no fiber yet */
    unsigned ready;         /* lanes that can run */
    unsigned at_barrier;
    int meetings;
    std::vector<Meeting> meeting = std::vector<Meeting>(MAX_MASKS);
};

struct Thread {
    Fiber *fiber;
    Meeting *meeting;       /* the last one it came to */
    const char *file;       /* where it waits */
    int line;
};

struct AsyncCopy {
    void *to;
    const void *from;
    int bytes, group;
};

struct AsyncQueue {
    AsyncCopy copies[MAX_ASYNC];
    int n, group;           /* pending copies; the group that the next commit closes */
};

/* What went wrong first, as facts: the text is built when the block has been left, on the thread's own stack. */
struct Failure {
    enum Kind { none, divergent_barrier, barrier_after_exit, deadlock, trap, shared_memory } kind;
    int thread, other;      /* -1: none */
    const char *what, *file;
    int line;
};

struct Engine {
    Engine();
    ~Engine();
    Engine(const Engine &) = delete;
    Engine &operator=(const Engine &) = delete;

    /* The grid. */
    const Grid *grid;
    const Body *body;
    Order order;
    uint64_t random;
    Failure failure;
    bool failed;

    /* The block. */
    int n_threads, n_warps;
    int current, current_warp;
    unsigned ready_warps;
    unsigned barrier_generation;
    int barrier_count[2];   /* of __syncthreads_or and its like, by generation */
    Warp warp[MAX_WARPS];
    Thread thread[MAX_THREADS];
    uint3 index[MAX_THREADS];  /* threadIdx of each */
    std::vector<AsyncQueue> async = std::vector<AsyncQueue>(MAX_THREADS);
    bool async_used;

    /* Shared memory: bump-allocated, gaps between arrays. */
    char *arena;
    size_t arena_used, shared_used;
    char *dynamic;
    struct { const void *key; char *memory; } shared[MAX_SHARED];
    int n_shared;

    /* Fibers. */
    Fiber own;
    std::vector<Fiber *> fibers, idle_fibers;
    bool tells_apart;       /* ThreadSanitizer takes each thread of a block for one: by number, apart for odd and even blocks */
    std::vector<Fiber *> numbered_fibers;
    unsigned n_blocks;      /* ever run */

    /* Addresses that stand for order in ThreadSanitizer: launch before every thread, all of them before the end, barriers. */
    char launched, finished, barrier[2];

    Stats counted;          /* of the grid that runs */
};

extern __thread Engine *engine;

unsigned engine_random();

/* Notes a failure unless there is one already. */
void fail(const Failure &failure);
/* Leaves the block for good; its other threads are given up. */
[[noreturn]] void abandon_block();
/* Blocks the current thread, whose reason to wait is noted already, until it is made ready. */
void wait_ready();
void make_ready(int warp, unsigned lanes);

/* shared_memory.cpp */
void shared_begin_block();
/* failure.cpp */
void failure_report();

}  // namespace air::emu

#endif
