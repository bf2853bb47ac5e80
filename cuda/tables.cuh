/* cuda/tables.cuh: the grids of the IQ formats as the kernels look them up, a word or half a word for a point. */
#ifndef AIR_CUDA_TABLES_CUH
#define AIR_CUDA_TABLES_CUH

#include <stdint.h>

/* IQ2: nibble j is coordinate j as an index into 8, 25, 43, which selects a byte. IQ3: byte j is coordinate j. IQ1: coordinate j plus 1
 * in two bits, of coordinates 0 to 3 and 4 to 7 at 0, 8, 4, 12 and two further. All in multiples of 16 bytes, to be copied. */
typedef struct air_cuda_tables {
    uint32_t iq2_xxs[256], iq2_xs[512], iq2_s[1024], iq3_xxs[256], iq3_s[512];
    uint16_t iq1[2048];
} air_cuda_tables;

#endif
