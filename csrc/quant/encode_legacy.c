/* The formats with one scale to a block of 32. Layouts in blocks.h, the search in encode_fit.h. Q8_0 alone is not searched: its scale
 * is the greatest magnitude over 127, as everywhere, since 8 bits gain little by clipping. */
#include "quant/blocks.h"
#include "quant/encode.h"
#include "quant/encode_fit.h"

enum { BLOCK = 32 };

typedef struct blocks { /* four at once, of which the last may be padding */
    fit_groups groups;
    fit_best best;
    fit_vec q[BLOCK]; /* codes */
    int count;
} blocks;

static void load(blocks *b, const float *src, int64_t n_blocks, fit_how how)
{
    float padded[FIT_LANES * BLOCK] = {0};
    b->count = n_blocks < FIT_LANES ? (int)n_blocks : FIT_LANES;
    if (b->count < FIT_LANES) {
        memcpy(padded, src, (size_t)b->count * BLOCK * sizeof *src);
        src = padded;
    }
    fit_load(&b->groups, src, how);
}

/* Scales and offsets as halves hold them, and the codes that suit those. */
AIR_INLINE void round_and_code(blocks *b, fit_how how)
{
    b->best.scale = fit_halves(b->best.scale);
    b->best.offset = fit_halves(b->best.offset);
    fit_vec inverse = fit_inverse(b->best.scale);
    for (int l = 0; l < BLOCK; l++) b->q[l] = fit_code(&b->groups, how, l, inverse, b->best.offset);
}

AIR_INLINE void fit_signed(blocks *b, const float *src, int64_t n_blocks, float codes)
{
    const fit_how how = {BLOCK, -codes, codes - 1, 21, -1.0f, 0.1f, 2};
    load(b, src, n_blocks, how);
    b->best = fit_scale(&b->groups, how);
    round_and_code(b, how);
}

AIR_INLINE void fit_offset(blocks *b, const float *src, int64_t n_blocks, float codes)
{
    const fit_how how = {BLOCK, 0, codes - 1, 21, -1.0f, 0.1f, 1};
    load(b, src, n_blocks, how);
    b->best = fit_affine(&b->groups, how, 0);
    round_and_code(b, how);
}

/* Code l of block g, which lies zero above its least. */
static unsigned code(const blocks *b, int l, int g, int zero) { return (unsigned)((int)b->q[l][g] + zero); }

/* The low four bits of a block's codes, and the fifth ones. */
static void pack_nibbles(const blocks *b, int g, int zero, uint8_t qs[16])
{
    for (int l = 0; l < 16; l++) qs[l] = (uint8_t)((code(b, l, g, zero) & 15) | code(b, l + 16, g, zero) << 4);
}

static void pack_fifth(const blocks *b, int g, int zero, uint8_t qh[4])
{
    for (int byte = 0; byte < 4; byte++) {
        unsigned bits = 0;
        for (int i = 0; i < 8; i++) bits |= (code(b, 8 * byte + i, g, zero) >> 4 & 1) << i;
        qh[byte] = (uint8_t)bits;
    }
}

void air_encode_q4_0(const float *src, void *dst, int64_t n_blocks)
{
    air_block_q4_0 *b = dst;
    for (blocks e; n_blocks > 0; n_blocks -= e.count, src += BLOCK * e.count) {
        fit_signed(&e, src, n_blocks, 8);
        for (int g = 0; g < e.count; g++, b++) {
            air_store_f16(b->d, e.best.scale[g]);
            pack_nibbles(&e, g, 8, b->qs);
        }
    }
}

void air_encode_q4_1(const float *src, void *dst, int64_t n_blocks)
{
    air_block_q4_1 *b = dst;
    for (blocks e; n_blocks > 0; n_blocks -= e.count, src += BLOCK * e.count) {
        fit_offset(&e, src, n_blocks, 16);
        for (int g = 0; g < e.count; g++, b++) {
            air_store_f16(b->d, e.best.scale[g]);
            air_store_f16(b->m, e.best.offset[g]);
            pack_nibbles(&e, g, 0, b->qs);
        }
    }
}

void air_encode_q5_0(const float *src, void *dst, int64_t n_blocks)
{
    air_block_q5_0 *b = dst;
    for (blocks e; n_blocks > 0; n_blocks -= e.count, src += BLOCK * e.count) {
        fit_signed(&e, src, n_blocks, 16);
        for (int g = 0; g < e.count; g++, b++) {
            air_store_f16(b->d, e.best.scale[g]);
            pack_nibbles(&e, g, 16, b->qs);
            pack_fifth(&e, g, 16, b->qh);
        }
    }
}

void air_encode_q5_1(const float *src, void *dst, int64_t n_blocks)
{
    air_block_q5_1 *b = dst;
    for (blocks e; n_blocks > 0; n_blocks -= e.count, src += BLOCK * e.count) {
        fit_offset(&e, src, n_blocks, 32);
        for (int g = 0; g < e.count; g++, b++) {
            air_store_f16(b->d, e.best.scale[g]);
            air_store_f16(b->m, e.best.offset[g]);
            pack_nibbles(&e, g, 0, b->qs);
            pack_fifth(&e, g, 0, b->qh);
        }
    }
}

void air_encode_q8_0(const float *src, void *dst, int64_t n_blocks)
{
    air_block_q8_0 *b = dst;
    for (int64_t i = 0; i < n_blocks; i++, b++, src += BLOCK) {
        float peak = 0;
        for (int j = 0; j < BLOCK; j++) peak = fabsf(src[j]) > peak ? fabsf(src[j]) : peak;
        float d = peak / 127, inverse = d > 1e-30f ? 1.0f / d : 0.0f;
        air_store_f16(b->d, d);
        for (int j = 0; j < BLOCK; j++) b->qs[j] = (int8_t)roundf(src[j] * inverse);
    }
}
