/* AVX-512 VNNI products of formats in blocks of 32. */
#include "bytes.h"
#include "kernels/x86/product_vnni.h"

#include "kernels/x86/formats/legacy.h"

const air_ops air__avx512_vnni_legacy = LEGACY_PRODUCTS;
