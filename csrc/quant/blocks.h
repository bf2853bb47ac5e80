/* quant/blocks.h: the layouts of GGML's blocks, as ggml-common.h of llama.cpp defines them.
 *
 * Every member is an array of bytes, so that a block may lie at any address and be read in place; read wider fields with the loads
 * of half.h. d is always the binary16 scale of the block, unless said otherwise. */
#ifndef AIR_QUANT_BLOCKS_H
#define AIR_QUANT_BLOCKS_H

#include <stdint.h>

#include "quant/half.h"

/* 32 weights. qs[j] holds weight j in its low nibble, j + 16 in its high one. */
typedef struct { uint8_t d[2], qs[16]; }                        air_block_q4_0;     /* d (q - 8) */
typedef struct { uint8_t d[2], m[2], qs[16]; }                  air_block_q4_1;     /* d q + m */
typedef struct { uint8_t d[2], qh[4], qs[16]; }                 air_block_q5_0;     /* d (q - 16); bit j of qh: bit 4 of q[j] */
typedef struct { uint8_t d[2], m[2], qh[4], qs[16]; }           air_block_q5_1;     /* d q + m */
typedef struct { uint8_t d[2]; int8_t qs[32]; }                 air_block_q8_0;     /* d q */
typedef struct { uint8_t d[2], s[2]; int8_t qs[32]; }           air_block_q8_1;     /* d q; s = d Σ q */
typedef struct { uint8_t d[2], qs[16]; }                        air_block_iq4_nl;   /* d air_values_iq4nl[q] */
typedef struct { uint8_t e[1], qs[16]; }                        air_block_mxfp4;    /* E8M0 scale, E2M1 values */

typedef struct { uint8_t d[2], qs[16]; }                        air_block_q1_0;     /* 128 weights, bit 1: d, 0: -d */
typedef struct { uint8_t d[2], qs[16]; }                        air_block_q2_0;     /* 64 weights, d (q - 1), four to a byte */
typedef struct { uint8_t d[4], qs[32]; }                        air_block_nvfp4;    /* 4 × 16 weights, an E4M3 scale for each 16 */

/* 256 weights in groups of 16 or 32. */
typedef struct { uint8_t scales[16], qs[64], d[2], dmin[2]; }           air_block_q2_k;
typedef struct { uint8_t hmask[32], qs[64], scales[12], d[2]; }         air_block_q3_k;
typedef struct { uint8_t d[2], dmin[2], scales[12], qs[128]; }          air_block_q4_k;
typedef struct { uint8_t d[2], dmin[2], scales[12], qh[32], qs[128]; }  air_block_q5_k;
typedef struct { uint8_t ql[128], qh[64]; int8_t scales[16]; uint8_t d[2]; } air_block_q6_k;
typedef struct { uint8_t d[4]; int8_t qs[256]; uint8_t bsums[32]; }     air_block_q8_k;     /* d is binary32; bsums int16 × 16 */
typedef struct { uint8_t qs[48], qh[4], d[2]; }                         air_block_tq1_0;
typedef struct { uint8_t qs[64], d[2]; }                                air_block_tq2_0;
typedef struct { uint8_t d[2], qs[64]; }                                air_block_iq2_xxs;
typedef struct { uint8_t d[2], qs[64], scales[8]; }                     air_block_iq2_xs;
typedef struct { uint8_t d[2], qs[32], signs[32], qh[8], scales[8]; }   air_block_iq2_s;
typedef struct { uint8_t d[2], qs[64], scales[32]; }                    air_block_iq3_xxs;
typedef struct { uint8_t d[2], qs[64], qh[8], signs[32], scales[4]; }   air_block_iq3_s;
typedef struct { uint8_t d[2], qs[32], qh[16]; }                        air_block_iq1_s;
typedef struct { uint8_t qs[32], qh[16], scales[8]; }                   air_block_iq1_m;
typedef struct { uint8_t d[2], scales_h[2], scales_l[4], qs[128]; }     air_block_iq4_xs;

/* The eight 6-bit scales and mins of Q4_K and Q5_K share 12 bytes. With g = i & 3:
 *   byte g:     scale g | top bits of scale g+4 << 6     byte g+8:   low nibble of scale g+4 | low nibble of min g+4 << 4
 *   byte g+4:   min g   | top bits of min g+4   << 6 */
static inline void air_unpack_scale_min(const uint8_t packed[12], int i, uint8_t *scale, uint8_t *min)
{
    if (i < 4) {
        *scale = packed[i] & 63;
        *min   = packed[i + 4] & 63;
    } else {
        *scale = (uint8_t)((packed[i + 4] & 15) | (packed[i - 4] >> 6) << 4);
        *min   = (uint8_t)((packed[i + 4] >> 4) | (packed[i] >> 6) << 4);
    }
}

/* The sixteen 6-bit scales of Q3_K, less 32: low nibbles in bytes 0 to 7, two top bits each in bytes 8 to 11. */
static inline int air_unpack_scale_q3_k(const uint8_t packed[12], int i)
{
    int low = packed[i & 7] >> (i & 8 ? 4 : 0) & 15;
    int top = packed[8 + (i & 3)] >> (i >> 2) * 2 & 3;
    return (low | top << 4) - 32;
}

#endif
