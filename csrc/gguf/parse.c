/* A header, in order:
 *
 *     "GGUF"  version u32  tensors u64  entries u64
 *     entries ×  key string  type u32  value              string: length u64, bytes; array: element type u32, count u64, elements
 *     tensors ×  name string  n_dims u32  shape u64 × n_dims  type u32  offset u64 (from the start of the data)
 *     padding to general.alignment, then the data
 *
 * Nothing is allocated for a count before as many bytes are known to be there as its elements need at least, so that a directory
 * takes memory in proportion to the bytes given, whatever the counts say. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "gguf/directory.h"
#include "quant/format.h"

enum {
    DEFAULT_ALIGNMENT = 32, /* where general.alignment is absent */
    MIN_ALIGNMENT = 8,      /* docs/gguf.md: a multiple of 8 */
    MAX_ALIGNMENT = 1 << 24,
    MAX_KEY_BYTES = 65535,  /* docs/gguf.md */
    MAX_NAME_BYTES = 64,    /* docs/gguf.md, of tensors */
    MIN_ENTRY_BYTES = 8 + 1 + 4 + 1,
    MIN_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8,
    MIN_ARRAY_BYTES = 4 + 8,
    MIN_STRING_BYTES = 8,
};

/* Far over what is published: 300,000 tokens with merges and scores make 30 MB of header; the largest sets hold 50,000 tensors. */
const air_gguf_limits air_gguf_default_limits = {
    .entries = 1 << 16, .tensors = 1 << 20, .string_bytes = 1 << 24, .array_items = 1 << 26, .depth = 4, .header_bytes = 1 << 28,
};

typedef struct reader {
    const uint8_t *data;
    uint64_t bytes, pos, file_bytes;
    const air_gguf_limits *limits;
    uint64_t *need;
    air_gguf *gguf;
    air_error *err;
    /* What is being read, for messages: a kind ("key", "tensor", NULL), its number, its name once known, an array's item. */
    const char *kind;
    uint64_t number, item;
    air_string name;
} reader;

#define NO_ITEM UINT64_MAX

static air_status AIR_PRINTF(3, 4) fail(const reader *r, air_status status, const char *format, ...)
{
    char name[AIR__QUOTED], item[40] = "", text[AIR_ERROR_TEXT];
    if (!r->err) return status;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (r->item != NO_ITEM) (void)snprintf(item, sizeof item, " item %" PRIu64, r->item);
    if (!r->kind) return air_fail(r->err, status, "%s", text);
    if (!r->name.bytes) return air_fail(r->err, status, "%s %" PRIu64 ": %s", r->kind, r->number, text);
    return air_fail(r->err, status, "%s %s%s: %s", r->kind, air__quote(name, r->name), item, text);
}

static air_status no_memory(const reader *r)
{
    return fail(r, AIR_E_NOMEM, "no memory for the header's directory, %zu bytes so far", r->gguf->arena.total);
}

/* ---- the bytes ------------------------------------------------------------------------------------------------------------- */

/* Makes sure that count × each bytes are there. */
static air_status want(reader *r, uint64_t count, uint64_t each, const char *what)
{
    uint64_t size, end;
    int fits = air_mul_u64(count, each, &size) && air_add_u64(r->pos, size, &end);
    if (fits && end <= r->bytes) return AIR_OK;
    if (!fits || end > r->file_bytes) {
        char times[32] = "";
        if (each > 1) (void)snprintf(times, sizeof times, " × %" PRIu64, each);
        return fail(r, AIR_E_FORMAT, "%s: %" PRIu64 "%s bytes at offset %" PRIu64 " go beyond the end of the file at %" PRIu64, what,
                    count, times, r->pos, r->file_bytes);
    }
    if (end > r->limits->header_bytes)
        return fail(r, AIR_E_FORMAT, "%s: the header goes on to byte %" PRIu64 ", more than the %" PRIu64 " allowed", what, end,
                    r->limits->header_bytes);
    if (r->need) *r->need = end;
    return fail(r, AIR_E_IO, "%s: the header is cut off at byte %" PRIu64 " and needs %" PRIu64 " or more", what, r->bytes, end);
}

static air_status read_bytes(reader *r, void *out, uint64_t bytes, const char *what)
{
    air_status st = want(r, bytes, 1, what);
    if (st) return st;
    memcpy(out, r->data + r->pos, (size_t)bytes);
    r->pos += bytes;
    return AIR_OK;
}

static air_status read_u32(reader *r, uint32_t *out, const char *what) { return read_bytes(r, out, sizeof *out, what); }
static air_status read_u64(reader *r, uint64_t *out, const char *what) { return read_bytes(r, out, sizeof *out, what); }

/* The string as it lies in the input, not yet kept: lengths are checked first, and memory taken for what passed. */
static air_status read_string(reader *r, uint64_t max, const char *what, air_string *out)
{
    uint64_t bytes;
    air_status st = read_u64(r, &bytes, what);
    if (st) return st;
    if (bytes > max)
        return fail(r, AIR_E_FORMAT, "%s of %" PRIu64 " bytes, more than the %" PRIu64 " allowed", what, bytes, max);
    st = want(r, bytes, 1, what);
    if (st) return st;
    *out = (air_string){(const char *)r->data + r->pos, bytes};
    r->pos += bytes;
    return AIR_OK;
}

static air_status keep_string(reader *r, air_string in, air_string *out)
{
    out->data = air_arena_copy(&r->gguf->arena, in.data, (size_t)in.bytes);
    if (!out->data) return no_memory(r);
    out->bytes = in.bytes;
    return AIR_OK;
}

/* ---- values ---------------------------------------------------------------------------------------------------------------- */

static air_status check_bool(const reader *r, uint8_t value)
{
    return value <= 1 ? AIR_OK : fail(r, AIR_E_FORMAT, "a bool is %u, neither 0 nor 1", value);
}

#define READ(type, member) \
    do { type x; st = read_bytes(r, &x, sizeof x, "value"); if (!st) v->as.member = x; } while (0)

static air_status read_scalar(reader *r, air_gguf_value *v)
{
    air_status st = AIR_OK;
    switch (v->type) {
    case AIR_GGUF_U8: READ(uint8_t, u); break;
    case AIR_GGUF_I8: READ(int8_t, i); break;
    case AIR_GGUF_U16: READ(uint16_t, u); break;
    case AIR_GGUF_I16: READ(int16_t, i); break;
    case AIR_GGUF_U32: READ(uint32_t, u); break;
    case AIR_GGUF_I32: READ(int32_t, i); break;
    case AIR_GGUF_U64: READ(uint64_t, u); break;
    case AIR_GGUF_I64: READ(int64_t, i); break;
    case AIR_GGUF_F32: READ(float, f); break;
    case AIR_GGUF_F64: READ(double, f); break;
    default: /* BOOL: read_value has dealt with the others */
        READ(uint8_t, u);
        if (!st) st = check_bool(r, (uint8_t)v->as.u);
    }
    return st;
}

static air_status read_packed(reader *r, air_gguf_value *v)
{
    uint64_t each = air__gguf_type_bytes(v->element);
    air_status st = want(r, v->count, each, "array");
    if (st) return st;
    uint8_t *items = air_arena_alloc(&r->gguf->arena, (size_t)v->count, (size_t)each);
    if (!items) return no_memory(r);
    memcpy(items, r->data + r->pos, (size_t)(v->count * each));
    r->pos += v->count * each;
    v->as.items = items;
    if (v->element != AIR_GGUF_BOOL) return AIR_OK;
    for (r->item = 0; r->item < v->count; r->item++) {
        st = check_bool(r, items[r->item]);
        if (st) return st;
    }
    r->item = NO_ITEM;
    return AIR_OK;
}

/* Walks the strings twice: to check and measure them, then to copy them into one block. A vocabulary is two allocations. */
static air_status read_strings(reader *r, air_gguf_value *v)
{
    air_status st = want(r, v->count, MIN_STRING_BYTES, "array of strings");
    if (st) return st;
    uint64_t start = r->pos;
    air_string s = {0};
    for (r->item = 0; r->item < v->count; r->item++) {
        st = read_string(r, r->limits->string_bytes, "string", &s);
        if (st) return st;
    }
    r->item = NO_ITEM;
    uint64_t total = r->pos - start - v->count * (MIN_STRING_BYTES - 1); /* the bytes and one NUL for each */
    air_string *items = air_arena_alloc(&r->gguf->arena, (size_t)v->count, sizeof *items);
    char *text = air_arena_alloc(&r->gguf->arena, 1, (size_t)total);
    if (!items || !text) return no_memory(r);
    const uint8_t *in = r->data + start;
    for (uint64_t i = 0; i < v->count; i++) {
        uint64_t bytes;
        memcpy(&bytes, in, sizeof bytes);
        memcpy(text, in + sizeof bytes, (size_t)bytes);
        items[i] = (air_string){text, bytes};
        text += bytes + 1; /* the arena's memory is zero: the NUL is there */
        in += sizeof bytes + bytes;
    }
    v->as.items = items;
    return AIR_OK;
}

static air_status read_array(reader *r, uint64_t depth, air_gguf_value *v);

static air_status read_arrays(reader *r, uint64_t depth, air_gguf_value *v)
{
    air_status st = want(r, v->count, MIN_ARRAY_BYTES, "array of arrays");
    if (st) return st;
    air_gguf_value *items = air_arena_alloc(&r->gguf->arena, (size_t)v->count, sizeof *items);
    if (!items) return no_memory(r);
    v->as.items = items;
    for (uint64_t i = 0; i < v->count; i++) {
        st = read_array(r, depth + 1, &items[i]);
        if (st) return st;
    }
    return AIR_OK;
}

static air_status read_array(reader *r, uint64_t depth, air_gguf_value *v)
{
    uint32_t element;
    v->type = AIR_GGUF_ARRAY;
    if (depth > r->limits->depth)
        return fail(r, AIR_E_FORMAT, "arrays nested %" PRIu64 " deep, more than the %" PRIu64 " allowed", depth, r->limits->depth);
    air_status st = read_u32(r, &element, "array");
    if (!st) st = read_u64(r, &v->count, "array");
    if (st) return st;
    if (!air_gguf_type_name(element)) return fail(r, AIR_E_FORMAT, "an array's element type is %" PRIu32 ", which is none", element);
    if (v->count > r->limits->array_items)
        return fail(r, AIR_E_FORMAT, "an array of %" PRIu64 " items, more than the %" PRIu64 " allowed", v->count,
                    r->limits->array_items);
    v->element = (air_gguf_type)element;
    if (element == AIR_GGUF_STRING) return read_strings(r, v);
    if (element == AIR_GGUF_ARRAY) return read_arrays(r, depth, v);
    return read_packed(r, v);
}

static air_status read_value(reader *r, air_gguf_value *v)
{
    uint32_t type;
    air_string s = {0};
    air_status st = read_u32(r, &type, "value type");
    if (st) return st;
    if (!air_gguf_type_name(type)) return fail(r, AIR_E_FORMAT, "the value's type is %" PRIu32 ", which is none", type);
    if (type == AIR_GGUF_ARRAY) return read_array(r, 1, v);
    v->type = v->element = (air_gguf_type)type;
    v->count = 1;
    if (type != AIR_GGUF_STRING) return read_scalar(r, v);
    st = read_string(r, r->limits->string_bytes, "string", &s);
    return st ? st : keep_string(r, s, &v->as.string);
}

/* ---- entries --------------------------------------------------------------------------------------------------------------- */

/* The name of the key or tensor that r->number says, into a fresh element of the array. */
static air_status read_name(reader *r, uint64_t max, air_string *out)
{
    r->name = (air_string){0};
    air_string s = {0};
    air_status st = read_string(r, max, "name", &s);
    if (st) return st;
    if (!s.bytes) return fail(r, AIR_E_FORMAT, "its name is empty");
    r->name = s;
    return keep_string(r, s, out);
}

static air_status add_name(reader *r, air__name_index *index)
{
    uint64_t other = air__name_index_add(index, r->number);
    if (other == AIR__NOT_FOUND) return AIR_OK;
    return fail(r, AIR_E_FORMAT, "is there twice, as number %" PRIu64 " and %" PRIu64, other, r->number);
}

/* The array is made at its full length before its entries are read, because the index points into it. */
static air_status read_entries(reader *r)
{
    air_gguf *g = r->gguf;
    air_status st = want(r, g->n_entries, MIN_ENTRY_BYTES, "metadata");
    if (st) return st;
    g->entries = air_arena_alloc(&g->arena, (size_t)g->n_entries, sizeof *g->entries);
    if (!g->entries || !air__name_index_init(&g->entry_index, &g->arena, g->n_entries, g->entries, sizeof *g->entries))
        return no_memory(r);
    r->kind = "key";
    for (r->number = 0; r->number < g->n_entries; r->number++) {
        air_gguf_entry *entry = &g->entries[r->number];
        st = read_name(r, MAX_KEY_BYTES, &entry->key);
        if (!st) st = add_name(r, &g->entry_index);
        if (!st) st = read_value(r, &entry->value);
        if (st) return st;
    }
    r->kind = NULL;
    return AIR_OK;
}

static air_status read_alignment(reader *r)
{
    const air_gguf_value *value = air_gguf_find(r->gguf, "general.alignment");
    r->gguf->alignment = DEFAULT_ALIGNMENT;
    if (!value) return AIR_OK;
    if (value->type != AIR_GGUF_U32)
        return fail(r, AIR_E_FORMAT, "general.alignment is of type %s, not u32", air_gguf_type_name(value->type));
    uint64_t a = value->as.u;
    if (a < MIN_ALIGNMENT || a > MAX_ALIGNMENT || (a & (a - 1)))
        return fail(r, AIR_E_FORMAT, "general.alignment is %" PRIu64 ", not a power of two from %d to %d", a, MIN_ALIGNMENT,
                    MAX_ALIGNMENT);
    r->gguf->alignment = a;
    return AIR_OK;
}

/* ---- tensors --------------------------------------------------------------------------------------------------------------- */

static air_status read_shape(reader *r, air_tensor *t)
{
    air_status st = read_u32(r, &t->n_dims, "shape");
    if (st) return st;
    if (t->n_dims < 1 || t->n_dims > AIR_MAX_DIMS)
        return fail(r, AIR_E_FORMAT, "has %" PRIu32 " dimensions, not 1 to %d", t->n_dims, AIR_MAX_DIMS);
    for (uint32_t i = 0; i < AIR_MAX_DIMS; i++) {
        t->shape[i] = 1;
        if (i >= t->n_dims) continue;
        st = read_u64(r, &t->shape[i], "shape");
        if (st) return st;
        if (!t->shape[i]) return fail(r, AIR_E_FORMAT, "dimension %" PRIu32 " is 0", i);
    }
    return AIR_OK;
}

/* Sets t->bytes. Elements are kept below 2^63, as ggml does, so that no user of a shape needs to think of overflow again. */
static air_status size_tensor(const reader *r, air_tensor *t)
{
    const air_format *format = air_format_by_id(t->type);
    if (!format) return fail(r, AIR_E_UNSUPPORTED, "its type is %" PRIu32 ", which is unknown", t->type);
    if (t->shape[0] % format->block)
        return fail(r, AIR_E_FORMAT, "has rows of %" PRIu64 " elements, not a multiple of %s's block of %" PRIu32, t->shape[0],
                    format->name, format->block);
    uint64_t elements = t->shape[0];
    for (int i = 1; i < AIR_MAX_DIMS; i++)
        if (!air_mul_u64(elements, t->shape[i], &elements)) elements = UINT64_MAX;
    if (elements > INT64_MAX || !air_mul_u64(elements / format->block, format->bytes, &t->bytes))
        return fail(r, AIR_E_FORMAT, "its shape [%" PRIu64 ", %" PRIu64 ", %" PRIu64 ", %" PRIu64 "] overflows 64 bits", t->shape[0],
                    t->shape[1], t->shape[2], t->shape[3]);
    return AIR_OK;
}

static air_status read_tensors(reader *r)
{
    air_gguf *g = r->gguf;
    air_status st = want(r, g->n_tensors, MIN_TENSOR_BYTES, "tensors");
    if (st) return st;
    g->tensors = air_arena_alloc(&g->arena, (size_t)g->n_tensors, sizeof *g->tensors);
    if (!g->tensors || !air__name_index_init(&g->tensor_index, &g->arena, g->n_tensors, g->tensors, sizeof *g->tensors))
        return no_memory(r);
    r->kind = "tensor";
    for (r->number = 0; r->number < g->n_tensors; r->number++) {
        air_tensor *t = &g->tensors[r->number];
        st = read_name(r, MAX_NAME_BYTES, &t->name);
        if (!st) st = add_name(r, &g->tensor_index);
        if (!st) st = read_shape(r, t);
        if (!st) st = read_u32(r, &t->type, "type");
        if (!st) st = read_u64(r, &t->offset, "offset");
        if (!st) st = size_tensor(r, t);
        if (st) return st;
    }
    return AIR_OK;
}

/* Turns offsets into absolute ones and checks that each tensor lies in the file, aligned. */
static air_status place_tensors(reader *r)
{
    air_gguf *g = r->gguf;
    uint64_t data;
    if (!air_align_u64(r->pos, g->alignment, &data)) data = UINT64_MAX; /* pos is below header_bytes in fact */
    for (r->number = 0; r->number < g->n_tensors; r->number++) {
        air_tensor *t = &g->tensors[r->number];
        r->name = t->name;
        if (t->offset & (g->alignment - 1))
            return fail(r, AIR_E_FORMAT, "its offset %" PRIu64 " is not a multiple of the alignment %" PRIu64, t->offset, g->alignment);
        uint64_t start, end;
        if (!air_add_u64(data, t->offset, &start) || !air_add_u64(start, t->bytes, &end) || end > r->file_bytes)
            return fail(r, AIR_E_FORMAT, "its %" PRIu64 " bytes at %" PRIu64 " + %" PRIu64 " go beyond the end of the file at %" PRIu64,
                        t->bytes, data, t->offset, r->file_bytes);
        t->offset = start;
    }
    return AIR_OK;
}

/* ---- overlaps -------------------------------------------------------------------------------------------------------------- */

static void sift_down(const air_tensor *tensors, uint32_t *heap, uint64_t root, uint64_t count)
{
    for (uint64_t child; (child = 2 * root + 1) < count; root = child) {
        if (child + 1 < count && tensors[heap[child]].offset < tensors[heap[child + 1]].offset) child++;
        if (tensors[heap[root]].offset >= tensors[heap[child]].offset) return;
        uint32_t swap = heap[root];
        heap[root] = heap[child];
        heap[child] = swap;
    }
}

/* Sorts numbers of tensors by offset. A heap sort of our own, because the library's may allocate and may be quadratic. */
static void sort_by_offset(const air_tensor *tensors, uint32_t *order, uint64_t count)
{
    for (uint64_t i = count / 2; i-- > 0;) sift_down(tensors, order, i, count);
    for (uint64_t left = count; left-- > 1;) {
        uint32_t swap = order[0];
        order[0] = order[left];
        order[left] = swap;
        sift_down(tensors, order, 0, left);
    }
}

static air_status check_overlaps(reader *r)
{
    const air_gguf *g = r->gguf;
    uint32_t *order = air_malloc((size_t)g->n_tensors * sizeof *order);
    if (!order) return no_memory(r);
    int sorted = 1;
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        order[i] = (uint32_t)i;
        if (i && g->tensors[i].offset < g->tensors[i - 1].offset) sorted = 0;
    }
    if (!sorted) sort_by_offset(g->tensors, order, g->n_tensors);
    air_status st = AIR_OK;
    for (uint64_t i = 1; i < g->n_tensors && !st; i++) {
        const air_tensor *a = &g->tensors[order[i - 1]], *b = &g->tensors[order[i]];
        if (b->offset >= a->offset + a->bytes) continue;
        char other[AIR__QUOTED];
        r->name = b->name;
        st = fail(r, AIR_E_FORMAT, "starts at %" PRIu64 ", inside tensor %s, which goes from %" PRIu64 " to %" PRIu64, b->offset,
                  air__quote(other, a->name), a->offset, a->offset + a->bytes);
    }
    air_free(order);
    return st;
}

/* ---- the whole ------------------------------------------------------------------------------------------------------------- */

static air_status read_start(reader *r)
{
    unsigned char magic[4];
    uint32_t version;
    air_gguf *g = r->gguf;
    if (!r->file_bytes) return fail(r, AIR_E_FORMAT, "not a GGUF file: it is empty");
    air_status st = read_bytes(r, magic, sizeof magic, "magic");
    if (st) return st;
    if (memcmp(magic, "GGUF", 4) != 0)
        return fail(r, AIR_E_FORMAT, "not a GGUF file: it begins with %02x %02x %02x %02x, not with \"GGUF\"", magic[0],
                    magic[1], magic[2], magic[3]);
    st = read_u32(r, &version, "version");
    if (st) return st;
    if (version && !(version & 0xffff)) return fail(r, AIR_E_UNSUPPORTED, "a big-endian GGUF file; only little-endian ones are read");
    if (version != 2 && version != 3) return fail(r, AIR_E_UNSUPPORTED, "GGUF version %" PRIu32 "; versions 2 and 3 are read", version);
    g->version = version;
    st = read_u64(r, &g->n_tensors, "tensor count");
    if (!st) st = read_u64(r, &g->n_entries, "key count");
    if (st) return st;
    if (g->n_tensors > r->limits->tensors)
        return fail(r, AIR_E_FORMAT, "%" PRIu64 " tensors, more than the %" PRIu64 " allowed", g->n_tensors, r->limits->tensors);
    if (g->n_entries > r->limits->entries)
        return fail(r, AIR_E_FORMAT, "%" PRIu64 " metadata keys, more than the %" PRIu64 " allowed", g->n_entries, r->limits->entries);
    return AIR_OK;
}

air_status air_gguf_parse(air_gguf **out, const uint8_t *data, size_t bytes, uint64_t file_bytes, const air_gguf_limits *limits,
                          uint64_t *need, air_error *err)
{
    *out = NULL;
    if (!limits) limits = &air_gguf_default_limits;
    air_gguf *g = air_calloc(1, sizeof *g);
    if (!g) return air_fail(err, AIR_E_NOMEM, "no memory for the header's directory");
    reader r = {.data = data, .bytes = air_min_u64(air_min_u64(bytes, file_bytes), limits->header_bytes), .file_bytes = file_bytes,
                .limits = limits, .need = need, .gguf = g, .err = err, .item = NO_ITEM};
    air_status st = read_start(&r);
    if (!st) st = read_entries(&r);
    if (!st) st = read_alignment(&r);
    if (!st) st = read_tensors(&r);
    if (!st) st = place_tensors(&r);
    if (!st) st = check_overlaps(&r);
    if (st) {
        air_gguf_free(g);
        return st;
    }
    *out = g;
    return AIR_OK;
}

void air_gguf_free(air_gguf *gguf)
{
    if (!gguf) return;
    air_arena_deinit(&gguf->arena);
    air_free(gguf);
}
