/* AVX2 products of codebook formats. */
#include "product_q8.h"

#include "kernels/x86/formats/iq.h"

const air_ops air__avx2_iq = IQ_PRODUCTS;
