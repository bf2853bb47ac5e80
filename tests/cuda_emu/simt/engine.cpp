/* Scheduling: which thread of a block runs next, when a barrier opens, how a block begins and ends.
 *
 * A thread that never waits runs to its end on the fiber of the thread before it, without a switch. Where ThreadSanitizer
 * tells threads apart, every CUDA thread has a stack and an identity of its own, and memory is ordered by barriers alone. */
#include "simt/engine.h"

#include <memory>
#include <mutex>
#include <numeric>

#include "simt/block.h"
#include "simt/sanitizer.h"

__thread uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace air::emu {

Options options;
__thread Engine *engine;

namespace {

std::mutex total_lock;
Stats total;

void count_grid(const Stats &grid)
{
    std::lock_guard<std::mutex> lock(total_lock);
    total.launches += grid.launches;
    total.blocks += grid.blocks;
    total.threads += grid.threads;
    total.switches += grid.switches;
    total.barriers += grid.barriers;
    total.collectives += grid.collectives;
}

unsigned bit(int lane) { return 1u << lane; }
unsigned low_bits(unsigned n) { return n >= LANES ? ~0u : bit(static_cast<int>(n)) - 1; }
int lowest(unsigned bits) { return __builtin_ctz(bits); }
int highest(unsigned bits) { return 31 - __builtin_clz(bits); }

void switch_to(Fiber *from, Fiber *to)
{
    engine->counted.switches++;
    fiber_switch(from, to, engine->tells_apart);
}

/* The next ready thread, or -1. Stays in the current warp while it can, but for Order::random. */
int pick()
{
    Engine &e = *engine;
    if (!e.ready_warps) return -1;
    int warp = e.current_warp, lane;
    bool stays = e.ready_warps & bit(warp);
    switch (e.order) {
    case Order::forward:
        if (!stays) warp = lowest(e.ready_warps);
        lane = lowest(e.warp[warp].ready);
        break;
    case Order::reverse:
        if (!stays) warp = highest(e.ready_warps);
        lane = highest(e.warp[warp].ready);
        break;
    default:
        do warp = static_cast<int>(engine_random() % static_cast<unsigned>(e.n_warps)); while (!(e.ready_warps & bit(warp)));
        do lane = static_cast<int>(engine_random() % LANES); while (!(e.warp[warp].ready & bit(lane)));
    }
    return warp * LANES + lane;
}

void make_current(int thread)
{
    Engine &e = *engine;
    Warp &warp = e.warp[thread / LANES];
    warp.ready &= ~bit(thread % LANES);
    if (!warp.ready) e.ready_warps &= ~bit(thread / LANES);
    e.current = thread;
    e.current_warp = thread / LANES;
    threadIdx = e.index[thread];
}

bool waits_at_barrier(int thread) { return engine->warp[thread / LANES].at_barrier & bit(thread % LANES); }

/* All living threads wait at a barrier: whether it is the same one, and they may go on. */
bool barrier_is_whole(bool some_exited)
{
    Engine &e = *engine;
    int first = -1;
    for (int i = 0; i < e.n_threads; i++) {
        if (!waits_at_barrier(i)) continue;
        if (first < 0) first = i;
        if (e.thread[i].line == e.thread[first].line && e.thread[i].file == e.thread[first].file) continue;
        fail({Failure::divergent_barrier, first, i, nullptr, nullptr, 0});
        return false;
    }
    if (some_exited && options.strict_exit) {
        fail({Failure::barrier_after_exit, first, -1, nullptr, nullptr, 0});
        return false;
    }
    return true;
}

void open_barrier()
{
    Engine &e = *engine;
    e.barrier_generation++;
    e.barrier_count[e.barrier_generation & 1] = 0;
    e.counted.barriers++;
    for (int i = 0; i < e.n_warps; i++) {
        unsigned lanes = e.warp[i].at_barrier;
        e.warp[i].at_barrier = 0;
        make_ready(i, lanes);
    }
}

/* Nothing is ready: opens the barrier, notes a deadlock, or finds the block finished. The next thread, or -1 to leave the block. */
int resolve()
{
    Engine &e = *engine;
    bool alive = false, exited = false;
    int stuck = -1, at_barrier = -1;
    for (int i = 0; i < e.n_warps; i++) {
        Warp &warp = e.warp[i];
        unsigned elsewhere = warp.alive & ~warp.at_barrier;
        if (warp.alive) alive = true;
        if (warp.alive != warp.exist) exited = true;
        if (warp.at_barrier && at_barrier < 0) at_barrier = i * LANES + lowest(warp.at_barrier);
        if (elsewhere) stuck = i * LANES + lowest(elsewhere);
    }
    if (!alive) return -1;
    if (stuck >= 0) {
        fail({Failure::deadlock, stuck, at_barrier, nullptr, nullptr, 0});
        return -1;
    }
    if (!barrier_is_whole(exited)) return -1;
    open_barrier();
    return pick();
}

int next_thread()
{
    if (engine->failed) return -1;
    int next = pick();
    return next >= 0 ? next : resolve();
}

void fiber_entry();

/* A fiber for each thread of the block by its number, where ThreadSanitizer tells threads apart. Two blocks in a row share none, since its
 * history must not order them; made before the block runs, since making one is an edge from the maker. */
Fiber *&numbered_fiber(int thread) { return engine->numbered_fibers[(engine->n_blocks & 1) * MAX_THREADS + static_cast<size_t>(thread)]; }

void make_numbered_fibers()
{
    engine->numbered_fibers.resize(2 * MAX_THREADS, nullptr);
    for (int i = 0; i < engine->n_threads; i++)
        if (Fiber *&fiber = numbered_fiber(i); !fiber) fiber = fiber_new(fiber_entry, static_cast<unsigned>(i), true);
}

/* A fiber for a thread that has not begun. */
Fiber *fiber_for(int thread)
{
    Engine &e = *engine;
    if (e.tells_apart) return numbered_fiber(thread);
    if (e.idle_fibers.empty()) {
        e.fibers.push_back(fiber_new(fiber_entry, static_cast<unsigned>(e.fibers.size()), false));
        return e.fibers.back();
    }
    Fiber *fiber = e.idle_fibers.back();
    e.idle_fibers.pop_back();
    return fiber;
}

void go_on_with(int thread, Fiber *from)
{
    Warp &warp = engine->warp[thread / LANES];
    unsigned lane = bit(thread % LANES);
    make_current(thread);
    if (warp.fresh & lane) {
        warp.fresh &= ~lane;
        engine->thread[thread].fiber = fiber_for(thread);
    }
    Fiber *to = engine->thread[thread].fiber;
    if (to != from) switch_to(from, to);
}

/* Lets a thread that has not begun run on the fiber that the current one leaves. */
bool begin_here(int thread, Fiber *fiber)
{
    Warp &warp = engine->warp[thread / LANES];
    unsigned lane = bit(thread % LANES);
    if (engine->tells_apart || !(warp.fresh & lane)) return false;
    warp.fresh &= ~lane;
    make_current(thread);
    engine->thread[thread].fiber = fiber;
    return true;
}

void run_current()
{
    Engine &e = *engine;
    sanitizer::acquire(&e.launched);
    (*e.body)();
    if (e.async_used) {
        async_commit();
        async_wait(0);
    }
    e.warp[e.current / LANES].alive &= ~bit(e.current % LANES);
    sanitizer::release(&e.finished);
}

void fiber_entry()
{
    fiber_entered(&engine->own);
    for (;;) {
        Fiber *fiber = engine->thread[engine->current].fiber;
        run_current();
        int next = next_thread();
        if (next >= 0 && begin_here(next, fiber)) continue;
        if (!engine->tells_apart) engine->idle_fibers.push_back(fiber);
        if (next < 0) switch_to(fiber, &engine->own);
        else go_on_with(next, fiber);
    }
}

/* After a failure: the fibers of threads that have not returned stand somewhere in the kernel. They begin anew in the next grid. */
void rewind_fibers()
{
    Engine &e = *engine;
    for (int i = 0; i < e.n_threads; i++) {
        const Warp &warp = e.warp[i / LANES];
        if (!(warp.alive & ~warp.fresh & bit(i % LANES))) continue;
        Fiber *fiber = e.thread[i].fiber;
        e.current = i;
        if (e.tells_apart) switch_to(&e.own, fiber);  /* comes back from wait_ready, to publish its end */
        fiber_rewind(fiber, fiber_entry, static_cast<unsigned>(i), e.tells_apart);
        if (!e.tells_apart) e.idle_fibers.push_back(fiber);
    }
}

/* The i-th block to run, of n: a permutation i × step + first where the order is random. */
struct BlockOrder {
    uint64_t n, step = 1, first = 0;
    bool reverse;

    explicit BlockOrder(uint64_t blocks) : n(blocks), reverse(engine->order == Order::reverse)
    {
        if (engine->order != Order::random || n < 3) return;
        first = engine_random() % n;
        step = engine_random() % n | 1;
        while (std::gcd(step, n) != 1) step += 2;
    }
    uint64_t operator[](uint64_t i) const { return reverse ? n - 1 - i : (i * step + first) % n; }
};

void begin_block(uint64_t number)
{
    Engine &e = *engine;
    blockIdx = make_uint3(static_cast<unsigned>(number % gridDim.x), static_cast<unsigned>(number / gridDim.x % gridDim.y),
                          static_cast<unsigned>(number / (uint64_t(gridDim.x) * gridDim.y)));
    e.ready_warps = low_bits(static_cast<unsigned>(e.n_warps));
    e.current_warp = e.order == Order::reverse ? e.n_warps - 1 : 0;
    for (int i = 0; i < e.n_warps; i++) {
        Warp &warp = e.warp[i];
        warp.exist = warp.alive = warp.fresh = warp.ready = low_bits(static_cast<unsigned>(e.n_threads - i * LANES));
        warp.at_barrier = 0;
        warp.meetings = 0;
    }
    if (e.async_used) {
        for (int i = 0; i < e.n_threads; i++) e.async[static_cast<size_t>(i)].n = e.async[static_cast<size_t>(i)].group = 0;
        e.async_used = false;
    }
    e.barrier_generation = 0;
    e.barrier_count[0] = e.barrier_count[1] = 0;
    e.n_blocks++;
    if (e.tells_apart) make_numbered_fibers();
    shared_begin_block();
}

void begin_grid(const Grid &grid, const Body &body)
{
    Engine &e = *engine;
    e.grid = &grid;
    e.body = &body;
    e.order = options.order;
    e.tells_apart = sanitizer::threads && !options.tsan_coarse;
    e.random = options.seed * UINT64_C(0x9E3779B97F4A7C15) + 1;
    e.failed = false;
    e.failure.kind = Failure::none;
    e.counted = Stats{};
    blockDim = make_uint3(grid.block.x, grid.block.y, grid.block.z);
    gridDim = make_uint3(grid.grid.x, grid.grid.y, grid.grid.z);
    unsigned n = grid.block.x * grid.block.y * grid.block.z;
    e.n_threads = static_cast<int>(n);
    e.n_warps = static_cast<int>((n + LANES - 1) / LANES);
    for (unsigned i = 0; i < n; i++)
        e.index[i] = make_uint3(i % grid.block.x, i / grid.block.x % grid.block.y, i / (grid.block.x * grid.block.y));
}

}  // namespace

unsigned engine_random()
{
    engine->random = engine->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return static_cast<unsigned>(engine->random >> 33);
}

void fail(const Failure &failure)
{
    if (engine->failure.kind == Failure::none) engine->failure = failure;
    engine->failed = true;
}

void abandon_block()
{
    sanitizer::release(&engine->finished);
    Fiber *fiber = engine->thread[engine->current].fiber;
    for (;;) switch_to(fiber, &engine->own);
}

void make_ready(int warp, unsigned lanes)
{
    if (!lanes) return;
    engine->warp[warp].ready |= lanes;
    engine->ready_warps |= bit(warp);
}

void wait_ready()
{
    Fiber *fiber = engine->thread[engine->current].fiber;
    int next = next_thread();
    if (next < 0) abandon_block();
    go_on_with(next, fiber);
    if (engine->tells_apart && engine->failed) abandon_block();  /* resumed by rewind_fibers */
}

int lane() { return engine->current % LANES; }

void device_trap(const char *what, const char *file, int line)
{
    fail({Failure::trap, engine->current, -1, what, file, line});
    abandon_block();
}

bool has_capability(int capability) { return engine->grid->capability >= capability; }

void needs_capability(int capability, const char *what, const char *file, int line)
{
    if (!has_capability(capability)) device_trap(what, file, line);
}

void block_barrier(const char *file, int line)
{
    Engine &e = *engine;
    Thread &thread = e.thread[e.current];
    thread.file = file;
    thread.line = line;
    e.warp[e.current / LANES].at_barrier |= bit(e.current % LANES);
    char *order = &e.barrier[e.barrier_generation & 1];
    sanitizer::release(order);
    wait_ready();
    sanitizer::acquire(order);
}

int block_barrier_count(Count what, bool predicate, const char *file, int line)
{
    Engine &e = *engine;
    unsigned generation = e.barrier_generation & 1;
    e.barrier_count[generation] += predicate;
    int alive = 0;
    for (int i = 0; i < e.n_warps; i++) alive += __builtin_popcount(e.warp[i].alive);
    block_barrier(file, line);
    int count = e.barrier_count[generation];
    return what == Count::any ? count != 0 : what == Count::all ? count == alive : count;
}

Stats stats()
{
    std::lock_guard<std::mutex> lock(total_lock);
    return total;
}

bool valid_grid(dim3 grid, dim3 block)
{
    enum { MAX_Z = 64, MAX_GRID_YZ = 65535, MAX_GRID_X = 0x7fffffff };
    uint64_t threads = uint64_t(block.x) * block.y * block.z;
    return threads && block.x <= MAX_THREADS && block.y <= MAX_THREADS && block.z <= MAX_Z && threads <= MAX_THREADS && grid.x && grid.y
        && grid.z && grid.x <= MAX_GRID_X && grid.y <= MAX_GRID_YZ && grid.z <= MAX_GRID_YZ;
}

cudaError_t run_grid(const Grid &grid, const Body &body)
{
    static thread_local std::unique_ptr<Engine> owned;
    if (!owned) owned = std::make_unique<Engine>();
    engine = owned.get();
    Engine &e = *engine;
    begin_grid(grid, body);
    fiber_adopt_thread(&e.own);
    sanitizer::release(&e.launched);

    uint64_t blocks = uint64_t(grid.grid.x) * grid.grid.y * grid.grid.z, run = 0;
    for (BlockOrder order(blocks); run < blocks && !e.failed; run++) {
        begin_block(order[run]);
        if (!e.failed) go_on_with(pick(), &e.own);
    }
    if (e.failed) {
        failure_report();
        rewind_fibers();
    }
    sanitizer::acquire(&e.finished);
    e.counted.launches = 1;
    e.counted.blocks = run;
    e.counted.threads = run * static_cast<uint64_t>(e.n_threads);
    count_grid(e.counted);
    return e.failed ? cudaErrorLaunchFailure : cudaSuccess;
}

}  // namespace air::emu
