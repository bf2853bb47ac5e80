/* NEON attention. */
#include "kernels/arm/vec.h"

#include "kernels/simd/attention_parts.h"

ATTENTION(air__neon_float)

const air_ops air__neon_attention = {.attention = attention};
