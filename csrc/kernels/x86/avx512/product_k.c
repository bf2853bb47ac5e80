/* AVX-512 VNNI products of K-quants, IQ4_XS and ternary formats. */
#include "bytes.h"
#include "kernels/x86/product_vnni.h"

#include "kernels/x86/formats/k.h"

const air_ops air__avx512_vnni_k = K_PRODUCTS;
