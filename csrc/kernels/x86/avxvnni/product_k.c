/* AVX-VNNI products of K-quants, IQ4_XS and ternary formats. */
#include "kernels/x86/avx2/bytes.h"
#include "kernels/x86/product_vnni.h"

#include "kernels/x86/formats/k.h"

const air_ops air__avxvnni_k = K_PRODUCTS;
