#include "weights.h"

#include <string.h>

#include "quant/blocks.h"

#define AT(block, member) (uint8_t)offsetof(air_block_##block, member)

/* Where a block keeps its binary16 scales. */
typedef struct half_scales {
    uint8_t n, at[2];
} half_scales;

static const half_scales halves[AIR_TYPE_COUNT] = {
    [AIR_TYPE_Q4_0] = {1, {AT(q4_0, d)}},
    [AIR_TYPE_Q4_1] = {2, {AT(q4_1, d), AT(q4_1, m)}},
    [AIR_TYPE_Q5_0] = {1, {AT(q5_0, d)}},
    [AIR_TYPE_Q5_1] = {2, {AT(q5_1, d), AT(q5_1, m)}},
    [AIR_TYPE_Q8_0] = {1, {AT(q8_0, d)}},
    [AIR_TYPE_Q2_K] = {2, {AT(q2_k, d), AT(q2_k, dmin)}},
    [AIR_TYPE_Q3_K] = {1, {AT(q3_k, d)}},
    [AIR_TYPE_Q4_K] = {2, {AT(q4_k, d), AT(q4_k, dmin)}},
    [AIR_TYPE_Q5_K] = {2, {AT(q5_k, d), AT(q5_k, dmin)}},
    [AIR_TYPE_Q6_K] = {1, {AT(q6_k, d)}},
    [AIR_TYPE_TQ1_0] = {1, {AT(tq1_0, d)}},
    [AIR_TYPE_TQ2_0] = {1, {AT(tq2_0, d)}},
    [AIR_TYPE_IQ1_S] = {1, {AT(iq1_s, d)}},
    [AIR_TYPE_IQ2_XXS] = {1, {AT(iq2_xxs, d)}},
    [AIR_TYPE_IQ2_XS] = {1, {AT(iq2_xs, d)}},
    [AIR_TYPE_IQ2_S] = {1, {AT(iq2_s, d)}},
    [AIR_TYPE_IQ3_XXS] = {1, {AT(iq3_xxs, d)}},
    [AIR_TYPE_IQ3_S] = {1, {AT(iq3_s, d)}},
    [AIR_TYPE_IQ4_NL] = {1, {AT(iq4_nl, d)}},
    [AIR_TYPE_IQ4_XS] = {1, {AT(iq4_xs, d)}},
};

/* Where the fields of a block begin that WEIGHTS_FIELDS fills each on its own, beyond byte 0. Of scales and minima packed together the
 * parts. */
static const uint8_t fields[AIR_TYPE_COUNT][6] = {
    [AIR_TYPE_Q5_0] = {AT(q5_0, qs)},
    [AIR_TYPE_Q5_1] = {AT(q5_1, qs)},
    [AIR_TYPE_Q2_K] = {AT(q2_k, qs)},
    [AIR_TYPE_Q3_K] = {AT(q3_k, qs), AT(q3_k, scales), AT(q3_k, scales[8])},
    [AIR_TYPE_Q4_K] = {AT(q4_k, scales[4]), AT(q4_k, scales[8]), AT(q4_k, qs)},
    [AIR_TYPE_Q5_K] = {AT(q5_k, scales[4]), AT(q5_k, scales[8]), AT(q5_k, qh), AT(q5_k, qs)},
    [AIR_TYPE_Q6_K] = {AT(q6_k, qh), AT(q6_k, scales)},
    [AIR_TYPE_IQ1_S] = {AT(iq1_s, qh)},
    [AIR_TYPE_IQ1_M] = {AT(iq1_m, qh), AT(iq1_m, scales)},
    [AIR_TYPE_IQ2_XS] = {AT(iq2_xs, scales)},
    [AIR_TYPE_IQ2_S] = {AT(iq2_s, signs), AT(iq2_s, qh), AT(iq2_s, scales)},
    [AIR_TYPE_IQ3_XXS] = {AT(iq3_xxs, scales)},
    [AIR_TYPE_IQ3_S] = {AT(iq3_s, qh), AT(iq3_s, signs), AT(iq3_s, scales)},
    [AIR_TYPE_IQ4_XS] = {AT(iq4_xs, scales_l), AT(iq4_xs, qs)},
};

static double unit(uint64_t (*random)(void))
{
    return (double)(random() >> 11) * 0x1p-53;
}

static float number(weights_kind kind, uint64_t (*random)(void))
{
    float sign = random() & 1 ? -1.0f : 1.0f;
    switch (kind) {
    case WEIGHTS_PLAIN: return (float)((unit(random) + unit(random) + unit(random) + unit(random) - 2.0) * 0.1);
    case WEIGHTS_HUGE: return sign * 65504.0f;
    case WEIGHTS_TINY: return sign * (float)(1 + random() % 1023) * 0x1p-24f;
    case WEIGHTS_ZERO: return 0;
    default: return 1;
    }
}

static void put_half(uint8_t *at, float f)
{
    uint16_t half = air_f32_to_f16(f);
    memcpy(at, &half, sizeof half);
}

/* The scale of IQ1_M lies in the top nibbles of four half words. */
static void put_nibbles(uint8_t *words, float f)
{
    uint16_t half = air_f32_to_f16(f);
    for (int i = 0; i < 4; i++) words[2 * i + 1] = (uint8_t)((words[2 * i + 1] & 15) | (half >> 4 * i & 15) << 4);
}

/* Of MXFP4, a power of two: products of the greatest and least of these with the greatest and least activations are still normal. */
static uint8_t power(weights_kind kind, uint64_t (*random)(void))
{
    switch (kind) {
    case WEIGHTS_PLAIN: return (uint8_t)(120 + random() % 6);
    case WEIGHTS_HUGE: return 170;
    case WEIGHTS_TINY: return (uint8_t)(80 + random() % 3);
    case WEIGHTS_ZERO: return 0;
    default: return 128;
    }
}

static void put_scales(uint8_t *block, uint32_t type, weights_kind kind, uint64_t (*random)(void))
{
    for (int i = 0; i < halves[type].n; i++) put_half(block + halves[type].at[i], number(kind, random));
    if (type == AIR_TYPE_IQ1_M) put_nibbles(block + AT(iq1_m, scales), number(kind, random));
    if (type == AIR_TYPE_MXFP4) block[AT(mxfp4, e)] = power(kind, random);
}

/* Bytes at which fields have their extremes, in patterns of four, for some formats pack points beside signs and scales. */
static void fill_field(uint8_t *at, size_t n, uint64_t (*random)(void))
{
    static const uint8_t extremes[] = {0, 0xff, 0, 0xff, 0, 0xff, 0x80, 0x7f, 0xf0, 0x0f};
    uint8_t pattern[4];
    for (size_t i = 0; i < sizeof pattern; i++) {
        uint64_t drawn = random() >> 32;
        pattern[i] = drawn % 12 < sizeof extremes ? extremes[drawn % 12] : (uint8_t)(drawn >> 8);
    }
    int one = random() & 1;
    for (size_t i = 0; i < n; i++) at[i] = pattern[one ? 0 : i % sizeof pattern];
}

static void fill_fields(uint8_t *block, const air_format *format, uint64_t (*random)(void))
{
    const uint8_t *next = fields[format->id];
    for (size_t at = 0; at < format->bytes; next++) {
        size_t end = *next ? *next : format->bytes;
        fill_field(block + at, end - at, random);
        at = end;
    }
}

static void fill_blocks(uint8_t *w, const air_format *format, int64_t blocks, weights_kind kind, uint64_t (*random)(void))
{
    static const int bytes[WEIGHTS_KINDS] = {-1, -1, -1, 0, 0xff, 0x80, 0x7f, -1};
    for (int64_t b = 0; b < blocks; b++, w += format->bytes) {
        for (uint32_t i = 0; i < format->bytes; i++) w[i] = (uint8_t)(bytes[kind] < 0 ? random() >> 32 : (uint64_t)bytes[kind]);
        if (kind == WEIGHTS_FIELDS) fill_fields(w, format, random);
        put_scales(w, format->id, kind, random);
    }
}

static void fill_numbers(uint8_t *w, uint32_t type, int64_t n, weights_kind kind, uint64_t (*random)(void))
{
    for (int64_t i = 0; i < n; i++) {
        float f = number(kind, random);
        uint16_t half = type == AIR_TYPE_F16 ? air_f32_to_f16(f) : (uint16_t)(air_f32_bits(f) >> 16);
        if (type == AIR_TYPE_F32) memcpy(w + 4 * i, &f, sizeof f);
        else memcpy(w + 2 * i, &half, sizeof half);
    }
}

void weights_fill(void *w, const air_format *format, int64_t elements, weights_kind kind, uint64_t (*random)(void))
{
    if (format->block == 1) fill_numbers(w, format->id, elements, kind, random);
    else fill_blocks(w, format, elements / format->block, kind, random);
}
