/* AVX-512 functions on vectors. */
#include "vec.h"

#include "kernels/x86/vector.h"

const air_ops air__avx512_vector = VECTOR_FUNCTIONS;
