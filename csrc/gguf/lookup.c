/* Looking things up in a directory that is there: names by hash, values by type.
 *
 * Duplicate names are found by the same index that answers look-ups, while parse fills it. Open addressing with linear steps: the
 * index is filled once and never shrinks, and nothing is quicker for a few thousand names. */
#include "gguf/directory.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/random.h"

static const struct { const char *name; uint32_t bytes; } types[AIR_GGUF_TYPE_COUNT] = {
    [AIR_GGUF_U8] = {"u8", 1},   [AIR_GGUF_I8] = {"i8", 1},   [AIR_GGUF_U16] = {"u16", 2}, [AIR_GGUF_I16] = {"i16", 2},
    [AIR_GGUF_U32] = {"u32", 4}, [AIR_GGUF_I32] = {"i32", 4}, [AIR_GGUF_U64] = {"u64", 8}, [AIR_GGUF_I64] = {"i64", 8},
    [AIR_GGUF_F32] = {"f32", 4}, [AIR_GGUF_F64] = {"f64", 8}, [AIR_GGUF_BOOL] = {"bool", 1},
    [AIR_GGUF_STRING] = {"string", 0}, [AIR_GGUF_ARRAY] = {"array", 0},
};

const char *air_gguf_type_name(uint32_t type) { return type < AIR_GGUF_TYPE_COUNT ? types[type].name : NULL; }
uint32_t air__gguf_type_bytes(uint32_t type) { return type < AIR_GGUF_TYPE_COUNT ? types[type].bytes : 0; }

const char *air__quote(char out[AIR__QUOTED], air_string name)
{
    static const char more[] = "\xe2\x80\xa6\"";
    size_t n = 0;
    out[n++] = '"';
    for (uint64_t i = 0; i < name.bytes; i++) {
        unsigned char c = (unsigned char)name.data[i];
        if (n + 4 + sizeof more > AIR__QUOTED) {
            memcpy(out + n, more, sizeof more);
            return out;
        }
        if (c >= 0x20 && c < 0x7f) out[n++] = (char)c;
        else n += (size_t)snprintf(out + n, AIR__QUOTED - n, "\\x%02x", c);
    }
    memcpy(out + n, "\"", 2);
    return out;
}

/* ---- the index ------------------------------------------------------------------------------------------------------------- */

/* Keyed, so that a file cannot be made whose names all fall on one slot. */
static uint64_t hash(uint64_t seed, const char *name, uint64_t bytes)
{
    uint64_t h = air_mix64(seed ^ bytes);
    for (; bytes >= 8; bytes -= 8, name += 8) {
        uint64_t word;
        memcpy(&word, name, 8);
        h = air_mix64(h ^ word);
    }
    uint64_t tail = 0;
    for (uint64_t i = 0; i < bytes; i++) tail = tail << 8 | (unsigned char)name[i];
    return air_mix64(h ^ tail);
}

static const air_string *name_at(const air__name_index *index, uint64_t position)
{
    return (const air_string *)(const void *)((const char *)index->base + position * index->stride);
}

/* The slot that holds the name, or the free one where it belongs. Half of the slots stay free, so the walk ends. */
static uint32_t *slot_of(const air__name_index *index, const char *name, uint64_t bytes)
{
    for (uint64_t i = hash(index->seed, name, bytes);; i++) {
        uint32_t *slot = &index->slots[i & index->mask];
        if (!*slot) return slot;
        const air_string *there = name_at(index, *slot - 1);
        if (there->bytes == bytes && memcmp(there->data, name, bytes) == 0) return slot;
    }
}

int air__name_index_init(air__name_index *index, air_arena *arena, uint64_t count, const void *base, size_t stride)
{
    uint64_t slots = 2;
    while (slots < 2 * count) slots *= 2;
    *index = (air__name_index){.mask = slots - 1, .base = base, .stride = stride};
    index->slots = air_arena_alloc(arena, slots, sizeof *index->slots);
    index->seed = air_mix64((uintptr_t)index->slots); /* differs from run to run with address randomisation */
    return index->slots != NULL;
}

uint64_t air__name_index_add(air__name_index *index, uint64_t position)
{
    const air_string *name = name_at(index, position);
    uint32_t *slot = slot_of(index, name->data, name->bytes);
    if (*slot) return *slot - 1;
    *slot = (uint32_t)position + 1;
    return AIR__NOT_FOUND;
}

uint64_t air__name_index_find(const air__name_index *index, const char *name, uint64_t bytes)
{
    uint32_t found = *slot_of(index, name, bytes);
    return found ? found - 1 : AIR__NOT_FOUND;
}

/* ---- the directory --------------------------------------------------------------------------------------------------------- */

uint32_t air_gguf_version(const air_gguf *gguf) { return gguf->version; }
uint64_t air_gguf_alignment(const air_gguf *gguf) { return gguf->alignment; }
uint64_t air_gguf_held_bytes(const air_gguf *gguf) { return gguf->arena.total; }
uint64_t air_gguf_entry_count(const air_gguf *gguf) { return gguf->n_entries; }
uint64_t air_gguf_tensor_count(const air_gguf *gguf) { return gguf->n_tensors; }

const air_gguf_entry *air_gguf_entry_at(const air_gguf *gguf, uint64_t index)
{
    return index < gguf->n_entries ? &gguf->entries[index] : NULL;
}

const air_tensor *air_gguf_tensor_at(const air_gguf *gguf, uint64_t index)
{
    return index < gguf->n_tensors ? &gguf->tensors[index] : NULL;
}

const air_gguf_value *air_gguf_find(const air_gguf *gguf, const char *key)
{
    uint64_t i = air__name_index_find(&gguf->entry_index, key, strlen(key));
    return i == AIR__NOT_FOUND ? NULL : &gguf->entries[i].value;
}

const air_tensor *air_gguf_tensor(const air_gguf *gguf, const char *name)
{
    uint64_t i = air__name_index_find(&gguf->tensor_index, name, strlen(name));
    return i == AIR__NOT_FOUND ? NULL : &gguf->tensors[i];
}

/* ---- typed look-ups -------------------------------------------------------------------------------------------------------- */

/* An array in the place of a number is a common form of newer models (one value per layer), so the message gives its length. */
static air_status wrong_type(const char *key, const air_gguf_value *value, const char *wanted, air_error *err)
{
    if (value->type != AIR_GGUF_ARRAY)
        return air_fail(err, AIR_E_FORMAT, "%s is a value of type %s, not %s", key, air_gguf_type_name(value->type), wanted);
    return air_fail(err, AIR_E_FORMAT, "%s is an array of %" PRIu64 " × %s, not %s", key, value->count,
                    air_gguf_type_name(value->element), wanted);
}

air_status air_gguf_get_u64(const air_gguf *gguf, const char *key, uint64_t min, uint64_t max, uint64_t *out, air_error *err)
{
    const air_gguf_value *value = air_gguf_find(gguf, key);
    if (!value) return AIR_OK;
    switch (value->type) {
    case AIR_GGUF_I8: case AIR_GGUF_I16: case AIR_GGUF_I32: case AIR_GGUF_I64:
        if (value->as.i < 0)
            return air_fail(err, AIR_E_FORMAT, "%s is %" PRId64 ", outside of %" PRIu64 " to %" PRIu64, key, value->as.i, min, max);
        break;
    case AIR_GGUF_U8: case AIR_GGUF_U16: case AIR_GGUF_U32: case AIR_GGUF_U64:
        break;
    default:
        return wrong_type(key, value, "an integer", err);
    }
    uint64_t u = value->as.u; /* of a signed type: not negative, so the same bits */
    if (u < min || u > max)
        return air_fail(err, AIR_E_FORMAT, "%s is %" PRIu64 ", outside of %" PRIu64 " to %" PRIu64, key, u, min, max);
    *out = u;
    return AIR_OK;
}

air_status air_gguf_get_f64(const air_gguf *gguf, const char *key, double min, double max, double *out, air_error *err)
{
    const air_gguf_value *value = air_gguf_find(gguf, key);
    if (!value) return AIR_OK;
    if (value->type != AIR_GGUF_F32 && value->type != AIR_GGUF_F64) return wrong_type(key, value, "a floating-point number", err);
    if (!isfinite(value->as.f) || value->as.f < min || value->as.f > max)
        return air_fail(err, AIR_E_FORMAT, "%s is %g, outside of %g to %g", key, value->as.f, min, max);
    *out = value->as.f;
    return AIR_OK;
}

air_status air_gguf_get_bool(const air_gguf *gguf, const char *key, int *out, air_error *err)
{
    const air_gguf_value *value = air_gguf_find(gguf, key);
    if (!value) return AIR_OK;
    if (value->type != AIR_GGUF_BOOL) return wrong_type(key, value, "true or false", err);
    *out = value->as.u != 0;
    return AIR_OK;
}

air_status air_gguf_get_string(const air_gguf *gguf, const char *key, air_string *out, air_error *err)
{
    const air_gguf_value *value = air_gguf_find(gguf, key);
    if (!value) return AIR_OK;
    if (value->type != AIR_GGUF_STRING) return wrong_type(key, value, "a string", err);
    *out = value->as.string;
    return AIR_OK;
}
