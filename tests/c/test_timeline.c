/* platform/timeline: a log that threads write to at once, of bounded size. */
#include <stdatomic.h>

#include "base/alloc.h"
#include "check.h"
#include "platform/threads.h"
#include "platform/timeline.h"

enum { WRITERS = 8, EACH = 5000 };

typedef struct writer {
    air_timeline *timeline;
    air_thread *thread;
    int lane;
} writer;

static void write_events(void *context)
{
    const writer *w = context;
    air_lane_set(w->lane);
    for (int i = 0; i < EACH; i++)
        air_timeline_add(w->timeline, &(air_event){
            .kind = AIR_EVENT_READ, .lane = (uint16_t)air_lane(), .number = i, .bytes = (uint64_t)i});
}

/* All writers at once; events of each lane are its first ones, in order. Returns how many there are. */
static uint64_t run_writers(air_timeline *t, air_event *events)
{
    writer writers[WRITERS];
    air_error err;
    int next[WRITERS] = {0};
    for (int i = 0; i < WRITERS; i++) {
        writers[i] = (writer){.timeline = t, .lane = AIR_LANE_READS + i};
        CHECK_EQ(air_thread_start(&writers[i].thread, "writer", write_events, &writers[i], &err), AIR_OK);
    }
    for (int i = 0; i < WRITERS; i++) air_thread_join(writers[i].thread);
    air_timeline_stop(t);
    uint64_t n = air_timeline_read(t, NULL, 0);
    if (n > WRITERS * EACH) return n;
    CHECK_EQ(air_timeline_read(t, events, n), n);
    for (uint64_t i = 0; i < n; i++) {
        int lane = events[i].lane - AIR_LANE_READS;
        if (lane < 0 || lane >= WRITERS) return 0;
        CHECK_EQ(events[i].number, next[lane]);
        CHECK_EQ(events[i].bytes, next[lane]);
        next[lane]++;
    }
    return n;
}

TEST(threads_write_at_once_and_nothing_is_lost)
{
    static air_event events[WRITERS * EACH];
    air_error err;
    air_timeline *t;
    REQUIRE(!air_timeline_open(&t, &err));
    for (int again = 0; again < 2; again++) { /* the second one begins empty */
        CHECK_EQ(air_timeline_begin(t, 2 * WRITERS * EACH, &err), AIR_OK);
        CHECK(air_timeline_on(t));
        CHECK_EQ(run_writers(t, events), WRITERS * EACH);
        CHECK_EQ(air_timeline_dropped(t), 0);
        air_timeline_end(t);
    }
    air_timeline_close(t);
}

TEST(what_there_is_no_room_for_is_counted)
{
    static air_event events[WRITERS * EACH];
    air_error err;
    air_timeline *t;
    REQUIRE(!air_timeline_open(&t, &err));
    CHECK_EQ(air_timeline_begin(t, 10000, &err), AIR_OK);
    uint64_t n = run_writers(t, events);
    CHECK(n >= 10000 && n * sizeof(air_event) <= air_timeline_bytes(10000));
    CHECK_EQ(n + air_timeline_dropped(t), WRITERS * EACH);
    air_timeline_close(t); /* without an end */
}

TEST(off_it_takes_nothing)
{
    air_event event = {.kind = AIR_EVENT_PASS};
    air_error err;
    air_timeline *t;
    CHECK(!air_timeline_on(NULL));
    air_timeline_add(NULL, &event);
    REQUIRE(!air_timeline_open(&t, &err));
    air_timeline_add(t, &event);
    CHECK_EQ(air_timeline_begin(t, 1, &err), AIR_OK);
    air_timeline_stop(t);
    air_timeline_add(t, &event);
    CHECK_EQ(air_timeline_read(t, NULL, 0), 0);
    CHECK_EQ(air_timeline_dropped(t), 0);
    air_timeline_close(t);
}

TEST(a_log_of_absurd_size_is_refused)
{
    air_error err;
    air_timeline *t;
    REQUIRE(!air_timeline_open(&t, &err));
    CHECK_EQ(air_timeline_begin(t, 0, &err), AIR_E_ARGUMENT);
    CHECK_EQ(air_timeline_begin(t, UINT64_MAX, &err), AIR_E_ARGUMENT);
    air_alloc_fail_at(1);
    CHECK_EQ(air_timeline_begin(t, 1000, &err), AIR_E_NOMEM);
    CHECK(!air_timeline_on(t));
    air_timeline_close(t);
    air_alloc_fail_at(1);
    CHECK_EQ(air_timeline_open(&t, &err), AIR_E_NOMEM);
    CHECK_EQ(air_alloc_live(), 0);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(threads_write_at_once_and_nothing_is_lost);
    RUN(what_there_is_no_room_for_is_counted);
    RUN(off_it_takes_nothing);
    RUN(a_log_of_absurd_size_is_refused);
    return check_end();
}
