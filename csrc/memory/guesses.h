/* memory/guesses.h: inside the pager: which experts a pass is likely to ask for, in the order in which they are worth reading, and how
 * often such guesses have been right. Units are experts' numbers, those of a layer follow each other, layer after layer. Pure: knows no
 * memory and no reads.
 *
 * A guess names experts of one layer, the likeliest first. Between two asks there may be several guesses, each of which knows the pass
 * differently well: the first after an ask is of one kind, the second of another, and so on. By kind and place in the guess it is kept how
 * many in a hundred were asked for, of late; those of places that are wrong more often than right are not worth reading, and less so the
 * busier the disk is. */
#ifndef AIR_MEMORY_GUESSES_H
#define AIR_MEMORY_GUESSES_H

#include <stdint.h>

#include "base/status.h"

enum {
    AIR__GUESS_KINDS = 2,  /* any more count as the last */
    AIR__GUESS_PLACES = 8, /* that are told apart: eighths of a guess */
};

typedef struct air__guesses air__guesses;

/* Errors: AIR_E_NOMEM. */
air_status air__guesses_open(air__guesses **out, int32_t n_units, air_error *err);
void air__guesses_close(air__guesses *g); /* NULL is legal */

/* What a layer's experts, [n], will be as far as one can tell now: instead of what has been guessed of that layer and not been taken.
 * first: the layer's first unit; n at most n_experts, those that the layer has. */
void air__guesses_expect(air__guesses *g, int32_t first, int32_t n_experts, const int32_t *experts, int32_t n);
/* What they are, [n] ascending. */
void air__guesses_asked(air__guesses *g, int32_t first, int32_t n_experts, const int32_t *experts, int32_t n);
/* A pass has ended, in which the disk brought that share of what it can bring. A guess moves a read to where the disk idles; where it does
 * not, one that is wrong delays everything. */
void air__guesses_pass(air__guesses *g, double busy);
/* Takes the next unit worth reading, of the nearest layer, AIR_NONE where there is none. */
int32_t air__guesses_next(air__guesses *g);
/* Forgets what has not been taken. */
void air__guesses_drop(air__guesses *g);

#endif
