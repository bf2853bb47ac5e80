/* AVX-VNNI products of codebook formats. */
#include "kernels/x86/avx2/bytes.h"
#include "kernels/x86/product_vnni.h"

#include "kernels/x86/formats/iq.h"

const air_ops air__avxvnni_iq = IQ_PRODUCTS;
