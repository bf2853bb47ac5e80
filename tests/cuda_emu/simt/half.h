/* simt/half.h: __half and __nv_bfloat16 with the functions of cuda_fp16.h and cuda_bf16.h that kernels use.
 *
 * Every result is rounded to nearest even, as on the device; only __hfma may differ, in ties that double cannot hold. Stricter than
 * CUDA's: no operators, and conversions must be written, so that what compiles here compiles there. */
#ifndef AIR_CUDA_EMU_HALF_H
#define AIR_CUDA_EMU_HALF_H

#include <cmath>
#include <cstdint>
#include <cstring>

#include "simt/types.h"

namespace air::emu {

template <class To, class From>
inline To bits_as(From value)
{
    static_assert(sizeof(To) == sizeof(From), "as many bits");
    To to;
    memcpy(static_cast<void *>(&to), &value, sizeof to);
    return to;
}

/* Without branches, so that loops over it are vectors. */
inline float half_to_float(uint16_t h)
{
    uint32_t magnitude = uint32_t(h & 0x7fff) << 13, sign = uint32_t(h & 0x8000) << 16;
    uint32_t finite = bits_as<uint32_t>(bits_as<float>(magnitude) * 0x1p112f), other = magnitude | 0x7f800000;
    return bits_as<float>(((h & 0x7c00) == 0x7c00 ? other : finite) | sign);
}

inline uint16_t float_to_half(float f)
{
    uint32_t x = bits_as<uint32_t>(f), sign = x >> 16 & 0x8000, magnitude = x & 0x7fffffff;
    if (magnitude > 0x7f800000) return 0x7fff;                                /* any NaN is this one, as on the device */
    if (magnitude >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00); /* at least 65520 */
    if (magnitude < 0x38800000) {                                             /* subnormal: 0.5 has its last bit at 2^-24 */
        uint32_t shifted = bits_as<uint32_t>(bits_as<float>(magnitude) + 0.5f);
        return static_cast<uint16_t>(sign | (shifted - 0x3f000000));
    }
    uint32_t rebased = magnitude - 0x38000000;
    rebased += 0xfff + (rebased >> 13 & 1);
    return static_cast<uint16_t>(sign | rebased >> 13);
}

inline float bfloat16_to_float(uint16_t b) { return bits_as<float>(uint32_t(b) << 16); }

inline uint16_t float_to_bfloat16(float f)
{
    uint32_t x = bits_as<uint32_t>(f);
    if ((x & 0x7fffffff) > 0x7f800000) return 0x7fff;
    return static_cast<uint16_t>((x + 0x7fff + (x >> 16 & 1)) >> 16);
}

}  // namespace air::emu

struct alignas(2) __half {
    uint16_t bits;
    __half() = default;
    explicit __half(float f) : bits(air::emu::float_to_half(f)) {}
    explicit operator float() const { return air::emu::half_to_float(bits); }
};

struct alignas(4) __half2 {
    __half x, y;
    __half2() = default;
    __half2(__half a, __half b) : x(a), y(b) {}
};

struct alignas(2) __nv_bfloat16 {
    uint16_t bits;
    __nv_bfloat16() = default;
    explicit __nv_bfloat16(float f) : bits(air::emu::float_to_bfloat16(f)) {}
    explicit operator float() const { return air::emu::bfloat16_to_float(bits); }
};

struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
    __nv_bfloat162() = default;
    __nv_bfloat162(__nv_bfloat16 a, __nv_bfloat16 b) : x(a), y(b) {}
};

using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;

/* --- conversions --- */

inline float __half2float(__half h) { return static_cast<float>(h); }
inline __half __float2half(float f) { return __half(f); }
inline __half __float2half_rn(float f) { return __half(f); }
inline unsigned short __half_as_ushort(__half h) { return h.bits; }
inline __half __ushort_as_half(unsigned short u) { return air::emu::bits_as<__half>(u); }
inline __half __int2half_rn(int i) { return __half(static_cast<float>(i)); }

inline __half2 __floats2half2_rn(float a, float b) { return {__half(a), __half(b)}; }
inline __half2 __float22half2_rn(float2 f) { return __floats2half2_rn(f.x, f.y); }
inline __half2 __float2half2_rn(float f) { return __floats2half2_rn(f, f); }
inline float2 __half22float2(__half2 h) { return make_float2(__half2float(h.x), __half2float(h.y)); }
inline __half2 __half2half2(__half h) { return {h, h}; }
inline __half2 __halves2half2(__half a, __half b) { return {a, b}; }
inline __half2 make_half2(__half a, __half b) { return {a, b}; }
inline __half __low2half(__half2 h) { return h.x; }
inline __half __high2half(__half2 h) { return h.y; }
inline float __low2float(__half2 h) { return __half2float(h.x); }
inline float __high2float(__half2 h) { return __half2float(h.y); }

inline float __bfloat162float(__nv_bfloat16 b) { return static_cast<float>(b); }
inline __nv_bfloat16 __float2bfloat16(float f) { return __nv_bfloat16(f); }
inline __nv_bfloat16 __float2bfloat16_rn(float f) { return __nv_bfloat16(f); }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 b) { return b.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short u) { return air::emu::bits_as<__nv_bfloat16>(u); }

inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b) { return {__nv_bfloat16(a), __nv_bfloat16(b)}; }
inline __nv_bfloat162 __float22bfloat162_rn(float2 f) { return __floats2bfloat162_rn(f.x, f.y); }
inline float2 __bfloat1622float2(__nv_bfloat162 b) { return make_float2(__bfloat162float(b.x), __bfloat162float(b.y)); }
inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 b) { return {b, b}; }
inline float __low2float(__nv_bfloat162 b) { return __bfloat162float(b.x); }
inline float __high2float(__nv_bfloat162 b) { return __bfloat162float(b.y); }

/* --- arithmetic: sums and products of two are exact enough in float to be rounded once --- */

inline __half __hadd(__half a, __half b) { return __half(float(a) + float(b)); }
inline __half __hsub(__half a, __half b) { return __half(float(a) - float(b)); }
inline __half __hmul(__half a, __half b) { return __half(float(a) * float(b)); }
inline __half __hdiv(__half a, __half b) { return __half(float(a) / float(b)); }
inline __half __hneg(__half a) { return __ushort_as_half(static_cast<unsigned short>(a.bits ^ 0x8000)); }
inline __half __hfma(__half a, __half b, __half c) { return __half(static_cast<float>(double(float(a)) * float(b) + float(c))); }
inline __half2 __hadd2(__half2 a, __half2 b) { return {__hadd(a.x, b.x), __hadd(a.y, b.y)}; }
inline __half2 __hsub2(__half2 a, __half2 b) { return {__hsub(a.x, b.x), __hsub(a.y, b.y)}; }
inline __half2 __hmul2(__half2 a, __half2 b) { return {__hmul(a.x, b.x), __hmul(a.y, b.y)}; }
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; }

inline __nv_bfloat16 __hadd(__nv_bfloat16 a, __nv_bfloat16 b) { return __nv_bfloat16(float(a) + float(b)); }
inline __nv_bfloat16 __hmul(__nv_bfloat16 a, __nv_bfloat16 b) { return __nv_bfloat16(float(a) * float(b)); }
inline __nv_bfloat16 __hfma(__nv_bfloat16 a, __nv_bfloat16 b, __nv_bfloat16 c)
{
    return __nv_bfloat16(static_cast<float>(double(float(a)) * float(b) + float(c)));
}
inline __nv_bfloat162 __hadd2(__nv_bfloat162 a, __nv_bfloat162 b) { return {__hadd(a.x, b.x), __hadd(a.y, b.y)}; }
inline __nv_bfloat162 __hmul2(__nv_bfloat162 a, __nv_bfloat162 b) { return {__hmul(a.x, b.x), __hmul(a.y, b.y)}; }
inline __nv_bfloat162 __hfma2(__nv_bfloat162 a, __nv_bfloat162 b, __nv_bfloat162 c)
{
    return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)};
}

#endif
