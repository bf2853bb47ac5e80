/* AVX2 products of K-quants, IQ4_XS and ternary formats. */
#include "product_q8.h"

#include "kernels/x86/formats/k.h"

const air_ops air__avx2_k = K_PRODUCTS;
