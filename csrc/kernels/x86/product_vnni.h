/* The shape of every product of quantised weights with 8-bit activations where bytes multiply in fours (VNNI), for the bytes.h included
 * before: with AVX-512 a vector holds 32 bytes of two rows, with AVX-VNNI of one. tile.h says what a format brings.
 *
 * A tile is 256 weights of a row in 8 groups; its sums of products end in 8 integers, one for each group, or 8 for each of its halves:
 *
 *     one column:   a multiplication for each group, then a tree of shuffles and sums brings those of a group together
 *     more columns: weights and activations are turned (ops.h), the weights once for all columns: 8 multiplications add up to the sums
 *
 *     acc += float(sums) * (scale_w * scale_x)
 *     acc -= bias_w * (scale_x * sum of x of each group)     a minimum, an offset; of halves, as integers
 *
 * Both ways give the same integers and go on with the same float operations, so the bits do not depend on n or rows. At the end of a
 * row the elements of acc are added. A last tile of k % 256 weights is padded with zeros. (AVX2 takes the bias off first, and offsets as
 * integers: its bits are its own.)
 *
 * The multiplication takes unsigned weights: signed ones have 128 added, and sums begin at -128 times that of the activations. */
#ifndef AIR_KERNELS_X86_PRODUCT_VNNI_H
#define AIR_KERNELS_X86_PRODUCT_VNNI_H

#include "kernels/x86/tile.h"

/* Rows side by side: of one column as many as the prefetches are fit for; of more, twice that, as all their activations pass by once for
 * so many rows, however few they are. Blocks of sums are what the registers hold: 32 of AVX-512, else 16. */
enum { ONE_ROWS = 4, ROWS = 8, FEW_ROWS = ROWS, FEW_COLUMNS = 0, COLUMNS = 32, BLOCK_VECTORS = 2 * VB_ROWS, BLOCK_COLUMNS = 4 };

/* A vector's rows: where they are, and how they become one row twice when no second is left. */
typedef struct row_set {
    const uint8_t *w;
    size_t stride;
} row_set;

AIR_INLINE row_set rows_at(const uint8_t *w, size_t row_bytes, int vector, int R)
{
    return (row_set){w + (size_t)(vector * VB_ROWS) * row_bytes, R < VB_ROWS ? 0 : row_bytes};
}

/* At a row's last tile copies, filled up with zeros. */
typedef uint8_t rows_pad[VB_ROWS][MAX_TILE_BYTES];

AIR_INLINE row_set tile_of(row_set r, rows_pad pad, int64_t at, int64_t left, size_t bytes)
{
    r.w += (size_t)(at / TILE) * bytes;
    if (AIR_LIKELY(left >= TILE)) return r;
    for (int i = 0; i < VB_ROWS; i++) pad_tile(pad[i], r.w + (size_t)i * r.stride, left, bytes);
    return (row_set){pad[0], sizeof pad[0]};
}

/* Of each group of each row; [1] of second halves. */
typedef struct row_scales {
    vf scale[2];
    vf bias;     /* to take off, times a column's; of halves: the one float beside bias_sub */
    vb bias_sub; /* of halves in their order, words */
} row_scales;

AIR_INLINE row_scales scales_of(row_set r, const tile_format *f)
{
    tile_scales t[VB_ROWS];
    row_scales out;
    AIR__UNROLL
    for (int i = 0; i < VB_ROWS; i++) f->scales(r.w + (size_t)i * r.stride, &t[i]);
    const tile_scales *a = &t[0], *b = &t[VB_ROWS - 1];
    AIR__UNROLL
    for (int half = 0; half <= has_halves(&f->shape); half++) {
        int floats = has_floats(&f->shape);
        out.scale[half] = v_join(a->scale[floats ? half : 0], b->scale[floats ? half : 0]);
        if (floats) continue;
        vb integers = vb_sra32(vb_join(a->sub[half], b->sub[half]), 16);
        out.scale[half] = v_mul(vb_floats(integers), out.scale[half]);
    }
    if (f->shape.has_bias) out.bias = v_join(bias_of(a, &f->shape), bias_of(b, &f->shape));
    if (f->shape.has_bias && f->shape.scaling == SCALE_HALF) out.bias_sub = vb_join(a->bias_sub, b->bias_sub);
    return out;
}

/* Of a tile's activations, for every row of a vector; q stays in memory, in the order of the one column, or turned. */
typedef struct column {
    const int8_t *q;
    vf scale;    /* of each group */
    vf bias;     /* of each group: its scale, times its sum unless a row's bias is of halves */
    vb sums;     /* of halves, words */
    vb start[2]; /* what sums begin at, [1] of second halves */
} column;

AIR_INLINE column column_of(const air_q8 *x, const int8_t *q, const tile_shape *s)
{
    column c = {.q = q, .sums = vb_repeat(load_q(x->sums)), .scale = v_repeat(_mm256_loadu_ps(x->scale))};
    vb first = vb_sra32(vb_sll32(c.sums, 16), 16), second = vb_sra32(c.sums, 16), groups = vb_add32(first, second);
    c.bias = s->scaling == SCALE_HALF ? c.scale : v_mul(vb_floats(groups), c.scale);
    c.start[0] = c.start[1] = vb_zero();
    if (!s->is_signed) return c;
    c.start[0] = vb_sub32(vb_zero(), vb_sll32(has_halves(s) ? first : groups, 7));
    if (has_halves(s)) c.start[1] = vb_sub32(vb_zero(), vb_sll32(second, 7));
    return c;
}

AIR_INLINE vb unsigned_bytes(vb w, const tile_shape *s) { return s->is_signed ? vb_xor(w, vb_set(-128)) : w; }

/* What decides the bits: the float half of a tile. Sums of groups, or of first halves and then of second ones, half 1. */
AIR_INLINE vf add_sums(vf acc, vb sums, int half, const row_scales *r, const column *x)
{
    return v_fma(vb_floats(sums), v_mul(r->scale[half], x->scale), acc);
}

AIR_INLINE vf take_bias(vf acc, const row_scales *r, const column *x, const tile_shape *s)
{
    if (!s->has_bias) return acc;
    if (s->scaling != SCALE_HALF) return v_fnma(r->bias, x->bias, acc);
    return v_fnma(vb_floats(vb_madd16(r->bias_sub, x->sums)), v_mul(r->bias, x->bias), acc);
}

/* ---- one column ---- */

/* Dwords of each 16-byte lane: a0 + a2, b0 + b2, a1 + a3, b1 + b3; then the sums of a, b, and two more. */
AIR_INLINE vb join_two(vb a, vb b) { return vb_add32(vb_unpack_low32(a, b), vb_unpack_high32(a, b)); }
AIR_INLINE vb join_four(vb ab, vb cd) { return vb_add32(vb_unpack_low64(ab, cd), vb_unpack_high64(ab, cd)); }

AIR_INLINE vf add_tile(vf acc, row_set tile, const vb *unpacked, const column *x, const tile_format *f)
{
    const tile_shape *s = &f->shape;
    row_scales scales = scales_of(tile, f);
    vb four[2];
    AIR__UNROLL
    for (int half = 0; half < 2; half++) {
        vb two[2];
        AIR__UNROLL
        for (int i = 0; i < 2; i++) {
            vb dot[2];
            AIR__UNROLL
            for (int j = 0; j < 2; j++) {
                int g = 4 * half + 2 * i + j;
                vb w = unpacked ? unpacked[g] : f->group(tile.w, tile.stride, g);
                dot[j] = vb_dot(vb_zero(), unsigned_bytes(w, s), vb_repeat(load_q(x->q + 32 * g)));
            }
            two[i] = join_two(dot[0], dot[1]);
        }
        four[half] = join_four(two[0], two[1]);
    }
    vb first = vb_low_lanes(four[0], four[1]), second = vb_high_lanes(four[0], four[1]);
    if (has_halves(s)) {
        acc = add_sums(acc, vb_add32(first, x->start[0]), 0, &scales, x);
        acc = add_sums(acc, vb_add32(second, x->start[1]), 1, &scales, x);
    } else {
        vb sums = vb_add32(first, second);
        acc = add_sums(acc, s->is_signed ? vb_add32(sums, x->start[0]) : sums, 0, &scales, x);
    }
    return take_bias(acc, &scales, x, s);
}

/* Where a format takes a whole row's tile apart at once: of each row, then together. */
AIR_INLINE void unpack_rows(row_set tile, vb *groups, const tile_format *f)
{
    __m256i each[VB_ROWS][GROUPS];
    for (int i = 0; i < VB_ROWS; i++) f->unpack(tile.w + (size_t)i * tile.stride, each[i]);
    AIR__UNROLL
    for (int g = 0; g < GROUPS; g++) groups[g] = vb_join(each[0][g], each[VB_ROWS - 1][g]);
}

/* R rows, row_bytes apart, results y_step. */
AIR_INLINE void one_column(const uint8_t *w, size_t row_bytes, const air_columns *x, float *y, int64_t y_step, int R,
                           const tile_format *f)
{
    const tile_shape *s = &f->shape;
    vf acc[ONE_ROWS];
    AIR__UNROLL
    for (int v = 0; v < vectors(R); v++) acc[v] = v_zero();
    for (int64_t at = 0; at < x->k; at += TILE) {
        air__q8_pad pad;
        air_q8 q8 = air__q8_tile(&pad, x, 0, at);
        column col = column_of(&q8, q8.q, s);
        air__prefetch_rows(w, row_bytes, (size_t)(at / TILE) * s->bytes, s->bytes, R);
        AIR__UNROLL
        for (int v = 0; v < vectors(R); v++) {
            rows_pad pads;
            vb groups[GROUPS];
            row_set tile = tile_of(rows_at(w, row_bytes, v, R), pads, at, x->k - at, s->bytes);
            if (f->unpack) unpack_rows(tile, groups, f);
            acc[v] = add_tile(acc[v], tile, f->unpack ? groups : NULL, &col, f);
        }
    }
    AIR__UNROLL
    for (int v = 0; v < vectors(R); v++) store_rows(y + v * VB_ROWS * y_step, y_step, acc[v], R);
}

/* ---- more columns ---- */

/* A tile of R rows, taken out of its blocks once for all columns, and turned. */
typedef struct unpacked {
    vb w[ROWS / VB_ROWS][GROUPS];
    row_scales scales[ROWS / VB_ROWS];
} unpacked;

AIR_INLINE void take_groups(vb *groups, row_set tile, const tile_format *f)
{
    if (f->unpack) {
        unpack_rows(tile, groups, f);
        return;
    }
    AIR__UNROLL
    for (int g = 0; g < GROUPS; g++) groups[g] = f->group(tile.w, tile.stride, g);
}

AIR_INLINE void unpack(unpacked *u, const uint8_t *w, size_t row_bytes, int64_t at, int64_t left, int R, const tile_format *f,
                       ahead *next)
{
    AIR__ROLLED
    for (int v = 0; v < vectors(R); v++) {
        rows_pad pad;
        row_set tile = tile_of(rows_at(w, row_bytes, v, R), pad, at, left, f->shape.bytes);
        vb groups[GROUPS];
        if (f->turned) {
            f->turned(tile.w, tile.stride, groups);
        } else {
            take_groups(groups, tile, f);
            turn(groups);
        }
        AIR__UNROLL
        for (int g = 0; g < GROUPS; g++) u->w[v][g] = unsigned_bytes(groups[g], &f->shape);
        u->scales[v] = scales_of(tile, f);
        ask_ahead(next);
    }
}

/* Adds V vectors' products with C columns to their sums. */
AIR_INLINE void add_block(vf (*acc)[ROWS / VB_ROWS], const unpacked *u, int first, const column *x, int V, int C, const tile_shape *s)
{
    vb dot[BLOCK_VECTORS][BLOCK_COLUMNS];
    int each = has_halves(s) ? GROUPS / 2 : GROUPS;
    AIR__UNROLL
    for (int j = 0; j < GROUPS; j++) {
        vb w[BLOCK_VECTORS];
        AIR__UNROLL
        for (int v = 0; v < V; v++) w[v] = u->w[first + v][j];
        AIR__UNROLL
        for (int c = 0; c < C; c++) {
            vb q = vb_repeat(load_q(x[c].q + 32 * j));
            AIR__UNROLL
            for (int v = 0; v < V; v++) {
                const row_scales *r = &u->scales[first + v];
                dot[v][c] = vb_dot(j % each ? dot[v][c] : x[c].start[j / each], w[v], q);
                if (j % each < each - 1) continue;
                vf *sum = &acc[c][first + v];
                *sum = add_sums(*sum, dot[v][c], j / each, r, &x[c]);
                if (j == GROUPS - 1) *sum = take_bias(*sum, r, &x[c], s);
            }
        }
    }
}

AIR_INLINE int columns_together(const tile_shape *s) { return (void)s, BLOCK_COLUMNS; }

#include "product_rows.h"

#endif
