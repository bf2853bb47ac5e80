/* python/engine.c: Engine, one open model.
 *
 * close() may come while other threads are in run and while sequences and results live: it cancels and waits for the runs, frees what
 * the sequences hold and cuts the results loose, which keep what they show. Lists are only touched with the GIL held. */
#include "python/core.h"

#include "base/alloc.h"
#include "platform/threads.h"

int air__py_engine_in_child(const EngineObject *self) { return self->process != air_process_id(); }

int air__py_engine_usable(EngineObject *self)
{
    const char *why = NULL;
    if (air__py_engine_in_child(self)) why = "the engine was opened before fork(); a forked process must open its own";
    else if (self->closing) why = "the model is closed";
    if (why) air__py_raise_text(air__py_state((PyObject *)self), AIR_E_CLOSED, "%s", why);
    return why ? -1 : 0;
}

void air__py_run_enter(EngineObject *self, engine_run *run)
{
    run->thread = PyThread_get_thread_ident();
    run->next = self->runs;
    self->runs = run;
}

void air__py_run_leave(EngineObject *self, engine_run *run)
{
    for (engine_run **at = &self->runs; *at; at = &(*at)->next)
        if (*at == run) {
            *at = run->next;
            break;
        }
}

static PyObject *engine_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    core_state *state = PyType_GetModuleState(type);
    air_engine_config config;
    PyObject *gguf;
    if (air__py_options_parse(state, "Engine()", args, kwargs, &config, &gguf) < 0) return NULL;
    PyObject *source = kwargs ? PyDict_GetItemString(kwargs, "source") : NULL;

    air_engine *engine;
    air_error err;
    air_status st;
    Py_BEGIN_ALLOW_THREADS
    st = air_engine_open(&engine, &config, &err);
    Py_END_ALLOW_THREADS
    if (st) return air__py_raise(state, &err);

    EngineObject *self = PyObject_New(EngineObject, type);
    if (!self) {
        air_engine_close(engine);
        return NULL;
    }
    self->engine = engine;
    self->capsule = Py_NewRef(air__py_gguf_capsule(gguf));
    self->source = Py_XNewRef(source);
    self->sequences = NULL;
    self->results = NULL;
    self->adapters = NULL;
    self->runs = NULL;
    self->closing = 0;
    self->process = air_process_id();
    return (PyObject *)self;
}

static void engine_dealloc(PyObject *o)
{
    /* Runs, sequences and results hold references, so there are none. The C engine closes itself only in the process that opened it. */
    EngineObject *self = (EngineObject *)o;
    PyTypeObject *type = Py_TYPE(o);
    air_engine *engine = self->engine;
    self->engine = NULL;
    Py_BEGIN_ALLOW_THREADS
    air_engine_close(engine);
    Py_END_ALLOW_THREADS
    Py_DECREF(self->capsule);
    Py_XDECREF(self->source);
    PyObject_Free(o);
    Py_DECREF(type);
}

static void cancel_runs(EngineObject *self)
{
    for (engine_run *run = self->runs; run; run = run->next) {
        run->cancelled = 1;
        if (run->batch) air_batch_cancel(run->batch);
    }
}

static PyObject *engine_cancel(PyObject *o, PyObject *unused)
{
    (void)unused;
    EngineObject *self = (EngineObject *)o;
    if (air__py_engine_usable(self) < 0) return NULL;
    cancel_runs(self);
    Py_RETURN_NONE;
}

/* A progress callback or a signal handler that closes the engine would wait for itself. */
static int inside_run(const EngineObject *self)
{
    for (const engine_run *run = self->runs; run; run = run->next)
        if (run->thread == PyThread_get_thread_ident()) return 1;
    return 0;
}

static PyObject *engine_close(PyObject *o, PyObject *unused)
{
    (void)unused;
    EngineObject *self = (EngineObject *)o;
    if (!self->engine || air__py_engine_in_child(self)) Py_RETURN_NONE;
    if (inside_run(self)) return air__py_raise_text(air__py_state(o), AIR_E_CLOSED, "close() inside of a call of run");
    self->closing = 1;
    while (self->runs) {
        cancel_runs(self); /* again: a run may be between its check and its batch */
        Py_BEGIN_ALLOW_THREADS
        air_sleep_ns(1000000);
        Py_END_ALLOW_THREADS
    }
    while (self->sequences) air__py_sequence_drop(self->sequences);
    while (self->results) air__py_result_detach(self->results);
    while (self->adapters) air__py_adapter_drop(self->adapters);
    air_engine *engine = self->engine;
    self->engine = NULL; /* before the GIL goes: two threads may close */
    Py_BEGIN_ALLOW_THREADS
    air_engine_close(engine);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *engine_sequence(PyObject *o, PyObject *unused)
{
    (void)unused;
    EngineObject *self = (EngineObject *)o;
    return air__py_engine_usable(self) < 0 ? NULL : air__py_sequence_new(self);
}

static PyObject *pager_into(PyObject *dict, const air_pager_stats *p)
{
    if (!dict) return NULL;
    if (air__py_dict_take(dict, "pager_disk_bytes", PyLong_FromUnsignedLongLong(p->disk_bytes)) < 0 ||
        air__py_dict_take(dict, "pager_ram_bytes", PyLong_FromUnsignedLongLong(p->ram_bytes)) < 0 ||
        air__py_dict_take(dict, "pager_stall_ns", PyLong_FromUnsignedLongLong(p->stall_ns)) < 0 ||
        air__py_dict_take(dict, "pager_read_ns", PyLong_FromUnsignedLongLong(p->read_ns)) < 0 ||
        air__py_dict_take(dict, "pager_pinned_bytes", PyLong_FromUnsignedLongLong(p->pinned_bytes)) < 0 ||
        air__py_dict_take(dict, "pager_pin_target", PyLong_FromUnsignedLongLong(p->pin_target)) < 0 ||
        air__py_dict_take(dict, "pager_expert_hits", PyLong_FromUnsignedLongLong(p->expert_hits)) < 0 ||
        air__py_dict_take(dict, "pager_expert_device_hits", PyLong_FromUnsignedLongLong(p->expert_device_hits)) < 0 ||
        air__py_dict_take(dict, "pager_expert_misses", PyLong_FromUnsignedLongLong(p->expert_misses)) < 0 ||
        air__py_dict_take(dict, "pager_expert_guesses", PyLong_FromUnsignedLongLong(p->expert_guesses)) < 0 ||
        air__py_dict_take(dict, "pager_expert_guessed", PyLong_FromUnsignedLongLong(p->expert_guessed)) < 0)
        Py_CLEAR(dict);
    return dict;
}

static PyObject *held_by(const air_engine_stats *s)
{
    PyObject *dict = PyDict_New();
    for (int i = 0; dict && i < AIR_HOLD_COUNT; i++)
        if (air__py_dict_take(dict, air_holder_name((air_holder)i), PyLong_FromUnsignedLongLong(s->held_by[i])) < 0) Py_CLEAR(dict);
    return dict;
}

static PyObject *engine_stats(PyObject *o, PyObject *unused)
{
    (void)unused;
    EngineObject *self = (EngineObject *)o;
    if (air__py_engine_usable(self) < 0) return NULL;
    air_engine_stats s = air_engine_stats_get(self->engine);
#define U(field) #field, (unsigned long long)s.field
    PyObject *dict = Py_BuildValue("{sK sK sK sK sK sK sK sK sK sK sK sd sd si ss sN}", U(passes), U(rows), U(pass_ns), U(last_pass_ns),
                                   U(last_disk_bytes), U(last_ram_bytes), U(last_stall_ns), U(last_rows), U(budget), U(held),
                                   U(peak_held), "predicted_s", s.predicted_s, "last_predicted_s", s.last_predicted_s,
                                   "threads", (int)s.threads, "kernels", s.kernels, "held_by", held_by(&s));
#undef U
    return pager_into(dict, &s.pager);
}

static PyObject *u64_list(const uint64_t *values, int32_t n)
{
    PyObject *list = PyList_New(n);
    for (int32_t i = 0; list && i < n; i++) {
        PyObject *value = PyLong_FromUnsignedLongLong(values[i]);
        if (!value || PyList_SetItem(list, i, value) < 0) Py_CLEAR(list);
    }
    return list;
}

static PyObject *engine_layer_times(PyObject *o, PyObject *unused)
{
    (void)unused;
    EngineObject *self = (EngineObject *)o;
    if (air__py_engine_usable(self) < 0) return NULL;
    int32_t n = air_engine_layer_times(self->engine, NULL, NULL, 0);
    uint64_t *times = air_calloc((size_t)n * 2, sizeof *times);
    if (!times) return PyErr_NoMemory();
    (void)air_engine_layer_times(self->engine, times, times + n, n);
    PyObject *pair = Py_BuildValue("(NN)", u64_list(times, n), u64_list(times + n, n));
    air_free(times);
    return pair;
}

/* [[rows sent to each expert] of each layer]; an empty list for a layer without. */
static PyObject *engine_expert_rows(PyObject *o, PyObject *unused)
{
    (void)unused;
    EngineObject *self = (EngineObject *)o;
    if (air__py_engine_usable(self) < 0) return NULL;
    int32_t layers = air_model_program(air_engine_model(self->engine))->n_layers;
    uint64_t rows[AIR_EXPERTS_MOST];
    PyObject *list = PyList_New(0);
    for (int32_t i = 0; list && i < layers; i++) {
        PyObject *layer = u64_list(rows, air_engine_expert_rows(self->engine, i, rows, AIR_EXPERTS_MOST));
        if (!layer || PyList_Append(list, layer) < 0) Py_CLEAR(list);
        Py_XDECREF(layer);
    }
    return list;
}

/* budget_for(sequences, blocks, rows, wanted, /) -> bytes, 0 where none is known. */
static PyObject *engine_budget_for(PyObject *o, PyObject *args)
{
    static const char *const names[] = {"sequences", "blocks", "rows", "wanted"};
    EngineObject *self = (EngineObject *)o;
    PyObject *given[AIR_COUNT(names)];
    int64_t counts[AIR_COUNT(names)];
    if (air__py_engine_usable(self) < 0) return NULL;
    if (!PyArg_ParseTuple(args, "OOOO:budget_for", &given[0], &given[1], &given[2], &given[3])) return NULL;
    for (size_t i = 0; i < AIR_COUNT(names); i++)
        if (air__py_to_i64(air__py_state(o), names[i], given[i], 0, INT64_MAX, &counts[i]) < 0) return NULL;
    return PyLong_FromUnsignedLongLong(air_engine_budget_for(self->engine, counts[0], counts[1], counts[2], counts[3]));
}

static PyObject *engine_hparams(PyObject *o, void *unused)
{
    (void)unused;
    EngineObject *self = (EngineObject *)o;
    if (air__py_engine_usable(self) < 0) return NULL;
    const air_hparams *h = air_model_hparams(air_engine_model(self->engine));
#define L(field) #field, (long long)h->field
    return Py_BuildValue("{ss sL sL sL sL sL sL sL sL sL sL sd sN sN sN sL sL sL}", "arch", h->arch, L(n_vocab), L(n_embd),
                         L(n_ff), L(n_layers), L(n_ctx_trained),
                         L(heads), L(kv_heads), L(key_dim), L(value_dim), L(rope_dims), "norm_eps", h->norm_eps,
                         "tied_output", PyBool_FromLong(h->tied_output), "bidirectional", PyBool_FromLong(h->bidirectional),
                         "foretells", PyBool_FromLong(h->foretells), L(n_labels), L(n_types), L(pooling));
#undef L
}

static PyObject *engine_plan(PyObject *o, void *unused)
{
    (void)unused;
    EngineObject *self = (EngineObject *)o;
    if (air__py_engine_usable(self) < 0) return NULL;
    return air__py_plan_dict(air_engine_plan(self->engine), air_model_program(air_engine_model(self->engine)));
}

static PyObject *engine_closed(PyObject *o, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((EngineObject *)o)->closing);
}

static PyMethodDef engine_methods[] = {
    {"stats", engine_stats, METH_NOARGS, "stats($self, /)\n--\n\nTime, bytes and memory since open, and of the last pass."},
    {"layer_times", engine_layer_times, METH_NOARGS,
     "layer_times($self, /)\n--\n\nBusy and stalled ns of each layer in the last pass; the last entry: outside of layers."},
    {"expert_rows", engine_expert_rows, METH_NOARGS,
     "expert_rows($self, /)\n--\n\nRows sent to each expert since open, a list for each layer, empty where it has none."},
    {"budget_for", engine_budget_for, METH_VARARGS,
     "budget_for($self, sequences, blocks, rows, wanted, /)\n--\n\nA max_ram that would hold this many blocks of state, of so many "
     "sequences, and such passes; 0: unknown."},
    {"sequence", engine_sequence, METH_NOARGS, "sequence($self, /)\n--\n\nA new, empty Sequence."},
    {"run", (PyCFunction)(void (*)(void))air__py_engine_run, METH_VARARGS | METH_KEYWORDS,
     "run($self, items, *, logits=False, hidden=False, progress=None)\n--\n\n"
     "Appends tokens to sequences, in one pass where they fit; each item is (sequence, int32 tokens, want, sampling or None, n_prompt, "
     "n_first=0)."},
    {"walk", air__py_engine_walk, METH_NOARGS,
     "walk($self, /)\n--\n\nA pass with compute left out: takes every weight as run does. Result shows its cost."},
    {"adapter", air__py_engine_adapter, METH_O,
     "adapter($self, matrices, /)\n--\n\nAn Adapter, all zeros, of matrices (tensor's name, rank, rows, cols)."},
    {"floats", air__py_engine_floats, METH_VARARGS,
     "floats($self, rows, cols, /)\n--\n\nAn Array of zeros, float32 (rows, cols), to write to: weights give way to it while it lives."},
    {"sample", air__py_engine_sample, METH_VARARGS,
     "sample($self, logits, n, sampling, /)\n--\n\nThe token that n tokens with these logits go on with; penalties are not applied."},
    {"timeline_begin", air__py_timeline_begin, METH_O,
     "timeline_begin($self, max_events, /)\n--\n\nFrom now on threads note what they do."},
    {"timeline_stop", air__py_timeline_stop, METH_NOARGS,
     "timeline_stop($self, /)\n--\n\nWhat they noted, and figures. Waits for the pass under way."},
    {"cancel", engine_cancel, METH_NOARGS, "cancel($self, /)\n--\n\nEnds every call of run now under way with CancelledError."},
    {"close", engine_close, METH_NOARGS, "close($self, /)\n--\n\nCancels what runs and frees all memory. Idempotent."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef engine_getset[] = {
    {"hparams", engine_hparams, NULL, "Hyperparameters by name.", NULL},
    {"plan", engine_plan, NULL, "What stays, what streams and how long a pass takes.", NULL},
    {"weight_names", air__py_weight_names, NULL, "Names of the program's weights, by the numbers that a timeline has.", NULL},
    {"closed", engine_closed, NULL, "Whether close() was called.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot engine_slots[] = {
    {Py_tp_doc, "Engine(gguf, /, *, max_ram=0, fixed_bytes=0, max_vram=0, io='auto', threads=0, tier='', n_ctx=0, kv_dtype='', "
                "ring_bytes=0, tile_bytes=0, max_rows=0, max_pins=-1, lookahead=True, bandwidths=None, plugin='', device=0, "
                "cpu_share=None, source='')\n--\n\n"
                "One open model: budget, pager, threads. Zeros and empty strings: chosen."},
    {Py_tp_new, engine_new},
    {Py_tp_dealloc, engine_dealloc},
    {Py_tp_methods, engine_methods},
    {Py_tp_getset, engine_getset},
    {0, NULL},
};

PyType_Spec air__py_engine_spec = {
    .name = "airpy._core.Engine",
    .basicsize = sizeof(EngineObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = engine_slots,
};
