#include "memory/guesses.h"

#include <string.h>

#include "backend/op.h"
#include "base/alloc.h"

#define WORTH 0.5  /* of the guesses of a place that are to be right: what is read in vain costs as much as it saves to be early */
#define BUSY 0.85  /* of the time, from which on a disk leaves less and less room for such; and nothing for any guess at BUSIEST */
#define BUSIEST 0.95
#define FIRST 0.75 /* as if so many had been, before any was asked for */
enum { MEMORY = 64 }; /* guesses of a place that its rate remembers */

struct air__guesses {
    int32_t n_units;
    int32_t *waiting;             /* [n_units]: not yet taken, layer by layer, of one the likeliest first */
    int32_t n_waiting;
    uint8_t *place[AIR__GUESS_KINDS]; /* [n_units]: where in a guess of the kind, from 1 on; 0: nowhere. Until its layer is asked for */
    double right[AIR__GUESS_KINDS][AIR__GUESS_PLACES];
    int kind;                     /* of the next guess */
    double busy;                  /* the disk's share of passes, of late */
};

air_status air__guesses_open(air__guesses **out, int32_t n_units, air_error *err)
{
    size_t units = (size_t)n_units;
    air__guesses *g = *out = air_calloc(1, sizeof *g);
    int there = g && (g->waiting = air_calloc(units, sizeof *g->waiting)) != NULL;
    for (int kind = 0; kind < AIR__GUESS_KINDS && there; kind++) {
        there = (g->place[kind] = air_calloc(units, sizeof *g->place[kind])) != NULL;
        for (int i = 0; i < AIR__GUESS_PLACES; i++) g->right[kind][i] = FIRST;
    }
    if (there) {
        g->n_units = n_units;
        return AIR_OK;
    }
    air__guesses_close(g);
    *out = NULL;
    return air_fail(err, AIR_E_NOMEM, "guesses of %d experts", (int)n_units);
}

void air__guesses_close(air__guesses *g)
{
    if (!g) return;
    for (int kind = 0; kind < AIR__GUESS_KINDS; kind++) air_free(g->place[kind]);
    air_free(g->waiting);
    air_free(g);
}

/* Takes those of a layer out of what waits. Returns where others of it would stand. */
static int32_t forget(air__guesses *g, int32_t first, int32_t end)
{
    int32_t kept = 0, at = 0;
    for (int32_t i = 0; i < g->n_waiting; i++) {
        int32_t unit = g->waiting[i];
        if (unit >= first && unit < end) continue;
        at += unit < first;
        g->waiting[kept++] = unit;
    }
    g->n_waiting = kept;
    return at;
}

void air__guesses_expect(air__guesses *g, int32_t first, int32_t n_experts, const int32_t *experts, int32_t n)
{
    uint8_t *place = g->place[g->kind] + first;
    const double *right = g->right[g->kind];
    double full = (g->busy - BUSY) / (BUSIEST - BUSY), least = WORTH + (full > 0 ? full * (1 - WORTH) : 0);
    int32_t at = forget(g, first, first + n_experts), worth[AIR_EXPERTS_MOST], n_worth = 0;
    memset(place, 0, (size_t)n_experts);
    for (int32_t i = 0; i < n; i++) {
        int32_t where = i * AIR__GUESS_PLACES / n;
        if (place[experts[i]]) continue; /* another row's */
        place[experts[i]] = (uint8_t)(where + 1);
        if (right[where] >= least) worth[n_worth++] = first + experts[i];
    }
    memmove(g->waiting + at + n_worth, g->waiting + at, (size_t)(g->n_waiting - at) * sizeof *g->waiting);
    memcpy(g->waiting + at, worth, (size_t)n_worth * sizeof *worth);
    g->n_waiting += n_worth;
    if (g->kind < AIR__GUESS_KINDS - 1) g->kind++;
}

void air__guesses_asked(air__guesses *g, int32_t first, int32_t n_experts, const int32_t *experts, int32_t n)
{
    (void)forget(g, first, first + n_experts);
    for (int kind = 0; kind < AIR__GUESS_KINDS; kind++) {
        uint8_t *place = g->place[kind] + first;
        for (int32_t i = 0, next = 0; i < n_experts; i++) {
            int asked = next < n && experts[next] == i;
            next += asked;
            if (!place[i]) continue;
            double *right = &g->right[kind][place[i] - 1];
            *right += (asked - *right) / MEMORY;
        }
        memset(place, 0, (size_t)n_experts);
    }
    g->kind = 0;
}

void air__guesses_pass(air__guesses *g, double busy)
{
    enum { PASSES = 8 };
    if (!(busy < 1)) busy = 1; /* more than was probed, or of a pass that took no time */
    g->busy += (busy - g->busy) / PASSES;
}

int32_t air__guesses_next(air__guesses *g)
{
    if (!g->n_waiting) return AIR_NONE;
    int32_t unit = g->waiting[0];
    memmove(g->waiting, g->waiting + 1, (size_t)--g->n_waiting * sizeof *g->waiting);
    return unit;
}

void air__guesses_drop(air__guesses *g) { g->n_waiting = 0; }
