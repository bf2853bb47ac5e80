/* AVX-512 attention. */
#include "vec.h"

#include "kernels/simd/attention_parts.h"

const air_ops air__avx512_attention = ATTENTION;
