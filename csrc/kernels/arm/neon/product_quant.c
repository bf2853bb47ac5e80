/* NEON products of quantised weights. */
#include "multiply.h"

#include "kernels/arm/formats.h"

const air_ops air__neon_quant = QUANT_PRODUCTS;
