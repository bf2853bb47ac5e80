/* AVX-512 attention. */
#include "vec.h"

#include "kernels/simd/attention_parts.h"

ATTENTION(air__avx512_float)

const air_ops air__avx512_attention = {.attention = attention};
