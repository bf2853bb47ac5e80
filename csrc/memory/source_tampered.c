/* A source made slow or faulty on purpose, so that tests see what a bad disk would do. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "memory/source.h"
#include "platform/clock.h"
#include "platform/threads.h"

enum { SLICE_NS = 5 * 1000 * 1000 }; /* a sleeper looks at its cancel flag this often */

typedef struct tampered_source {
    air_source base;
    air_source *inner;
    uint64_t rate, latency_us, fail_at, short_at; /* 0: off */
    AIR_ATOMIC(uint64_t) reads;
    air_mutex lock;
    uint64_t free_ns; /* under lock: when the imagined disk will have served all reads so far */
} tampered_source;

static air_status sleep_until(uint64_t when_ns, const AIR_ATOMIC(int) *cancel, air_error *err)
{
    for (;;) {
        if (cancel && atomic_load(cancel)) return air_fail(err, AIR_E_CANCELLED, "read cancelled");
        uint64_t now = air_clock_ns();
        if (now >= when_ns) return AIR_OK;
        air_sleep_ns(air_min_u64(when_ns - now, SLICE_NS));
    }
}

/* One disk behind all readers: reads are served one after the other at the rate, each then travels for the latency. */
static uint64_t served_at(tampered_source *t, size_t bytes)
{
    uint64_t now = air_clock_ns();
    if (!t->rate) return now;
    uint64_t takes = (uint64_t)((double)bytes * 1e9 / (double)t->rate);
    air_mutex_lock(&t->lock);
    t->free_ns = air_max_u64(t->free_ns, now) + takes;
    uint64_t when = t->free_ns;
    air_mutex_unlock(&t->lock);
    return when;
}

static air_status tampered_read(air_source *s, uint64_t offset, void *buffer, size_t bytes, const AIR_ATOMIC(int) *cancel,
                                air_error *err)
{
    tampered_source *t = (tampered_source *)s;
    uint64_t number = atomic_fetch_add(&t->reads, 1) + 1;
    air_status st = sleep_until(served_at(t, bytes) + t->latency_us * 1000, cancel, err);
    if (st) return st;
    if (number == t->fail_at)
        return air_fail(err, AIR_E_IO, "read %llu, of %zu bytes at offset %llu, fails on request", (unsigned long long)number,
                        bytes, (unsigned long long)offset);
    if (number == t->short_at)
        return air_fail(err, AIR_E_CHANGED, "read %llu, at offset %llu: the file ends early on request",
                        (unsigned long long)number, (unsigned long long)offset);
    return t->inner->read(t->inner, offset, buffer, bytes, cancel, err);
}

static air_status tampered_check(air_source *s, air_error *err)
{
    air_source *inner = ((tampered_source *)s)->inner;
    return inner->check(inner, err);
}

static void tampered_close(air_source *s)
{
    tampered_source *t = (tampered_source *)s;
    air_source_close(t->inner);
    air_mutex_deinit(&t->lock);
    air_free(t);
}

/* Reads "key=value" at *at and moves past it and its comma. */
static int parse_pair(tampered_source *t, const char **at)
{
    static const char *const keys[] = {"rate", "latency_us", "fail_at", "short_at"};
    uint64_t *const values[] = {&t->rate, &t->latency_us, &t->fail_at, &t->short_at};
    for (size_t i = 0; i < AIR_COUNT(keys); i++) {
        size_t n = strlen(keys[i]);
        if (strncmp(*at, keys[i], n) != 0 || (*at)[n] != '=') continue;
        const char *digits = *at + n + 1;
        if (*digits < '0' || *digits > '9') return 0;
        char *end;
        *values[i] = strtoull(digits, &end, 10);
        if (*end != ',' && *end != '\0') return 0;
        *at = *end ? end + 1 : end;
        return 1;
    }
    return 0;
}

air_status air_source_tampered(air_source **out, air_source *inner, const char *spec, air_error *err)
{
    *out = NULL;
    tampered_source *t = air_calloc(1, sizeof *t);
    if (!t) {
        air_source_close(inner);
        return air_fail(err, AIR_E_NOMEM, "tampered source: %zu bytes", sizeof *t);
    }
    air_mutex_init(&t->lock);
    t->inner = inner;
    t->base = (air_source){
        .read = tampered_read,
        .check = tampered_check,
        .close = tampered_close,
        .bytes = inner->bytes,
        .alignment = inner->alignment,
        .direct = inner->direct,
    };
    for (const char *at = spec; *at;) {
        if (parse_pair(t, &at)) continue;
        tampered_close(&t->base);
        return air_fail(err, AIR_E_ARGUMENT, "tampering \"%s\": want rate=, latency_us=, fail_at= or short_at= with a number", spec);
    }
    *out = &t->base;
    return AIR_OK;
}
