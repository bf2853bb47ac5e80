/* NEON products of F32, F16 and BF16 weights. */
#include "kernels/arm/vec.h"

#include "kernels/simd/product_float.h"

const air_ops air__neon_float = FLOAT_PRODUCTS;
