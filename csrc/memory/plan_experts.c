/* Mixtures in a plan: how many experts a pass is likely to use, and to find in memory. As if all were used alike: where some are used more,
 * more of them are found. */
#include <math.h>

#include "memory/mixtures.h"
#include "memory/plan_internal.h"

static int has_experts(const air_program *p, int32_t layer) { return p->mixtures && p->mixtures[layer].n_experts; }

static double unit_bytes(const air_program *p, int32_t layer)
{
    double bytes = 0;
    for (int part = 0; part < AIR__EXPERT_PARTS; part++) bytes += (double)air__expert_extent(p, layer, 0, part).bytes;
    return bytes;
}

/* Experts that at least one of so many rows is sent to, if each is sent to n_used of them at random. */
static double experts_used(const air_mixture *m, int64_t rows)
{
    double n = m->n_experts;
    return n * (1 - pow(1 - m->n_used / n, (double)rows));
}

double air__expert_pass_bytes(const air_program *p, int32_t layer, int64_t rows)
{
    return has_experts(p, layer) ? experts_used(&p->mixtures[layer], rows) * unit_bytes(p, layer) : 0;
}

void air__plan_experts(air_plan *plan, const air_program *p)
{
    for (int32_t layer = 0; p->mixtures && layer < p->n_layers; layer++) {
        if (!has_experts(p, layer)) continue;
        uint64_t unit = 0;
        for (int part = 0; part < AIR__EXPERT_PARTS; part++) unit += air__expert_extent(p, layer, 0, part).bytes;
        plan->expert_weight_bytes += unit * (uint64_t)p->mixtures[layer].n_experts;
        plan->expert_token_bytes += unit * (uint64_t)p->mixtures[layer].n_used;
    }
}

/* Of a layer's experts, those that so much memory holds. Layers of a class share its slots evenly. */
static double held_share(const air_program *p, int32_t layer, uint64_t granule, uint64_t memory)
{
    return (double)air__expert_slots(p, layer, granule, memory) / (double)air__expert_units(p, layer, granule);
}

static double in_device(const air_program *p, const air_plan *plan, int32_t layer)
{
    return plan->device_expert_bytes ? held_share(p, layer, AIR_DEVICE_ALIGN, plan->device_expert_bytes) : 0;
}

/* A share of a layer's experts; memory: the host's. */
typedef double (*share_fn)(const air_program *p, const air_plan *plan, int32_t layer, uint64_t memory);

typedef enum counted { OWN_BYTES, WHOLE_PAGES } counted;

/* Bytes of experts that a pass asks for, of each layer's that share: of a class its first layer's stands for all. */
static double asked_bytes(const air_program *p, int64_t rows, counted how, share_fn share, const air_plan *plan, uint64_t memory)
{
    double bytes = 0;
    int32_t first = air__expert_class(p, 0, AIR_PLAN_GRANULE);
    for (; first < p->n_layers; first = air__expert_class(p, first + 1, AIR_PLAN_GRANULE)) {
        uint64_t unit = air__expert_memory(p, first, AIR_PLAN_GRANULE);
        double used = 0;
        for (int32_t layer = first; layer < p->n_layers; layer++)
            if (air__expert_memory(p, layer, AIR_PLAN_GRANULE) == unit) used += experts_used(&p->mixtures[layer], rows);
        bytes += used * (how == WHOLE_PAGES ? (double)unit : unit_bytes(p, first)) * share(p, plan, first, memory);
    }
    return bytes;
}

static double all_of_it(const air_program *p, const air_plan *plan, int32_t layer, uint64_t memory)
{
    return (void)p, (void)plan, (void)layer, (void)memory, 1;
}

/* The two memories hold different ones (experts.c). */
static double missed(const air_program *p, const air_plan *plan, int32_t layer, uint64_t memory)
{
    double miss = 1 - in_device(p, plan, layer);
    if (plan->io != AIR_IO_MMAP) miss -= held_share(p, layer, AIR_PLAN_GRANULE, memory);
    return miss > 0 ? miss : 0;
}

static double away(const air_program *p, const air_plan *plan, int32_t layer, uint64_t memory)
{
    (void)memory;
    return 1 - in_device(p, plan, layer);
}

double air__expert_share(const air_plan_request *r, const air_plan *p, uint64_t memory)
{
    if (!r->program->mixtures) return 0;
    if (p->io == AIR_IO_MMAP && r->file_bytes <= r->available) return 1;
    return 1 - asked_bytes(r->program, 1, WHOLE_PAGES, missed, p, memory) / asked_bytes(r->program, 1, WHOLE_PAGES, all_of_it, p, 0);
}

double air__expert_device_share(const air_plan_request *r, const air_plan *p)
{
    if (!r->program->mixtures || !p->device_expert_bytes) return 0;
    return 1 - air__expert_link_bytes(r, p, 1) / asked_bytes(r->program, 1, OWN_BYTES, all_of_it, p, 0);
}

double air__expert_read_seconds(const air_plan_request *r, const air_plan *p, uint64_t memory, int64_t rows)
{
    if (!r->program->mixtures || r->bandwidths.disk <= 0) return 0;
    return asked_bytes(r->program, rows, WHOLE_PAGES, missed, p, memory) / r->bandwidths.disk;
}

double air__expert_link_bytes(const air_plan_request *r, const air_plan *p, int64_t rows)
{
    return r->program->mixtures && r->device.budget ? asked_bytes(r->program, rows, OWN_BYTES, away, p, 0) : 0;
}
