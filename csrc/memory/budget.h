/* memory/budget.h: the one accountant: who may hold how much of max_ram, or of max_vram.
 *
 * Every large holder (pins, ring, state, activations, logits, tokenizer) reserves before it allocates and releases after it frees.
 * Thread-safe. It allocates nothing and knows no holder but by category. */
#ifndef AIR_MEMORY_BUDGET_H
#define AIR_MEMORY_BUDGET_H

#include <stdint.h>

#include "base/status.h"

AIR_BEGIN_C

typedef enum air_holder {
    AIR_HOLD_FIXED,       /* what was there when the engine opened: interpreter growth, tokenizer, directory; scratch of sampling */
    AIR_HOLD_VECTORS,     /* small weights, decoded */
    AIR_HOLD_PINS,        /* weights that stay */
    AIR_HOLD_EXPERTS,     /* experts of mixtures, those asked for most */
    AIR_HOLD_RING,        /* weights on their way */
    AIR_HOLD_STATE,       /* K/V blocks */
    AIR_HOLD_ACTIVATIONS, /* hidden states, scratch */
    AIR_HOLD_LOGITS,
    AIR_HOLD_ADAPTERS,    /* low-rank matrices beside the weights */
    AIR_HOLD_TIMELINE,    /* its log, while one is taken */
    AIR_HOLD_COUNT
} air_holder;

typedef struct air_budget {
    uint64_t limit;
    const char *option; /* as messages name it */
    AIR_ATOMIC(uint64_t) total;
    AIR_ATOMIC(uint64_t) held[AIR_HOLD_COUNT];
    AIR_ATOMIC(uint64_t) peak;
} air_budget;

/* option: a name that outlives the budget: "max_ram". */
void air_budget_init(air_budget *budget, const char *option, uint64_t limit);
/* Errors: AIR_E_BUDGET saying what each holder has and by how much bytes exceeds what is left. */
air_status air_budget_reserve(air_budget *budget, air_holder holder, uint64_t bytes, air_error *err);
void air_budget_release(air_budget *budget, air_holder holder, uint64_t bytes);
uint64_t air_budget_left(const air_budget *budget);
const char *air_holder_name(air_holder holder); /* "KV cache", "ring" … */

/* Sizes as messages have them, MiB with one decimal. Tenths, rounded up, are for what lacks, of which no refusal may say 0.0, and for
 * what would do, which people type in again. */
static inline double air_mib(uint64_t bytes) { return (double)bytes / (1 << 20); }
static inline uint64_t air_tenths_up(uint64_t bytes) { return (bytes >> 20) * 10 + (((bytes & 0xfffff) * 10 + 0xfffff) >> 20); }
static inline uint64_t air_from_tenths(uint64_t tenths) { return (tenths << 20) / 10; }

AIR_END_C
#endif
