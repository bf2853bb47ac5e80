#include "quant/encode.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { CONVERT_ELEMENTS = 4096 }; /* at a time: a multiple of every block, and small enough for the stack and the first cache */

air_encode_fn air_encoder(uint32_t id)
{
    switch (id) {
#define ENCODER(name, encode) case AIR_TYPE_##name: return encode;
#include "quant/encoders.def"
#undef ENCODER
    default: return NULL;
    }
}

float air_encode_limit(uint32_t id)
{
    if (id == AIR_TYPE_F32) return FLT_MAX;
    return id == AIR_TYPE_BF16 ? 0x1.fep127f : 65504.0f;
}

/* The first of n floats that is not within ±limit, as NaN never is; n if all are. */
static int64_t first_beyond(const float *x, int64_t n, float limit)
{
    int beyond = 0;
    for (int64_t i = 0; i < n; i++) beyond |= !(fabsf(x[i]) <= limit);
    if (!beyond) return n;
    for (int64_t i = 0; i < n; i++)
        if (!(fabsf(x[i]) <= limit)) return i;
    return n;
}

air_status air_convert(const air_format *from, const air_format *to, const void *src, void *dst, int64_t n, int64_t first, air_error *err)
{
    const uint8_t *in = src;
    uint8_t *out = dst;
    air_encode_fn encode = air_encoder(to->id);
    if (n % from->block || n % to->block)
        return air_fail(err, AIR_E_ARGUMENT, "%lld elements are not whole blocks of %s (%u) and %s (%u)", (long long)n, from->name,
                        (unsigned)from->block, to->name, (unsigned)to->block);
    if (from == to) {
        memcpy(dst, src, (size_t)(n / from->block) * from->bytes);
        return AIR_OK;
    }
    if (!encode) return air_fail(err, AIR_E_UNSUPPORTED, "airpy reads %s but does not write it", to->name);

    float limit = air_encode_limit(to->id), x[CONVERT_ELEMENTS];
    for (int64_t at = 0; at < n; at += CONVERT_ELEMENTS) {
        int64_t count = n - at < CONVERT_ELEMENTS ? n - at : CONVERT_ELEMENTS;
        from->decode(in + at / from->block * from->bytes, x, count / from->block);
        int64_t bad = first_beyond(x, count, limit);
        if (bad < count && !isfinite(x[bad]))
            return air_fail(err, AIR_E_NUMERIC, "element %lld is %s", (long long)(first + at + bad), isnan(x[bad]) ? "NaN" : "infinite");
        if (bad < count)
            return air_fail(err, AIR_E_NUMERIC, "element %lld is %g, but %s holds numbers up to %g", (long long)(first + at + bad),
                            (double)x[bad], to->name, (double)limit);
        encode(x, out + at / to->block * to->bytes, count / to->block);
    }
    return AIR_OK;
}
