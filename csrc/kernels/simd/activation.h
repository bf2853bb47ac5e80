/* kernels/simd/activation.h: activations of a vector, for any vec.h included before. */
#ifndef AIR_KERNELS_SIMD_ACTIVATION_H
#define AIR_KERNELS_SIMD_ACTIVATION_H

#include "kernels/simd/exp.h"

AIR_INLINE vf v_none(vf x) { return x; }

AIR_INLINE vf v_sigmoid(vf x) { return v_div(v_set(1.0f), v_add(v_set(1.0f), v_exp(v_sub(v_zero(), x)))); }

AIR_INLINE vf v_silu(vf x) { return v_div(x, v_add(v_set(1.0f), v_exp(v_sub(v_zero(), x)))); }

/* 1 + tanh(z) = 2 / (1 + e^-2z), so this is x / (1 + e^-2z) with z = sqrt(2 / pi) (x + 0.044715 x^3). */
AIR_INLINE vf v_gelu(vf x)
{
    vf cube = v_mul(v_mul(x, x), x);
    vf z = v_mul(v_fma(cube, v_set(0.044715f), x), v_set(-1.5957691216057308f)); /* -2 sqrt(2 / pi) */
    return v_div(x, v_add(v_set(1.0f), v_exp(z)));
}

/* erfc(z) for z >= 0 by Chebyshev fitting, within 1.2e-7 of it, relative (Press et al., Numerical Recipes, chapter 6.2):
 * t exp(-z^2 + P(t)) with t = 1 / (1 + z / 2). */
AIR_INLINE vf v_erfc(vf z)
{
    static const float c[] = {0.17087277f, -0.82215223f, 1.48851587f, -1.13520398f, 0.27886807f,
                              -0.18628806f, 0.09678418f, 0.37409196f, 1.00002368f, -1.26551223f};
    vf t = v_div(v_set(1.0f), v_fma(z, v_set(0.5f), v_set(1.0f))), p = v_set(c[0]);
    AIR__UNROLL
    for (int i = 1; i < (int)AIR_COUNT(c); i++) p = v_fma(p, t, v_set(c[i]));
    return v_mul(t, v_exp(v_fnma(z, z, p)));
}

/* x / 2 erfc(-x / sqrt(2)), which is x - |x| / 2 erfc(|x| / sqrt(2)) above 0 and -|x| / 2 erfc(|x| / sqrt(2)) below. */
AIR_INLINE vf v_gelu_erf(vf x)
{
    vf size = v_max(x, v_sub(v_zero(), x));
    vf tail = v_mul(v_mul(size, v_set(0.5f)), v_erfc(v_mul(size, v_set(0.7071067811865476f))));
    return v_sub(v_max(v_zero(), x), tail);
}

AIR_INLINE vf v_relu2(vf x)
{
    vf over = v_max(v_zero(), x); /* in this order of operands a NaN passes */
    return v_mul(over, over);
}

AIR_INLINE vf v_swiglu_oai(vf x)
{
    vf m = v_min(v_set(7.0f), x); /* here too */
    return v_div(m, v_add(v_set(1.0f), v_exp(v_mul(m, v_set(-1.702f)))));
}

/* What becomes of the number that a gate is multiplied with. */
AIR_INLINE vf v_as_it_is(vf up) { return up; }
AIR_INLINE vf v_clamped_and_one(vf up) { return v_add(v_max(v_set(-7.0f), v_min(v_set(7.0f), up)), v_set(1.0f)); }

/* cap tanh(x / cap); tanh(z) = 1 - 2 / (e^2z + 1) */
AIR_INLINE vf v_softcap(vf x, float cap)
{
    vf e = v_exp(v_mul(v_div(x, v_set(cap)), v_set(2.0f)));
    return v_mul(v_set(cap), v_sub(v_set(1.0f), v_div(v_set(2.0f), v_add(e, v_set(1.0f)))));
}

#endif
