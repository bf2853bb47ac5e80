/* Shared memory of the running block, and the copies into it that cp.async leaves pending. */
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <sys/mman.h>

#include "simt/block.h"
#include "simt/sanitizer.h"

namespace air::emu {

namespace {

enum : size_t {
    PAGE = 4096,
    GAP = 64,  /* between arrays: poisoned for AddressSanitizer */
    ARENA = 256 * 1024 + (MAX_SHARED + 1) * (2 * GAP + 128)
};

char *allocate(size_t bytes, size_t align, const char *name)
{
    Engine &e = *engine;
    size_t at = (e.arena_used + align - 1) & ~(align - 1);
    if (e.shared_used + bytes > e.grid->shared_limit || at + bytes + GAP > ARENA) {
        fail({Failure::shared_memory, -1, -1, name, nullptr, 0});
        return nullptr;
    }
    char *memory = e.arena + at;
    sanitizer::unpoison(memory, bytes);
    sanitizer::poison(memory + bytes, GAP);
    sanitizer::quiet_fill(memory, 0xFF, bytes);  /* NaN as float, half and bfloat16 */
    e.arena_used = (at + bytes + GAP + 7) & ~size_t(7);
    e.shared_used += bytes;
    return memory;
}

}  // namespace

Engine::Engine() : grid(nullptr), body(nullptr), failed(false), async_used(false), arena_used(0), tells_apart(false), n_blocks(0)
{
    void *memory = mmap(nullptr, ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        perror("CUDA emulation: no memory for shared memory");
        abort();
    }
    arena = static_cast<char *>(memory);
}

Engine::~Engine()
{
    for (Fiber *fiber : fibers) fiber_free(fiber);
    for (Fiber *fiber : numbered_fibers)
        if (fiber) fiber_free(fiber);
    sanitizer::unpoison(arena, ARENA); /* what is mapped there next is not poisoned */
    munmap(arena, ARENA);
}

void shared_begin_block()
{
    Engine &e = *engine;
    if (e.tells_apart && e.arena_used) {  /* the same addresses are new memory: to map them anew makes ThreadSanitizer forget */
        sanitizer::ignore_begin();
        mmap(e.arena, (e.arena_used + PAGE - 1) / PAGE * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        sanitizer::ignore_end();
    }
    e.arena_used = e.shared_used = 0;
    e.n_shared = 0;
    e.dynamic = nullptr;
    if (e.grid->shared_bytes) e.dynamic = allocate(e.grid->shared_bytes, 128, "dynamic shared memory");
}

void *static_shared(const void *key, size_t bytes, size_t align, const char *name)
{
    Engine &e = *engine;
    for (int i = 0; i < e.n_shared; i++)
        if (e.shared[i].key == key) return e.shared[i].memory;
    if (e.n_shared == MAX_SHARED) device_trap("too many AIR_SHARED arrays", name, 0);
    char *memory = allocate(bytes, align < 16 ? 16 : align, name);
    if (!memory) abandon_block();
    e.shared[e.n_shared++] = {key, memory};
    return memory;
}

void *dynamic_shared() { return engine->dynamic; }

void async_copy(void *to, const void *from, int bytes, const char *file, int line)
{
    AsyncQueue &queue = engine->async[static_cast<size_t>(engine->current)];
    uintptr_t low_bits = reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from);
    engine->async_used = true;
    if (low_bits % static_cast<unsigned>(bytes)) device_trap("cp.async of an address that is no multiple of its size", file, line);
    if (queue.n == MAX_ASYNC) device_trap("more than 64 cp.async pending in one thread", file, line);
    queue.copies[queue.n++] = {to, from, bytes, queue.group};
}

void async_commit() { engine->async[static_cast<size_t>(engine->current)].group++; }

void async_wait(int pending)
{
    AsyncQueue &queue = engine->async[static_cast<size_t>(engine->current)];
    int kept = 0;
    for (int i = 0; i < queue.n; i++) {
        AsyncCopy &copy = queue.copies[i];
        if (copy.group >= queue.group - pending) {
            queue.copies[kept++] = copy;
        } else {
            volatile size_t n = static_cast<size_t>(copy.bytes);  /* a call of memcpy, which the sanitizers see */
            memcpy(copy.to, copy.from, n);
        }
    }
    queue.n = kept;
}

}  // namespace air::emu
