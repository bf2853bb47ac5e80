/* memory/experts.h: inside the pager: keeps experts of mixtures in memory, those that rows are sent to most, and reads the others as they
 * are asked for.
 *
 * Which one gives way: each unit has a heat, one for every row it ever got, halved every AIR__EXPERT_HALF_LIFE rows of passes; the
 * coldest goes. It is remembered of units that are not in memory too. Results do not depend on it.
 *
 *     slot: EMPTY ─a unit is given the slot→ PLACED ─its reads end→ READY ─the unit gives way→ EMPTY or PLACED
 *
 * A unit that is asked for is held from then on until it is given back; one that is held, or being read, does not give way. All of it is
 * under the pager's lock and reads on its I/O threads. */
#ifndef AIR_MEMORY_EXPERTS_H
#define AIR_MEMORY_EXPERTS_H

#include "memory/mixtures.h"
#include "memory/pager_internal.h"

typedef struct air__experts air__experts;

/* NULL in *out where the program has no mixtures. lookahead: whether guesses are of use. There are as few slots as can be before the
 * first resize. Errors: AIR_E_NOMEM. */
air_status air__experts_open(air__experts **out, air_pager *pager, int lookahead, air_error *err);
void air__experts_close(air__experts *e);
/* Under the lock, between passes: memory for slots, of which air__experts_fit says how much is used. Units of slots that go are
 * forgotten. */
void air__experts_resize(air__experts *e, uint64_t bytes);
/* Under the lock, between passes: what the last pass holds or failed to read is given back. */
void air__experts_rewind(air__experts *e);
/* Under the lock: nothing is being read any more when it returns. */
void air__experts_drain(air__experts *e);

uint64_t air__experts_held(const air__experts *e);  /* bytes of slots that hold a unit or did */
/* Under the lock: how many rows each expert of a layer has got since open, [n_experts]. */
const uint64_t *air__experts_rows(const air__experts *e, int32_t layer);

extern const air_expert_feed air__experts_feed; /* self: the pager */

#endif
