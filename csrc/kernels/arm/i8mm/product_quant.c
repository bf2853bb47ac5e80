/* Matrix-product products of quantised weights. */
#include "multiply.h"

#include "kernels/arm/formats.h"

const air_ops air__i8mm_quant = QUANT_PRODUCTS;
