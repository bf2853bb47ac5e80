/* The engine's timeline: one at a time, in memory that counts in max_ram. */
#include <stdatomic.h>

#include "base/checked.h"
#include "engine/internal.h"
#include "platform/clock.h"

air_status air_engine_timeline_begin(air_engine *e, uint64_t max_events, air_error *err)
{
    uint64_t bytes = air_timeline_bytes(max_events);
    air_status st = air__engine_usable(e, err);
    if (st) return st;
    if (bytes > e->budget.limit / 2)
        return air_fail(err, AIR_E_BUDGET, "a timeline of %llu events takes %.1f MiB, max_ram is %.1f MiB; give it fewer events",
                        (unsigned long long)max_events, air_mib(bytes), air_mib(e->budget.limit));
    air_mutex_lock(&e->lock);
    if (atomic_load(&e->timeline_bytes)) st = air_fail(err, AIR_E_CLOSED, "a timeline of this model is being taken; end it before another");
    else st = air_pager_timeline_begin(e->pager, max_events, &e->timeline_before, err);
    if (!st) {
        e->timeline_figures = (air_timeline_figures){.begin_ns = air_clock_ns()};
        atomic_store(&e->timeline_bytes, bytes);
    }
    air_mutex_unlock(&e->lock);
    return st;
}

/* Under the lock. */
static void stop(air_engine *e)
{
    const air_pager_stats before = e->timeline_before, now = air_pager_timeline_stop(e->pager);
    air_timeline_figures *f = &e->timeline_figures;
    f->end_ns = air_clock_ns();
    f->disk_bytes = now.disk_bytes - before.disk_bytes;
    f->ram_bytes = now.ram_bytes - before.ram_bytes;
    f->stall_ns = now.stall_ns - before.stall_ns;
    f->read_ns = now.read_ns - before.read_ns;
}

air_status air_engine_timeline_stop(air_engine *e, uint64_t timeout_ns, int *done, air_timeline_figures *out, air_error *err)
{
    uint64_t deadline;
    *done = 0;
    air_status st = air__engine_usable(e, err);
    if (st) return st;
    if (!air_add_u64(air_clock_ns(), timeout_ns, &deadline)) deadline = UINT64_MAX;
    air_mutex_lock(&e->lock);
    if (!atomic_load(&e->timeline_bytes)) st = air_fail(err, AIR_E_CLOSED, "no timeline of this model is being taken");
    else if (!e->timeline_figures.end_ns) stop(e);
    /* A batch that begins from here on finds it off. */
    for (uint64_t now; !st && e->running && (now = air_clock_ns()) < deadline;)
        (void)air_cond_wait_for(&e->ended, &e->lock, deadline - now);
    *done = !st && !e->running;
    if (*done) {
        e->timeline_figures.events = air_timeline_read(e->timeline, NULL, 0);
        e->timeline_figures.dropped = air_timeline_dropped(e->timeline);
    }
    *out = e->timeline_figures;
    air_mutex_unlock(&e->lock);
    return st;
}

void air_engine_timeline_read(air_engine *e, air_event *events, uint64_t n) { (void)air_timeline_read(e->timeline, events, n); }

void air_engine_timeline_end(air_engine *e)
{
    air_mutex_lock(&e->lock);
    air_timeline_end(e->timeline);
    air_budget_release(&e->budget, AIR_HOLD_TIMELINE, atomic_exchange(&e->timeline_booked, 0));
    atomic_store(&e->timeline_bytes, 0);
    air_mutex_unlock(&e->lock);
}

/* --- the engine's thread --- */

void air__timeline_see(air_engine *e)
{
    air_mutex_lock(&e->lock);
    e->timeline_due = atomic_load(&e->timeline_bytes) - atomic_load(&e->timeline_booked);
    air_mutex_unlock(&e->lock);
}

air_status air__timeline_book(air_engine *e, air_error *err)
{
    if (!e->timeline_due) return AIR_OK;
    air_status st = air_budget_reserve(&e->budget, AIR_HOLD_TIMELINE, e->timeline_due, err);
    if (!st) atomic_fetch_add(&e->timeline_booked, e->timeline_due);
    e->timeline_due = 0;
    return st;
}

void air__timeline_note(air_engine *e, air_event_kind kind, uint64_t begin_ns, uint64_t end_ns, int64_t number)
{
    air_timeline_add(e->timeline, &(air_event){
        .begin_ns = begin_ns, .end_ns = end_ns, .kind = (uint16_t)kind, .lane = AIR_LANE_PASS, .layer = AIR_NONE, .weight = AIR_NONE,
        .number = (int32_t)number,
    });
}

/* A device's layers are timed by itself. */
void air__timeline_note_device(air_engine *e, uint64_t begin_ns)
{
    int32_t n_layers = air_model_program(e->model)->n_layers;
    for (int32_t i = 0; i <= n_layers && air_timeline_on(e->timeline); i++) {
        uint64_t end = begin_ns + atomic_load(&e->layer_ns[i]);
        air_timeline_add(e->timeline, &(air_event){
            .begin_ns = begin_ns, .end_ns = end, .kind = AIR_EVENT_DEVICE, .lane = AIR_LANE_LAYERS,
            .layer = i < n_layers ? i : AIR_NONE, .weight = AIR_NONE, .number = AIR_NONE,
        });
        begin_ns = end;
    }
}
