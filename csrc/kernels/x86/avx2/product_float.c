/* AVX2 products of F32, F16 and BF16 weights. */
#include "vec.h"

#include "kernels/simd/product_float.h"

const air_ops air__avx2_float = FLOAT_PRODUCTS;
