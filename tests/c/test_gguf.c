/* Reading GGUF headers. argv[1] selects tests; argv[2], or AIRPY_MALFORMED, is a folder written by tests/golden/make_malformed.py,
 * whose table is then run too. */
#define _GNU_SOURCE
#include <dirent.h>
#include <inttypes.h>
#include <math.h>
#include <regex.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "check.h"
#include "gguf/directory.h"
#include "gguf/open.h"
#include "platform/clock.h"
#include "quant/format.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SLOWER 10
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SLOWER 10
#endif
#endif
#ifndef SLOWER
#define SLOWER 1 /* how much more time the time limits below give */
#endif

static char folder[256]; /* for files of this run */
static const char *malformed;

/* ---- a small writer of headers --------------------------------------------------------------------------------------------- */

typedef struct bytes {
    uint8_t *data;
    size_t count, room;
} bytes;

static void put(bytes *b, const void *data, size_t count)
{
    if (b->count + count > b->room) {
        b->room = 2 * (b->count + count) + 4096;
        b->data = realloc(b->data, b->room);
        if (!b->data) abort();
    }
    if (data) memcpy(b->data + b->count, data, count);
    else memset(b->data + b->count, 0, count);
    b->count += count;
}

static void put_u8(bytes *b, uint8_t x) { put(b, &x, 1); }
static void put_u32(bytes *b, uint32_t x) { put(b, &x, 4); }
static void put_u64(bytes *b, uint64_t x) { put(b, &x, 8); }
static void put_f32(bytes *b, float x) { put(b, &x, 4); }
static void put_f64(bytes *b, double x) { put(b, &x, 8); }

static void put_string(bytes *b, const char *text)
{
    put_u64(b, strlen(text));
    put(b, text, strlen(text));
}

static void put_start(bytes *b, uint32_t version, uint64_t tensors, uint64_t entries)
{
    put(b, "GGUF", 4);
    put_u32(b, version);
    put_u64(b, tensors);
    put_u64(b, entries);
}

static void put_key(bytes *b, const char *key, uint32_t type)
{
    put_string(b, key);
    put_u32(b, type);
}

static void put_array(bytes *b, uint32_t element, uint64_t count)
{
    put_u32(b, element);
    put_u64(b, count);
}

static void put_tensor(bytes *b, const char *name, uint64_t columns, uint64_t rows, uint32_t type, uint64_t offset)
{
    put_string(b, name);
    put_u32(b, 2);
    put_u64(b, columns);
    put_u64(b, rows);
    put_u32(b, type);
    put_u64(b, offset);
}

static void pad(bytes *b, size_t alignment)
{
    while (b->count % alignment) put_u8(b, 0);
}

static void release(bytes *b)
{
    free(b->data);
    *b = (bytes){0};
}

/* Parses an exact-size copy, so that a sanitizer sees every byte read too many. The copy is gone when the caller looks. */
static air_status parse(air_gguf **out, const bytes *b, uint64_t file_bytes, const air_gguf_limits *limits, uint64_t *need, air_error *err)
{
    uint8_t *copy = malloc(b->count ? b->count : 1);
    if (!copy) abort();
    if (b->count) memcpy(copy, b->data, b->count);
    err->text[0] = 0;
    air_status st = air_gguf_parse(out, copy, b->count, file_bytes, limits, need, err);
    memset(copy, 0xee, b->count);
    free(copy);
    if (st) CHECK(!*out && err->status == st && err->text[0]);
    return st;
}

static air_gguf *parse_whole(const bytes *b)
{
    air_gguf *gguf;
    air_error err;
    uint64_t need = 0;
    air_status st = parse(&gguf, b, b->count, NULL, &need, &err);
    if (st) printf("  %s\n", err.text);
    CHECK_EQ(st, AIR_OK);
    return gguf;
}

static const char *path_of(const char *name)
{
    static char paths[4][512];
    static int next;
    char *path = paths[next++ % 4];
    (void)snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static void write_file(const char *name, const bytes *b)
{
    FILE *f = fopen(path_of(name), "wb");
    CHECK(f && fwrite(b->data, 1, b->count, f) == b->count && fclose(f) == 0);
}

/* ---- metadata -------------------------------------------------------------------------------------------------------------- */

static void put_every_type(bytes *b)
{
    put_start(b, 3, 1, 16);
    put_key(b, "u8", AIR_GGUF_U8); put(b, &(uint8_t){200}, 1);
    put_key(b, "i8", AIR_GGUF_I8); put(b, &(int8_t){-100}, 1);
    put_key(b, "u16", AIR_GGUF_U16); put(b, &(uint16_t){60000}, 2);
    put_key(b, "i16", AIR_GGUF_I16); put(b, &(int16_t){-30000}, 2);
    put_key(b, "u32", AIR_GGUF_U32); put(b, &(uint32_t){4000000000}, 4);
    put_key(b, "i32", AIR_GGUF_I32); put(b, &(int32_t){-2000000000}, 4);
    put_key(b, "u64", AIR_GGUF_U64); put_u64(b, UINT64_MAX);
    put_key(b, "i64", AIR_GGUF_I64); put(b, &(int64_t){INT64_MIN}, 8);
    put_key(b, "f32", AIR_GGUF_F32); put_f32(b, 0.1f);
    put_key(b, "f64", AIR_GGUF_F64); put_f64(b, 0.1);
    put_key(b, "bool", AIR_GGUF_BOOL); put_u8(b, 1);
    put_key(b, "string", AIR_GGUF_STRING); put_u64(b, 3); put(b, "a\0\xff", 3);
    put_key(b, "nan", AIR_GGUF_F32); put_f32(b, NAN);
    put_key(b, "infinity", AIR_GGUF_F64); put_f64(b, -INFINITY);
    put_key(b, "empty", AIR_GGUF_STRING); put_string(b, "");
    put_key(b, "nested", AIR_GGUF_ARRAY); put_array(b, AIR_GGUF_ARRAY, 2);
    put_array(b, AIR_GGUF_ARRAY, 1); put_array(b, AIR_GGUF_U16, 3); put(b, (uint16_t[]){1, 2, 3}, 6);
    put_array(b, AIR_GGUF_STRING, 2); put_string(b, "x"); put_string(b, "yz");
    put_tensor(b, "t", 4, 1, AIR_TYPE_F32, 0);
    pad(b, 32);
    put(b, NULL, 16);
}

TEST(every_metadata_type_is_read)
{
    bytes b = {0};
    put_every_type(&b);
    air_gguf *g = parse_whole(&b);
    REQUIRE(g);
    CHECK_EQ(air_gguf_find(g, "u8")->as.u, 200);
    CHECK_EQ(air_gguf_find(g, "i8")->as.i, -100);
    CHECK_EQ(air_gguf_find(g, "u16")->as.u, 60000);
    CHECK_EQ(air_gguf_find(g, "i16")->as.i, -30000);
    CHECK_EQ(air_gguf_find(g, "u32")->as.u, 4000000000);
    CHECK_EQ(air_gguf_find(g, "i32")->as.i, -2000000000);
    CHECK(air_gguf_find(g, "u64")->as.u == UINT64_MAX);
    CHECK(air_gguf_find(g, "i64")->as.i == INT64_MIN);
    CHECK(air_gguf_find(g, "f32")->as.f == (double)0.1f);
    CHECK(air_gguf_find(g, "f64")->as.f == 0.1);
    CHECK_EQ(air_gguf_find(g, "bool")->as.u, 1);
    CHECK(isnan(air_gguf_find(g, "nan")->as.f));
    CHECK(air_gguf_find(g, "infinity")->as.f == -INFINITY);
    const air_gguf_value *s = air_gguf_find(g, "string");
    CHECK_EQ(s->as.string.bytes, 3);
    CHECK(memcmp(s->as.string.data, "a\0\xff", 4) == 0); /* and a NUL behind it */
    CHECK_STR_EQ(air_gguf_find(g, "empty")->as.string.data, "");
    for (uint64_t i = 0; i < air_gguf_entry_count(g); i++) {
        const air_gguf_entry *e = air_gguf_entry_at(g, i);
        CHECK(air_gguf_find(g, e->key.data) == &e->value);
        CHECK(e->value.type == AIR_GGUF_ARRAY || (e->value.count == 1 && e->value.element == e->value.type));
    }
    CHECK(!air_gguf_entry_at(g, air_gguf_entry_count(g)));
    air_gguf_free(g);
    release(&b);
}

TEST(nested_arrays_keep_their_shape)
{
    bytes b = {0};
    put_every_type(&b);
    air_gguf *g = parse_whole(&b);
    REQUIRE(g);
    const air_gguf_value *v = air_gguf_find(g, "nested");
    REQUIRE(v && v->type == AIR_GGUF_ARRAY && v->element == AIR_GGUF_ARRAY && v->count == 2);
    const air_gguf_value *items = v->as.items;
    REQUIRE(items[0].type == AIR_GGUF_ARRAY && items[0].element == AIR_GGUF_ARRAY && items[0].count == 1);
    const air_gguf_value *inner = items[0].as.items;
    CHECK(inner->element == AIR_GGUF_U16 && inner->count == 3);
    CHECK_EQ(((const uint16_t *)inner->as.items)[2], 3);
    REQUIRE(items[1].element == AIR_GGUF_STRING && items[1].count == 2);
    CHECK_STR_EQ(((const air_string *)items[1].as.items)[1].data, "yz");
    air_gguf_free(g);
    release(&b);
}

TEST(arrays_of_every_type_are_packed_and_aligned)
{
    bytes b = {0};
    put_start(&b, 3, 0, AIR_GGUF_TYPE_COUNT * 2);
    for (uint32_t t = 0; t < AIR_GGUF_TYPE_COUNT; t++) {
        for (uint64_t count = 0; count < 10; count += 9) {
            char key[32];
            (void)snprintf(key, sizeof key, "%s.%d", air__gguf_type_name(t), (int)count);
            put_key(&b, key, AIR_GGUF_ARRAY);
            put_array(&b, t, count);
            for (uint64_t i = 0; i < count; i++) {
                if (t == AIR_GGUF_STRING) put_string(&b, key + i % 3);
                else if (t == AIR_GGUF_ARRAY) put_array(&b, AIR_GGUF_F64, 0);
                else if (t == AIR_GGUF_BOOL) put_u8(&b, i & 1);
                else put(&b, &(uint64_t){i * 5}, air__gguf_type_bytes(t));
            }
        }
    }
    air_gguf *g = parse_whole(&b);
    REQUIRE(g);
    for (uint32_t t = 0; t < AIR_GGUF_TYPE_COUNT; t++) {
        char key[32];
        (void)snprintf(key, sizeof key, "%s.9", air__gguf_type_name(t));
        const air_gguf_value *v = air_gguf_find(g, key);
        REQUIRE(v && v->type == AIR_GGUF_ARRAY && (uint32_t)v->element == t && v->count == 9);
        CHECK_EQ((uintptr_t)v->as.items % 16, 0);
        const uint8_t *p = v->as.items;
        for (uint64_t i = 0; i < 9; i++) {
            if (t == AIR_GGUF_STRING) CHECK_STR_EQ(((const air_string *)v->as.items)[i].data, key + i % 3);
            else if (t == AIR_GGUF_ARRAY) CHECK_EQ(((const air_gguf_value *)v->as.items)[i].element, AIR_GGUF_F64);
            else if (t == AIR_GGUF_BOOL) CHECK_EQ(p[i], i & 1);
            else CHECK(memcmp(p + i * air__gguf_type_bytes(t), &(uint64_t){i * 5}, air__gguf_type_bytes(t)) == 0);
        }
        key[strlen(key) - 1] = '0';
        v = air_gguf_find(g, key);
        CHECK(v && v->count == 0 && v->as.items);
    }
    air_gguf_free(g);
    release(&b);
}

TEST(version_2_reads_like_version_3)
{
    bytes b = {0};
    put_every_type(&b);
    b.data[4] = 2;
    air_gguf *g = parse_whole(&b);
    REQUIRE(g);
    CHECK_EQ(air_gguf_version(g), 2);
    CHECK_EQ(air_gguf_entry_count(g), 16);
    air_gguf_free(g);
    release(&b);
}

/* ---- typed look-ups -------------------------------------------------------------------------------------------------------- */

static void expect_u64(const air_gguf *g, const char *key, uint64_t min, uint64_t max, air_status want, const char *message)
{
    air_error err = {0};
    uint64_t x = 77;
    CHECK_EQ(air_gguf_get_u64(g, key, min, max, &x, &err), want);
    if (want) CHECK_EQ(x, 77);
    if (want) CHECK_STR_EQ(err.text, message);
}

static void expect_f64(const air_gguf *g, const char *key, double min, double max, air_status want, const char *message)
{
    air_error err = {0};
    double x = 77;
    CHECK_EQ(air_gguf_get_f64(g, key, min, max, &x, &err), want);
    if (want) CHECK(x == 77);
    if (want) CHECK_STR_EQ(err.text, message);
}

TEST(look_ups_check_type_and_range_and_name_the_key)
{
    bytes b = {0};
    put_every_type(&b);
    air_gguf *g = parse_whole(&b);
    REQUIRE(g);
    expect_u64(g, "u8", 200, 200, AIR_OK, NULL);
    expect_u64(g, "u64", 0, UINT64_MAX, AIR_OK, NULL);
    expect_u64(g, "u8", 0, 199, AIR_E_FORMAT, "u8 is 200, outside of 0 to 199");
    expect_u64(g, "u8", 201, 300, AIR_E_FORMAT, "u8 is 200, outside of 201 to 300");
    expect_u64(g, "i8", 0, UINT64_MAX, AIR_E_FORMAT, "i8 is -100, outside of 0 to 18446744073709551615");
    expect_u64(g, "f32", 0, 9, AIR_E_FORMAT, "f32 is a value of type f32, not an integer");
    expect_u64(g, "bool", 0, 9, AIR_E_FORMAT, "bool is a value of type bool, not an integer");
    expect_u64(g, "nested", 0, 9, AIR_E_FORMAT, "nested is an array of 2 × array, not an integer");
    expect_f64(g, "f64", 0.1, 0.1, AIR_OK, NULL);
    expect_f64(g, "f64", 0.2, 1, AIR_E_FORMAT, "f64 is 0.1, outside of 0.2 to 1");
    expect_f64(g, "f64", 0, 0.05, AIR_E_FORMAT, "f64 is 0.1, outside of 0 to 0.05");
    expect_f64(g, "nan", 0, 1, AIR_E_FORMAT, "nan is nan, outside of 0 to 1");
    expect_f64(g, "infinity", -INFINITY, 1, AIR_E_FORMAT, "infinity is -inf, outside of -inf to 1");
    expect_f64(g, "u8", 0, 300, AIR_E_FORMAT, "u8 is a value of type u8, not a floating-point number");

    uint64_t u = 5;
    double f = 6;
    int flag = 7;
    air_string s = {"default", 7};
    air_error err = {0};
    CHECK_EQ(air_gguf_get_u64(g, "absent", 0, 1, &u, &err), AIR_OK);
    CHECK_EQ(air_gguf_get_f64(g, "absent", 0, 1, &f, &err), AIR_OK);
    CHECK_EQ(air_gguf_get_bool(g, "absent", &flag, &err), AIR_OK);
    CHECK_EQ(air_gguf_get_string(g, "absent", &s, &err), AIR_OK);
    CHECK(u == 5 && f == 6 && flag == 7 && s.bytes == 7);
    CHECK_EQ(air_gguf_get_bool(g, "bool", &flag, &err), AIR_OK);
    CHECK_EQ(flag, 1);
    CHECK_EQ(air_gguf_get_string(g, "string", &s, &err), AIR_OK);
    CHECK_EQ(s.bytes, 3);
    CHECK_EQ(air_gguf_get_bool(g, "u8", &flag, &err), AIR_E_FORMAT);
    CHECK_STR_EQ(err.text, "u8 is a value of type u8, not a bool");
    CHECK_EQ(air_gguf_get_string(g, "u8", &s, &err), AIR_E_FORMAT);
    CHECK_STR_EQ(err.text, "u8 is a value of type u8, not a string");
    CHECK_EQ(air_gguf_get_u64(g, "u8", 0, 0, &u, NULL), AIR_E_FORMAT);
    air_gguf_free(g);
    release(&b);
}

TEST(signed_integers_that_fit_are_accepted)
{
    static const uint32_t signed_types[] = {AIR_GGUF_I8, AIR_GGUF_I16, AIR_GGUF_I32, AIR_GGUF_I64};
    for (size_t i = 0; i < AIR_COUNT(signed_types); i++) {
        bytes b = {0};
        put_start(&b, 3, 0, 1);
        put_key(&b, "n", signed_types[i]);
        put(&b, &(int64_t){101}, (size_t)1 << i);
        air_gguf *g = parse_whole(&b);
        REQUIRE(g);
        uint64_t n = 0;
        CHECK_EQ(air_gguf_get_u64(g, "n", 0, 200, &n, NULL), AIR_OK);
        CHECK_EQ(n, 101);
        air_gguf_free(g);
        release(&b);
    }
}

/* ---- tensors --------------------------------------------------------------------------------------------------------------- */

TEST(tensors_of_every_format_are_sized_and_placed)
{
    for (size_t i = 0; i < air_format_count(); i++) {
        const air_format *f = air_format_at(i);
        for (uint64_t alignment = 8; alignment <= 4096; alignment *= 8) {
            bytes b = {0};
            put_start(&b, 3, 2, 1);
            put_key(&b, "general.alignment", AIR_GGUF_U32);
            put_u32(&b, (uint32_t)alignment);
            uint64_t size = 3 * 5 * (uint64_t)f->bytes, second = (size + alignment - 1) / alignment * alignment;
            put_tensor(&b, "first", 3 * (uint64_t)f->block, 5, f->id, 0);
            put_tensor(&b, "second", f->block, 1, f->id, second);
            pad(&b, alignment);
            uint64_t data = b.count;
            put(&b, NULL, second + f->bytes);
            air_gguf *g = parse_whole(&b);
            REQUIRE(g);
            CHECK_EQ(air_gguf_alignment(g), alignment);
            CHECK_EQ(air_gguf_data_offset(g), data);
            const air_tensor *t = air_gguf_tensor(g, "first"), *u = air_gguf_tensor_at(g, 1);
            REQUIRE(t && u && t == air_gguf_tensor_at(g, 0) && !air_gguf_tensor_at(g, 2));
            CHECK(t->type == f->id && t->n_dims == 2 && t->part == 0);
            CHECK(t->shape[0] == 3 * f->block && t->shape[1] == 5 && t->shape[2] == 1 && t->shape[3] == 1);
            CHECK_EQ(t->bytes, size);
            CHECK_EQ(t->offset, data);
            CHECK_EQ(u->offset, data + second);
            CHECK_EQ(u->bytes, f->bytes);
            air_gguf_free(g);
            b.count--; /* the last byte of the last tensor is missing */
            air_error err;
            CHECK_EQ(parse(&g, &b, b.count, NULL, NULL, &err), AIR_E_FORMAT);
            CHECK(strstr(err.text, "tensor \"second\""));
            release(&b);
        }
    }
}

enum { MANY = 5000 };

/* MANY tensors of 32 bytes in a shuffled order; victim >= 0: that one is two slots long and so reaches into its neighbour. */
static void put_shuffled(bytes *b, int victim, uint32_t *slots)
{
    for (uint32_t i = 0; i < MANY; i++) slots[i] = i;
    for (uint32_t i = MANY - 1; i > 0; i--) {
        uint32_t j = (uint32_t)(check_random() % (i + 1)), t = slots[i];
        slots[i] = slots[j];
        slots[j] = t;
    }
    put_start(b, 3, MANY, 0);
    for (int i = 0; i < MANY; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "blk.%d.weight", i);
        put_tensor(b, name, 8, i == victim ? 2 : 1, AIR_TYPE_F32, (uint64_t)slots[i] * 32);
    }
    pad(b, 32);
    put(b, NULL, (MANY + 1) * 32);
}

TEST(many_tensors_in_any_order_are_found)
{
    bytes b = {0};
    uint32_t slots[MANY];
    put_shuffled(&b, -1, slots);
    air_gguf *g = parse_whole(&b);
    REQUIRE(g);
    for (uint32_t i = 0; i < MANY; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "blk.%" PRIu32 ".weight", i);
        const air_tensor *t = air_gguf_tensor(g, name);
        REQUIRE(t && t == air_gguf_tensor_at(g, i));
        CHECK_EQ(t->offset, air_gguf_data_offset(g) + slots[i] * 32);
    }
    CHECK(!air_gguf_tensor(g, "blk.5000.weight") && !air_gguf_tensor(g, "blk.") && !air_gguf_tensor(g, "") && !air_gguf_find(g, "blk.0.weight"));
    air_gguf_free(g);
    release(&b);
}

TEST(one_overlap_among_many_tensors_is_found)
{
    uint32_t slots[MANY];
    for (int round = 0; round < 20; round++) {
        bytes b = {0};
        int victim = (int)(check_random() % MANY);
        put_shuffled(&b, victim, slots);
        air_gguf *g;
        air_error err;
        char name[48];
        (void)snprintf(name, sizeof name, "inside tensor \"blk.%d.weight\"", victim);
        air_status st = parse(&g, &b, b.count, NULL, NULL, &err);
        if (slots[victim] == MANY - 1) CHECK_EQ(st, AIR_OK); /* the last one has no neighbour to reach into */
        else CHECK(st == AIR_E_FORMAT && strstr(err.text, name));
        air_gguf_free(g);
        release(&b);
    }
}

/* ---- cut-off headers, limits, memory --------------------------------------------------------------------------------------- */

TEST(a_header_cut_off_anywhere_asks_for_more_or_is_malformed)
{
    bytes b = {0};
    put_every_type(&b);
    size_t whole = b.count, header = whole - 16;
    uint64_t tries = 0;
    for (b.count = 0; b.count < whole; b.count++) {
        air_gguf *g;
        air_error err;
        uint64_t need = 0;
        air_status st = parse(&g, &b, whole, NULL, &need, &err);
        if (st == AIR_OK) {
            CHECK(b.count + 32 > header); /* only padding and data are missing */
            air_gguf_free(g);
        } else {
            CHECK_EQ(st, AIR_E_IO);
            CHECK(need > b.count && need <= header);
            tries++;
        }
        CHECK_EQ(parse(&g, &b, b.count, NULL, &need, &err), AIR_E_FORMAT); /* a file that ends there */
    }
    CHECK(tries > 300);
    release(&b);
}

TEST(asking_for_more_comes_to_an_end)
{
    bytes b = {0};
    put_every_type(&b);
    size_t whole = b.count;
    uint64_t need = 0;
    air_gguf *g = NULL;
    air_error err;
    air_status st = AIR_E_IO;
    for (int i = 0; i < 200 && st == AIR_E_IO; i++) {
        b.count = need;
        st = parse(&g, &b, whole, NULL, &need, &err);
    }
    CHECK_EQ(st, AIR_OK);
    CHECK_EQ(air_gguf_entry_count(g), 16);
    air_gguf_free(g);
    release(&b);
}

static void expect_limit(const bytes *b, air_gguf_limits limits, const char *message)
{
    air_gguf *g;
    air_error err;
    uint64_t need;
    CHECK_EQ(parse(&g, b, b->count, &limits, &need, &err), AIR_E_FORMAT);
    CHECK_STR_EQ(err.text, message);
    air_gguf_free(g);
}

TEST(limits_are_the_callers)
{
    bytes b = {0};
    put_every_type(&b);
    const air_gguf_limits exact = {.entries = 16, .tensors = 1, .string_bytes = 3, .array_items = 3, .depth = 3, .header_bytes = b.count};
    air_gguf *g;
    air_error err;
    CHECK_EQ(parse(&g, &b, b.count, &exact, NULL, &err), AIR_OK);
    air_gguf_free(g);
    air_gguf_limits l = exact;
    l.entries--;
    expect_limit(&b, l, "16 metadata keys, more than the 15 allowed");
    l = exact;
    l.tensors--;
    expect_limit(&b, l, "1 tensors, more than the 0 allowed");
    l = exact;
    l.string_bytes--;
    expect_limit(&b, l, "key \"string\": string of 3 bytes, more than the 2 allowed");
    l = exact;
    l.array_items--;
    expect_limit(&b, l, "key \"nested\": an array of 3 items, more than the 2 allowed");
    l = exact;
    l.depth--;
    expect_limit(&b, l, "key \"nested\": arrays nested 3 deep, more than the 2 allowed");
    l = exact;
    l.header_bytes = 30;
    expect_limit(&b, l, "metadata: the header goes on to byte 248, more than the 30 allowed");
    release(&b);
}

/* Even with no limits: what is claimed must be there before memory is asked for, which would be refused here. */
TEST(no_count_is_believed_before_its_bytes_are_there)
{
    static const air_gguf_limits none = {UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX};
    static const uint64_t counts[] = {UINT64_C(1) << 44, UINT64_C(1) << 61, UINT64_MAX};
    for (size_t i = 0; i < AIR_COUNT(counts); i++) {
        for (int what = 0; what < 6; what++) {
            bytes b = {0};
            put_start(&b, 3, what == 0 ? counts[i] : 0, what == 1 ? counts[i] : what == 0 ? 0 : 1);
            if (what > 1) put_key(&b, "k", what == 5 ? AIR_GGUF_STRING : AIR_GGUF_ARRAY);
            if (what == 2) put_array(&b, AIR_GGUF_F64, counts[i]);
            if (what == 3) put_array(&b, AIR_GGUF_STRING, counts[i]);
            if (what == 4) put_array(&b, AIR_GGUF_ARRAY, counts[i]);
            if (what == 5) put_u64(&b, counts[i]);
            put(&b, NULL, 100);
            air_gguf *g;
            air_error err;
            CHECK_EQ(parse(&g, &b, b.count, &none, NULL, &err), AIR_E_FORMAT);
            CHECK(strstr(err.text, "beyond the end of the file"));
            air_gguf_free(g);
            release(&b);
        }
    }
}

/* The smallest elements of each kind cost the most memory for their bytes. */
TEST(memory_is_in_proportion_to_the_input)
{
    enum { N = 50000 };
    for (int what = 0; what < 5; what++) {
        bytes b = {0};
        put_start(&b, 3, what == 4 ? N : 0, what == 0 ? N : what == 4 ? 0 : 1);
        if (what == 1 || what == 2) put_key(&b, "k", AIR_GGUF_ARRAY), put_array(&b, what == 1 ? AIR_GGUF_STRING : AIR_GGUF_ARRAY, N);
        if (what == 3) put_key(&b, "k", AIR_GGUF_ARRAY), put_array(&b, AIR_GGUF_U8, N);
        for (uint32_t i = 0; i < N; i++) {
            char name[16];
            (void)snprintf(name, sizeof name, "%" PRIx32, i);
            if (what == 0) put_key(&b, name, AIR_GGUF_U8);
            if (what == 0 || what == 3) put_u8(&b, 0);
            if (what == 1) put_u64(&b, 0);
            if (what == 2) put_array(&b, AIR_GGUF_U8, 0);
            if (what == 4) put_tensor(&b, name, 1, 1, AIR_TYPE_I8, 8 * 4 * (uint64_t)i);
        }
        if (what == 4) pad(&b, 32);
        size_t header = b.count;
        if (what == 4) put(&b, NULL, 32 * N);
        air_gguf *g = parse_whole(&b);
        REQUIRE(g);
        size_t took = g->arena.total;
        if (took > 8 * header + 128 * 1024) printf("  kind %d: %zu bytes for %zu\n", what, took, header);
        CHECK(took <= 8 * header + 128 * 1024);
        air_gguf_free(g);
        release(&b);
    }
}

/* ---- files ----------------------------------------------------------------------------------------------------------------- */

static void put_part(bytes *b, uint16_t no, uint16_t count)
{
    put_start(b, 3, 2, no ? 3 : 4);
    put_key(b, "split.no", AIR_GGUF_U16); put(b, &no, 2);
    put_key(b, "split.count", AIR_GGUF_U16); put(b, &count, 2);
    put_key(b, "split.tensors.count", AIR_GGUF_I32); put_u32(b, 2 * (uint32_t)count);
    if (!no) put_key(b, "general.architecture", AIR_GGUF_STRING), put_string(b, "llama");
    for (int i = 0; i < 2; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "t%d", 2 * no + i);
        put_tensor(b, name, 8, 1, AIR_TYPE_F32, 32 * (uint64_t)i);
    }
    pad(b, 32);
    put(b, NULL, 64);
}

enum { PARTS = 3 };
static const char *const part_names[PARTS] = {"m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"};

static void write_set(void)
{
    for (uint16_t i = 0; i < PARTS; i++) {
        bytes b = {0};
        put_part(&b, i, PARTS);
        write_file(part_names[i], &b);
        release(&b);
    }
}

TEST(any_part_opens_the_whole_set)
{
    write_set();
    for (int opened = 0; opened < PARTS; opened++) {
        air_gguf_set *set;
        air_error err;
        air_status st = air_gguf_open(&set, path_of(part_names[opened]), &err);
        if (st) printf("  %s\n", err.text);
        REQUIRE(!st && set->parts == PARTS);
        CHECK(air_gguf_find(set->gguf, "general.architecture"));
        CHECK_EQ(air_gguf_tensor_count(set->gguf), 2 * PARTS);
        for (uint32_t i = 0; i < 2 * PARTS; i++) {
            char name[16];
            (void)snprintf(name, sizeof name, "t%" PRIu32, i);
            const air_tensor *t = air_gguf_tensor(set->gguf, name);
            REQUIRE(t);
            CHECK_EQ(t->part, i / 2);
            CHECK_EQ(t->offset + t->bytes, set->bytes[t->part] - (i % 2 ? 0 : 32));
        }
        for (int i = 0; i < PARTS; i++) CHECK_STR_EQ(set->paths[i], path_of(part_names[i]));
        air_gguf_close(set);
    }
}

TEST(a_file_that_is_no_part_is_a_set_of_one)
{
    bytes b = {0};
    put_every_type(&b);
    write_file("one.gguf", &b);
    air_gguf_set *set;
    REQUIRE(air_gguf_open(&set, path_of("one.gguf"), NULL) == AIR_OK);
    CHECK_EQ(set->parts, 1);
    CHECK_EQ(set->bytes[0], b.count);
    CHECK_STR_EQ(set->paths[0], path_of("one.gguf"));
    air_gguf_close(set);
    release(&b);
}

/* Sets the n-th allocation to fail for each n, until nothing fails any more; returns how many failed. */
static uint64_t fail_each_allocation(const char *path)
{
    for (uint64_t n = 1;; n++) {
        air_gguf_set *set;
        air_error err = {0};
        int64_t live = air_alloc_live();
        air_alloc_fail_at(n);
        air_status st = air_gguf_open(&set, path, &err);
        int failed = air_alloc_failed();
        air_alloc_fail_at(0);
        CHECK_EQ(st, failed ? AIR_E_NOMEM : AIR_OK);
        if (failed) CHECK(!set && err.status == AIR_E_NOMEM && err.text[0]);
        air_gguf_close(set);
        CHECK_EQ(air_alloc_live(), live);
        if (!failed || n > 10000) return n - 1;
    }
}

TEST(every_allocation_that_fails_is_reported_and_leaks_nothing)
{
    bytes b = {0};
    put_every_type(&b);
    write_file("one.gguf", &b);
    CHECK(fail_each_allocation(path_of("one.gguf")) >= 6);
    write_set();
    CHECK(fail_each_allocation(path_of(part_names[1])) >= 20);
    release(&b);

    uint32_t slots[MANY]; /* larger than the first piece, out of order: the buffer grows and offsets are sorted */
    put_shuffled(&b, -1, slots);
    write_file("many.gguf", &b);
    CHECK(fail_each_allocation(path_of("many.gguf")) >= 10);
    release(&b);
}

/* ---- large files ----------------------------------------------------------------------------------------------------------- */

enum { VOCABULARY = 150000, MERGES = 280000 };

/* The header of a model with a vocabulary as large as they come: tokens, scores, types, merges. */
static void put_vocabulary(bytes *b, uint64_t tensors)
{
    char token[32];
    put_start(b, 3, tensors, 4);
    put_key(b, "tokenizer.ggml.tokens", AIR_GGUF_ARRAY);
    put_array(b, AIR_GGUF_STRING, VOCABULARY);
    for (int i = 0; i < VOCABULARY; i++) {
        (void)snprintf(token, sizeof token, "token%d", i);
        put_string(b, token);
    }
    put_key(b, "tokenizer.ggml.merges", AIR_GGUF_ARRAY);
    put_array(b, AIR_GGUF_STRING, MERGES);
    for (int i = 0; i < MERGES; i++) {
        (void)snprintf(token, sizeof token, "mer ge%d", i);
        put_string(b, token);
    }
    put_key(b, "tokenizer.ggml.scores", AIR_GGUF_ARRAY);
    put_array(b, AIR_GGUF_F32, VOCABULARY);
    put(b, NULL, VOCABULARY * 4);
    put_key(b, "tokenizer.ggml.token_type", AIR_GGUF_ARRAY);
    put_array(b, AIR_GGUF_I32, VOCABULARY);
    put(b, NULL, VOCABULARY * 4);
}

TEST(a_large_vocabulary_is_parsed_in_30_ms_and_few_allocations)
{
    bytes b = {0};
    put_vocabulary(&b, 0);
    uint64_t best = UINT64_MAX;
    for (int i = 0; i < 10; i++) {
        air_gguf *g;
        int64_t live = air_alloc_live();
        uint64_t start = air_clock_ns();
        REQUIRE(air_gguf_parse(&g, b.data, b.count, b.count, NULL, NULL, NULL) == AIR_OK);
        uint64_t took = air_clock_ns() - start;
        if (took < best) best = took;
        CHECK(air_alloc_live() - live < 16);
        const air_string *tokens = air_gguf_find(g, "tokenizer.ggml.tokens")->as.items;
        CHECK_STR_EQ(tokens[VOCABULARY - 1].data, "token149999");
        air_gguf_free(g);
    }
    printf("  %zu bytes, %d strings: %.1f ms\n", b.count, VOCABULARY + MERGES, (double)best * 1e-6);
    CHECK(best < UINT64_C(30000000) * SLOWER);
    release(&b);
}

static uint64_t bytes_read_so_far(void)
{
    unsigned long long count = 0;
    FILE *f = fopen("/proc/self/io", "r");
    if (f && fscanf(f, "rchar: %llu", &count) != 1) count = 0;
    if (f) (void)fclose(f);
    return count;
}

TEST(a_file_of_40_GB_opens_by_its_header)
{
    enum { TENSORS = 40 };
    const uint64_t each = UINT64_C(1000000000) / 34 / 32 * 34 * 32; /* in Q8_0, a multiple of 32 bytes */
    bytes b = {0};
    put_vocabulary(&b, TENSORS);
    for (uint64_t i = 0; i < TENSORS; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "blk.%d.weight", (int)i);
        put_tensor(&b, name, 32, each / 34, AIR_TYPE_Q8_0, i * each);
    }
    pad(&b, 32);
    write_file("large.gguf", &b);
    const char *path = path_of("large.gguf");
    REQUIRE(truncate(path, (off_t)(b.count + TENSORS * each)) == 0);
    uint64_t best = UINT64_MAX, read = 0;
    for (int i = 0; i < 5; i++) {
        air_gguf_set *set;
        air_error err;
        uint64_t start = air_clock_ns(), before = bytes_read_so_far();
        REQUIRE(air_gguf_open(&set, path, &err) == AIR_OK);
        uint64_t took = air_clock_ns() - start;
        read = bytes_read_so_far() - before;
        if (took < best) best = took;
        CHECK_EQ(air_gguf_tensor_count(set->gguf), TENSORS);
        CHECK(set->bytes[0] > UINT64_C(39) * 1000 * 1000 * 1000);
        air_gguf_close(set);
    }
    printf("  %.1f ms, %" PRIu64 " bytes read for a header of %zu\n", (double)best * 1e-6, read, b.count);
    CHECK(best < UINT64_C(300000000) * SLOWER);
    CHECK(read <= 5 * (uint64_t)b.count);
    CHECK(unlink(path) == 0);
    release(&b);
}

/* ---- the table of malformed files ------------------------------------------------------------------------------------------ */

static air_status status_of(const char *exception)
{
    static const struct { const char *name; air_status status; } names[] = {
#define STATUS(code, text, exception, base) {exception, AIR_E_##code},
#include "base/status.def"
#undef STATUS
    };
    for (size_t i = 0; i < AIR_COUNT(names); i++)
        if (strcmp(names[i].name, exception) == 0) return names[i].status;
    return AIR_OK;
}

static void expect_refusal(const char *path, const char *exception, const char *pattern)
{
    air_gguf_set *set;
    air_error err = {0};
    regex_t regex;
    int64_t live = air_alloc_live();
    air_status st = air_gguf_open(&set, path, &err);
    REQUIRE(regcomp(&regex, pattern, REG_EXTENDED | REG_NOSUB) == 0);
    int ok = st && st == status_of(exception) && regexec(&regex, err.text, 0, NULL, 0) == 0;
    if (!ok) printf("  %s\n    wanted %s: %s\n    got    %s: %s\n", path, exception, pattern, air_status_text(st), err.text);
    CHECK(ok);
    regfree(&regex);
    air_gguf_close(set);
    CHECK_EQ(air_alloc_live(), live);
    CHECK_EQ(air_gguf_open(&set, path, NULL), st); /* without a place for the message */
    air_gguf_close(set);
}

TEST(malformed_files_are_refused_by_name)
{
    char name[512], line[2048];
    int count = 0;
    (void)snprintf(name, sizeof name, "%s/manifest.tsv", malformed);
    FILE *f = fopen(name, "r");
    REQUIRE(f);
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        char *exception = strchr(line, '\t'), *pattern = exception ? strchr(exception + 1, '\t') : NULL;
        REQUIRE(pattern);
        *exception++ = *pattern++ = 0;
        expect_refusal(line, exception, pattern);
        count++;
    }
    (void)fclose(f);
    CHECK(count >= 70);
}

static void remove_folder(void)
{
    DIR *dir = opendir(folder);
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (e->d_name[0] != '.') (void)unlink(path_of(e->d_name));
    if (dir) (void)closedir(dir);
    (void)rmdir(folder);
}

int main(int argc, char **argv)
{
    const char *tmp = getenv("TMPDIR");
    (void)snprintf(folder, sizeof folder, "%s/air_test_gguf_XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(folder)) return EXIT_FAILURE;
    malformed = argc > 2 ? argv[2] : getenv("AIRPY_MALFORMED");

    check_begin(argc, argv);
    RUN(every_metadata_type_is_read);
    RUN(nested_arrays_keep_their_shape);
    RUN(arrays_of_every_type_are_packed_and_aligned);
    RUN(version_2_reads_like_version_3);
    RUN(look_ups_check_type_and_range_and_name_the_key);
    RUN(signed_integers_that_fit_are_accepted);
    RUN(tensors_of_every_format_are_sized_and_placed);
    RUN(many_tensors_in_any_order_are_found);
    RUN(one_overlap_among_many_tensors_is_found);
    RUN(a_header_cut_off_anywhere_asks_for_more_or_is_malformed);
    RUN(asking_for_more_comes_to_an_end);
    RUN(limits_are_the_callers);
    RUN(no_count_is_believed_before_its_bytes_are_there);
    RUN(memory_is_in_proportion_to_the_input);
    RUN(any_part_opens_the_whole_set);
    RUN(a_file_that_is_no_part_is_a_set_of_one);
    RUN(every_allocation_that_fails_is_reported_and_leaks_nothing);
    RUN(a_large_vocabulary_is_parsed_in_30_ms_and_few_allocations);
    RUN(a_file_of_40_GB_opens_by_its_header);
    if (malformed) RUN(malformed_files_are_refused_by_name);
    else printf("skipped malformed_files_are_refused_by_name: no folder given (argv[2] or AIRPY_MALFORMED)\n");
    remove_folder();
    return check_end();
}
