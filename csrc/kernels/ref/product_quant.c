/* Products of quantised weights with 8-bit activations. What a group of 32 contributes to (row, column):
 *
 *     scale_x * sum over its halves h of ( scale[h] * sum of q_w q_x  -  min[h] * sum of q_x )
 *
 * The inner sums are exact integers, the rest is double. A format brings the unpacking of one group. */
#include "kernels/tables.h"
#include "quant/blocks.h"

enum { COLUMNS = 16, HALF = AIR_Q8_SUM_GROUP };

typedef struct group {
    int16_t q[AIR_Q8_GROUP]; /* any offset already taken off */
    float   scale[2], min[2];
} group;

static void one_scale(group *g, float scale)
{
    g->scale[0] = g->scale[1] = scale;
    g->min[0] = g->min[1] = 0;
}

static void unpack_q8_0(const uint8_t *row, int64_t i, group *g)
{
    const air_block_q8_0 *b = (const air_block_q8_0 *)row + i;
    one_scale(g, air_load_f16(b->d));
    for (int j = 0; j < 32; j++) g->q[j] = b->qs[j];
}

static void unpack_q4_0(const uint8_t *row, int64_t i, group *g)
{
    const air_block_q4_0 *b = (const air_block_q4_0 *)row + i;
    one_scale(g, air_load_f16(b->d));
    for (int j = 0; j < 16; j++) {
        g->q[j]      = (int16_t)((b->qs[j] & 15) - 8);
        g->q[j + 16] = (int16_t)((b->qs[j] >> 4) - 8);
    }
}

static void scale_and_min(group *g, const uint8_t d[2], const uint8_t dmin[2], const uint8_t packed[12], int i)
{
    uint8_t scale, min;
    air_unpack_scale_min(packed, i, &scale, &min);
    g->scale[0] = g->scale[1] = air_load_f16(d) * (float)scale; /* exact: 11 + 6 bits */
    g->min[0] = g->min[1] = air_load_f16(dmin) * (float)min;
}

static void unpack_q4_k(const uint8_t *row, int64_t i, group *g)
{
    const air_block_q4_k *b = (const air_block_q4_k *)row + i / 8;
    int n = (int)(i % 8);
    scale_and_min(g, b->d, b->dmin, b->scales, n);
    for (int j = 0; j < 32; j++) g->q[j] = (int16_t)(b->qs[n / 2 * 32 + j] >> n % 2 * 4 & 15);
}

static void unpack_q5_k(const uint8_t *row, int64_t i, group *g)
{
    const air_block_q5_k *b = (const air_block_q5_k *)row + i / 8;
    int n = (int)(i % 8);
    scale_and_min(g, b->d, b->dmin, b->scales, n);
    for (int j = 0; j < 32; j++) g->q[j] = (int16_t)((b->qs[n / 2 * 32 + j] >> n % 2 * 4 & 15) | (b->qh[j] >> n & 1) << 4);
}

static void unpack_q6_k(const uint8_t *row, int64_t i, group *g)
{
    const air_block_q6_k *b = (const air_block_q6_k *)row + i / 8;
    int n = (int)(i % 8), run = n % 4;
    const uint8_t *ql = b->ql + n / 4 * 64 + run % 2 * 32, *qh = b->qh + n / 4 * 32;
    float d = air_load_f16(b->d);
    g->scale[0] = d * (float)b->scales[2 * n];
    g->scale[1] = d * (float)b->scales[2 * n + 1];
    g->min[0] = g->min[1] = 0;
    for (int j = 0; j < 32; j++) g->q[j] = (int16_t)(((ql[j] >> run / 2 * 4 & 15) | (qh[j] >> 2 * run & 3) << 4) - 32);
}

static int32_t dot_half(const int16_t *w, const int8_t *x)
{
    int32_t sum = 0;
    for (int j = 0; j < HALF; j++) sum += w[j] * x[j];
    return sum;
}

static double contribution(const group *g, const air_columns *x, int64_t column, int64_t i)
{
    air_q8 q8 = air_q8_at(x->q8, x->k, column, i * AIR_Q8_GROUP);
    double sum = 0;
    for (int h = 0; h < 2; h++)
        sum += (double)g->scale[h] * dot_half(g->q + HALF * h, q8.q + HALF * h) - (double)g->min[h] * q8.sums[h];
    return (double)*q8.scale * sum;
}

AIR_INLINE void product(const void *w, size_t row_bytes, int64_t rows, const air_columns *x, float *y, size_t y_stride,
                        void (*unpack)(const uint8_t *, int64_t, group *))
{
    for (int64_t r = 0; r < rows; r++) {
        const uint8_t *row = (const uint8_t *)w + (size_t)r * row_bytes;
        for (int64_t first = 0; first < x->n; first += COLUMNS) {
            int64_t n = x->n - first < COLUMNS ? x->n - first : COLUMNS;
            double sum[COLUMNS] = {0};
            for (int64_t i = 0; i < x->k / AIR_Q8_GROUP; i++) {
                group g;
                unpack(row, i, &g);
                for (int64_t c = 0; c < n; c++) sum[c] += contribution(&g, x, first + c, i);
            }
            for (int64_t c = 0; c < n; c++) y[(size_t)(first + c) * y_stride + (size_t)r] = (float)sum[c];
        }
    }
}

#define PRODUCT(type)                                                                                                              \
    static void product_##type(const void *w, size_t row_bytes, int64_t rows, const air_columns *x, float *y, size_t y_stride)    \
    {                                                                                                                              \
        product(w, row_bytes, rows, x, y, y_stride, unpack_##type);                                                                \
    }

PRODUCT(q8_0)
PRODUCT(q4_0)
PRODUCT(q4_k)
PRODUCT(q5_k)
PRODUCT(q6_k)

const air_ops air__ref_quant = {
    .product = {
        [AIR_TYPE_Q8_0] = {product_q8_0, AIR_INPUT_Q8},
        [AIR_TYPE_Q4_0] = {product_q4_0, AIR_INPUT_Q8},
        [AIR_TYPE_Q4_K] = {product_q4_k, AIR_INPUT_Q8},
        [AIR_TYPE_Q5_K] = {product_q5_k, AIR_INPUT_Q8},
        [AIR_TYPE_Q6_K] = {product_q6_k, AIR_INPUT_Q8},
    },
};
