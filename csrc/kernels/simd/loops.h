/* kernels/simd/loops.h: what compilers must be told about loops over registers, on any CPU. */
#ifndef AIR_KERNELS_SIMD_LOOPS_H
#define AIR_KERNELS_SIMD_LOOPS_H

#include "base/compiler.h"

/* Loops over registers must unroll completely, or the registers become memory; some others must not. */
#if defined(__clang__)
#define AIR__UNROLL _Pragma("clang loop unroll(full)")
#define AIR__ROLLED _Pragma("clang loop unroll(disable)")
#elif defined(__GNUC__)
#define AIR__UNROLL _Pragma("GCC unroll 16")
#define AIR__ROLLED _Pragma("GCC unroll 1")
#else
#define AIR__UNROLL
#define AIR__ROLLED
#endif

/* What was read from memory before is read again after this: compilers carry loads out of loops, and spill them. */
#if defined(__GNUC__)
#define AIR__FORGET() __asm__ volatile("" ::: "memory")
#else
#define AIR__FORGET() ((void)0)
#endif

#endif
