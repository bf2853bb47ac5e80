#include "simt/fiber.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <sys/mman.h>

#include "simt/sanitizer.h"

namespace air::emu {

namespace {

enum : size_t {
    GUARD = 4096,
#if defined(AIR_TSAN) || defined(AIR_ASAN)
    STACK = 256 * 1024  /* instrumented frames are several times larger */
#else
    STACK = 64 * 1024
#endif
};

#ifdef __x86_64__
/* The callee-saved registers of the System V ABI are all that a function call may lose. */
__attribute__((naked, noinline)) void switch_context(void **, void **)
{
    asm("pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
        "movq %rsp, (%rdi)\n movq (%rsi), %rsp\n"
        "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret");
}

void *first_context(char *top, void (*entry)())
{
    enum { SAVED_REGISTERS = 6 };
    void **sp = reinterpret_cast<void **>(reinterpret_cast<uintptr_t>(top) & ~uintptr_t(15));
    *--sp = nullptr;  /* where entry would return to; also aligns the stack as after a call */
    *--sp = reinterpret_cast<void *>(entry);
    sp -= SAVED_REGISTERS;
    memset(sp, 0, SAVED_REGISTERS * sizeof *sp);
    return sp;
}
#endif

void *new_identity()
{
#ifdef AIR_TSAN
    return __tsan_create_fiber(0);
#else
    return nullptr;
#endif
}

void free_identity(void *identity)
{
#ifdef AIR_TSAN
    __tsan_destroy_fiber(identity);
#else
    (void)identity;
#endif
}

}  // namespace

void fiber_rewind(Fiber *fiber, void (*entry)(), unsigned colour, bool visible)
{
    enum { COLOURS = 31, COLOUR_BYTES = 192 };
    sanitizer::unpoison(fiber->bottom, fiber->bytes);
    size_t shift = colour % COLOURS * COLOUR_BYTES + 256;
#ifdef __x86_64__
    fiber->context = first_context(fiber->bottom + fiber->bytes - shift, entry);
#else
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->bottom;
    fiber->context.uc_stack.ss_size = fiber->bytes - shift;
    fiber->context.uc_link = nullptr;
    makecontext(&fiber->context, entry, 0);
#endif
    fiber->fake_stack = nullptr;
    if (fiber->tsan) free_identity(fiber->tsan);
    fiber->tsan = visible ? new_identity() : nullptr;
}

Fiber *fiber_new(void (*entry)(), unsigned colour, bool visible)
{
    Fiber *fiber = new Fiber();
    void *mapped = mmap(nullptr, GUARD + STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED || mprotect(mapped, GUARD, PROT_NONE)) {
        perror("CUDA emulation: no memory for a thread's stack");
        abort();
    }
    fiber->bottom = static_cast<char *>(mapped) + GUARD;
    fiber->bytes = STACK;
    fiber_rewind(fiber, entry, colour, visible);
    return fiber;
}

void fiber_free(Fiber *fiber)
{
    if (fiber->tsan) free_identity(fiber->tsan);
    sanitizer::unpoison(fiber->bottom, fiber->bytes);
    munmap(fiber->bottom - GUARD, GUARD + STACK);
    delete fiber;
}

void fiber_adopt_thread(Fiber *own)
{
#ifdef AIR_TSAN
    own->tsan = __tsan_get_current_fiber();
#else
    (void)own;
#endif
}

void fiber_switch(Fiber *from, Fiber *to, bool visible)
{
#ifdef AIR_TSAN
    enum { NO_SYNC = 1 };
    if (visible) __tsan_switch_to_fiber(to->tsan, NO_SYNC);
#else
    (void)visible;
#endif
#ifdef AIR_ASAN
    __sanitizer_start_switch_fiber(&from->fake_stack, to->bottom, to->bytes);
#endif
#ifdef __x86_64__
    switch_context(&from->context, &to->context);
#else
    swapcontext(&from->context, &to->context);
#endif
#ifdef AIR_ASAN
    __sanitizer_finish_switch_fiber(from->fake_stack, nullptr, nullptr);
#endif
}

void fiber_entered(Fiber *own)
{
#ifdef AIR_ASAN
    const void *bottom;
    size_t bytes;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
    if (!own->bottom) {  /* the first fiber of a thread is entered from the thread's own stack */
        own->bottom = const_cast<char *>(static_cast<const char *>(bottom));
        own->bytes = bytes;
    }
#else
    (void)own;
#endif
}

}  // namespace air::emu
