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

/* Of a layer's experts, those in memory. Layers of a class share its slots evenly. */
static double held_share(const air_program *p, int32_t layer, uint64_t memory)
{
    int64_t units = air__expert_units(p, layer, AIR_PLAN_GRANULE);
    return (double)air__expert_slots(p, layer, AIR_PLAN_GRANULE, memory) / (double)units;
}

/* By class: its first layer stands for all. */
static double missed_bytes(const air_program *p, uint64_t memory, int64_t rows)
{
    double missed = 0;
    int32_t first = air__expert_class(p, 0, AIR_PLAN_GRANULE);
    for (; first < p->n_layers; first = air__expert_class(p, first + 1, AIR_PLAN_GRANULE)) {
        double miss = 1 - held_share(p, first, memory);
        for (int32_t layer = first; layer < p->n_layers; layer++) {
            if (air__expert_memory(p, layer, AIR_PLAN_GRANULE) != air__expert_memory(p, first, AIR_PLAN_GRANULE)) continue;
            double reads = experts_used(&p->mixtures[layer], rows) * (miss > 0 ? miss : 0);
            missed += reads * (double)air__expert_memory(p, layer, AIR_PLAN_GRANULE);
        }
    }
    return missed;
}

double air__expert_share(const air_plan_request *r, const air_plan *p, uint64_t memory)
{
    if (!r->program->mixtures) return 0;
    if (p->io == AIR_IO_MMAP) return r->file_bytes <= r->available ? 1 : 0;
    double token = 0;
    for (int32_t layer = 0; layer < r->program->n_layers; layer++)
        if (has_experts(r->program, layer))
            token += r->program->mixtures[layer].n_used * (double)air__expert_memory(r->program, layer, AIR_PLAN_GRANULE);
    return token > 0 ? 1 - missed_bytes(r->program, memory, 1) / token : 0;
}

double air__expert_read_seconds(const air_plan_request *r, uint64_t memory, int64_t rows)
{
    return r->program->mixtures && r->bandwidths.disk > 0 ? missed_bytes(r->program, memory, rows) / r->bandwidths.disk : 0;
}
