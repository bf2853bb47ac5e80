/* kernels/simd/exp.h: e^x for a vector, for any vec.h included before. At most 1.5 units in the last place, subnormal results
 * included; 0 below -104, infinity above 88.73, NaN stays NaN.
 *
 * x = n ln 2 + r with |r| <= ln 2 / 2; e^r by its series to r^7, whose rest is below r^8 / 8! = 5.2e-9, 0.09 of a unit. */
#ifndef AIR_KERNELS_SIMD_EXP_H
#define AIR_KERNELS_SIMD_EXP_H

AIR_INLINE vf v_exp(vf x)
{
    x = v_min(v_set(100.0f), v_max(v_set(-120.0f), x)); /* in this order of operands a NaN passes */
    vf n = v_round(v_mul(x, v_set(0x1.715476p+0f)));
    vf r = v_fnma(n, v_set(0x1.62e4p-1f), x);       /* ln 2 in two parts: the first has 15 bits, so that n times it is exact */
    r = v_fnma(n, v_set(0x1.7f7d1cp-20f), r);
    vf p = v_set(1.0f / 5040.0f);
    p = v_fma(p, r, v_set(1.0f / 720.0f));
    p = v_fma(p, r, v_set(1.0f / 120.0f));
    p = v_fma(p, r, v_set(1.0f / 24.0f));
    p = v_fma(p, r, v_set(1.0f / 6.0f));
    p = v_fma(p, r, v_set(0.5f));
    p = v_fma(p, r, v_set(1.0f));
    p = v_fma(p, r, v_set(1.0f));
    return v_times_pow2(p, n);
}

/* e^x for x <= 0, in half the operations: within 3e-7 of it, relative; below -87, -infinity included, e^-87. NaN stays NaN.
 * x / ln 2 is rounded by adding 1.5 2^23, which leaves n in the low bits, from where it goes to the exponent. */
AIR_INLINE vf v_exp_down(vf x)
{
    x = v_max(v_set(-87.0f), x);
    vf shifted = v_fma(x, v_set(0x1.715476p+0f), v_set(0x1.8p23f)), n = v_sub(shifted, v_set(0x1.8p23f));
    vf r = v_fnma(n, v_set(0x1.62e4p-1f), x);
    r = v_fnma(n, v_set(0x1.7f7d1cp-20f), r);
    vf p = v_set(1.0f / 720.0f);
    p = v_fma(p, r, v_set(1.0f / 120.0f));
    p = v_fma(p, r, v_set(1.0f / 24.0f));
    p = v_fma(p, r, v_set(1.0f / 6.0f));
    p = v_fma(p, r, v_set(0.5f));
    p = v_fma(p, r, v_set(1.0f));
    p = v_fma(p, r, v_set(1.0f));
    return v_add_exponent(p, shifted);
}

#endif
