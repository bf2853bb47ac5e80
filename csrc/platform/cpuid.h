/* platform/cpuid.h: what the CPU can do and the system saves across context switches. Pure queries, thread-safe. */
#ifndef AIR_PLATFORM_CPUID_H
#define AIR_PLATFORM_CPUID_H

#include <stdint.h>

#include "base/compiler.h"

AIR_BEGIN_C

typedef enum air_cpu_feature {
    AIR_CPU_AVX2 = 1 << 0,        /* AVX2, FMA, F16C and BMI2 */
    AIR_CPU_AVX_VNNI = 1 << 1,
    AIR_CPU_AVX512 = 1 << 2,      /* F, BW, DQ, VL */
    AIR_CPU_AVX512_VNNI = 1 << 3,
    AIR_CPU_AVX512_VBMI = 1 << 4,
    AIR_CPU_AVX512_BF16 = 1 << 5,
    AIR_CPU_NEON = 1 << 6,        /* AdvSIMD, which every AArch64 CPU has */
    AIR_CPU_DOTPROD = 1 << 7,
    AIR_CPU_I8MM = 1 << 8,
} air_cpu_feature;

uint32_t air_cpu_features(void); /* a set of air_cpu_feature; only what the operating system enables too */
const char *air_cpu_name(void);  /* "AMD EPYC 9B45", or "unknown CPU"; static */

AIR_END_C
#endif
