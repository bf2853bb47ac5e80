/* AVX-VNNI products of formats in blocks of 32. */
#include "kernels/x86/avx2/bytes.h"
#include "kernels/x86/product_vnni.h"

#include "kernels/x86/formats/legacy.h"

const air_ops air__avxvnni_legacy = LEGACY_PRODUCTS;
