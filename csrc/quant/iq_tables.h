/* quant/iq_tables.h: the codebooks of the IQ formats, constant data shared by the decoders here and by kernels. */
#ifndef AIR_QUANT_IQ_TABLES_H
#define AIR_QUANT_IQ_TABLES_H

#include <stdint.h>

#include "base/compiler.h"

AIR_BEGIN_C

extern const uint8_t air_grid_iq2_xxs[256][8];
extern const uint8_t air_grid_iq2_xs[512][8];
extern const uint8_t air_grid_iq2_s[1024][8];
extern const uint8_t air_grid_iq3_xxs[256][4];
extern const uint8_t air_grid_iq3_s[512][4];
extern const int8_t  air_grid_iq1[2048][8];
extern const int8_t  air_values_iq4nl[16];

/* IQ2_XXS, IQ2_XS and IQ3_XXS store 7 of 8 signs; the eighth makes the number of negative ones even (ggml's ksigns_iq2xs). */
static inline uint8_t air_iq_eight_signs(uint32_t seven)
{
    uint32_t folded = seven ^ seven >> 4;
    return (uint8_t)(seven | (0x6996u >> (folded & 15) & 1u) << 7);     /* 0x6996: the parity of a nibble */
}

AIR_END_C

#endif
