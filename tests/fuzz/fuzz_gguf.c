/* libFuzzer target: any bytes are parsed or refused, and what is parsed holds what the contract says.
 *
 * Each input is parsed as a whole file, as the start of a larger one (so that tensors need no data in the corpus), and cut off. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "gguf/gguf.h"
#include "quant/format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

#define EXPECT(cond) do { if (!(cond)) { fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond); abort(); } } while (0)

static volatile uint64_t sink; /* so that what is read is read */

static void touch(const void *data, uint64_t bytes)
{
    const uint8_t *p = data;
    uint64_t sum = 0;
    for (uint64_t i = 0; i < bytes; i++) sum += p[i];
    sink += sum;
}

static void touch_string(const air_string *s)
{
    touch(s->data, s->bytes);
    EXPECT(s->data[s->bytes] == 0);
}

static void touch_value(const air_gguf_value *v)
{
    static const uint8_t sizes[AIR_GGUF_TYPE_COUNT] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    EXPECT((unsigned)v->type < AIR_GGUF_TYPE_COUNT && (unsigned)v->element < AIR_GGUF_TYPE_COUNT);
    if (v->type == AIR_GGUF_STRING) touch_string(&v->as.string);
    if (v->type != AIR_GGUF_ARRAY) return;
    EXPECT(v->as.items && v->count <= air_gguf_default_limits.array_items);
    touch(v->as.items, v->count * sizes[v->element]);
    for (uint64_t i = 0; i < v->count; i++) {
        if (v->element == AIR_GGUF_STRING) touch_string((const air_string *)v->as.items + i);
        if (v->element == AIR_GGUF_ARRAY) touch_value((const air_gguf_value *)v->as.items + i);
        if (v->element == AIR_GGUF_BOOL) EXPECT(((const uint8_t *)v->as.items)[i] <= 1);
    }
}

/* Each look-up either gives a value in range or an error, never both. */
static void look_up(const air_gguf *gguf, const char *key)
{
    uint64_t u = 50;
    double f = 0.5;
    air_string s = {0};
    EXPECT(!air_gguf_get_u64(gguf, key, 1, 100, &u, NULL) || u == 50);
    EXPECT(u >= 1 && u <= 100);
    EXPECT(!air_gguf_get_f64(gguf, key, -1, 1, &f, NULL) || f == 0.5);
    EXPECT(f >= -1 && f <= 1);
    if (!air_gguf_get_string(gguf, key, &s, NULL) && s.data) touch_string(&s);
}

static void touch_entries(const air_gguf *gguf)
{
    for (uint64_t i = 0; i < air_gguf_entry_count(gguf); i++) {
        const air_gguf_entry *e = air_gguf_entry_at(gguf, i);
        EXPECT(e->key.bytes > 0);
        touch_string(&e->key);
        touch_value(&e->value);
        look_up(gguf, e->key.data);
        if (strlen(e->key.data) == e->key.bytes) EXPECT(air_gguf_find(gguf, e->key.data) == &e->value);
    }
}

/* Returns where the first tensor's data starts; the file's end without any. */
static uint64_t touch_tensors(const air_gguf *gguf, uint64_t file_bytes)
{
    uint64_t count = air_gguf_tensor_count(gguf), first = file_bytes;
    for (uint64_t i = 0; i < count; i++) {
        const air_tensor *t = air_gguf_tensor_at(gguf, i);
        const air_format *format = air_format_by_id(t->type);
        touch_string(&t->name);
        EXPECT(t->name.bytes > 0 && t->n_dims >= 1 && t->n_dims <= AIR_MAX_DIMS && format && t->bytes > 0);
        EXPECT(t->shape[0] % format->block == 0 && t->offset % air_gguf_alignment(gguf) == 0);
        EXPECT(t->bytes <= file_bytes && t->offset <= file_bytes - t->bytes);
        if (t->offset < first) first = t->offset;
        if (strlen(t->name.data) == t->name.bytes) EXPECT(air_gguf_tensor(gguf, t->name.data) == t);
        for (uint64_t j = 0; j < i && j < 64; j++) {
            const air_tensor *u = air_gguf_tensor_at(gguf, j);
            EXPECT(t->offset >= u->offset + u->bytes || u->offset >= t->offset + t->bytes);
        }
    }
    return first;
}

/* No tensor starts inside the header: without the data the header is still there whole. */
static void parse_without_data(const uint8_t *data, uint64_t first, uint64_t file_bytes)
{
    air_gguf *gguf;
    uint64_t need = 0;
    EXPECT(!air_gguf_parse(&gguf, data, (size_t)first, file_bytes, NULL, &need, NULL));
    air_gguf_free(gguf);
}

static air_status parse_and_touch(const uint8_t *data, size_t bytes, uint64_t file_bytes)
{
    uint8_t *copy = malloc(bytes ? bytes : 1); /* of the exact size, so that the sanitizer sees a byte too many */
    if (!copy) abort();
    if (bytes) memcpy(copy, data, bytes);
    air_gguf *gguf;
    air_error err = {0};
    uint64_t need = 0, first = file_bytes;
    int64_t live = air_alloc_live();
    air_status st = air_gguf_parse(&gguf, copy, bytes, file_bytes, NULL, &need, &err);
    free(copy); /* the directory must not refer to it */
    if (st) {
        EXPECT(!gguf && err.status == st && err.text[0]);
        EXPECT(st == AIR_E_FORMAT || st == AIR_E_UNSUPPORTED || (st == AIR_E_IO && need > bytes && need <= file_bytes));
    } else {
        touch_entries(gguf);
        first = touch_tensors(gguf, file_bytes);
    }
    air_gguf_free(gguf);
    if (first < bytes) parse_without_data(data, first, file_bytes);
    EXPECT(air_alloc_live() == live);
    return st;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    const uint64_t room = UINT64_C(1) << 40; /* a file far larger than the input */
    EXPECT(parse_and_touch(data, bytes, bytes) != AIR_E_IO);
    air_status whole = parse_and_touch(data, bytes, room);
    air_status cut = parse_and_touch(data, bytes - bytes / 3, room);
    EXPECT(cut == AIR_E_IO || cut == whole); /* fewer bytes never give another answer */
    return 0;
}
