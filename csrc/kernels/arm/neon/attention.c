/* NEON attention. */
#include "kernels/arm/vec.h"

#include "kernels/simd/attention_parts.h"

const air_ops air__neon_attention = ATTENTION;
