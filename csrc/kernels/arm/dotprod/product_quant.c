/* Dot-product products of quantised weights. */
#include "multiply.h"

#include "kernels/arm/formats.h"

const air_ops air__dotprod_quant = QUANT_PRODUCTS;
