/* base/compiler.h: the only place that names compiler extensions.
 *
 * Everything outside platform/ is ISO C11; what the language lacks comes through these macros, each with a meaning that
 * survives when the compiler has no such attribute. */
#ifndef AIR_BASE_COMPILER_H
#define AIR_BASE_COMPILER_H

#if defined(__GNUC__) || defined(__clang__)
#define AIR_PRINTF(format_index, first_arg) __attribute__((format(printf, format_index, first_arg)))
#define AIR_NODISCARD __attribute__((warn_unused_result))
#define AIR_LIKELY(x) __builtin_expect(!!(x), 1)
#define AIR_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define AIR_INLINE static inline __attribute__((always_inline))
#define AIR_NOINLINE __attribute__((noinline))
#define AIR_MAYBE_UNUSED __attribute__((unused))
#define AIR_PREFETCH(address) __builtin_prefetch(address)
#define AIR_PREFETCH_L2(address) __builtin_prefetch(address, 0, 2) /* whose misses may be more than L1's */
#define AIR_VECTOR(n) __attribute__((vector_size(n))) /* n bytes of a number type, with C's operators by lane; no other compiler has it */
#else
#define AIR_PRINTF(format_index, first_arg)
#define AIR_NODISCARD
#define AIR_LIKELY(x) (x)
#define AIR_UNLIKELY(x) (x)
#define AIR_INLINE static inline
#define AIR_NOINLINE
#define AIR_MAYBE_UNUSED
#define AIR_PREFETCH(address) ((void)(address))
#define AIR_PREFETCH_L2(address) ((void)(address))
#endif

#define AIR_CACHE_LINE 64
#define AIR_COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Headers compile as C11 and as C++ (CUDA's compiler). */
#ifdef __cplusplus
#include <atomic>
#define AIR_ATOMIC(type) std::atomic<type>
#define AIR_ALIGNAS(n) alignas(n)
#define AIR_BEGIN_C extern "C" {
#define AIR_END_C }
#else
#define AIR_ATOMIC(type) _Atomic(type)
#define AIR_ALIGNAS(n) _Alignas(n)
#define AIR_BEGIN_C
#define AIR_END_C
#endif

#endif
