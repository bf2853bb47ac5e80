/* memory/mixtures.h: what experts of a program's mixtures take, and how memory is shared out between them, for memory/ and whoever makes
 * room for it. Pure.
 *
 * A unit is one expert of one layer: its gate, up and down matrices, one after the other in memory, each from its file offset rounded
 * down to its end rounded up. Layers whose units take the same memory are a class; a class has slots of that size, any of which any of
 * its units may take. Each class has the least first; what memory there is beyond is dealt so that each holds the same share of the
 * rest. */
#ifndef AIR_MEMORY_MIXTURES_H
#define AIR_MEMORY_MIXTURES_H

#include "memory/plan.h"

enum {
    AIR__EXPERT_PARTS = 3,    /* gate, up, down */
    AIR__EXPERT_SLOTS = 4,    /* of a class at least: some are computed with, others are on their way */
};

/* Where a part of an expert lies, and of which weight it is. bytes 0: the mixture has no such part. */
typedef struct air__extent { uint32_t part; int32_t weight; uint64_t offset, bytes; } air__extent;

air__extent air__expert_extent(const air_program *program, int32_t layer, int32_t expert, int part);
static inline uint64_t air__extent_memory(const air__extent *e, uint64_t granule)
{
    return e->bytes ? air_round_up(e->offset + e->bytes, granule) - air_round_down(e->offset, granule) : 0;
}

/* Memory of a slot for any expert of a layer; 0: the layer has none. */
uint64_t air__expert_memory(const air_program *program, int32_t layer, uint64_t granule);

/* A class of layers, by number of the first. Those of a program are found by air__expert_class: the first layer from `from` on that is no
 * class's yet, n_layers where there is none. */
int32_t air__expert_class(const air_program *program, int32_t from, uint64_t granule);
/* Units of a class, given by its first layer. */
int64_t air__expert_units(const air_program *program, int32_t first, uint64_t granule);

/* Slots of a class when all classes together have so many bytes: the same share of what each has beyond AIR__EXPERT_SLOTS. */
int64_t air__expert_slots(const air_program *program, int32_t first, uint64_t granule, uint64_t bytes);

/* Memory of all units; of the least without which nothing runs; of the slots for so many bytes. */
uint64_t air__experts_memory(const air_program *program, uint64_t granule);
uint64_t air__experts_least(const air_program *program, uint64_t granule);
uint64_t air__experts_fit(const air_program *program, uint64_t granule, uint64_t bytes);
int32_t air__experts_slots(const air_program *program, uint64_t granule, uint64_t bytes); /* of all classes */

#endif
