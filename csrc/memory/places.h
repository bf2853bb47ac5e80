/* memory/places.h: inside the pager's experts: which of them lie in the memory of a device. Policy alone: the backend has that memory, and
 * does the copies.
 *
 * Memory is cut into places as RAM is into slots (memory/mixtures.h): those of a class are of one size, and any of its units may have any
 * of them. What gives way is the unit that is coldest by the heat that experts.c keeps, of those that nobody holds. All of it is under the
 * pager's lock. NULL is a device without such memory, or no device: no unit has a place. */
#ifndef AIR_MEMORY_PLACES_H
#define AIR_MEMORY_PLACES_H

#include "memory/mixtures.h"

typedef struct air__places air__places;

/* Of the program's units, with so many bytes for them; heat [n_units] outlives them. *out is NULL where bytes is 0. Errors: AIR_E_NOMEM. */
air_status air__places_open(air__places **out, const air_program *program, int32_t n_units, const double *heat, uint64_t bytes,
                            air_error *err);
void air__places_close(air__places *p);

int32_t air__places_of(const air__places *p, int32_t unit);             /* AIR_NONE: it has none */
uint64_t air__places_offset(const air__places *p, int32_t place);       /* where it begins in the device's memory */
/* Gives the unit, one of that layer which has none, a place, and holds it; 0 while all of its class are held. */
int air__places_take(air__places *p, int32_t layer, int32_t unit);
void air__places_hold(air__places *p, int32_t unit, int hold);          /* one that has a place */
void air__places_forget(air__places *p, int32_t unit);                  /* its place is nobody's */
void air__places_let_go(air__places *p);                                /* none is held any more */
void air__places_heat_changed(air__places *p);
/* Whether the unit has a place that it is likely to keep: it is warmer than the coldest few of its class, which are the next to go. */
int air__places_settled(air__places *p, int32_t layer, int32_t unit);

#endif
