/* Products of F32, F16 and BF16 weights with float activations: sums in double, one term after the other. */
#include "kernels/tables.h"
#include "quant/half.h"

enum { COLUMNS = 16 }; /* at once, so that a weight is converted once for them */

static float load_f32(const uint8_t *w, int64_t i)
{
    float f;
    memcpy(&f, w + 4 * i, sizeof f);
    return f;
}

static float load_f16(const uint8_t *w, int64_t i)
{
    return air_load_f16(w + 2 * i);
}

static float load_bf16(const uint8_t *w, int64_t i)
{
    return air_bf16_to_f32(air_load_u16(w + 2 * i));
}

AIR_INLINE void product(const void *w, size_t row_bytes, int64_t rows, const air_columns *x, float *y, size_t y_stride,
                        float (*load)(const uint8_t *, int64_t))
{
    for (int64_t r = 0; r < rows; r++) {
        const uint8_t *row = (const uint8_t *)w + (size_t)r * row_bytes;
        for (int64_t first = 0; first < x->n; first += COLUMNS) {
            int64_t n = x->n - first < COLUMNS ? x->n - first : COLUMNS;
            const float *columns = x->f32 + (size_t)first * x->f32_stride;
            double sum[COLUMNS] = {0};
            for (int64_t i = 0; i < x->k; i++) {
                double weight = (double)load(row, i);
                for (int64_t c = 0; c < n; c++) sum[c] += weight * (double)columns[(size_t)c * x->f32_stride + (size_t)i];
            }
            for (int64_t c = 0; c < n; c++) y[(size_t)(first + c) * y_stride + (size_t)r] = (float)sum[c];
        }
    }
}

#define PRODUCT(type)                                                                                                              \
    static void product_##type(const void *w, size_t row_bytes, int64_t rows, const air_columns *x, float *y, size_t y_stride)    \
    {                                                                                                                              \
        product(w, row_bytes, rows, x, y, y_stride, load_##type);                                                                  \
    }

PRODUCT(f32)
PRODUCT(f16)
PRODUCT(bf16)

const air_ops air__ref_float = {
    .product = {
        [AIR_TYPE_F32]  = {product_f32, AIR_INPUT_F32},
        [AIR_TYPE_F16]  = {product_f16, AIR_INPUT_F32},
        [AIR_TYPE_BF16] = {product_bf16, AIR_INPUT_F32},
    },
};
