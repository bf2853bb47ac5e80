/* Pins: tiles that stay, in one region, in the order of priority. What is pinned is a prefix of that order, less what a device keeps, so
 * that pins are the region's beginning: they grow and give way at its end, and in a region of some size lie on huge pages whatever a
 * tile's size. */
#include <stdatomic.h>

#include "base/checked.h"
#include "memory/pager_internal.h"
#include "platform/pages.h"

enum {
    HUGE_PAGE = 2 << 20,       /* where regions begin */
    HUGE_FROM = 32 * HUGE_PAGE /* bytes of a region of which the part of a huge page that holds no pins is little */
};

air_status air__pins_open(air_pager *p, air_error *err)
{
    uint64_t all = 0;
    for (uint64_t i = 0; i < p->n_tiles; i++) all += air_tile_memory(&p->tiles[i], p->granule);
    p->pins_bytes = air_min_u64(all, air_round_down(p->budget->limit, p->granule));
    if (!p->pins_bytes) return AIR_OK;
    p->pins_region = air__region_alloc(p, p->pins_bytes);
    if (!p->pins_region)
        return air_fail(err, AIR_E_NOMEM, "no room for %llu bytes of address space, of the weights that may stay; raise the limit (ulimit "
                        "-v) or lower max_ram", (unsigned long long)p->pins_bytes);
    p->pins_page = p->pins_bytes < HUGE_FROM ? p->granule : HUGE_PAGE;
    if (p->pins_page == HUGE_PAGE) air__region_huge(p, p->pins_region, p->pins_bytes);
    p->pins = air__region_data(p, p->pins_region);
    return AIR_OK;
}

/* All of a prefix at once; where the budget refuses, what is pinned so far has to do. */
void air__pins_grow(air_pager *p)
{
    uint64_t end = 0;
    for (uint64_t i = (uint64_t)p->plan->n_device_tiles; i < p->n_tiles; i++) {
        int32_t t = p->plan->priority[i];
        air__slot *slot = &p->slots[t];
        uint64_t memory = air_tile_memory(&p->tiles[t], p->granule);
        if (!slot->keep || memory > p->pins_bytes - end) return;
        if (!slot->pin && air_budget_reserve(p->budget, AIR_HOLD_PINS, memory, NULL)) return;
        slot->pin = p->pins + end;
        end += memory;
        p->pins_end = air_max_u64(p->pins_end, end);
    }
}

static void unlock(const air_pager *p, air__slot *slot)
{
    if (slot->pin_locked) air__pages_unlock(p, slot->pin);
    slot->pin_locked = 0;
}

void air__pins_cut(air_pager *p)
{
    uint64_t kept = 0, freed = 0;
    for (uint64_t i = 0; i < p->n_tiles; i++) {
        air__slot *slot = &p->slots[i];
        uint64_t memory = air_tile_memory(&p->tiles[i], p->granule);
        if (!slot->pin) continue;
        if (slot->keep) {
            kept += memory;
            continue;
        }
        if (slot->state == AIR__SLOT_READY) p->stats.pinned_bytes -= memory;
        freed += memory;
        unlock(p, slot);
        slot->pin = slot->memory = NULL;
        slot->state = AIR__SLOT_EMPTY;
    }
    if (!freed) return;
    /* From a boundary of huge pages: of one that is cut in two the system keeps all until it runs short of memory. What stays of
     * the last one, less than 2 MiB, serves when pins grow again. */
    uint64_t from = kept ? air_round_up(kept, p->pins_page) : 0;
    if (from < p->pins_end) air_pages_decommit(p->pins + from, (size_t)(p->pins_end - from));
    air_budget_release(p->budget, AIR_HOLD_PINS, freed);
    p->pins_end = kept;
}

void air__pins_close(air_pager *p)
{
    for (uint64_t i = 0; p->slots && i < p->n_tiles; i++) unlock(p, &p->slots[i]);
    air__region_free(p, p->pins_region, p->pins_bytes);
    air_budget_release(p->budget, AIR_HOLD_PINS, p->pins_end);
    p->pins_end = 0;
}
