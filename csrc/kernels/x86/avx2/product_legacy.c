/* AVX2 products of formats in blocks of 32. */
#include "product_q8.h"

#include "kernels/x86/formats/legacy.h"

const air_ops air__avx2_legacy = LEGACY_PRODUCTS;
