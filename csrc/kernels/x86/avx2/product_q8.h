/* The shape of every AVX2 product of quantised weights with 8-bit activations. tile.h says what a format brings.
 *
 * A tile is 256 weights of a row: 8 vectors of bytes, one for each group of 32. Sums of products end in one vector of 8 integers,
 * one for each group:
 *
 *     maddubs: 16 sums of 2 products in each vector; then
 *       one column:   a tree of shuffles and sums brings those of a group together
 *       more columns: weights and activations are turned (ops.h), the weights once for all columns, so that vectors just add up
 *     madd: adds pairs, times the integer scales where there are such, or times 1
 *     sums -= offset * sum of x of each group                or, of each half, times its scale
 *     acc -= bias_w * (scale_x * sum of x of each group)     a minimum; first, as it need not wait for the sums
 *     acc += float(sums) * (scale_w * scale_x)
 *
 * Both ways give the same integers and go on with the same float operations, so the bits do not depend on n or rows. At the end of a
 * row the elements of acc are added. A last tile of k % 256 weights is padded with zeros.
 *
 * Loads are what there is least of: on Zen 3, two in a cycle that does four operations. So two rows meet several columns at a time.
 *
 * Sums stay in 16 bits as long as they fit. maddubs adds two products with saturation: unsigned weights up to 128 give at most
 * 2 * 128 * 127 = 32512; signed ones go in as |w| and x with the sign of w. A whole tile adds 8 of these: `parts` says in how many
 * parts it must, 1 with weights up to 16, 2 up to 32 or where halves have scales, 4 up to 64, 8 else. */
#ifndef AIR_KERNELS_AVX2_PRODUCT_Q8_H
#define AIR_KERNELS_AVX2_PRODUCT_Q8_H

#include "bytes.h"
#include "kernels/x86/tile.h"

enum { BLOCK_VECTORS = 2, BLOCK_COLUMNS = 4 }; /* a vector is of one row */

/* Rows side by side: of one column as many as the prefetches are fit for; of more, as many as the engine's smallest chunk has, since
 * all their activations pass by once for so many rows; of a few, whose activations are few, half of these: their weights then come from
 * memory at a steadier pace. */
enum { ONE_ROWS = 4, FEW_ROWS = 8, FEW_COLUMNS = 8, ROWS = 16, COLUMNS = 32 };

/* bias_sub comes with the offset multiplied in. */
AIR_INLINE void scales_of(const uint8_t *tile, tile_scales *t, const tile_format *f)
{
    f->scales(tile, t);
    __m256i offset = _mm256_set1_epi16((int16_t)f->shape.offset);
    if (f->shape.offset && f->shape.scaling == SCALE_HALF) t->bias_sub = _mm256_mullo_epi16(t->bias_sub, offset);
}

/* The integers of each group, or of its first or second half. */
AIR_INLINE __m256i integers_of(const tile_scales *t, int half, const tile_shape *s)
{
    return has_floats(s) ? _mm256_set1_epi16(1) : t->sub[s->scaling == SCALE_HALF ? half : 0];
}

/* Of a tile's activations; q stays in memory, in the order of the one column, or turned. */
typedef struct column {
    const int8_t *q;
    __m256  scale; /* of each group */
    __m256  bias;  /* of each group, without an offset: its scale, times its sum unless a row's bias is of halves */
    __m256i sums;  /* of halves; with an offset and SCALE_FLOAT of groups, times that */
} column;

AIR_INLINE column column_of(const air_q8 *x, const int8_t *q, const tile_shape *s)
{
    column c = {.q = q, .sums = load_q(x->sums), .scale = _mm256_loadu_ps(x->scale)};
    c.bias = c.scale;
    if (s->offset && s->scaling != SCALE_HALF)
        c.sums = _mm256_madd_epi16(c.sums, _mm256_set1_epi16((int16_t)s->offset));
    else if (s->scaling != SCALE_HALF)
        c.bias = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_madd_epi16(c.sums, _mm256_set1_epi16(1))), c.bias);
    return c;
}

/* ---- products of a group ---- */

AIR_INLINE __m256i multiply(__m256i w, __m256i x, const tile_shape *s)
{
    return s->is_signed ? _mm256_maddubs_epi16(_mm256_sign_epi8(w, w), _mm256_sign_epi8(x, w)) : _mm256_maddubs_epi16(w, x);
}

AIR_INLINE __m256 add_sums(__m256 acc, __m256i sums, __m256 row_scale, __m256 column_scale)
{
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), _mm256_mul_ps(row_scale, column_scale), acc);
}

/* Rid of the offset that weights have. */
AIR_INLINE __m256i take_offset(__m256i sums, const tile_scales *r, const column *x, const tile_shape *s)
{
    if (!s->offset) return sums;
    return _mm256_sub_epi32(sums, s->scaling == SCALE_HALF ? _mm256_madd_epi16(r->bias_sub, x->sums) : x->sums);
}

AIR_INLINE __m256 take_bias(__m256 acc, const tile_scales *r, const column *x, const tile_shape *s)
{
    if (!s->has_bias || s->offset) return acc;
    if (s->scaling != SCALE_HALF) return _mm256_fnmadd_ps(r->bias, x->bias, acc);
    __m256i sums = _mm256_madd_epi16(r->bias_sub, x->sums);
    return _mm256_fnmadd_ps(_mm256_cvtepi32_ps(sums), _mm256_mul_ps(r->bias, x->bias), acc);
}

/* ---- one column ---- */

AIR_INLINE __m256i add_16(__m256i a, __m256i b) { return _mm256_add_epi16(a, b); }
AIR_INLINE __m256i add_32(__m256i a, __m256i b) { return _mm256_add_epi32(a, b); }

/* Dwords a a b b of each lane of two vectors, each of a group, are sums of either one's four: to 0 0 1 1. */
AIR_INLINE __m256i join_two(__m256i v0, __m256i v1, int wide)
{
    __m256d a = _mm256_castsi256_pd(v0), b = _mm256_castsi256_pd(v1);
    __m256i outer = _mm256_blend_epi32(v0, v1, 0xcc), inner = _mm256_castpd_si256(_mm256_shuffle_pd(a, b, 0x5));
    return wide ? add_32(outer, inner) : add_16(outer, inner);
}

/* Dwords 0 0 1 1 and 2 2 3 3 to 0 1 2 3. */
AIR_INLINE __m256i join_four(__m256i v01, __m256i v23, int wide)
{
    __m256 a = _mm256_castsi256_ps(v01), b = _mm256_castsi256_ps(v23);
    __m256i even = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0x88)), odd = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0xdd));
    return wide ? add_32(even, odd) : add_16(even, odd);
}

/* The products of two groups that follow each other, pairs in 16 bits, first = 0 or 2 of the four whose integers sub has. */
AIR_INLINE __m256i sum_two(__m256i v0, __m256i v1, __m256i sub, int first, const tile_shape *s)
{
    if (s->parts == 8) {
        __m256i s0 = first ? _mm256_shuffle_epi32(sub, 0xaa) : _mm256_shuffle_epi32(sub, 0x00);
        __m256i s1 = first ? _mm256_shuffle_epi32(sub, 0xff) : _mm256_shuffle_epi32(sub, 0x55);
        return join_two(_mm256_madd_epi16(v0, s0), _mm256_madd_epi16(v1, s1), 1);
    }
    __m256i two = join_two(v0, v1, 0);
    if (s->parts < 4) return two;
    return _mm256_madd_epi16(two, first ? _mm256_shuffle_epi32(sub, 0xfa) : _mm256_shuffle_epi32(sub, 0x50));
}

AIR_INLINE __m256i sum_four(__m256i v01, __m256i v23, __m256i sub, const tile_shape *s)
{
    __m256i four = join_four(v01, v23, s->parts >= 4);
    return s->parts == 2 ? _mm256_madd_epi16(four, sub) : four;
}

/* Adds the sums of groups 0 to 3 and 4 to 7, first halves in the low lane and second ones in the high. */
AIR_INLINE __m256 add_fours(__m256 acc, __m256i v0123, __m256i v4567, const tile_scales *t, const column *x, const tile_shape *s)
{
    if (s->scaling == SCALE_FLOAT_HALF) {
        __m256i first = vb_low_lanes(v0123, v4567), second = vb_high_lanes(v0123, v4567);
        return add_sums(add_sums(acc, first, t->scale[0], x->scale), second, t->scale[1], x->scale);
    }
    __m256i first = _mm256_blend_epi32(v0123, v4567, 0xf0), second = _mm256_permute2x128_si256(v0123, v4567, 0x21);
    __m256i sums = s->parts == 1 ? _mm256_madd_epi16(add_16(first, second), integers_of(t, 0, s)) : add_32(first, second);
    return add_sums(take_bias(acc, t, x, s), take_offset(sums, t, x, s), t->scale[0], x->scale);
}

/* Adds a tile of R rows, groups stride bytes apart from row to row, to their sums. */
AIR_INLINE void add_rows(__m256 *acc, const uint8_t *tile, size_t stride, const tile_scales *t, const column *x, int R,
                         vb (*group)(const uint8_t *w, size_t stride, int g), const tile_shape *s)
{
    __m256i four[2][BLOCK_VECTORS];
    AIR__UNROLL
    for (int half = 0; half < 2; half++) {
        __m256i two[2][BLOCK_VECTORS], sub[BLOCK_VECTORS];
        AIR__UNROLL
        for (int r = 0; r < R; r++) {
            __m256i of_first = integers_of(&t[r], 0, s), of_second = integers_of(&t[r], 1, s);
            sub[r] = half ? vb_high_lanes(of_first, of_second) : vb_low_lanes(of_first, of_second);
        }
        AIR__UNROLL
        for (int i = 0; i < 2; i++) {
            int g = 4 * half + 2 * i;
            __m256i q0 = load_q(x->q + 32 * g), q1 = load_q(x->q + 32 * g + 32);
            AIR__UNROLL
            for (int r = 0; r < R; r++) {
                const uint8_t *w = tile + (size_t)r * stride;
                two[i][r] = sum_two(multiply(group(w, stride, g), q0, s), multiply(group(w, stride, g + 1), q1, s), sub[r], 2 * i, s);
                AIR__IN_REGISTER(two[i][r]);
            }
        }
        AIR__UNROLL
        for (int r = 0; r < R; r++) four[half][r] = sum_four(two[0][r], two[1][r], sub[r], s);
    }
    AIR__UNROLL
    for (int r = 0; r < R; r++) acc[r] = add_fours(acc[r], four[0][r], four[1][r], &t[r], x, s);
}

AIR_INLINE vb unpacked_group(const uint8_t *w, size_t stride, int g) { return vb_load(w + 32 * g, stride); }

/* R rows of one column, row_bytes apart, results y_step: a group of weights goes from its block into the sum without touching memory. */
AIR_INLINE void one_column(const uint8_t *w, size_t row_bytes, const air_columns *x, float *y, int64_t y_step, int R,
                           const tile_format *f)
{
    const tile_shape *s = &f->shape;
    int B = R < BLOCK_VECTORS ? R : BLOCK_VECTORS;
    __m256 acc[ONE_ROWS];
    for (int r = 0; r < R; r++) acc[r] = _mm256_setzero_ps();
    for (int64_t at = 0; at < x->k; at += TILE) {
        air__q8_pad pad;
        air_q8 q8 = air__q8_tile(&pad, x, 0, at);
        column col = column_of(&q8, q8.q, s);
        air__prefetch_rows(w, row_bytes, (size_t)(at / TILE) * s->bytes, s->bytes, R);
        AIR__ROLLED
        for (int r = 0; r < R; r += B) {
            uint8_t row_pad[BLOCK_VECTORS][MAX_TILE_BYTES];
            __m256i groups[BLOCK_VECTORS][GROUPS];
            tile_scales t[BLOCK_VECTORS];
            const uint8_t *tile = w + (size_t)r * row_bytes + (size_t)(at / TILE) * s->bytes;
            size_t stride = row_bytes;
            if (AIR_UNLIKELY(x->k - at < TILE)) {
                for (int b = 0; b < B; b++) pad_tile(row_pad[b], tile + (size_t)b * row_bytes, x->k - at, s->bytes);
                tile = row_pad[0], stride = MAX_TILE_BYTES;
            }
            AIR__UNROLL
            for (int b = 0; b < B; b++) {
                scales_of(tile + (size_t)b * stride, &t[b], f);
                if (f->unpack) f->unpack(tile + (size_t)b * stride, groups[b]);
            }
            if (f->unpack) add_rows(&acc[r], (const uint8_t *)groups[0], sizeof groups[0], t, &col, B, unpacked_group, s);
            else add_rows(&acc[r], tile, stride, t, &col, B, f->group, s);
        }
    }
    for (int r = 0; r < R; r++) y[r * y_step] = add_elements(acc[r]);
}

/* ---- more columns ---- */

/* A tile of R rows, taken out of its blocks once for all columns, and turned. */
typedef struct unpacked {
    __m256i    w[ROWS][GROUPS];
    tile_scales scales[ROWS];
} unpacked;

AIR_INLINE void take_groups(__m256i *groups, const uint8_t *tile, const tile_format *f)
{
    if (f->unpack) {
        f->unpack(tile, groups);
        return;
    }
    AIR__UNROLL
    for (int g = 0; g < GROUPS; g++) groups[g] = f->group(tile, 0, g);
}

AIR_INLINE void unpack(unpacked *u, const uint8_t *w, size_t row_bytes, int64_t at, int64_t left, int R, const tile_format *f,
                       ahead *next)
{
    AIR__ROLLED
    for (int r = 0; r < R; r++) {
        uint8_t pad[MAX_TILE_BYTES];
        const uint8_t *tile = w + (size_t)r * row_bytes + (size_t)(at / TILE) * f->shape.bytes;
        if (AIR_UNLIKELY(left < TILE)) tile = pad_tile(pad, tile, left, f->shape.bytes);
        if (f->turned) {
            f->turned(tile, 0, u->w[r]);
        } else {
            take_groups(u->w[r], tile, f);
            turn(u->w[r]);
        }
        scales_of(tile, &u->scales[r], f);
        ask_ahead(next);
    }
}

/* The products of some groups, added up in 16 bits. */
AIR_INLINE __m256i multiply_some(const __m256i *w, const __m256i *q, int some, const tile_shape *s)
{
    __m256i p = multiply(w[0], q[0], s);
    AIR__UNROLL
    for (int i = 1; i < some; i++) p = add_16(p, multiply(w[i], q[i], s));
    return p;
}

/* The float half of a tile, of a half of each group or of all, once its last sums are there. What belongs to a row is in registers for
 * all columns: loads are what there is least of. In one part sums are still pairs. */
AIR_INLINE void add_floats(vf (*acc)[ROWS], const unpacked *u, int first, const column *x, __m256i (*sums)[BLOCK_COLUMNS], int half,
                           int R, int C, const tile_shape *s)
{
    AIR__UNROLL
    for (int r = 0; r < R; r++) {
        tile_scales t = {.scale = {u->scales[first + r].scale[half]}};
        AIR__IN_REGISTER(t.scale[0]);
        __m256i integers = integers_of(&u->scales[first + r], 0, s);
        if (s->parts == 1) AIR__IN_REGISTER(integers);
        if (s->has_bias && !s->offset) {
            t.bias = u->scales[first + r].bias;
            AIR__IN_REGISTER(t.bias);
        }
        if (s->has_bias && s->scaling == SCALE_HALF) {
            t.bias_sub = u->scales[first + r].bias_sub;
            AIR__IN_REGISTER(t.bias_sub);
        }
        AIR__UNROLL
        for (int c = 0; c < C; c++) {
            vf *a = &acc[c][first + r];
            __m256i v = s->parts == 1 ? _mm256_madd_epi16(sums[r][c], integers) : sums[r][c];
            *a = add_sums(take_bias(*a, &t, &x[c], s), take_offset(v, &t, &x[c], s), t.scale[0], x[c].scale);
        }
    }
}

/* Adds R rows' products with C columns to their sums. Where sums leave the 16 bits after two groups, both groups are in registers at
 * once, as pairs of all rows and columns then need not be; else one after the other. Of one or two groups, sums stay in registers. */
AIR_INLINE void add_block(vf (*acc)[ROWS], const unpacked *u, int first, const column *x, int R, int C, const tile_shape *s)
{
    __m256i sums[BLOCK_VECTORS][BLOCK_COLUMNS], pairs[BLOCK_VECTORS][BLOCK_COLUMNS];
    int each = GROUPS / s->parts, some = each == 2 ? 2 : 1, halves = s->scaling == SCALE_FLOAT_HALF;
    AIR__UNROLL
    for (int j = 0; j < GROUPS; j += some) {
        int ends = (j + some) % each == 0;
        __m256i w[BLOCK_VECTORS][2], q[2];
        AIR__UNROLL
        for (int r = 0; r < R; r++) {
            AIR__UNROLL
            for (int i = 0; i < some; i++) {
                w[r][i] = u->w[first + r][j + i];
                AIR__IN_REGISTER(w[r][i]);
            }
        }
        AIR__UNROLL
        for (int c = 0; c < C; c++) {
            AIR__UNROLL
            for (int i = 0; i < some; i++) {
                q[i] = load_q(x[c].q + 32 * (j + i));
                if (R > 1) AIR__IN_REGISTER(q[i]);
            }
            AIR__UNROLL
            for (int r = 0; r < R; r++) {
                __m256i p = multiply_some(w[r], q, some, s);
                pairs[r][c] = j % each ? add_16(pairs[r][c], p) : p;
                AIR__IN_REGISTER(pairs[r][c]);
                if (!ends || s->parts == 1) continue;
                p = _mm256_madd_epi16(pairs[r][c], integers_of(&u->scales[first + r], j / 4, s));
                sums[r][c] = j >= each && !halves ? add_32(sums[r][c], p) : p;
                if (some == each) AIR__IN_REGISTER(sums[r][c]);
            }
        }
        if (halves && ends) add_floats(acc, u, first, x, sums, j / 4, R, C, s);
    }
    if (!halves) add_floats(acc, u, first, x, s->parts == 1 ? pairs : sums, 0, R, C, s);
}

/* In two parts, sums and pairs of four columns are more than the registers hold. */
AIR_INLINE int columns_together(const tile_shape *s) { return s->parts == 2 ? 2 : BLOCK_COLUMNS; }

#include "kernels/x86/product_rows.h"

#endif
