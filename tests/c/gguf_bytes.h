/* gguf_bytes.h: a small writer of GGUF headers for the C tests. Bytes are put one after the other into a growing buffer of the
 * caller's, who frees it with release(). Out of memory ends the test program. */
#ifndef AIR_TESTS_GGUF_BYTES_H
#define AIR_TESTS_GGUF_BYTES_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "gguf/gguf.h"
#include "quant/format.h"

typedef struct bytes {
    uint8_t *data;
    size_t count, room;
} bytes;

static inline void put(bytes *b, const void *data, size_t count)
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

static inline void put_u8(bytes *b, uint8_t x) { put(b, &x, 1); }
static inline void put_u32(bytes *b, uint32_t x) { put(b, &x, 4); }
static inline void put_u64(bytes *b, uint64_t x) { put(b, &x, 8); }
static inline void put_f32(bytes *b, float x) { put(b, &x, 4); }
static inline void put_f64(bytes *b, double x) { put(b, &x, 8); }

static inline void put_string(bytes *b, const char *text)
{
    put_u64(b, strlen(text));
    put(b, text, strlen(text));
}

static inline void put_start(bytes *b, uint32_t version, uint64_t tensors, uint64_t entries)
{
    put(b, "GGUF", 4);
    put_u32(b, version);
    put_u64(b, tensors);
    put_u64(b, entries);
}

static inline void put_key(bytes *b, const char *key, uint32_t type)
{
    put_string(b, key);
    put_u32(b, type);
}

static inline void put_array(bytes *b, uint32_t element, uint64_t count)
{
    put_u32(b, element);
    put_u64(b, count);
}

static inline void put_tensor(bytes *b, const char *name, uint64_t columns, uint64_t rows, uint32_t type, uint64_t offset)
{
    put_string(b, name);
    put_u32(b, 2);
    put_u64(b, columns);
    put_u64(b, rows);
    put_u32(b, type);
    put_u64(b, offset);
}

static inline void pad(bytes *b, size_t alignment)
{
    while (b->count % alignment) put_u8(b, 0);
}

static inline void release(bytes *b)
{
    free(b->data);
    *b = (bytes){0};
}

/* One key of every type, a nested array, and a tensor of 16 bytes. */
static inline void put_every_type(bytes *b)
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

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || defined(AIR_TEST_EMULATED)
#define SLOWER 50
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SLOWER 50
#endif
#endif
#ifndef SLOWER
#define SLOWER 5 /* how much more time than an idle machine needs the time limits below give */
#endif

enum { MANY_TENSORS = 5000 };

/* MANY_TENSORS tensors of 32 bytes in a shuffled order; victim >= 0: that one is two slots long and so reaches into its neighbour.
 * Returns where the data starts. */
static inline uint64_t put_shuffled(bytes *b, int victim, uint32_t *slots)
{
    for (uint32_t i = 0; i < MANY_TENSORS; i++) slots[i] = i;
    for (uint32_t i = MANY_TENSORS - 1; i > 0; i--) {
        uint32_t j = (uint32_t)(check_random() % (i + 1)), t = slots[i];
        slots[i] = slots[j];
        slots[j] = t;
    }
    put_start(b, 3, MANY_TENSORS, 0);
    for (int i = 0; i < MANY_TENSORS; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "blk.%d.weight", i);
        put_tensor(b, name, 8, i == victim ? 2 : 1, AIR_TYPE_F32, (uint64_t)slots[i] * 32);
    }
    pad(b, 32);
    uint64_t data = b->count;
    put(b, NULL, (MANY_TENSORS + 1) * 32);
    return data;
}

enum { VOCABULARY = 150000, MERGES = 280000 };

/* The header of a model with a vocabulary as large as they come: tokens, scores, types, merges. */
static inline void put_vocabulary(bytes *b, uint64_t tensors)
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

#endif
