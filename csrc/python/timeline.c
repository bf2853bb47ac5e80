/* python/timeline.c: Engine.timeline_begin and timeline_stop. */
#include <string.h>

#include "python/core.h"

#include "platform/timeline.h"

enum { SLICE_NS = 50000000 }; /* between looks for signals */

const char *air__py_event_name(int kind)
{
    static const char *const names[] = {
#define EVENT(kind, name) name,
#include "platform/events.def"
#undef EVENT
    };
    return names[kind];
}

/* timeline_begin(max_events, /) */
PyObject *air__py_timeline_begin(PyObject *o, PyObject *max_events)
{
    EngineObject *self = (EngineObject *)o;
    uint64_t events;
    air_error err;
    if (air__py_engine_usable(self) < 0 || air__py_to_u64(air__py_state(o), "max_events", max_events, &events) < 0) return NULL;
    air_status st = air_engine_timeline_begin(self->engine, events, &err);
    if (st) return air__py_raise(air__py_state(o), &err);
    Py_RETURN_NONE;
}

/* Until no pass runs any more that could note something. */
static int stop_and_wait(EngineObject *self, air_timeline_figures *figures)
{
    int done = 0;
    while (!done) {
        air_error err;
        air_status st;
        Py_BEGIN_ALLOW_THREADS
        st = air_engine_timeline_stop(self->engine, SLICE_NS, &done, figures, &err);
        Py_END_ALLOW_THREADS
        if (st) air__py_raise(air__py_state((PyObject *)self), &err);
        if (st || PyErr_CheckSignals() < 0) return -1;
    }
    return 0;
}

static PyObject *take(EngineObject *self, const air_timeline_figures *f)
{
    void *events;
    PyObject *array =
        air__py_array_make(air__py_state((PyObject *)self), "B", 1, (int64_t)(f->events * sizeof(air_event)), &events);
    if (array) air_engine_timeline_read(self->engine, events, f->events);
    air_engine_timeline_end(self->engine);
    if (!array) return NULL;
#define U(field) #field, (unsigned long long)f->field
    return Py_BuildValue("(N{sK sK sK sK sK sK sK})", array, U(begin_ns), U(end_ns), U(disk_bytes), U(ram_bytes), U(stall_ns), U(read_ns),
                         U(dropped));
#undef U
}

/* timeline_stop() -> (events, figures). A signal's exception leaves it stopped: another call goes on. */
PyObject *air__py_timeline_stop(PyObject *o, PyObject *unused)
{
    (void)unused;
    EngineObject *self = (EngineObject *)o;
    air_timeline_figures figures;
    engine_run link = {0};
    if (air__py_engine_usable(self) < 0) return NULL;
    air__py_run_enter(self, &link);
    PyObject *result = stop_and_wait(self, &figures) < 0 ? NULL : take(self, &figures);
    air__py_run_leave(self, &link);
    return result;
}

PyObject *air__py_weight_names(PyObject *o, void *unused)
{
    (void)unused;
    EngineObject *self = (EngineObject *)o;
    if (air__py_engine_usable(self) < 0) return NULL;
    const air_program *p = air_model_program(air_engine_model(self->engine));
    PyObject *names = PyTuple_New(p->n_weights);
    for (int32_t i = 0; names && i < p->n_weights; i++) {
        PyObject *name = air__py_from_string(p->weights[i].name, strlen(p->weights[i].name));
        if (!name || PyTuple_SetItem(names, i, name) < 0) Py_CLEAR(names);
    }
    return names;
}
