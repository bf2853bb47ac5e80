/* Products of quantised weights with 8-bit activations, of every format whose blocks are whole groups of 32, through its own decoder:
 *
 *     y = sum over groups of ( scale_x * sum over the group of w q_x )        all in double
 *
 * No format is named here: formats.def brings them. */
#include "kernels/tables.h"

enum { COLUMNS = 16, LANES = 8 };

/* Partial sums side by side, which compilers turn into vectors. */
static double dot_group(const float *w, const int8_t *q)
{
    double part[LANES] = {0}, sum = 0;
    for (int j = 0; j < AIR_Q8_GROUP; j += LANES)
        for (int l = 0; l < LANES; l++) part[l] += (double)w[j + l] * q[j + l];
    for (int l = 0; l < LANES; l++) sum += part[l];
    return sum;
}

/* Of n weights, from element at of the row on. */
static double dot_tile(const float *w, int64_t n, const air_columns *x, int64_t column, int64_t at)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i += AIR_Q8_GROUP) {
        air_q8 q8 = air_q8_at(x->q8, x->k, column, at + i);
        sum += (double)*q8.scale * dot_group(w + i, q8.q);
    }
    return sum;
}

static void product(const uint8_t *w, size_t row_bytes, int64_t rows, const air_columns *x, float *y, size_t y_stride,
                    int64_t block, int64_t bytes, air_decode_fn decode)
{
    for (int64_t r = 0; r < rows; r++, w += row_bytes)
        for (int64_t first = 0; first < x->n; first += COLUMNS) {
            int64_t n = x->n - first < COLUMNS ? x->n - first : COLUMNS;
            double sum[COLUMNS] = {0};
            for (int64_t at = 0; at < x->k; at += AIR_Q8_TILE) {
                float tile[AIR_Q8_TILE];
                int64_t length = x->k - at < AIR_Q8_TILE ? x->k - at : AIR_Q8_TILE;
                decode(w + at / block * bytes, tile, length / block);
                for (int64_t c = 0; c < n; c++) sum[c] += dot_tile(tile, length, x, first + c, at);
            }
            for (int64_t c = 0; c < n; c++) y[(size_t)(first + c) * y_stride + (size_t)r] = (float)sum[c];
        }
}

#define GROUPED(block) ((block) % AIR_Q8_GROUP == 0 && AIR_Q8_TILE % (block) == 0)

#define PRODUCT_STORAGE(name, block, bytes, decode)
#define PRODUCT_MATRIX(name, block, bytes, decode)                                                                                 \
    static void product_##name(const void *w, size_t row_bytes, int64_t rows, const air_columns *x, float *y, size_t y_stride)    \
    {                                                                                                                              \
        product(w, row_bytes, rows, x, y, y_stride, block, bytes, decode);                                                         \
    }
#define FORMAT(name, id, block, bytes, decode, role) PRODUCT_##role(name, block, bytes, decode)
#include "quant/formats.def"
#undef FORMAT

#define ENTRY_STORAGE(name, block)
#define ENTRY_MATRIX(name, block) [AIR_TYPE_##name] = {GROUPED(block) ? product_##name : NULL, AIR_INPUT_Q8},

const air_ops air__ref_quant = {
    .product = {
#define FORMAT(name, id, block, bytes, decode, role) ENTRY_##role(name, block)
#include "quant/formats.def"
#undef FORMAT
    },
};
