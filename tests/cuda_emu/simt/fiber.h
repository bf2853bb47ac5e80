/* simt/fiber.h: stacks that one OS thread switches between by itself.
 *
 * A fiber owns its mapped stack (a guard page below it) and its identity for the sanitizers. It belongs to the OS thread that
 * made it and never moves to another. The thread's own stack is a Fiber too, one that fiber_new did not make. */
#ifndef AIR_CUDA_EMU_FIBER_H
#define AIR_CUDA_EMU_FIBER_H

#include <cstddef>

#ifndef __x86_64__
#include <ucontext.h>
#endif

namespace air::emu {

struct Fiber {
#ifdef __x86_64__
    void *context = nullptr;  /* stack pointer, the saved registers above it */
#else
    ucontext_t context;
#endif
    char *bottom = nullptr;   /* usable stack; of a thread's own stack known only to AddressSanitizer */
    size_t bytes = 0;
    void *tsan = nullptr;
    void *fake_stack = nullptr;
};

/* A fiber that begins in entry, which must never return, when it is first switched to. colour shifts the stack's top, so that the hot
 * lines of many stacks do not all fall on one cache set; visible: ThreadSanitizer takes it for a thread. */
Fiber *fiber_new(void (*entry)(), unsigned colour, bool visible);
void fiber_free(Fiber *fiber);

/* Forgets where a suspended fiber stood: it begins in entry again, a new thread if visible. No destructor runs. */
void fiber_rewind(Fiber *fiber, void (*entry)(), unsigned colour, bool visible);

/* Binds to the identity of the calling thread; before the first switch away from its own stack. */
void fiber_adopt_thread(Fiber *own);

/* Suspends from (the caller) and resumes to; visible: both are, and ThreadSanitizer is told, without an order between them. */
void fiber_switch(Fiber *from, Fiber *to, bool visible);

/* What an entry calls before anything else. own: the thread's own stack. */
void fiber_entered(Fiber *own);

}  // namespace air::emu

#endif
