#include "platform/timeline.h"

#include <stdatomic.h>
#include <string.h>

#include "base/alloc.h"
#include "platform/pages.h"

enum {
    CHUNK = 256,                 /* events */
    EVENTS_MOST = 1 << 28,       /* 10 GiB */
};

typedef struct lane {
    AIR_ALIGNAS(AIR_CACHE_LINE) air_event *at;
    air_event *end; /* of its chunk */
} lane;

struct air_timeline {
    AIR_ATOMIC(int) on;
    air_event *events; /* zeros where none has been written: AIR_EVENT_NONE */
    uint64_t n_chunks;
    AIR_ATOMIC(uint64_t) next, dropped; /* chunk that is taken next */
    lane lanes[AIR_LANE_COUNT];
};

static _Thread_local int this_lane = AIR_LANE_PASS;

void air_lane_set(int number) { this_lane = number; }
int air_lane(void) { return this_lane; }

air_status air_timeline_open(air_timeline **out, air_error *err)
{
    *out = air_pages_alloc(sizeof **out);
    return *out ? AIR_OK : air_fail(err, AIR_E_NOMEM, "timeline: %zu bytes", sizeof **out);
}

void air_timeline_close(air_timeline *t)
{
    if (!t) return;
    air_timeline_end(t);
    air_pages_free(t, sizeof *t);
}

static uint64_t chunks_of(uint64_t max_events) { return (max_events + CHUNK - 1) / CHUNK; }

uint64_t air_timeline_bytes(uint64_t max_events)
{
    return max_events > EVENTS_MOST ? 0 : chunks_of(max_events) * CHUNK * sizeof(air_event);
}

air_status air_timeline_begin(air_timeline *t, uint64_t max_events, air_error *err)
{
    uint64_t bytes = air_timeline_bytes(max_events);
    if (!bytes)
        return air_fail(err, AIR_E_ARGUMENT, "a timeline of %llu events; give 1 to %d", (unsigned long long)max_events, EVENTS_MOST);
    t->events = air_pages_alloc((size_t)bytes);
    if (!t->events) return air_fail(err, AIR_E_NOMEM, "timeline: %llu bytes", (unsigned long long)bytes);
    air_pages_huge(t->events, (size_t)bytes);
    memset(t->events, 0, (size_t)bytes); /* now: page faults take longer than writing the events on a page, where passes would wait */
    t->n_chunks = chunks_of(max_events);
    atomic_store(&t->next, 0);
    atomic_store(&t->dropped, 0);
    memset(t->lanes, 0, sizeof t->lanes);
    atomic_store(&t->on, 1);
    return AIR_OK;
}

int air_timeline_on(const air_timeline *t) { return t && atomic_load_explicit(&t->on, memory_order_relaxed); }
void air_timeline_stop(air_timeline *t) { atomic_store(&t->on, 0); }
uint64_t air_timeline_dropped(const air_timeline *t) { return atomic_load(&t->dropped); }

void air_timeline_end(air_timeline *t)
{
    air_timeline_stop(t);
    if (t->events) air_pages_free(t->events, (size_t)(t->n_chunks * CHUNK * sizeof *t->events));
    t->events = NULL;
    t->n_chunks = 0;
}

static uint64_t chunks_used(const air_timeline *t)
{
    uint64_t next = atomic_load(&t->next);
    return next < t->n_chunks ? next : t->n_chunks;
}

uint64_t air_timeline_read(const air_timeline *t, air_event *events, uint64_t n)
{
    uint64_t found = 0, used = chunks_used(t);
    for (uint64_t chunk = 0; chunk < used; chunk++)
        for (const air_event *at = t->events + chunk * CHUNK, *end = at + CHUNK; at < end && at->kind; at++, found++)
            if (found < n) events[found] = *at;
    return found;
}

/* A chunk for a lane; 0 where none is left. */
static int next_chunk(air_timeline *t, lane *l)
{
    if (atomic_load_explicit(&t->next, memory_order_relaxed) >= t->n_chunks) return 0; /* so that next never runs far ahead */
    uint64_t chunk = atomic_fetch_add(&t->next, 1);
    if (chunk >= t->n_chunks) return 0;
    l->at = t->events + chunk * CHUNK;
    l->end = l->at + CHUNK;
    return 1;
}

void air_timeline_add(air_timeline *t, const air_event *event)
{
    if (!air_timeline_on(t)) return;
    lane *l = &t->lanes[event->lane];
    if (l->at == l->end && !next_chunk(t, l)) {
        atomic_fetch_add_explicit(&t->dropped, 1, memory_order_relaxed);
        return;
    }
    *l->at++ = *event;
}
