/* AVX-512 convolutions and recurrences. */
#include "vec.h"

#include "kernels/simd/recurrent.h"

const air_ops air__avx512_recurrent = RECURRENT_FUNCTIONS;
