/* base/random.h: counter-based random numbers: the value is a pure function of (seed, counter).
 *
 * A sequence's n-th draw is therefore the same alone or in a batch, after a save or a truncate. The mixer is SplitMix64's
 * finalizer (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014), applied twice. */
#ifndef AIR_BASE_RANDOM_H
#define AIR_BASE_RANDOM_H

#include <stdint.h>

static inline uint64_t air_mix64(uint64_t z)
{
    z += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static inline uint64_t air_random_u64(uint64_t seed, uint64_t counter)
{
    return air_mix64(air_mix64(seed) ^ (counter * UINT64_C(0xd1342543de82ef95) + 1));
}

/* Uniform in [0, 1), 53 bits. */
static inline double air_random_unit(uint64_t seed, uint64_t counter)
{
    return (double)(air_random_u64(seed, counter) >> 11) * (1.0 / 9007199254740992.0);
}

#endif
