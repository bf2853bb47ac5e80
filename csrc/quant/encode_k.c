/* The K formats: 256 weights in groups, whose scales (and offsets) are small whole numbers of a binary16 unit. Layouts in blocks.h.
 *
 * Each group is fitted by itself (encode_fit.h). Then the units are chosen, from the largest scale and offset; and by turns the small
 * numbers for given units, from the nearest and one to either side with the codes and offset that suit each, and the units for
 * given small numbers, which is least squares again. A turn that makes the error of the block no smaller is dropped. */
#include "quant/blocks.h"
#include "quant/encode.h"
#include "quant/encode_fit.h"

enum { BLOCK = 256, PARTS_MOST = BLOCK / 16 / FIT_LANES, TURNS = 2 };

typedef struct k_format { /* constants wherever these functions are inlined */
    fit_how how;
    float least, most; /* of small scales */
    float most_offset; /* of what is subtracted; 0: there are none */
} k_format;

typedef struct k_numbers {
    float unit[2];              /* of scales and offsets: halves */
    fit_vec scale[PARTS_MOST];  /* small numbers, */
    fit_vec offset[PARTS_MOST]; /* and likewise of what is subtracted */
    float error;                /* less Σ w x² */
} k_numbers;

AIR_INLINE int parts_of(k_format kf) { return BLOCK / kf.how.n / FIT_LANES; }

/* What depends on scale a and offset -b of Σ w (a q - b - x)². */
AIR_INLINE fit_vec error_of(const fit_groups *f, const fit_sums *s, fit_vec a, fit_vec b)
{
    return a * (a * s->qq - fit_set(2) * (b * s->q + s->qx)) + b * (b * f->sw + fit_set(2) * f->sx);
}

/* Tries small scales one to either side, and with each the offset that suits its codes. */
AIR_INLINE void refine_small(k_numbers *k, k_format kf, const fit_groups *parts)
{
    fit_vec unit = fit_set(k->unit[0]), down = fit_set(k->unit[1]), per_down = fit_inverse(down);
    for (int p = 0; p < parts_of(kf); p++) {
        const fit_groups *f = &parts[p];
        fit_vec error = fit_set(INFINITY), old = k->scale[p], offset = -down * k->offset[p];
        for (int i = 0; i < 3; i++) {
            fit_vec scale = fit_round(old + fit_set(i == 2 ? -1.0f : (float)i), kf.least, kf.most), a = unit * scale;
            fit_sums s = fit_sum(f, kf.how, fit_inverse(a), offset);
            fit_vec small = fit_round((a * s.q - f->sx) / f->sw * per_down, 0, kf.most_offset);
            fit_vec e = error_of(f, &s, a, down * small);
            fit_mask better = e < error;
            error = fit_select(better, e, error);
            k->scale[p] = fit_select(better, scale, k->scale[p]);
            k->offset[p] = fit_select(better, small, k->offset[p]);
        }
    }
}

AIR_INLINE double sum_of(fit_vec v) { return (double)v[0] + (double)v[1] + (double)v[2] + (double)v[3]; }

/* The block's error with the codes that suit its numbers, and the units that would suit those codes best. */
AIR_INLINE void measure(k_numbers *k, k_format kf, const fit_groups *parts, float unit[2])
{
    double error = 0, aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;
    for (int p = 0; p < parts_of(kf); p++) {
        const fit_groups *f = &parts[p];
        fit_vec a = k->scale[p], b = k->offset[p], scale = fit_set(k->unit[0]) * a, down = fit_set(k->unit[1]) * b;
        fit_sums s = fit_sum(f, kf.how, fit_inverse(scale), -down);
        error += sum_of(error_of(f, &s, scale, down));
        aa += sum_of(a * a * s.qq);
        ab += sum_of(a * b * s.q);
        bb += sum_of(b * b * f->sw);
        ax += sum_of(a * s.qx);
        bx += sum_of(b * f->sx);
    }
    k->error = (float)error;
    double det = aa * bb - ab * ab;
    int both = det > 1e-9 * aa * bb; /* else there are no offsets, or they do what scales do as well */
    double first = both ? (bb * ax - ab * bx) / det : aa > 0 ? (ax + (double)k->unit[1] * ab) / aa : 0;
    double second = both ? (ab * ax - aa * bx) / det : (double)k->unit[1];
    unit[0] = fit_half((float)first);
    unit[1] = fit_half(second > 0 ? (float)second : 0.0f);
}

/* Units from the greatest scale and offset, and the nearest small numbers. */
AIR_INLINE void round_small(k_numbers *k, k_format kf, const fit_best *b)
{
    float peak = 0, deepest = 0;
    for (int p = 0; p < parts_of(kf); p++)
        for (int g = 0; g < FIT_LANES; g++) {
            peak = fabsf(b[p].scale[g]) > fabsf(peak) ? b[p].scale[g] : peak;
            deepest = -b[p].offset[g] > deepest ? -b[p].offset[g] : deepest;
        }
    k->unit[0] = fit_half(peak / (kf.least < 0 ? kf.least : kf.most));
    k->unit[1] = kf.most_offset > 0 ? fit_half(deepest / kf.most_offset) : 0;
    fit_vec one = fit_inverse(fit_set(k->unit[0])), other = fit_inverse(fit_set(k->unit[1]));
    for (int p = 0; p < parts_of(kf); p++) {
        k->scale[p] = fit_round(b[p].scale * one, kf.least, kf.most);
        k->offset[p] = fit_round(-b[p].offset * other, 0, kf.most_offset);
    }
}

/* The numbers of a block, and its codes, counted from the least, weight by weight. */
AIR_INLINE void fit_block(k_numbers *k, k_format kf, const float *src, uint8_t q[BLOCK])
{
    fit_groups parts[PARTS_MOST];
    fit_best b[PARTS_MOST];
    float unit[2];
    int n = kf.how.n;
    for (int p = 0; p < parts_of(kf); p++) {
        fit_load(&parts[p], src + p * FIT_LANES * n, kf.how);
        b[p] = kf.most_offset > 0 ? fit_affine(&parts[p], kf.how, 1) : fit_scale(&parts[p], kf.how);
    }
    round_small(k, kf, b);
    measure(k, kf, parts, unit);
    for (int turn = 0; turn < TURNS; turn++) {
        k_numbers next = *k;
        if (turn) memcpy(next.unit, unit, sizeof unit);
        refine_small(&next, kf, parts);
        measure(&next, kf, parts, unit);
        if (!(next.error < k->error)) break;
        *k = next;
    }
    for (int p = 0; p < parts_of(kf); p++) {
        fit_vec inverse = fit_inverse(fit_set(k->unit[0]) * k->scale[p]), offset = fit_set(-k->unit[1]) * k->offset[p];
        for (int l = 0; l < n; l++) {
            fit_vec code = fit_code(&parts[p], kf.how, l, inverse, offset) - fit_set(kf.how.least);
            for (int g = 0; g < FIT_LANES; g++) q[(p * FIT_LANES + g) * n + l] = (uint8_t)code[g];
        }
    }
}

/* The small numbers of group g, counted from nothing. */
static unsigned small_scale(const k_numbers *k, int g, int zero) { return (unsigned)((int)k->scale[g / FIT_LANES][g % FIT_LANES] + zero); }
static unsigned small_offset(const k_numbers *k, int g) { return (unsigned)k->offset[g / FIT_LANES][g % FIT_LANES]; }

/* The two low bits of each code: bits 2s, 2s+1 of byte l of each 32 are weight 32 s + l of each 128. */
static void pack_pairs(const uint8_t q[BLOCK], uint8_t qs[64])
{
    for (int half = 0; half < 2; half++)
        for (int l = 0; l < 32; l++) {
            const uint8_t *w = q + 128 * half + l;
            qs[32 * half + l] = (uint8_t)((w[0] & 3) | (w[32] & 3) << 2 | (w[64] & 3) << 4 | (w[96] & 3) << 6);
        }
}

/* Each 32 bytes: low nibbles of an even group of 32, and of the odd one after it. */
static void pack_nibbles(const uint8_t q[BLOCK], uint8_t qs[128])
{
    for (int pair = 0; pair < 4; pair++)
        for (int l = 0; l < 32; l++) qs[32 * pair + l] = (uint8_t)((q[64 * pair + l] & 15) | (q[64 * pair + 32 + l] & 15) << 4);
}

/* As air_unpack_scale_min() takes them apart. */
static void pack_scales_mins(const k_numbers *k, uint8_t packed[12])
{
    for (int g = 0; g < 4; g++) {
        unsigned scale = small_scale(k, g + 4, 0), min = small_offset(k, g + 4);
        packed[g] = (uint8_t)(small_scale(k, g, 0) | (scale >> 4) << 6);
        packed[g + 4] = (uint8_t)(small_offset(k, g) | (min >> 4) << 6);
        packed[g + 8] = (uint8_t)((scale & 15) | (min & 15) << 4);
    }
}

void air_encode_q2_k(const float *src, void *dst, int64_t n_blocks)
{
    const k_format kf = {{16, 0, 3, 19, -0.8f, 0.1f, 0.2f}, 0, 15, 15};
    air_block_q2_k *b = dst;
    for (int64_t i = 0; i < n_blocks; i++, b++, src += BLOCK) {
        k_numbers k;
        uint8_t q[BLOCK];
        fit_block(&k, kf, src, q);
        air_store_f16(b->d, k.unit[0]);
        air_store_f16(b->dmin, k.unit[1]);
        for (int g = 0; g < 16; g++) b->scales[g] = (uint8_t)(small_scale(&k, g, 0) | small_offset(&k, g) << 4);
        pack_pairs(q, b->qs);
    }
}

void air_encode_q3_k(const float *src, void *dst, int64_t n_blocks)
{
    const k_format kf = {{16, -4, 3, 21, -1.0f, 0.1f, 1}, -32, 31, 0};
    air_block_q3_k *b = dst;
    for (int64_t i = 0; i < n_blocks; i++, b++, src += BLOCK) {
        k_numbers k;
        uint8_t q[BLOCK];
        fit_block(&k, kf, src, q);
        air_store_f16(b->d, k.unit[0]);
        memset(b->scales, 0, sizeof b->scales);
        for (int g = 0; g < 16; g++) {
            unsigned scale = small_scale(&k, g, 32);
            b->scales[g & 7] |= (uint8_t)((scale & 15) << (g & 8 ? 4 : 0));
            b->scales[8 + (g & 3)] |= (uint8_t)((scale >> 4) << (g >> 2) * 2);
        }
        pack_pairs(q, b->qs);
        memset(b->hmask, 0, sizeof b->hmask);
        for (int w = 0; w < BLOCK; w++) b->hmask[w % 32] |= (uint8_t)((q[w] >> 2) << w / 32);
    }
}

void air_encode_q4_k(const float *src, void *dst, int64_t n_blocks)
{
    const k_format kf = {{32, 0, 15, 21, -1.0f, 0.1f, 3}, 0, 63, 63};
    air_block_q4_k *b = dst;
    for (int64_t i = 0; i < n_blocks; i++, b++, src += BLOCK) {
        k_numbers k;
        uint8_t q[BLOCK];
        fit_block(&k, kf, src, q);
        air_store_f16(b->d, k.unit[0]);
        air_store_f16(b->dmin, k.unit[1]);
        pack_scales_mins(&k, b->scales);
        pack_nibbles(q, b->qs);
    }
}

void air_encode_q5_k(const float *src, void *dst, int64_t n_blocks)
{
    const k_format kf = {{32, 0, 31, 16, -0.5f, 0.1f, 2}, 0, 63, 63};
    air_block_q5_k *b = dst;
    for (int64_t i = 0; i < n_blocks; i++, b++, src += BLOCK) {
        k_numbers k;
        uint8_t q[BLOCK];
        fit_block(&k, kf, src, q);
        air_store_f16(b->d, k.unit[0]);
        air_store_f16(b->dmin, k.unit[1]);
        pack_scales_mins(&k, b->scales);
        pack_nibbles(q, b->qs);
        memset(b->qh, 0, sizeof b->qh);
        for (int w = 0; w < BLOCK; w++) b->qh[w % 32] |= (uint8_t)((q[w] >> 4) << w / 32);
    }
}

void air_encode_q6_k(const float *src, void *dst, int64_t n_blocks)
{
    const k_format kf = {{16, -32, 31, 19, -0.9f, 0.1f, 0.6f}, -128, 127, 0};
    air_block_q6_k *b = dst;
    for (int64_t i = 0; i < n_blocks; i++, b++, src += BLOCK) {
        k_numbers k;
        uint8_t q[BLOCK];
        fit_block(&k, kf, src, q);
        air_store_f16(b->d, k.unit[0]);
        for (int g = 0; g < 16; g++) b->scales[g] = (int8_t)k.scale[g / FIT_LANES][g % FIT_LANES];
        for (int half = 0; half < 2; half++)
            for (int l = 0; l < 32; l++) {
                const uint8_t *w = q + 128 * half + l;
                b->ql[64 * half + l] = (uint8_t)((w[0] & 15) | (w[64] & 15) << 4);
                b->ql[64 * half + 32 + l] = (uint8_t)((w[32] & 15) | (w[96] & 15) << 4);
                b->qh[32 * half + l] = (uint8_t)(w[0] >> 4 | (w[32] >> 4) << 2 | (w[64] >> 4) << 4 | (w[96] >> 4) << 6);
            }
    }
}
