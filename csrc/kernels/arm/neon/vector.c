/* NEON functions on vectors. */
#include "kernels/arm/vec.h"

#include "kernels/arm/q8.h"

#include "kernels/simd/vector.h"

const air_ops air__neon_vector = VECTOR_FUNCTIONS;
