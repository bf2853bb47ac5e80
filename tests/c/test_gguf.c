/* Parsing GGUF headers: what is read, what is refused, and what it costs. Files are test_gguf_open.c's. */
#include <inttypes.h>

#include "base/alloc.h"
#include "check.h"
#include "gguf/directory.h"
#include "gguf_bytes.h"
#include "platform/clock.h"

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

/* ---- metadata -------------------------------------------------------------------------------------------------------------- */

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
            (void)snprintf(key, sizeof key, "%s.%d", air_gguf_type_name(t), (int)count);
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
        (void)snprintf(key, sizeof key, "%s.9", air_gguf_type_name(t));
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
    air_string s = {"default", 7};
    air_error err = {0};
    CHECK_EQ(air_gguf_get_u64(g, "absent", 0, 1, &u, &err), AIR_OK);
    CHECK_EQ(air_gguf_get_f64(g, "absent", 0, 1, &f, &err), AIR_OK);
    CHECK_EQ(air_gguf_get_string(g, "absent", &s, &err), AIR_OK);
    CHECK(u == 5 && f == 6 && s.bytes == 7);
    CHECK_EQ(air_gguf_get_string(g, "string", &s, &err), AIR_OK);
    CHECK_EQ(s.bytes, 3);
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

TEST(many_tensors_in_any_order_are_found)
{
    bytes b = {0};
    uint32_t slots[MANY_TENSORS];
    uint64_t data = put_shuffled(&b, -1, slots);
    air_gguf *g = parse_whole(&b);
    REQUIRE(g);
    for (uint32_t i = 0; i < MANY_TENSORS; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "blk.%" PRIu32 ".weight", i);
        const air_tensor *t = air_gguf_tensor(g, name);
        REQUIRE(t && t == air_gguf_tensor_at(g, i));
        CHECK_EQ(t->offset, data + slots[i] * 32);
    }
    CHECK(!air_gguf_tensor(g, "blk.5000.weight") && !air_gguf_tensor(g, "blk.") && !air_gguf_tensor(g, ""));
    CHECK(!air_gguf_find(g, "blk.0.weight"));
    air_gguf_free(g);
    release(&b);
}

TEST(one_overlap_among_many_tensors_is_found)
{
    uint32_t slots[MANY_TENSORS];
    for (int round = 0; round < 20; round++) {
        bytes b = {0};
        int victim = (int)(check_random() % MANY_TENSORS);
        put_shuffled(&b, victim, slots);
        air_gguf *g;
        air_error err;
        char name[48];
        (void)snprintf(name, sizeof name, "inside tensor \"blk.%d.weight\"", victim);
        air_status st = parse(&g, &b, b.count, NULL, NULL, &err);
        if (slots[victim] == MANY_TENSORS - 1) CHECK_EQ(st, AIR_OK); /* the last one has no neighbour to reach into */
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

TEST(a_file_that_ends_with_its_header_may_come_in_pieces)
{
    bytes b = {0};
    put_start(&b, 3, 0, 1);
    put_key(&b, "last", AIR_GGUF_U64);
    put_u64(&b, 7);
    size_t whole = b.count--;
    uint64_t need = 0;
    air_gguf *g;
    air_error err;
    CHECK_EQ(parse(&g, &b, whole, NULL, &need, &err), AIR_E_IO);
    CHECK_EQ(need, whole);
    b.count = whole;
    CHECK_EQ(parse(&g, &b, whole, NULL, &need, &err), AIR_OK);
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
    l = exact; /* the header may end where the limit is, also when it comes in pieces */
    l.header_bytes = 248;
    uint64_t need = 0;
    b.count = 40;
    CHECK_EQ(parse(&g, &b, 1000, &l, &need, &err), AIR_E_IO);
    CHECK_EQ(need, 248);
    release(&b);
}

TEST(what_is_just_within_the_limits_is_accepted)
{
    static char key[65535 + 1], name[64 + 1];
    memset(key, 'k', sizeof key - 1);
    memset(name, 'n', sizeof name - 1);
    const uint64_t alignment = UINT64_C(1) << 24;
    bytes b = {0};
    put_start(&b, 3, 1, 3);
    put_key(&b, "general.alignment", AIR_GGUF_U32);
    put_u32(&b, (uint32_t)alignment);
    put_key(&b, key, AIR_GGUF_STRING);
    put_string(&b, "");
    put_key(&b, "deep", AIR_GGUF_ARRAY);
    for (uint64_t depth = 1; depth < air_gguf_default_limits.depth; depth++) put_array(&b, AIR_GGUF_ARRAY, 1);
    put_array(&b, AIR_GGUF_U8, 0);
    put_tensor(&b, name, UINT64_C(1) << 30, UINT64_C(1) << 30, AIR_TYPE_F64, alignment);
    air_gguf *g;
    air_error err;
    air_status st = parse(&g, &b, 2 * alignment + (UINT64_C(1) << 63), NULL, NULL, &err); /* a file that ends with the tensor */
    if (st) printf("  %s\n", err.text);
    REQUIRE(!st);
    CHECK(air_gguf_find(g, key));
    const air_tensor *t = air_gguf_tensor(g, name);
    CHECK(t && t->offset == 2 * alignment && t->bytes == UINT64_C(1) << 63);
    air_gguf_free(g);
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

TEST(a_large_vocabulary_is_parsed_quickly_in_few_allocations)
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

int main(int argc, char **argv)
{
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
    RUN(a_file_that_ends_with_its_header_may_come_in_pieces);
    RUN(limits_are_the_callers);
    RUN(what_is_just_within_the_limits_is_accepted);
    RUN(no_count_is_believed_before_its_bytes_are_there);
    RUN(memory_is_in_proportion_to_the_input);
    RUN(a_large_vocabulary_is_parsed_quickly_in_few_allocations);
    return check_end();
}
