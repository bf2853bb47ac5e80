/* AVX-512 products of F32, F16 and BF16 weights. */
#include "vec.h"

#include "kernels/simd/product_float.h"

const air_ops air__avx512_float = FLOAT_PRODUCTS;
