/* simt/intrinsics.h: what one thread does by itself: atomics, integer and float intrinsics. */
#ifndef AIR_CUDA_EMU_INTRINSICS_H
#define AIR_CUDA_EMU_INTRINSICS_H

#include <cstdint>
#include <cstring>
#include <type_traits>

#include <math.h> /* not cmath: CUDA has isnan and its like without std:: */

#include "simt/half.h"

/* --- atomics: real ones, since ThreadSanitizer must see them; relaxed, as on the device --- */

namespace air::emu {

template <class T, class Change>
inline T atomic_change(T *p, Change change)
{
    using Wide = std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>;
    using Word = std::conditional_t<sizeof(T) == 8, uint64_t, Wide>;
    static_assert(sizeof(Word) == sizeof(T), "2, 4 or 8 bytes");
    Word *word = reinterpret_cast<Word *>(p), old = __atomic_load_n(word, __ATOMIC_RELAXED);
    for (;;) {
        T before = bits_as<T>(old);
        Word after = bits_as<Word>(change(before));
        if (__atomic_compare_exchange_n(word, &old, after, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) return before;
    }
}

/* Integers wrap around. */
template <class T>
inline T wrapping_sum(T a, T b)
{
    if constexpr (std::is_integral<T>::value) {
        using U = std::make_unsigned_t<T>;
        return static_cast<T>(static_cast<U>(a) + static_cast<U>(b));
    } else {
        return a + b;
    }
}

}  // namespace air::emu

template <class T, class V>
inline T atomicAdd(T *p, V v)
{
    return air::emu::atomic_change(p, [=](T old) { return air::emu::wrapping_sum(old, static_cast<T>(v)); });
}
template <class T, class V>
inline T atomicSub(T *p, V v)
{
    return air::emu::atomic_change(p, [=](T old) { return air::emu::wrapping_sum(old, static_cast<T>(T(0) - static_cast<T>(v))); });
}
template <class T, class V>
inline T atomicMax(T *p, V v)
{
    return air::emu::atomic_change(p, [=](T old) { return old < static_cast<T>(v) ? static_cast<T>(v) : old; });
}
template <class T, class V>
inline T atomicMin(T *p, V v)
{
    return air::emu::atomic_change(p, [=](T old) { return static_cast<T>(v) < old ? static_cast<T>(v) : old; });
}
template <class T, class V>
inline T atomicAnd(T *p, V v)
{
    return air::emu::atomic_change(p, [=](T old) { return static_cast<T>(old & static_cast<T>(v)); });
}
template <class T, class V>
inline T atomicOr(T *p, V v)
{
    return air::emu::atomic_change(p, [=](T old) { return static_cast<T>(old | static_cast<T>(v)); });
}
template <class T, class V>
inline T atomicExch(T *p, V v)
{
    return air::emu::atomic_change(p, [=](T) { return static_cast<T>(v); });
}
template <class T, class C, class V>
inline T atomicCAS(T *p, C expected, V v)
{
    return air::emu::atomic_change(p, [=](T old) { return old == static_cast<T>(expected) ? static_cast<T>(v) : old; });
}

/* --- integers --- */

inline int __dp4a(int a, int b, int c)
{
    unsigned sum = static_cast<unsigned>(c);
    for (int i = 0; i < 4; i++) sum += static_cast<unsigned>(int8_t(a >> 8 * i) * int8_t(b >> 8 * i));
    return static_cast<int>(sum);
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c)
{
    for (int i = 0; i < 4; i++) c += (a >> 8 * i & 255) * (b >> 8 * i & 255);
    return c;
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector)
{
    uint64_t bytes = uint64_t(b) << 32 | a;
    unsigned picked = 0;
    for (int i = 0; i < 4; i++) {
        unsigned nibble = selector >> 4 * i & 15, byte = static_cast<unsigned>(bytes >> 8 * (nibble & 7)) & 255;
        if (nibble & 8) byte = byte & 128 ? 255 : 0;  /* the sign, eight times */
        picked |= byte << 8 * i;
    }
    return picked;
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift)
{
    return static_cast<unsigned>((uint64_t(high) << 32 | low) >> (shift & 31));
}
inline unsigned __funnelshift_rc(unsigned low, unsigned high, unsigned shift)
{
    return static_cast<unsigned>((uint64_t(high) << 32 | low) >> (shift < 32 ? shift : 32));
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift)
{
    return static_cast<unsigned>((uint64_t(high) << 32 | low) << (shift & 31) >> 32);
}
namespace air::emu {
/* One operation on each of the four bytes of two words, without carries between them. */
template <class Byte, class Do>
inline unsigned bytewise(unsigned a, unsigned b, Do op)
{
    unsigned result = 0;
    for (int i = 0; i < 4; i++) result |= (static_cast<unsigned>(op(Byte(a >> 8 * i), Byte(b >> 8 * i))) & 255) << 8 * i;
    return result;
}
}  // namespace air::emu
inline unsigned __vadd4(unsigned a, unsigned b) { return air::emu::bytewise<uint8_t>(a, b, [](int x, int y) { return x + y; }); }
inline unsigned __vsub4(unsigned a, unsigned b) { return air::emu::bytewise<uint8_t>(a, b, [](int x, int y) { return x - y; }); }
inline unsigned __vsubss4(unsigned a, unsigned b)
{
    return air::emu::bytewise<int8_t>(a, b, [](int x, int y) { return x - y > 127 ? 127 : x - y < -128 ? -128 : x - y; });
}
inline unsigned __vcmpeq4(unsigned a, unsigned b)
{
    return air::emu::bytewise<uint8_t>(a, b, [](int x, int y) { return x == y ? 255 : 0; });
}
inline unsigned __vcmpne4(unsigned a, unsigned b) { return ~__vcmpeq4(a, b); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __brev(unsigned x)
{
    unsigned reversed = 0;
    for (int i = 0; i < 32; i++) reversed |= (x >> i & 1) << (31 - i);
    return reversed;
}
inline int __mul24(int a, int b) { return (a << 8 >> 8) * (b << 8 >> 8); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t(a) * b >> 32); }
inline int __mulhi(int a, int b) { return static_cast<int>(int64_t(a) * b >> 32); }

template <class T>
inline T min(T a, T b)
{
    return b < a ? b : a;
}
template <class T>
inline T max(T a, T b)
{
    return a < b ? b : a;
}
inline float min(float a, float b) { return fminf(a, b); } /* the number, where the other is NaN */
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

/* --- loads and stores with cache hints --- */

template <class T>
inline T __ldg(const T *p)
{
    return *p;
}
template <class T>
inline T __ldcs(const T *p)
{
    return *p;
}
template <class T>
inline T __ldcg(const T *p)
{
    return *p;
}
template <class T>
inline void __stcs(T *p, T value)
{
    *p = value;
}

/* --- floats: the fast ones are exact here, within what CUDA promises of them --- */

inline float __expf(float x) { return expf(x); }
inline float __exp10f(float x) { return powf(10.0f, x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __frsqrt_rn(float a) { return 1.0f / sqrtf(a); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __saturatef(float x) { return x > 0.0f ? x < 1.0f ? x : 1.0f : 0.0f; }

inline int __float_as_int(float f) { return air::emu::bits_as<int>(f); }
inline unsigned __float_as_uint(float f) { return air::emu::bits_as<unsigned>(f); }
inline float __int_as_float(int i) { return air::emu::bits_as<float>(i); }
inline float __uint_as_float(unsigned u) { return air::emu::bits_as<float>(u); }
inline float __int2float_rn(int i) { return static_cast<float>(i); }
inline float __uint2float_rn(unsigned u) { return static_cast<float>(u); }

namespace air::emu {
/* Saturates, NaN to 0, as the device's conversions; C++ leaves these cases undefined. */
inline int to_int(float rounded)
{
    if (rounded != rounded) return 0;
    if (rounded >= 0x1p31f) return INT32_MAX;
    return rounded <= -0x1p31f ? INT32_MIN : static_cast<int>(rounded);
}
}  // namespace air::emu
inline int __float2int_rn(float f) { return air::emu::to_int(nearbyintf(f)); }
inline int __float2int_rz(float f) { return air::emu::to_int(truncf(f)); }
inline int __float2int_rd(float f) { return air::emu::to_int(floorf(f)); }
inline int __float2int_ru(float f) { return air::emu::to_int(ceilf(f)); }

#endif
