/* simt/sanitizer.h: what the emulation tells ThreadSanitizer and AddressSanitizer; nothing, where neither is asked for.
 *
 * The emulation itself is compiled without -fsanitize, so that its own traffic is invisible. AIR_TSAN or AIR_ASAN says that the
 * kernels and the host code around it are instrumented; then the edges and accesses that CUDA defines are published from here. */
#ifndef AIR_CUDA_EMU_SANITIZER_H
#define AIR_CUDA_EMU_SANITIZER_H

#include <cstddef>

#ifdef AIR_TSAN
extern "C" {
void *__tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void *fiber);
void *__tsan_get_current_fiber(void);
void __tsan_switch_to_fiber(void *fiber, unsigned flags);
void __tsan_acquire(void *address);
void __tsan_release(void *address);
void __tsan_ignore_thread_begin(void);
void __tsan_ignore_thread_end(void);
void __tsan_read_range(void *address, unsigned long bytes);
void __tsan_write_range(void *address, unsigned long bytes);
}
#endif
#ifdef AIR_ASAN
extern "C" {
void __sanitizer_start_switch_fiber(void **fake_stack, const void *bottom, size_t bytes);
void __sanitizer_finish_switch_fiber(void *fake_stack, const void **bottom, size_t *bytes);
void __asan_poison_memory_region(const volatile void *address, size_t bytes);
void __asan_unpoison_memory_region(const volatile void *address, size_t bytes);
}
#endif

namespace air::sanitizer {

#ifdef AIR_TSAN
constexpr bool threads = true;
inline void acquire(void *sync) { __tsan_acquire(sync); }
inline void release(void *sync) { __tsan_release(sync); }
inline void ignore_begin() { __tsan_ignore_thread_begin(); }
inline void ignore_end() { __tsan_ignore_thread_end(); }
inline void reads(const void *p, size_t n) { __tsan_read_range(const_cast<void *>(p), n); }
inline void writes(void *p, size_t n) { __tsan_write_range(p, n); }
#else
constexpr bool threads = false;
inline void acquire(void *) {}
inline void release(void *) {}
inline void ignore_begin() {}
inline void ignore_end() {}
inline void reads(const void *, size_t) {}
inline void writes(void *, size_t) {}
#endif

#ifdef AIR_ASAN
inline void poison(void *p, size_t n) { __asan_poison_memory_region(p, n); }
inline void unpoison(void *p, size_t n) { __asan_unpoison_memory_region(p, n); }
#else
inline void poison(void *, size_t) {}
inline void unpoison(void *, size_t) {}
#endif

/* libc's memcpy and memset are intercepted even here; these two are not. */
#ifdef __x86_64__
inline void quiet_copy(void *to, const void *from, size_t n) { asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory"); }
inline void quiet_fill(void *to, int v, size_t n) { asm volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(v) : "memory"); }
#else
inline void quiet_copy(void *to, const void *from, size_t n)
{
    for (size_t i = 0; i < n; i++) static_cast<volatile char *>(to)[i] = static_cast<const char *>(from)[i];
}
inline void quiet_fill(void *to, int v, size_t n)
{
    for (size_t i = 0; i < n; i++) static_cast<volatile char *>(to)[i] = static_cast<char>(v);
}
#endif

}  // namespace air::sanitizer

#endif
