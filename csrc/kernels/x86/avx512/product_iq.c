/* AVX-512 VNNI products of codebook formats. */
#include "bytes.h"
#include "kernels/x86/product_vnni.h"

#include "kernels/x86/formats/iq.h"

const air_ops air__avx512_vnni_iq = IQ_PRODUCTS;
