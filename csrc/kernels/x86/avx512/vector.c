/* AVX-512 functions on vectors. */
#include "vec.h"

#include "kernels/x86/q8.h"

#include "kernels/simd/vector.h"

const air_ops air__avx512_vector = VECTOR_FUNCTIONS;
