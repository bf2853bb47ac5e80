/* NEON convolutions and recurrences. */
#include "kernels/arm/vec.h"

#include "kernels/simd/recurrent.h"

const air_ops air__neon_recurrent = RECURRENT_FUNCTIONS;
