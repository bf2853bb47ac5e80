/* The text of what went wrong in a grid. */
#include <cstdio>
#include <cstring>
#include <mutex>

#include "simt/block.h"

namespace air::emu {

namespace {

std::mutex lock;

/* Not a global: AIRPY_EMU is read while globals are still made. */
std::string &first_error()
{
    static std::string text;
    return text;
}

std::string place(const char *file, int line)
{
    const char *slash = file ? strrchr(file, '/') : nullptr;
    return std::string(slash ? slash + 1 : file ? file : "?") + ":" + std::to_string(line);
}

std::string where(int thread) { return place(engine->thread[thread].file, engine->thread[thread].line); }

std::string deadlock(const Failure &f)
{
    const Meeting &meeting = *engine->thread[f.thread].meeting;
    unsigned alive = engine->warp[f.thread / LANES].alive;
    char masks[64];
    snprintf(masks, sizeof masks, "mask %08x, arrived %08x, alive %08x", meeting.mask, meeting.arrived, alive);
    std::string text = "deadlock: thread " + std::to_string(f.thread) + " in a warp collective at " + where(f.thread) + ", " + masks;
    return f.other < 0 ? text : text + "; thread " + std::to_string(f.other) + " in __syncthreads at " + where(f.other);
}

std::string describe(const Failure &f)
{
    switch (f.kind) {
    case Failure::divergent_barrier:
        return "divergent __syncthreads: thread " + std::to_string(f.thread) + " at " + where(f.thread) + ", thread "
            + std::to_string(f.other) + " at " + where(f.other);
    case Failure::barrier_after_exit:
        return "__syncthreads at " + where(f.thread) + " after some threads of the block have returned";
    case Failure::deadlock:
        return deadlock(f);
    case Failure::trap:
        return std::string(f.what) + " at " + place(f.file, f.line) + ", thread " + std::to_string(f.thread);
    case Failure::shared_memory:
        return std::string(f.what) + " does not fit: the limit of a block is " + std::to_string(engine->grid->shared_limit) + " bytes";
    default:
        return "";
    }
}

}  // namespace

void failure_report()
{
    std::lock_guard<std::mutex> guard(lock);
    if (!first_error().empty()) return;
    first_error() = std::string("[") + engine->grid->name + ", block " + std::to_string(blockIdx.x) + "," + std::to_string(blockIdx.y) + ","
        + std::to_string(blockIdx.z) + "] " + describe(engine->failure);
}

std::string last_error()
{
    std::lock_guard<std::mutex> guard(lock);
    return first_error();
}

void clear_error()
{
    std::lock_guard<std::mutex> guard(lock);
    first_error().clear();
}

}  // namespace air::emu
