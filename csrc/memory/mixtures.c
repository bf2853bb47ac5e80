#include "memory/mixtures.h"

static const air_mixture *mixture_of(const air_program *p, int32_t layer)
{
    return p->mixtures && p->mixtures[layer].n_experts ? &p->mixtures[layer] : NULL;
}

air__extent air__expert_extent(const air_program *p, int32_t layer, int32_t expert, int part)
{
    const air_mixture *m = &p->mixtures[layer];
    const int32_t weights[AIR__EXPERT_PARTS] = {m->gate, m->up, m->down};
    if (weights[part] == AIR_NONE) return (air__extent){0};
    const air_weight *w = &p->weights[weights[part]];
    uint64_t bytes = (uint64_t)w->rows * w->row_bytes;
    return (air__extent){.part = w->part, .weight = weights[part], .offset = w->offset + (uint64_t)expert * bytes, .bytes = bytes};
}

/* The same for all experts of a layer, wherever they begin. */
static uint64_t slot_memory(const air_program *p, const air_mixture *m, uint64_t granule)
{
    const int32_t weights[AIR__EXPERT_PARTS] = {m->gate, m->up, m->down};
    uint64_t memory = 0;
    for (int i = 0; i < AIR__EXPERT_PARTS; i++) {
        if (weights[i] == AIR_NONE) continue;
        const air_weight *w = &p->weights[weights[i]];
        memory += air_round_up((uint64_t)w->rows * w->row_bytes, granule) + granule;
    }
    return memory;
}

uint64_t air__expert_memory(const air_program *p, int32_t layer, uint64_t granule)
{
    const air_mixture *m = mixture_of(p, layer);
    return m ? slot_memory(p, m, granule) : 0;
}

int32_t air__expert_class(const air_program *p, int32_t from, uint64_t granule)
{
    for (int32_t layer = from; p->mixtures && layer < p->n_layers; layer++) {
        uint64_t memory = air__expert_memory(p, layer, granule);
        int32_t before = 0;
        while (before < layer && air__expert_memory(p, before, granule) != memory) before++;
        if (memory && before == layer) return layer;
    }
    return p->n_layers;
}

int64_t air__expert_units(const air_program *p, int32_t first, uint64_t granule)
{
    uint64_t memory = air__expert_memory(p, first, granule);
    int64_t units = 0;
    for (int32_t layer = first; layer < p->n_layers; layer++)
        if (air__expert_memory(p, layer, granule) == memory) units += p->mixtures[layer].n_experts;
    return units;
}

uint64_t air__experts_memory(const air_program *p, uint64_t granule)
{
    uint64_t memory = 0;
    for (int32_t layer = 0; p->mixtures && layer < p->n_layers; layer++)
        memory += air__expert_memory(p, layer, granule) * (uint64_t)p->mixtures[layer].n_experts;
    return memory;
}

static int64_t least_slots(int64_t units) { return units < AIR__EXPERT_SLOTS ? units : AIR__EXPERT_SLOTS; }

uint64_t air__experts_least(const air_program *p, uint64_t granule)
{
    uint64_t memory = 0;
    for (int32_t first = air__expert_class(p, 0, granule); first < p->n_layers; first = air__expert_class(p, first + 1, granule))
        memory += (uint64_t)least_slots(air__expert_units(p, first, granule)) * air__expert_memory(p, first, granule);
    return memory;
}

/* Of what there is beyond the least, what of each class beyond its least so many bytes hold: in 2^-32, so that products of counts and
 * shares stay far below 2^64. */
static uint64_t share_of(const air_program *p, uint64_t granule, uint64_t bytes)
{
    uint64_t least = air__experts_least(p, granule), all = air__experts_memory(p, granule);
    if (bytes >= all) return UINT64_C(1) << 32;
    return bytes <= least ? 0 : (uint64_t)((double)(bytes - least) / (double)(all - least) * 4294967296.0);
}

static int64_t slots_of(int64_t units, uint64_t share)
{
    int64_t least = least_slots(units);
    return least + (int64_t)((uint64_t)(units - least) * share >> 32);
}

int64_t air__expert_slots(const air_program *p, int32_t first, uint64_t granule, uint64_t bytes)
{
    return slots_of(air__expert_units(p, first, granule), share_of(p, granule, bytes));
}

uint64_t air__experts_fit(const air_program *p, uint64_t granule, uint64_t bytes)
{
    uint64_t memory = 0, share = share_of(p, granule, bytes);
    for (int32_t first = air__expert_class(p, 0, granule); first < p->n_layers; first = air__expert_class(p, first + 1, granule))
        memory += (uint64_t)slots_of(air__expert_units(p, first, granule), share) * air__expert_memory(p, first, granule);
    return memory;
}

int32_t air__experts_slots(const air_program *p, uint64_t granule, uint64_t bytes)
{
    int64_t slots = 0;
    for (int32_t first = air__expert_class(p, 0, granule); first < p->n_layers; first = air__expert_class(p, first + 1, granule))
        slots += air__expert_slots(p, first, granule, bytes);
    return (int32_t)slots;
}
