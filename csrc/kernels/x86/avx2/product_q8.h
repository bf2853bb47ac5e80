/* The shape of every AVX2 product of quantised weights with 8-bit activations. A format brings scales(), and group() or unpack().
 *
 * A tile is 256 weights of a row: 8 vectors of bytes, one for each group of 32. A 16-byte lane is half a group.
 *
 *     per group: maddubs (16 sums of 2 products), then
 *       where groups, or halves, have floats for scales: madd with ones (8 sums of 4), to float,
 *           acc += sums * (scale_w * scale_x of the group)
 *       where groups, or halves, have integers beside one float d: madd with sub * multiple_x (8 sums of 4, scaled),
 *           sum += that, as integers; at the end of the tile (or `run` groups) acc += float(sum) * (d * step_x)
 *     per tile:  acc -= bias_w * (scale_x * sum of x), a float for each group: a minimum, an offset; of halves, as integers
 *
 * The eight elements of acc are partial sums that are added at the end of the row. Loads are what there is least of: on Zen 3, two
 * in a cycle that does four operations, and one from what was just stored costs two. So scales are shuffled out of a register, and
 * two rows meet two columns at a time: 5 loads for 4 groups' products.
 *
 * Nothing overflows. maddubs adds two products into 16 bits with saturation: unsigned weights, up to 124 in IQ3_XXS, give at most
 * 2 * 124 * 127 = 31496; signed ones up to 128 in magnitude go in as |w| and x with the sign of w, 2 * 128 * 127 = 32512 < 32768.
 * Scaled sums of a run are below 2^31 = 2.147e9. With the greatest weight and scale, 8 groups' are 8 * 4 * w * 127 * scale * 127:
 *
 *     Q2_K 3 * 15, Q3_K 7 * 32, Q4_K 15 * 63, Q5_K 31 * 63, IQ1 18 * 15, IQ2 86 * 31, IQ3_S 30 * 31: at most 1.38e9
 *     IQ3_XXS 124 * 31: 1.984e9     IQ4_XS 127 * 32: 2.098e9     Q6_K 63 * 128 would be 4.2e9, and has runs of 4
 *
 * The float operations are the same for any n and rows, and so are the bits. A last tile of k % 256 weights is padded with zeros. */
#ifndef AIR_KERNELS_AVX2_PRODUCT_Q8_H
#define AIR_KERNELS_AVX2_PRODUCT_Q8_H

#include "kernels/x86/q8.h"

enum { TILE = AIR_Q8_TILE, GROUPS = 8, ROWS = 4, COLUMNS = 16, PAIR = 2, MAX_TILE_BYTES = 272 };

typedef enum tile_scaling {
    SCALE_FLOAT,       /* a float for each group */
    SCALE_FLOAT_HALF,  /* a float for each half, without a bias */
    SCALE_GROUP,       /* an integer for each group, times d */
    SCALE_HALF,        /* an integer for each half, times d */
} tile_scaling;

typedef struct tile_shape {
    tile_scaling scaling;
    int    is_signed; /* weights are signed bytes */
    int    has_bias;
    int    run;       /* groups whose scaled sums fit 32 bits together */
    size_t bytes;     /* of 256 weights */
} tile_shape;

AIR_INLINE int has_floats(const tile_shape *s) { return s->scaling == SCALE_FLOAT || s->scaling == SCALE_FLOAT_HALF; }

/* What a tile's row or column is multiplied by. Integers are of 16 bits. */
typedef struct tile_scales {
    __m256  scale; /* of each group; of halves, those of 0, 2, 4, 6 below, of 1, 3, 5, 7 above; of integers, the one float beside them */
    __m256  scale_high; /* of halves: 8, 10, 12, 14 below, 9, 11, 13, 15 above */
    __m256i sub;   /* integers of groups, in both lanes; of halves: the even ones below, the odd ones above */
    __m256  bias;  /* of each group: to take off a row's, times a column's; of halves: the one float beside bias_sub */
    __m256i bias_sub;
} tile_scales;

typedef struct tile_format {
    __m256i (*group)(const uint8_t *w, int g);
    void (*unpack)(const uint8_t *w, __m256i *groups); /* in its place: where much is done for all groups at once, or in too many registers */
    void (*scales)(const uint8_t *w, tile_scales *t);
    tile_shape shape;
} tile_format;

AIR_INLINE __m256i load_q(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
AIR_INLINE __m128i load_half(const void *p) { return _mm_loadu_si128((const __m128i *)p); }
AIR_INLINE __m256i load_twice(const void *p) { return _mm256_broadcastsi128_si256(load_half(p)); } /* to both lanes */

/* 256 activations of a column; q stays in memory. */
typedef struct column {
    const int8_t *q;
    tile_scales   t;
    __m256i       sums; /* of halves */
} column;

/* Bytes 0 to 7 of a lane to 8 words, the same in both lanes; to 16 words across the lanes, each twice; to 8 ints across them. */
AIR_INLINE __m256i groups_to_words(void)
{
    return _mm256_setr_epi8(0, -1, 1, -1, 2, -1, 3, -1, 4, -1, 5, -1, 6, -1, 7, -1, 0, -1, 1, -1, 2, -1, 3, -1, 4, -1, 5, -1, 6, -1, 7, -1);
}

AIR_INLINE __m256i halves_to_words(void)
{
    return _mm256_setr_epi8(0, -1, 0, -1, 1, -1, 1, -1, 2, -1, 2, -1, 3, -1, 3, -1, 4, -1, 4, -1, 5, -1, 5, -1, 6, -1, 6, -1, 7, -1, 7, -1);
}

AIR_INLINE column column_tile(air__q8_pad *pad, const air_columns *x, int64_t c, int64_t at, const tile_shape *s)
{
    air_q8 q8 = air__q8_tile(pad, x, c, at);
    column col = {.q = q8.q, .sums = load_q(q8.sums)};
    __m256 scale = _mm256_loadu_ps(q8.scale);
    col.t.scale = has_floats(s) ? scale : _mm256_set1_ps(*q8.step);
    if (!has_floats(s)) {
        int64_t multiples;
        memcpy(&multiples, q8.multiple, sizeof multiples);
        col.t.sub = _mm256_shuffle_epi8(_mm256_set1_epi64x(multiples), groups_to_words());
        if (s->scaling == SCALE_HALF) col.t.bias_sub = _mm256_shuffle_epi8(_mm256_set1_epi64x(multiples), halves_to_words());
    }
    if (s->scaling != SCALE_HALF && s->has_bias)
        col.t.bias = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_madd_epi16(col.sums, _mm256_set1_epi16(1))), scale);
    return col;
}

/* A copy of a row's last, shorter tile, filled up with zeros. */
AIR_INLINE const uint8_t *pad_tile(uint8_t pad[MAX_TILE_BYTES], const uint8_t *tile, int64_t left, size_t bytes)
{
    memset(pad, 0, MAX_TILE_BYTES);
    return memcpy(pad, tile, (size_t)(left / AIR_Q8_GROUP) * (bytes / GROUPS));
}

AIR_INLINE float add_elements(__m256 v)
{
    __m128 a = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
}

/* Where the sums of one row's tile and one column stand, and what those of groups are multiplied by. */
typedef struct dot {
    __m256  acc;
    __m256i sum, sub;
    __m256  scale, low, high; /* low, high: scales of groups 0 to 3, and 4 to 7, in both lanes */
} dot;

AIR_INLINE void begin(dot *d, __m256 acc, const tile_scales *t, const column *x, const tile_shape *s)
{
    d->acc = acc;
    if (s->scaling == SCALE_FLOAT_HALF) {
        d->low = _mm256_mul_ps(t->scale, _mm256_permute2f128_ps(x->t.scale, x->t.scale, 0x00));
        d->high = _mm256_mul_ps(t->scale_high, _mm256_permute2f128_ps(x->t.scale, x->t.scale, 0x11));
        return;
    }
    d->scale = _mm256_mul_ps(t->scale, x->t.scale);
    if (s->scaling == SCALE_FLOAT) {
        d->low = _mm256_permute2f128_ps(d->scale, d->scale, 0x00);
        d->high = _mm256_permute2f128_ps(d->scale, d->scale, 0x11);
    } else {
        d->sub = _mm256_mullo_epi16(t->sub, x->t.sub);
    }
}

AIR_INLINE __m256 add_floats(__m256 acc, __m256i pairs, __m256 four, int g)
{
    __m256 sums = _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    switch (g % 4) {
    case 0: return _mm256_fmadd_ps(sums, _mm256_permute_ps(four, 0x00), acc);
    case 1: return _mm256_fmadd_ps(sums, _mm256_permute_ps(four, 0x55), acc);
    case 2: return _mm256_fmadd_ps(sums, _mm256_permute_ps(four, 0xaa), acc);
    default: return _mm256_fmadd_ps(sums, _mm256_permute_ps(four, 0xff), acc);
    }
}

AIR_INLINE void add_group(dot *d, int g, __m256i w, __m256i x, const tile_shape *s)
{
    __m256i pairs = s->is_signed ? _mm256_maddubs_epi16(_mm256_sign_epi8(w, w), _mm256_sign_epi8(x, w)) : _mm256_maddubs_epi16(w, x);
    if (has_floats(s)) {
        d->acc = add_floats(d->acc, pairs, g < 4 ? d->low : d->high, g);
        return;
    }
    __m256i pick = _mm256_set1_epi16((short)(2 * g | (2 * g + 1) << 8));
    __m256i sums = _mm256_madd_epi16(pairs, _mm256_shuffle_epi8(d->sub, pick));
    d->sum = g % s->run ? _mm256_add_epi32(d->sum, sums) : sums;
    AIR__IN_REGISTER(d->sum);
    if (g % s->run == s->run - 1) d->acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(d->sum), d->scale, d->acc);
}

AIR_INLINE __m256 take_bias(__m256 acc, const tile_scales *t, const column *x, const tile_shape *s)
{
    if (!s->has_bias) return acc;
    if (s->scaling != SCALE_HALF) return _mm256_fnmadd_ps(t->bias, x->t.bias, acc);
    __m256i sums = _mm256_madd_epi16(_mm256_mullo_epi16(t->bias_sub, x->t.bias_sub), x->sums);
    return _mm256_fnmadd_ps(_mm256_cvtepi32_ps(sums), _mm256_mul_ps(t->bias, x->t.scale), acc);
}

/* Adds a tile of R rows to the sums of C columns, both at most PAIR; groups come from blocks or unpacked, stride bytes from row to
 * row. Loops around this one stay loops: unrolled, compilers keep the activations of many iterations in registers that are not there. */
AIR_INLINE void add_tiles(__m256 (*acc)[ROWS], const uint8_t *tile, size_t stride, const tile_scales *t, const column *x, int R, int C,
                          __m256i (*group)(const uint8_t *w, int g), const tile_shape *s)
{
    dot d[PAIR][PAIR];
    AIR__FORGET();
    AIR__UNROLL
    for (int r = 0; r < R; r++) {
        AIR__UNROLL
        for (int j = 0; j < C; j++) begin(&d[r][j], acc[j][r], &t[r], &x[j], s);
    }
    AIR__UNROLL
    for (int g = 0; g < GROUPS; g++) {
        __m256i q[PAIR];
        AIR__UNROLL
        for (int j = 0; j < C; j++) {
            q[j] = load_q(x[j].q + 32 * g);
            if (R > 1) AIR__IN_REGISTER(q[j]);
        }
        AIR__UNROLL
        for (int r = 0; r < R; r++) {
            __m256i w = group(tile + (size_t)r * stride, g);
            AIR__IN_REGISTER(w);
            AIR__UNROLL
            for (int j = 0; j < C; j++) add_group(&d[r][j], g, w, q[j], s);
        }
    }
    AIR__UNROLL
    for (int r = 0; r < R; r++) {
        AIR__UNROLL
        for (int j = 0; j < C; j++) acc[j][r] = take_bias(d[r][j].acc, &t[r], &x[j], s);
    }
}

/* R rows of one column: a group of weights goes from its block into the sum without touching memory. */
AIR_INLINE void one_column(const uint8_t *w, size_t row_bytes, const air_columns *x, float *y, int R, const tile_format *f)
{
    const tile_shape *s = &f->shape;
    int P = R < PAIR ? R : PAIR;
    __m256 acc[ROWS];
    for (int r = 0; r < R; r++) acc[r] = _mm256_setzero_ps();
    for (int64_t at = 0; at < x->k; at += TILE) {
        air__q8_pad pad;
        column col = column_tile(&pad, x, 0, at, s);
        air__prefetch_next_rows(w, row_bytes, (size_t)(at / TILE) * s->bytes, s->bytes, R);
        AIR__ROLLED
        for (int r = 0; r < R; r += P) {
            uint8_t row_pad[PAIR][MAX_TILE_BYTES];
            tile_scales t[PAIR];
            const uint8_t *tile = w + (size_t)r * row_bytes + (size_t)(at / TILE) * s->bytes;
            size_t stride = row_bytes;
            if (AIR_UNLIKELY(x->k - at < TILE)) {
                for (int p = 0; p < P; p++) pad_tile(row_pad[p], tile + (size_t)p * row_bytes, x->k - at, s->bytes);
                tile = row_pad[0], stride = MAX_TILE_BYTES;
            }
            AIR__UNROLL
            for (int p = 0; p < P; p++) f->scales(tile + (size_t)p * stride, &t[p]);
            add_tiles((__m256(*)[ROWS])&acc[r], tile, stride, t, &col, P, 1, f->group, s);
        }
    }
    for (int r = 0; r < R; r++) y[r] = add_elements(acc[r]);
}

/* A tile of R rows, taken out of its blocks once for all columns. */
typedef struct unpacked {
    __m256i     w[ROWS][GROUPS];
    tile_scales scales[ROWS];
} unpacked;

AIR_INLINE __m256i unpacked_group(const uint8_t *w, int g) { return load_q(w + 32 * g); }

AIR_INLINE void unpack(unpacked *u, const uint8_t *w, size_t row_bytes, int64_t at, int64_t left, int R, const tile_format *f)
{
    AIR__ROLLED
    for (int r = 0; r < R; r++) {
        uint8_t pad[MAX_TILE_BYTES];
        const uint8_t *tile = w + (size_t)r * row_bytes + (size_t)(at / TILE) * f->shape.bytes;
        if (AIR_UNLIKELY(left < TILE)) tile = pad_tile(pad, tile, left, f->shape.bytes);
        if (f->unpack) {
            f->unpack(tile, u->w[r]);
        } else {
            AIR__UNROLL
            for (int g = 0; g < GROUPS; g++) u->w[r][g] = f->group(tile, g);
        }
        f->scales(tile, &u->scales[r]);
    }
}

AIR_INLINE void columns_tile(__m256 (*acc)[ROWS], const unpacked *u, const air_columns *x, int64_t c, int64_t at, int C, int R,
                             const tile_shape *s)
{
    int P = R < PAIR ? R : PAIR;
    air__q8_pad pad[PAIR];
    column col[PAIR];
    AIR__UNROLL
    for (int j = 0; j < C; j++) col[j] = column_tile(&pad[j], x, c + j, at, s);
    AIR__ROLLED
    for (int r = 0; r < R; r += P)
        add_tiles((__m256(*)[ROWS])&acc[0][r], (const uint8_t *)u->w[r], sizeof u->w[r], &u->scales[r], col, P, C, unpacked_group, s);
}

/* R rows, columns [c, c + n), n <= COLUMNS. */
AIR_INLINE void few_columns(const uint8_t *w, size_t row_bytes, const air_columns *x, int64_t c, int64_t n, float *y,
                            size_t y_stride, int R, const tile_format *f)
{
    __m256 acc[COLUMNS][ROWS];
    for (int64_t j = 0; j < n; j++)
        for (int r = 0; r < R; r++) acc[j][r] = _mm256_setzero_ps();
    for (int64_t at = 0; at < x->k; at += TILE) {
        unpacked u;
        int64_t j = 0;
        air__prefetch_next_rows(w, row_bytes, (size_t)(at / TILE) * f->shape.bytes, f->shape.bytes, R);
        unpack(&u, w, row_bytes, at, x->k - at, R, f);
        for (; j + PAIR <= n; j += PAIR) columns_tile(acc + j, &u, x, c + j, at, PAIR, R, &f->shape);
        for (; j < n; j++) columns_tile(acc + j, &u, x, c + j, at, 1, R, &f->shape);
    }
    for (int64_t j = 0; j < n; j++)
        for (int r = 0; r < R; r++) y[(size_t)j * y_stride + (size_t)r] = add_elements(acc[j][r]);
}

AIR_INLINE void some_rows(const uint8_t *w, size_t row_bytes, const air_columns *x, float *y, size_t y_stride, int R,
                          const tile_format *f)
{
    if (x->n == 1 && !f->unpack) {
        one_column(w, row_bytes, x, y, R, f);
        return;
    }
    for (int64_t c = 0; c < x->n; c += COLUMNS) {
        int64_t n = x->n - c < COLUMNS ? x->n - c : COLUMNS;
        few_columns(w, row_bytes, x, c, n, y + (size_t)c * y_stride, y_stride, R, f);
    }
}

AIR_INLINE void product(const void *weights, size_t row_bytes, int64_t rows, const air_columns *x, float *y, size_t y_stride,
                        const tile_format *f)
{
    const uint8_t *w = weights;
    int64_t r = 0;
    for (; r + ROWS <= rows; r += ROWS) some_rows(w + (size_t)r * row_bytes, row_bytes, x, y + r, y_stride, ROWS, f);
    for (; r < rows; r++) some_rows(w + (size_t)r * row_bytes, row_bytes, x, y + r, y_stride, 1, f);
}

#define PRODUCT(type, ...) PRODUCT_OF(type, .group = group_##type, __VA_ARGS__)
#define PRODUCT_UNPACKED(type, ...) PRODUCT_OF(type, .unpack = unpack_##type, __VA_ARGS__)
#define PRODUCT_OF(type, from, ...)                                                                                                      \
    static void product_##type(const void *w, size_t row_bytes, int64_t rows, const air_columns *x, float *y, size_t y_stride)    \
    {                                                                                                                              \
        static const tile_format format = {from, .scales = scales_##type, .shape = {__VA_ARGS__}};                                 \
        product(w, row_bytes, rows, x, y, y_stride, &format);                                                                      \
    }

#endif
