/* Chooses the table of kernels: ref, overlaid by what the CPU and the system allow. */
#include <stdatomic.h>
#include <string.h>

#include "kernels/tables.h"
#include "platform/cpuid.h"

const char *const air_tier_names[AIR_TIER_COUNT] = {"ref", "avx2", "avx512", "neon", "dotprod", "i8mm"};

/* A partial table, the tier it belongs to, and the features it needs beyond that tier's. */
typedef struct layer {
    const air_ops *ops;
    air_cpu_tier   tier;
    uint32_t       features;
} layer;

static const layer layers[] = {
    {&air__ref_float, AIR_TIER_REF, 0},
    {&air__ref_quant, AIR_TIER_REF, 0},
    {&air__ref_vector, AIR_TIER_REF, 0},
    {&air__ref_attention, AIR_TIER_REF, 0},
    {&air__ref_recurrent, AIR_TIER_REF, 0},
#ifdef AIR_KERNELS_X86
    {&air__avx2_float, AIR_TIER_AVX2, AIR_CPU_AVX2},
    {&air__avx2_legacy, AIR_TIER_AVX2, AIR_CPU_AVX2},
    {&air__avx2_k, AIR_TIER_AVX2, AIR_CPU_AVX2},
    {&air__avx2_iq, AIR_TIER_AVX2, AIR_CPU_AVX2},
    {&air__avx2_vector, AIR_TIER_AVX2, AIR_CPU_AVX2},
    {&air__avx2_attention, AIR_TIER_AVX2, AIR_CPU_AVX2},
    {&air__avx2_recurrent, AIR_TIER_AVX2, AIR_CPU_AVX2},
    {&air__avxvnni_legacy, AIR_TIER_AVX2, AIR_CPU_AVX2 | AIR_CPU_AVX_VNNI},
    {&air__avxvnni_k, AIR_TIER_AVX2, AIR_CPU_AVX2 | AIR_CPU_AVX_VNNI},
    {&air__avxvnni_iq, AIR_TIER_AVX2, AIR_CPU_AVX2 | AIR_CPU_AVX_VNNI},
    {&air__avx512_float, AIR_TIER_AVX512, AIR_CPU_AVX512},
    {&air__avx512_vnni_legacy, AIR_TIER_AVX512, AIR_CPU_AVX512_VNNI},
    {&air__avx512_vnni_k, AIR_TIER_AVX512, AIR_CPU_AVX512_VNNI},
    {&air__avx512_vnni_iq, AIR_TIER_AVX512, AIR_CPU_AVX512_VNNI},
    {&air__avx512_vector, AIR_TIER_AVX512, AIR_CPU_AVX512},
    {&air__avx512_attention, AIR_TIER_AVX512, AIR_CPU_AVX512},
    {&air__avx512_recurrent, AIR_TIER_AVX512, AIR_CPU_AVX512},
#endif
#ifdef AIR_KERNELS_ARM
    {&air__neon_float, AIR_TIER_NEON, AIR_CPU_NEON},
    {&air__neon_quant, AIR_TIER_NEON, AIR_CPU_NEON},
    {&air__neon_vector, AIR_TIER_NEON, AIR_CPU_NEON},
    {&air__neon_attention, AIR_TIER_NEON, AIR_CPU_NEON},
    {&air__neon_recurrent, AIR_TIER_NEON, AIR_CPU_NEON},
    {&air__dotprod_quant, AIR_TIER_DOTPROD, AIR_CPU_DOTPROD},
    {&air__i8mm_quant, AIR_TIER_I8MM, AIR_CPU_I8MM},
#endif
};

air_q8 air_q8_place(void *memory, int64_t k, int64_t n)
{
    const int64_t each[] = {k, air_q8_turned_bytes(k), k / AIR_Q8_SUM_GROUP * 2, k / AIR_Q8_GROUP * 4};
    char *at[AIR_COUNT(each)];
    for (size_t i = 0; i < AIR_COUNT(each); i++) {
        at[i] = memory;
        memory = (char *)memory + ((size_t)(n * each[i]) + 63) / 64 * 64;
    }
    return (air_q8){(int8_t *)at[0], (int8_t *)at[1], (int16_t *)(void *)at[2], (float *)(void *)at[3]};
}

static air_ops tables[AIR_TIER_COUNT];
static int     available[AIR_TIER_COUNT];

#define OVERLAY(field) if (from->field) to->field = from->field

static void overlay(air_ops *to, const air_ops *from)
{
    for (int i = 0; i < AIR_TYPE_COUNT; i++)
        if (from->product[i].fn) to->product[i] = from->product[i];
    OVERLAY(quantize);
    OVERLAY(rms_norm);
    OVERLAY(layer_norm);
    OVERLAY(rope);
    OVERLAY(attention);
    OVERLAY(attention_merge);
    OVERLAY(convolve);
    OVERLAY(scan);
    for (int i = 0; i < AIR_ACTIVATION_COUNT; i++) {
        OVERLAY(activate[i]);
        OVERLAY(gated[i]);
    }
    OVERLAY(softcap);
    OVERLAY(add);
    OVERLAY(softmax);
    OVERLAY(f32_to_f16);
}

static void build(void)
{
    static const uint32_t needed[AIR_TIER_COUNT] = {
        [AIR_TIER_AVX2] = AIR_CPU_AVX2,
        [AIR_TIER_AVX512] = AIR_CPU_AVX2 | AIR_CPU_AVX512,
        [AIR_TIER_NEON] = AIR_CPU_NEON,
        [AIR_TIER_DOTPROD] = AIR_CPU_NEON | AIR_CPU_DOTPROD,
        [AIR_TIER_I8MM] = AIR_CPU_NEON | AIR_CPU_DOTPROD | AIR_CPU_I8MM,
    };
    uint32_t features = air_cpu_features();
    for (int t = 0; t < AIR_TIER_COUNT; t++) {
        if (t > 0) tables[t] = tables[t - 1];
        for (size_t i = 0; i < AIR_COUNT(layers); i++)
            if (layers[i].tier == (air_cpu_tier)t && (layers[i].features & ~features) == 0) overlay(&tables[t], layers[i].ops);
        tables[t].name = air_tier_names[t];
        available[t] = (needed[t] & ~features) == 0;
    }
}

/* Builds the tables once. Whoever comes while another thread builds spins for those few microseconds. */
static void build_once(void)
{
    enum { NONE, BUILDING, READY };
    static AIR_ATOMIC(int) state = NONE;
    int seen = NONE;
    if (atomic_load_explicit(&state, memory_order_acquire) == READY) return;
    if (atomic_compare_exchange_strong(&state, &seen, BUILDING)) {
        build();
        atomic_store_explicit(&state, READY, memory_order_release);
    }
    while (atomic_load_explicit(&state, memory_order_acquire) != READY) {
    }
}

const air_ops *air_ops_tier(air_cpu_tier tier)
{
    build_once();
    return (int)tier >= 0 && tier < AIR_TIER_COUNT && available[tier] ? &tables[tier] : NULL;
}

const air_ops *air_ops_best(air_cpu_tier cap)
{
    int tier = cap < AIR_TIER_COUNT ? (int)cap : AIR_TIER_COUNT - 1;
    while (tier > 0 && !air_ops_tier((air_cpu_tier)tier)) tier--;
    return air_ops_tier((air_cpu_tier)tier);
}

int air_tier_by_name(const char *name)
{
    for (int t = 0; t < AIR_TIER_COUNT; t++)
        if (name && strcmp(name, air_tier_names[t]) == 0) return t;
    return -1;
}
