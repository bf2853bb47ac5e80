#include "quant/format.h"

#include <string.h>

static const air_format formats[] = {
#define FORMAT(name, id, block, bytes, decode, role) { #name, id, block, bytes, decode, AIR_FORMAT_##role },
#include "quant/formats.def"
#undef FORMAT
};

enum {
#define FORMAT(name, id, block, bytes, decode, role) INDEX_##name,
#include "quant/formats.def"
#undef FORMAT
    FORMAT_COUNT
};

/* A switch, so that two rows with one id do not compile. */
const air_format *air_format_by_id(uint32_t id)
{
    switch (id) {
#define FORMAT(name, id, block, bytes, decode, role) case id: return &formats[INDEX_##name];
#include "quant/formats.def"
#undef FORMAT
    default: return NULL;
    }
}

const air_format *air_format_by_name(const char *name)
{
    for (size_t i = 0; i < FORMAT_COUNT; i++)
        if (strcmp(formats[i].name, name) == 0) return &formats[i];
    return NULL;
}

int air_format_is_half(uint32_t id) { return id == AIR_TYPE_F16 || id == AIR_TYPE_BF16; }

size_t air_format_count(void)
{
    return FORMAT_COUNT;
}

const air_format *air_format_at(size_t index)
{
    return index < FORMAT_COUNT ? &formats[index] : NULL;
}
