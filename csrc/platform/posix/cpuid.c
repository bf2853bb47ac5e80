#define _GNU_SOURCE
#include "platform/cpuid.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

#if defined(__x86_64__)

/* XCR0: which registers the system saves. Bits as in Intel's manual, volume 1, section 13.3. */
enum { XCR0_AVX = 0x06, XCR0_AVX512 = 0xe6 };

static uint32_t xcr0(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static int has(uint32_t word, int bit) { return (word >> bit) & 1; }

/* Bit numbers: Intel's manual, volume 2A, CPUID; leaf 1, leaf 7 subleaves 0 and 1. */
uint32_t air_cpu_features(void)
{
    uint32_t a, b1, c1, d, b = 0, c = 0, a7 = 0, scratch;
    if (!__get_cpuid(1, &a, &b1, &c1, &d) || !has(c1, 27 /* OSXSAVE */)) return 0;
    uint32_t saved = xcr0();
    if ((saved & XCR0_AVX) != XCR0_AVX || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    if (a >= 1 && !__get_cpuid_count(7, 1, &a7, &scratch, &scratch, &d)) a7 = 0;

    int avx2 = has(b, 5) && has(b, 8 /* BMI2 */) && has(c1, 12 /* FMA */) && has(c1, 28 /* AVX */) && has(c1, 29 /* F16C */);
    if (!avx2) return 0;
    uint32_t set = AIR_CPU_AVX2;
    if (has(a7, 4)) set |= AIR_CPU_AVX_VNNI;
    int avx512 = has(b, 16 /* F */) && has(b, 17 /* DQ */) && has(b, 30 /* BW */) && has(b, 31 /* VL */);
    if (!avx512 || (saved & XCR0_AVX512) != XCR0_AVX512) return set;
    set |= AIR_CPU_AVX512;
    if (has(c, 11)) set |= AIR_CPU_AVX512_VNNI;
    if (has(c, 1)) set |= AIR_CPU_AVX512_VBMI;
    if (has(a7, 5)) set |= AIR_CPU_AVX512_BF16;
    return set;
}

static void read_name(char name[49])
{
    uint32_t words[12];
    for (uint32_t i = 0; i < 3; i++)
        if (!__get_cpuid(0x80000002u + i, &words[4 * i], &words[4 * i + 1], &words[4 * i + 2], &words[4 * i + 3])) return;
    memcpy(name, words, sizeof words);
}

#elif defined(__aarch64__)

/* The kernel's ABI (arch/arm64/include/uapi/asm/hwcap.h), by number, as the headers at hand may be older. */
enum { ASIMD = 1 << 1, ASIMDDP = 1 << 20, I8MM_2 = 1 << 13 };

uint32_t air_cpu_features(void)
{
    unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
    uint32_t set = 0;
    if (first & ASIMD) set |= AIR_CPU_NEON;
    if (first & ASIMDDP) set |= AIR_CPU_DOTPROD;
    if (second & I8MM_2) set |= AIR_CPU_I8MM;
    return set;
}

/* No register or file that a program may read has a name in it. */
static void read_name(char name[49]) { (void)name; }

#else

uint32_t air_cpu_features(void) { return 0; }
static void read_name(char name[49]) { (void)name; }

#endif

static char cpu_name[64];

static void find_name(void)
{
    char raw[49] = "";
    read_name(raw);
    char *begin = raw + strspn(raw, " "), *end = begin + strlen(begin);
    while (end > begin && end[-1] == ' ') *--end = 0;
    (void)snprintf(cpu_name, sizeof cpu_name, "%s", *begin ? begin : "unknown CPU");
}

const char *air_cpu_name(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, find_name);
    return cpu_name;
}
