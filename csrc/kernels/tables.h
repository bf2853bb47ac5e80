/* kernels/tables.h: the partial tables that dispatch.c lays over each other, and what their files share.
 *
 * A partial table is an air_ops in which a file fills what it implements; the rest is NULL. Everything here is constant. A file
 * under x86/ or arm/ exports nothing but its table, so that none of its instructions runs before the CPU has been asked. */
#ifndef AIR_KERNELS_TABLES_H
#define AIR_KERNELS_TABLES_H

#include "kernels/ops.h"

extern const air_ops air__ref_float, air__ref_quant, air__ref_vector, air__ref_attention, air__ref_recurrent;
/* Only where the build has csrc/kernels/x86. */
extern const air_ops air__avx2_float, air__avx2_legacy, air__avx2_k, air__avx2_iq, air__avx2_vector, air__avx2_attention, air__avx2_recurrent;
extern const air_ops air__avxvnni_legacy, air__avxvnni_k, air__avxvnni_iq;
extern const air_ops air__avx512_float, air__avx512_vector, air__avx512_attention, air__avx512_recurrent;
extern const air_ops air__avx512_vnni_legacy, air__avx512_vnni_k, air__avx512_vnni_iq;
/* Only where it has csrc/kernels/arm. */
extern const air_ops air__neon_float, air__neon_quant, air__neon_vector, air__neon_attention, air__neon_recurrent;
extern const air_ops air__dotprod_quant, air__i8mm_quant;

/* Below this magnitude 127 / x overflows a float, or nearly: such a group quantises to zeros. All tiers agree on it. */
#define AIR__QUANTIZE_TINY 0x1p-110f

#endif
