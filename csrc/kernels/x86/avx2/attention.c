/* AVX2 attention. */
#include "vec.h"

#include "kernels/simd/attention_parts.h"

ATTENTION(air__avx2_float)

const air_ops air__avx2_attention = {.attention = attention};
