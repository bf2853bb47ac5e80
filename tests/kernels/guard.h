/* guard.h: memory in which a kernel cannot go astray unseen. One thread; a test frees all it took with guard_free_all.
 *
 *     [ canary … | data | gap < alignment: canary | page without access ]
 *
 * Reading or writing beyond the page faults; writing over a canary is found by guard_intact. Under AddressSanitizer the canaries are
 * poisoned, so that reading them faults too. */
#ifndef AIR_TESTS_GUARD_H
#define AIR_TESTS_GUARD_H

#include <stddef.h>

#include "kernels/ops.h"

void *guard_new(size_t bytes, size_t alignment); /* zeroed; exits on failure */
air_q8 guard_q8(int64_t k, int64_t n);           /* the 8-bit form of n columns, each array on its own */
int   guard_intact(void);                        /* of all that is taken: 1 if no canary changed */
void  guard_free_all(void);

#endif
