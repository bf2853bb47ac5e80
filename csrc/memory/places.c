#include "memory/places.h"

#include "base/alloc.h"

typedef struct place {
    int32_t unit; /* AIR_NONE: nobody's */
    int held;
} place;

typedef struct place_class {
    uint64_t memory, offset; /* of a place; of the first one */
    int32_t first, n;
    int has_all;             /* units */
    double settled;          /* heat above which units are, */
    int known;               /* if that is */
} place_class;

struct air__places {
    const double *heat;
    place *all;
    int32_t n;
    int32_t *of_unit;        /* [n_units] */
    place_class *classes;
    int32_t n_classes;
    int32_t *class_of;       /* [n_layers] */
};

int32_t air__places_of(const air__places *p, int32_t unit) { return p ? p->of_unit[unit] : AIR_NONE; }

uint64_t air__places_offset(const air__places *p, int32_t number)
{
    const place_class *c = p->classes;
    while (number >= c->first + c->n) c++;
    return c->offset + (uint64_t)(number - c->first) * c->memory;
}

static int32_t coldest_of(const air__places *p, const place_class *c)
{
    int32_t coldest = AIR_NONE;
    for (int32_t i = c->first; i < c->first + c->n; i++) {
        if (p->all[i].unit == AIR_NONE) return i;
        if (p->all[i].held) continue;
        if (coldest == AIR_NONE || p->heat[p->all[i].unit] < p->heat[p->all[coldest].unit]) coldest = i;
    }
    return coldest;
}

int air__places_take(air__places *p, int32_t layer, int32_t unit)
{
    place_class *c = &p->classes[p->class_of[layer]];
    int32_t number = coldest_of(p, c);
    if (number == AIR_NONE) return 0;
    if (p->all[number].unit != AIR_NONE) p->of_unit[p->all[number].unit] = AIR_NONE;
    p->all[number] = (place){.unit = unit, .held = 1};
    p->of_unit[unit] = number;
    c->known = 0;
    return 1;
}

void air__places_hold(air__places *p, int32_t unit, int hold) { p->all[p->of_unit[unit]].held = hold; }

void air__places_forget(air__places *p, int32_t unit)
{
    int32_t number = air__places_of(p, unit);
    if (number == AIR_NONE) return;
    p->all[number] = (place){.unit = AIR_NONE};
    p->of_unit[unit] = AIR_NONE;
}

void air__places_heat_changed(air__places *p)
{
    for (int32_t i = 0; p && i < p->n_classes; i++) p->classes[i].known = 0;
}

void air__places_let_go(air__places *p)
{
    for (int32_t i = 0; p && i < p->n; i++) p->all[i].held = 0;
}

/* The heat of the AIR__EXPERT_SLOTS-th coldest of a class; below all while some are nobody's. */
static double settled_above(const air__places *p, const place_class *c)
{
    double coldest[AIR__EXPERT_SLOTS];
    int32_t n = 0;
    for (int32_t i = c->first; i < c->first + c->n; i++) {
        if (p->all[i].unit == AIR_NONE) return -1;
        double heat = p->heat[p->all[i].unit];
        int32_t at = n < AIR__EXPERT_SLOTS ? n++ : AIR__EXPERT_SLOTS;
        for (; at > 0 && coldest[at - 1] > heat; at--)
            if (at < AIR__EXPERT_SLOTS) coldest[at] = coldest[at - 1];
        if (at < AIR__EXPERT_SLOTS) coldest[at] = heat;
    }
    return coldest[n - 1];
}

int air__places_settled(air__places *p, int32_t layer, int32_t unit)
{
    if (air__places_of(p, unit) == AIR_NONE) return 0;
    place_class *c = &p->classes[p->class_of[layer]];
    if (!c->known) c->settled = c->has_all ? -1 : settled_above(p, c);
    c->known = 1;
    return p->heat[unit] > c->settled;
}

/* --- life --- */

static void open_class(air__places *p, const air_program *program, int32_t layer, uint64_t bytes)
{
    place_class *c = &p->classes[p->n_classes];
    const place_class *before = p->n_classes ? c - 1 : NULL;
    *c = (place_class){.memory = air__expert_memory(program, layer, AIR_DEVICE_ALIGN), .first = p->n};
    c->n = (int32_t)air__expert_slots(program, layer, AIR_DEVICE_ALIGN, bytes);
    c->has_all = c->n == air__expert_units(program, layer, AIR_DEVICE_ALIGN);
    c->offset = before ? before->offset + (uint64_t)before->n * before->memory : 0;
    for (int32_t i = layer; i < program->n_layers; i++)
        if (air__expert_memory(program, i, AIR_DEVICE_ALIGN) == c->memory) p->class_of[i] = p->n_classes;
    p->n_classes++;
    p->n += c->n;
}

air_status air__places_open(air__places **out, const air_program *program, int32_t n_units, const double *heat, uint64_t bytes,
                            air_error *err)
{
    *out = NULL;
    if (!bytes) return AIR_OK;
    air__places *p = air_calloc(1, sizeof *p);
    if (!p) return air_fail(err, AIR_E_NOMEM, "pager: places of experts");
    p->heat = heat;
    p->of_unit = air_calloc((size_t)n_units, sizeof *p->of_unit);
    p->classes = air_calloc((size_t)program->n_layers, sizeof *p->classes);
    p->class_of = air_calloc((size_t)program->n_layers, sizeof *p->class_of);
    if (p->of_unit && p->classes && p->class_of) {
        int32_t first = air__expert_class(program, 0, AIR_DEVICE_ALIGN);
        for (; first < program->n_layers; first = air__expert_class(program, first + 1, AIR_DEVICE_ALIGN))
            open_class(p, program, first, bytes);
        p->all = air_calloc((size_t)p->n, sizeof *p->all);
    }
    if (!p->all) {
        air__places_close(p);
        return air_fail(err, AIR_E_NOMEM, "pager: places of %d experts", (int)n_units);
    }
    for (int32_t i = 0; i < n_units; i++) p->of_unit[i] = AIR_NONE;
    for (int32_t i = 0; i < p->n; i++) p->all[i].unit = AIR_NONE;
    *out = p;
    return AIR_OK;
}

void air__places_close(air__places *p)
{
    if (!p) return;
    air_free(p->all);
    air_free(p->of_unit);
    air_free(p->classes);
    air_free(p->class_of);
    air_free(p);
}
