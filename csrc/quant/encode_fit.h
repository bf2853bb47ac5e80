/* quant/encode_fit.h: scales, offsets and codes of groups of weights, by weighted least squares; for the encoders alone.
 *
 * Four groups are fitted side by side, one to a lane of vectors that every CPU has: element l of group g is x[l][g]. A lane's sums are
 * taken in the order of l, whatever the CPU, and what a group becomes does not depend on the groups beside it.
 *
 * For given codes q a group's error, Σ w (scale q + offset - x)², depends on scale and offset only through the sums of w, wq, wqq, wx
 * and wqx, and is least at the solution of two linear equations. The search tries codes: those of grids around the one that spans the
 * group, finer ones that clip and coarser ones that do without the last code; then those that the best scale and offset so far ask for.
 *
 * Weights: what multiplies a large element comes through magnified, and one outlier spoils a row more than many small errors; but small
 * elements are most of them. flat is chosen for each format so that neither the plain error nor that with weights x² is above
 * llama.cpp's (tests/golden/check_llama_cpp_quantise.py). */
#ifndef AIR_QUANT_ENCODE_FIT_H
#define AIR_QUANT_ENCODE_FIT_H

#include <math.h>

#include "base/compiler.h"
#include "quant/half.h"

enum { FIT_LANES = 4, FIT_MOST = 32 };

typedef float fit_vec AIR_VECTOR(16);
typedef int32_t fit_mask AIR_VECTOR(16); /* 0 or -1 */

AIR_INLINE fit_vec fit_set(float v) { return (fit_vec){v, v, v, v}; }
AIR_INLINE fit_vec fit_select(fit_mask m, fit_vec yes, fit_vec no) { return (fit_vec)((m & (fit_mask)yes) | (~m & (fit_mask)no)); }
AIR_INLINE fit_vec fit_min(fit_vec a, fit_vec b) { return fit_select(a < b, a, b); }
AIR_INLINE fit_vec fit_max(fit_vec a, fit_vec b) { return fit_select(a > b, a, b); }
AIR_INLINE fit_vec fit_abs(fit_vec v) { return (fit_vec)((fit_mask)v & (fit_mask){INT32_MAX, INT32_MAX, INT32_MAX, INT32_MAX}); }

/* 1 / v, and 0 where v is so small that it stands for nothing: quotients of weights by it stay finite, and no half is that small. */
AIR_INLINE fit_vec fit_inverse(fit_vec v)
{
    fit_mask some = fit_abs(v) > fit_set(1e-15f);
    return (fit_vec)(some & (fit_mask)(fit_set(1) / fit_select(some, v, fit_set(1))));
}

/* Clamped, then rounded to the nearest whole number, ties to even; limits are below 2^22. */
AIR_INLINE fit_vec fit_round(fit_vec v, float least, float most)
{
    v = fit_min(fit_max(v, fit_set(least)), fit_set(most));
    return (v + fit_set(0x1.8p23f)) - fit_set(0x1.8p23f);
}

/* The nearest of the finite halves. */
AIR_INLINE float fit_half(float v)
{
    v = v < -65504.0f ? -65504.0f : v > 65504.0f ? 65504.0f : v;
    return air_f16_to_f32(air_f32_to_f16(v));
}
AIR_INLINE fit_vec fit_halves(fit_vec v) { return (fit_vec){fit_half(v[0]), fit_half(v[1]), fit_half(v[2]), fit_half(v[3])}; }

typedef struct fit_how { /* constants wherever these functions are inlined */
    int n;                      /* elements of a group, at most FIT_MOST */
    float least, most;          /* codes */
    int grids;                  /* how many are tried, */
    float first, step;          /* from so many codes more or less over the group's range on, by such steps */
    float flat;                 /* weights are flat + x² / r², r the group's root mean square */
} fit_how;

typedef struct fit_groups {
    fit_vec x[FIT_MOST], w[FIT_MOST];
    fit_vec sw, sx; /* Σ w, Σ w x */
} fit_groups;

typedef struct fit_sums { /* over codes q: Σ w q, Σ w q q, Σ w q x */
    fit_vec q, qq, qx;
} fit_sums;

typedef struct fit_best {
    fit_vec scale, offset;
    fit_vec gain; /* what they take from the error that zeros have, Σ w x² */
} fit_best;

/* Four groups, one behind the other. */
AIR_INLINE void fit_load(fit_groups *f, const float *src, fit_how how)
{
    fit_vec squares = fit_set(0), r;
    for (int l = 0; l < how.n; l++) {
        fit_vec x = {src[l], src[how.n + l], src[2 * how.n + l], src[3 * how.n + l]};
        f->x[l] = x;
        squares += x * x;
    }
    for (int g = 0; g < FIT_LANES; g++) r[g] = sqrtf(squares[g] / (float)how.n);
    r = fit_inverse(r);
    f->sw = f->sx = fit_set(0);
    for (int l = 0; l < how.n; l++) {
        fit_vec size = fit_abs(f->x[l]) * r, w = fit_set(how.flat) + size * size;
        f->w[l] = w;
        f->sw += w;
        f->sx += w * f->x[l];
    }
}

/* The codes for inverse = 1 / scale. */
AIR_INLINE fit_vec fit_code(const fit_groups *f, fit_how how, int l, fit_vec inverse, fit_vec offset)
{
    return fit_round((f->x[l] - offset) * inverse, how.least, how.most);
}

AIR_INLINE fit_sums fit_sum(const fit_groups *f, fit_how how, fit_vec inverse, fit_vec offset)
{
    fit_sums s = {fit_set(0), fit_set(0), fit_set(0)};
    for (int l = 0; l < how.n; l++) {
        fit_vec q = fit_code(f, how, l, inverse, offset), wq = f->w[l] * q;
        s.q += wq;
        s.qq += wq * q;
        s.qx += wq * f->x[l];
    }
    return s;
}

AIR_INLINE void fit_take(fit_best *b, fit_mask valid, fit_vec scale, fit_vec offset, fit_vec gain)
{
    fit_mask better = valid & (gain > b->gain);
    b->scale = fit_select(better, scale, b->scale);
    b->offset = fit_select(better, offset, b->offset);
    b->gain = fit_select(better, gain, b->gain);
}

/* The scale and offset that suit the codes of a grid best, where they are better than what there was. below: no offset above 0, and none
 * where codes are (almost) alike, of which one number is as good as two; without it, those are left out. */
AIR_INLINE void fit_try_affine(const fit_groups *f, fit_how how, int below, fit_vec inverse, fit_vec offset, fit_best *b)
{
    fit_sums s = fit_sum(f, how, inverse, offset);
    fit_vec zero = fit_set(0), det = f->sw * s.qq - s.q * s.q;
    fit_mask differ = det > fit_set(1e-5f) * f->sw * s.qq;
    fit_vec one = fit_set(1) / fit_select(differ, det, fit_set(1));
    fit_vec scale = (f->sw * s.qx - f->sx * s.q) * one, add = (s.qq * f->sx - s.q * s.qx) * one;
    if (below) {
        fit_mask alone = (add > zero) | ~differ;
        scale = fit_select(alone, s.qx / fit_select(s.qq > zero, s.qq, fit_set(1)), scale);
        add = fit_select(alone, zero, add);
        differ = s.qq > zero;
    }
    fit_take(b, differ & (scale > zero), scale, add, scale * s.qx + add * f->sx);
}

/* x ≈ scale q + offset, from codes 0 up. */
AIR_INLINE fit_best fit_affine(const fit_groups *f, fit_how how, int below)
{
    fit_vec low = below ? fit_set(0) : f->x[0], high = f->x[0], mean = f->sx / f->sw;
    for (int l = 0; l < how.n; l++) low = fit_min(low, f->x[l]), high = fit_max(high, f->x[l]);
    fit_vec inverse = fit_inverse(high - low), alone = below ? fit_min(mean, fit_set(0)) : mean;
    fit_best b = {fit_set(0), alone, alone * f->sx}; /* all codes 0 */
    for (int i = 0; i < how.grids; i++)
        fit_try_affine(f, how, below, fit_set(how.most + how.first + how.step * (float)i) * inverse, low, &b);
    for (int i = 0; i < 2; i++) fit_try_affine(f, how, below, fit_inverse(b.scale), b.offset, &b);
    return b;
}

AIR_INLINE void fit_try_scale(const fit_groups *f, fit_how how, fit_vec inverse, fit_best *b)
{
    fit_sums s = fit_sum(f, how, inverse, fit_set(0));
    fit_vec scale = s.qx / fit_select(s.qq > fit_set(0), s.qq, fit_set(1));
    fit_take(b, s.qq > fit_set(0), scale, fit_set(0), scale * s.qx);
}

/* x ≈ scale q, where codes reach one further down than up, and scales have either sign: the greatest element is at the lower end. */
AIR_INLINE fit_best fit_scale(const fit_groups *f, fit_how how)
{
    fit_vec peak = f->x[0];
    for (int l = 1; l < how.n; l++) peak = fit_select(fit_abs(f->x[l]) > fit_abs(peak), f->x[l], peak);
    fit_best b = {fit_set(0), fit_set(0), fit_set(0)};
    fit_vec inverse = fit_inverse(peak);
    for (int i = 0; i < how.grids; i++) fit_try_scale(f, how, fit_set(how.least - how.first - how.step * (float)i) * inverse, &b);
    for (int i = 0; i < 2; i++) fit_try_scale(f, how, fit_inverse(b.scale), &b);
    return b;
}

#endif
