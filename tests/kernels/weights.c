#include "weights.h"

#include <string.h>

#include "quant/blocks.h"

/* Where a block keeps its binary16 scales. */
static int scale_offsets(uint32_t type, size_t offsets[2])
{
    switch (type) {
    case AIR_TYPE_Q8_0:
    case AIR_TYPE_Q4_0: offsets[0] = 0; return 1;
    case AIR_TYPE_Q4_K:
    case AIR_TYPE_Q5_K: offsets[0] = 0, offsets[1] = 2; return 2;
    case AIR_TYPE_Q6_K: offsets[0] = offsetof(air_block_q6_k, d); return 1;
    default: return 0;
    }
}

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

static void fill_blocks(uint8_t *w, const air_format *format, int64_t blocks, weights_kind kind, uint64_t (*random)(void))
{
    static const int bytes[WEIGHTS_KINDS] = {-1, -1, -1, 0, 0xff, 0x80, 0x7f};
    size_t offsets[2];
    int scales = scale_offsets(format->id, offsets);
    for (int64_t b = 0; b < blocks; b++, w += format->bytes) {
        for (uint32_t i = 0; i < format->bytes; i++) w[i] = (uint8_t)(bytes[kind] < 0 ? random() >> 32 : (uint64_t)bytes[kind]);
        for (int s = 0; s < scales; s++) {
            uint16_t d = air_f32_to_f16(number(kind, random));
            memcpy(w + offsets[s], &d, sizeof d);
        }
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
