#include "memory/budget.h"

#include <stdatomic.h>
#include <stdio.h>

void air_budget_init(air_budget *budget, const char *option, uint64_t limit)
{
    budget->limit = limit;
    budget->option = option;
    atomic_init(&budget->total, 0);
    atomic_init(&budget->peak, 0);
    for (int i = 0; i < AIR_HOLD_COUNT; i++) atomic_init(&budget->held[i], 0);
}

const char *air_holder_name(air_holder holder)
{
    static const char *const names[AIR_HOLD_COUNT] = {
        [AIR_HOLD_FIXED] = "fixed",         [AIR_HOLD_VECTORS] = "small weights",   [AIR_HOLD_PINS] = "pinned weights",
        [AIR_HOLD_RING] = "ring",           [AIR_HOLD_STATE] = "KV cache",          [AIR_HOLD_ACTIVATIONS] = "activations",
        [AIR_HOLD_LOGITS] = "logits",       [AIR_HOLD_EXPERTS] = "experts",
        [AIR_HOLD_ADAPTERS] = "adapters",
        [AIR_HOLD_TIMELINE] = "timeline",
    };
    return (unsigned)holder < AIR_HOLD_COUNT ? names[holder] : "unknown holder";
}

static air_status refuse(const air_budget *budget, air_holder holder, uint64_t bytes, air_error *err)
{
    char parts[AIR_ERROR_TEXT / 2] = "";
    size_t at = 0;
    uint64_t total = 0;
    for (int i = 0; i < AIR_HOLD_COUNT; i++) {
        uint64_t held = atomic_load(&budget->held[i]);
        total += held;
        if (!held || at >= sizeof parts) continue;
        int n = snprintf(parts + at, sizeof parts - at, "%s%s %.1f", at ? ", " : "", air_holder_name((air_holder)i), air_mib(held));
        if (n > 0) at += (size_t)n;
    }
    uint64_t left = total < budget->limit ? budget->limit - total : 0;
    return air_fail(err, AIR_E_BUDGET, "%s needs %.1f MiB, %.1f MiB more than %s (%.1f MiB) has left; held in MiB: %s",
                    air_holder_name(holder), (double)air_tenths_up(bytes) / 10,
                    (double)air_tenths_up(bytes > left ? bytes - left : 0) / 10, budget->option, air_mib(budget->limit),
                    at ? parts : "nothing");
}

air_status air_budget_reserve(air_budget *budget, air_holder holder, uint64_t bytes, air_error *err)
{
    uint64_t total = atomic_load(&budget->total);
    do {
        if (total > budget->limit || bytes > budget->limit - total) return refuse(budget, holder, bytes, err);
    } while (!atomic_compare_exchange_weak(&budget->total, &total, total + bytes));
    atomic_fetch_add(&budget->held[holder], bytes);

    uint64_t peak = atomic_load(&budget->peak);
    while (peak < total + bytes && !atomic_compare_exchange_weak(&budget->peak, &peak, total + bytes)) {}
    return AIR_OK;
}

void air_budget_release(air_budget *budget, air_holder holder, uint64_t bytes)
{
    atomic_fetch_sub(&budget->held[holder], bytes);
    atomic_fetch_sub(&budget->total, bytes);
}

uint64_t air_budget_left(const air_budget *budget)
{
    uint64_t total = atomic_load(&budget->total);
    return total < budget->limit ? budget->limit - total : 0;
}
