/* platform/timeline.h: who did what when: a bounded log that threads write without locks.
 *
 * Owns its memory, which begin takes and end gives back. Events lie in chunks of one region: a lane, which one thread at a time writes to,
 * takes the next free chunk when its own is full; when none is left, events are counted as dropped and those before them stay. Between
 * begin and end any thread may add; who calls begin and end sees to it that none is inside of add then. Off, adding costs one branch. */
#ifndef AIR_PLATFORM_TIMELINE_H
#define AIR_PLATFORM_TIMELINE_H

#include <stdint.h>

#include "base/status.h"

AIR_BEGIN_C

typedef enum air_event_kind {
#define EVENT(kind, name) AIR_EVENT_##kind,
#include "platform/events.def"
#undef EVENT
    AIR_EVENT_COUNT
} air_event_kind;

/* One thread each: the one that runs passes, the other compute threads behind it, those that read. The layers of a pass are written by
 * whichever thread ends one. */
enum {
    AIR_LANE_PASS = 0,     /* and of compute thread i: i */
    AIR_LANE_READS = 256,
    AIR_LANE_LAYERS = AIR_LANE_READS + 64,
    AIR_LANE_COUNT
};

typedef struct air_event {
    uint64_t begin_ns, end_ns;      /* of air_clock_ns */
    uint64_t bytes;
    uint16_t kind, lane;            /* air_event_kind */
    int32_t layer, weight, number;  /* of the program, or -1; number: events.def */
} air_event;

typedef struct air_timeline air_timeline;

/* Errors: AIR_E_NOMEM. It is off. */
air_status air_timeline_open(air_timeline **out, air_error *err);
void air_timeline_close(air_timeline *t); /* NULL is legal */

/* Memory of the log for so many events, in bytes; 0: more than there can be. */
uint64_t air_timeline_bytes(uint64_t max_events);
/* On, with an empty log, all of whose memory is there. Errors: AIR_E_NOMEM, AIR_E_ARGUMENT (max_events is 0 or absurd). */
air_status air_timeline_begin(air_timeline *t, uint64_t max_events, air_error *err);
int air_timeline_on(const air_timeline *t); /* 0 for NULL */
void air_timeline_stop(air_timeline *t);    /* off; what there is stays until end; any thread */
/* Copies min(n, all) events, each lane's in the order that they were added in; returns how many there are. After stop. */
uint64_t air_timeline_read(const air_timeline *t, air_event *events, uint64_t n);
uint64_t air_timeline_dropped(const air_timeline *t);
void air_timeline_end(air_timeline *t);     /* gives the log back */

/* lane: as the event has it. Nothing happens while it is off, or t is NULL. */
void air_timeline_add(air_timeline *t, const air_event *event);

/* The lane of the calling thread: AIR_LANE_PASS but where it has been set. */
void air_lane_set(int lane);
int air_lane(void);

AIR_END_C
#endif
