/* 8 floats in two registers: the vocabulary that kernels/simd is written in. Everything is static inline. */
#ifndef AIR_KERNELS_ARM_VEC_H
#define AIR_KERNELS_ARM_VEC_H

#include "kernels/arm/arm.h"

/* Lanes; how many rows and columns the registers hold, and of V_SOME_COLUMNS to 16 columns; heads of attention at once, and
 * how many vectors of sums these have. */
enum { V_N = 8, V_ROWS = 4, V_COLUMNS = 2, V_SOME_ROWS = 4, V_SOME_COLUMNS = 2, V_HEADS = 4, V_SUMS = 8 };

typedef struct { float32x4_t low, high; } vf;
typedef struct { float64x2_t part[4]; } vd;

AIR_INLINE vf v_set(float f) { return (vf){vdupq_n_f32(f), vdupq_n_f32(f)}; }
AIR_INLINE vf v_zero(void) { return v_set(0); }
AIR_INLINE vf v_load(const float *p) { return (vf){air__load_floats(p), air__load_floats(p + 4)}; }
AIR_INLINE vf v_load_f16(const uint16_t *p)
{
    float16x8_t v = vreinterpretq_f16_u8(vld1q_u8((const void *)p));
    return (vf){vcvt_f32_f16(vget_low_f16(v)), vcvt_high_f32_f16(v)};
}
AIR_INLINE vf v_load_i8(const int8_t *p)
{
    int16x8_t v = vmovl_s8(vld1_s8(p));
    return (vf){vcvtq_f32_s32(vmovl_s16(vget_low_s16(v))), vcvtq_f32_s32(vmovl_high_s16(v))};
}
/* Four bits less 8: those of V_N bytes from bit `shift` on; those from element `at` on of 16, of which a byte has elements j and j + 8. */
AIR_INLINE vf v_load_i4(const uint8_t *p, int64_t shift)
{
    uint8x8_t nibbles = vand_u8(vshl_u8(vld1_u8(p), vdup_n_s8((int8_t)-shift)), vdup_n_u8(15));
    int16x8_t v = vsubq_s16(vreinterpretq_s16_u16(vmovl_u8(nibbles)), vdupq_n_s16(8));
    return (vf){vcvtq_f32_s32(vmovl_s16(vget_low_s16(v))), vcvtq_f32_s32(vmovl_high_s16(v))};
}
AIR_INLINE vf v_load_i4_tile(const uint8_t *tile, int64_t at) { return v_load_i4(tile, at / 2); }
AIR_INLINE vf v_load_bf16(const uint16_t *p)
{
    uint16x8_t v = vreinterpretq_u16_u8(vld1q_u8((const void *)p));
    return (vf){vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(v), 16)), vreinterpretq_f32_u32(vshll_high_n_u16(v, 16))};
}
AIR_INLINE void v_store(float *p, vf v)
{
    vst1q_f32(p, v.low);
    vst1q_f32(p + 4, v.high);
}
AIR_INLINE void v_store_f16(uint16_t *p, vf v)
{
    vst1q_u16(p, vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(v.low), v.high)));
}

/* The first n < V_N elements, in memory; the others are fill, or 0. Through a copy: there are no masks. */
AIR_INLINE vf v_load_n(const float *p, int64_t n, vf fill)
{
    float copy[V_N];
    v_store(copy, fill);
    memcpy(copy, p, (size_t)n * sizeof *p);
    return v_load(copy);
}
AIR_INLINE vf v_load_f16_n(const uint16_t *p, int64_t n)
{
    uint16_t copy[V_N] = {0};
    memcpy(copy, p, (size_t)n * sizeof *p);
    return v_load_f16(copy);
}
AIR_INLINE vf v_load_bf16_n(const uint16_t *p, int64_t n)
{
    uint16_t copy[V_N] = {0};
    memcpy(copy, p, (size_t)n * sizeof *p);
    return v_load_bf16(copy);
}
AIR_INLINE void v_store_n(float *p, vf v, int64_t n)
{
    float copy[V_N];
    v_store(copy, v);
    memcpy(p, copy, (size_t)n * sizeof *p);
}
AIR_INLINE void v_store_f16_n(uint16_t *p, vf v, int64_t n)
{
    uint16_t copy[V_N];
    v_store_f16(copy, v);
    memcpy(p, copy, (size_t)n * sizeof *p);
}

AIR_INLINE vf v_add(vf a, vf b) { return (vf){vaddq_f32(a.low, b.low), vaddq_f32(a.high, b.high)}; }
AIR_INLINE vf v_sub(vf a, vf b) { return (vf){vsubq_f32(a.low, b.low), vsubq_f32(a.high, b.high)}; }
AIR_INLINE vf v_mul(vf a, vf b) { return (vf){vmulq_f32(a.low, b.low), vmulq_f32(a.high, b.high)}; }
AIR_INLINE vf v_div(vf a, vf b) { return (vf){vdivq_f32(a.low, b.low), vdivq_f32(a.high, b.high)}; }
AIR_INLINE vf v_fma(vf a, vf b, vf c) { return (vf){vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high)}; }
AIR_INLINE vf v_fnma(vf a, vf b, vf c) { return (vf){vfmsq_f32(c.low, a.low, b.low), vfmsq_f32(c.high, a.high, b.high)}; }
AIR_INLINE vf v_round(vf a) { return (vf){vrndnq_f32(a.low), vrndnq_f32(a.high)}; }

/* Of a NaN and a number these give the second operand. */
AIR_INLINE float32x4_t greater(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
AIR_INLINE float32x4_t lesser(float32x4_t a, float32x4_t b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
AIR_INLINE vf v_max(vf a, vf b) { return (vf){greater(a.low, b.low), greater(a.high, b.high)}; }
AIR_INLINE vf v_min(vf a, vf b) { return (vf){lesser(a.low, b.low), lesser(a.high, b.high)}; }

/* a * 2^n for a whole number n, |n| < 200, in two steps, of which only the second can round. */
AIR_INLINE float32x4_t times_pow2(float32x4_t a, float32x4_t n)
{
    int32x4_t whole = vcvtnq_s32_f32(n), half = vshrq_n_s32(whole, 1), rest = vsubq_s32(whole, half), bias = vdupq_n_s32(127);
    a = vmulq_f32(a, vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(half, bias), 23)));
    return vmulq_f32(a, vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(rest, bias), 23)));
}
AIR_INLINE vf v_times_pow2(vf a, vf n) { return (vf){times_pow2(a.low, n.low), times_pow2(a.high, n.high)}; }

/* The low bits of n, as a whole number, added to a's exponent. */
AIR_INLINE float32x4_t add_exponent(float32x4_t a, float32x4_t n)
{
    return vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_f32(a), vshlq_n_u32(vreinterpretq_u32_f32(n), 23)));
}
AIR_INLINE vf v_add_exponent(vf a, vf n) { return (vf){add_exponent(a.low, n.low), add_exponent(a.high, n.high)}; }

AIR_INLINE float v_sum(vf v) { return vaddvq_f32(vaddq_f32(v.low, v.high)); }
AIR_INLINE float v_greatest(vf v) { return vmaxvq_f32(greater(v.low, v.high)); }

/* Pairs (0,1), (2,3) …: V_N / 2 floats each taken twice; the partners exchanged; a*b - c in even lanes, + c in odd ones. */
AIR_INLINE vf v_load_twice(const float *p)
{
    float32x4_t v = air__load_floats(p);
    return (vf){vzip1q_f32(v, v), vzip2q_f32(v, v)};
}
AIR_INLINE vf v_swap_pairs(vf v) { return (vf){vrev64q_f32(v.low), vrev64q_f32(v.high)}; }
AIR_INLINE float32x4_t negate_even(float32x4_t v)
{
    return vreinterpretq_f32_u64(veorq_u64(vreinterpretq_u64_f32(v), vdupq_n_u64(0x80000000u)));
}
AIR_INLINE vf v_fmaddsub(vf a, vf b, vf c) { return v_fma(a, b, (vf){negate_even(c.low), negate_even(c.high)}); }

/* Quads are four neighbouring lanes. Of four vectors, quad by quad, rows become columns; each quad of a vector to p, step floats apart. */
AIR_INLINE void air__transpose_quad(float32x4_t *a, float32x4_t *b, float32x4_t *c, float32x4_t *d)
{
    float32x4x2_t ab = vtrnq_f32(*a, *b), cd = vtrnq_f32(*c, *d);
    *a = vcombine_f32(vget_low_f32(ab.val[0]), vget_low_f32(cd.val[0]));
    *b = vcombine_f32(vget_low_f32(ab.val[1]), vget_low_f32(cd.val[1]));
    *c = vcombine_f32(vget_high_f32(ab.val[0]), vget_high_f32(cd.val[0]));
    *d = vcombine_f32(vget_high_f32(ab.val[1]), vget_high_f32(cd.val[1]));
}
AIR_INLINE void v_transpose_quads(vf x[4])
{
    air__transpose_quad(&x[0].low, &x[1].low, &x[2].low, &x[3].low);
    air__transpose_quad(&x[0].high, &x[1].high, &x[2].high, &x[3].high);
}
AIR_INLINE void v_transpose(vf x[V_N])
{
    v_transpose_quads(x), v_transpose_quads(x + 4);
    for (int i = 0; i < 4; i++) {
        float32x4_t high = x[i].high;
        x[i].high = x[4 + i].low, x[4 + i].low = high;
    }
}

AIR_INLINE vd vd_zero(void) { return (vd){{vdupq_n_f64(0), vdupq_n_f64(0), vdupq_n_f64(0), vdupq_n_f64(0)}}; }
AIR_INLINE vd vd_widen(vf v)
{
    return (vd){{vcvt_f64_f32(vget_low_f32(v.low)), vcvt_high_f64_f32(v.low),
                 vcvt_f64_f32(vget_low_f32(v.high)), vcvt_high_f64_f32(v.high)}};
}
AIR_INLINE vd vd_add(vd a, vd b)
{
    AIR__UNROLL
    for (int i = 0; i < 4; i++) a.part[i] = vaddq_f64(a.part[i], b.part[i]);
    return a;
}
AIR_INLINE vd vd_fma(vd a, vd b, vd c)
{
    AIR__UNROLL
    for (int i = 0; i < 4; i++) c.part[i] = vfmaq_f64(c.part[i], a.part[i], b.part[i]);
    return c;
}
AIR_INLINE double vd_sum(vd a)
{
    return vaddvq_f64(vaddq_f64(vaddq_f64(a.part[0], a.part[1]), vaddq_f64(a.part[2], a.part[3])));
}

#endif
