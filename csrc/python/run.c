/* python/run.c: Engine.run: items into a batch, waiting for it in slices, signals, progress; Engine.sample. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "python/core.h"

#include "base/alloc.h"

enum { SLICE_NS = 50000000 }; /* between looks for signals */

typedef struct run_call {
    EngineObject *engine;
    engine_run link;
    PyObject *items;       /* the sequence of tuples, as a tuple: keeps all they name */
    int32_t n;
    air_batch_item *item;  /* [n] */
    air_sampling *sampling;
    Py_buffer *tokens;     /* [n], of which n_tokens are held */
    int32_t n_tokens;
    int busy;              /* the sequences are marked */
} run_call;

static SequenceObject *sequence_of(const run_call *call, int32_t i)
{
    return (SequenceObject *)PyTuple_GetItem(PyTuple_GetItem(call->items, i), 0);
}

/* --- an item --- */

static int to_float(const core_state *state, const char *name, PyObject *value, float *out)
{
    double number;
    if (air__py_to_double(name, value, &number) < 0) return -1;
    if (!isfinite(number)) {
        air__py_raise_text(state, AIR_E_ARGUMENT, "%s is %R, not a finite number", name, value);
        return -1;
    }
    *out = (float)fmax(-FLT_MAX, fmin(number, FLT_MAX)); /* what a float cannot hold is out of every field's range */
    return 0;
}

static int set_sampling(const core_state *state, const char *name, PyObject *value, air_sampling *s)
{
    const struct { const char *name; float *field; } floats[] = {
        {"temperature", &s->temperature}, {"top_p", &s->top_p}, {"min_p", &s->min_p},
        {"repetition_penalty", &s->repetition_penalty}, {"frequency_penalty", &s->frequency_penalty},
        {"presence_penalty", &s->presence_penalty},
    };
    for (size_t i = 0; i < AIR_COUNT(floats); i++)
        if (!strcmp(name, floats[i].name)) return to_float(state, name, value, floats[i].field);
    if (!strcmp(name, "seed")) return air__py_to_u64(state, name, value, &s->seed);
    if (!strcmp(name, "top_k")) {
        int64_t top_k;
        int st = air__py_to_i64(state, name, value, 0, INT32_MAX, &top_k);
        if (!st) s->top_k = (int32_t)top_k;
        return st;
    }
    PyErr_Format(PyExc_TypeError, "sampling has no '%s'", name);
    return -1;
}

static int parse_sampling(const core_state *state, PyObject *o, air_sampling *out)
{
    *out = air_sampling_greedy();
    PyObject *items = PyMapping_Check(o) ? PyMapping_Items(o) : NULL;
    if (!items) {
        PyErr_Format(PyExc_TypeError, "sampling must be a mapping or None, not %R", Py_TYPE(o));
        return -1;
    }
    int st = 0;
    for (Py_ssize_t i = 0; !st && i < PyList_Size(items); i++) {
        PyObject *key, *value;
        const char *name;
        st = PyArg_ParseTuple(PyList_GetItem(items, i), "OO", &key, &value) ? air__py_to_text(state, "a key of sampling", key, &name) : -1;
        if (!st) st = set_sampling(state, name, value, out);
    }
    Py_DECREF(items);
    return st;
}

static int parse_tokens(run_call *call, int32_t i, PyObject *o)
{
    Py_buffer *view = &call->tokens[i];
    if (PyObject_GetBuffer(o, view, PyBUF_FULL_RO) < 0) return -1;
    call->n_tokens = i + 1;
    const char *format = view->format ? view->format : "B";
    if (*format == '@' || *format == '=' || *format == '<') format++;
    int is_int32 = view->itemsize == 4 && (!strcmp(format, "i") || !strcmp(format, "l"));
    if (!is_int32 || view->ndim != 1) {
        PyErr_Format(PyExc_TypeError, "item %d: tokens must be int32 in one dimension, not format '%s' in %d", (int)i,
                     view->format ? view->format : "B", view->ndim);
        return -1;
    }
    if (!PyBuffer_IsContiguous(view, 'C')) {
        air__py_raise_text(air__py_state((PyObject *)call->engine), AIR_E_ARGUMENT, "item %d: tokens must be contiguous", (int)i);
        return -1;
    }
    call->item[i].tokens = view->buf;
    call->item[i].n_tokens = view->len / 4;
    return 0;
}

static int parse_item(run_call *call, int32_t i)
{
    const core_state *state = air__py_state((PyObject *)call->engine);
    PyObject *item = PyTuple_GetItem(call->items, i), *sequence, *tokens, *want, *sampling, *n_prompt, *n_first = NULL;
    if (!PyTuple_Check(item)) {
        PyErr_Format(PyExc_TypeError, "item %d must be a tuple, not %R", (int)i, Py_TYPE(item));
        return -1;
    }
    if (!PyArg_ParseTuple(item, "OOOOO|O;an item is (sequence, tokens, want, sampling, n_prompt[, n_first])", &sequence, &tokens, &want,
                          &sampling, &n_prompt, &n_first))
        return -1;
    if (Py_TYPE(sequence) != state->sequence) {
        PyErr_Format(PyExc_TypeError, "item %d begins with %R, not a Sequence", (int)i, Py_TYPE(sequence));
        return -1;
    }
    air_batch_item *out = &call->item[i];
    if (air__py_to_i64(state, "want", want, 0, INT64_MAX, &out->want) < 0 ||
        air__py_to_i64(state, "n_prompt", n_prompt, 0, INT64_MAX, &out->n_prompt) < 0)
        return -1;
    if (n_first && air__py_to_i64(state, "n_first", n_first, 0, INT64_MAX, &out->n_first) < 0) return -1;
    if (sampling != Py_None) {
        if (parse_sampling(state, sampling, &call->sampling[i]) < 0) return -1;
        out->sampling = &call->sampling[i];
    }
    return parse_tokens(call, i, tokens);
}

static int parse_items(run_call *call, PyObject *items)
{
    call->items = PySequence_Tuple(items);
    if (!call->items) return -1;
    Py_ssize_t n = PyTuple_Size(call->items);
    if (n > INT32_MAX / 2) {
        air__py_raise_text(air__py_state((PyObject *)call->engine), AIR_E_ARGUMENT, "%zd items", n);
        return -1;
    }
    call->item = air_calloc((size_t)n + 1, sizeof *call->item);
    call->sampling = air_calloc((size_t)n + 1, sizeof *call->sampling);
    call->tokens = air_calloc((size_t)n + 1, sizeof *call->tokens);
    if (!call->item || !call->sampling || !call->tokens) {
        PyErr_NoMemory();
        return -1;
    }
    call->n = (int32_t)n;
    for (int32_t i = 0; i < call->n; i++)
        if (parse_item(call, i) < 0) return -1;
    return 0;
}

/* --- the call --- */

static void release_tokens(run_call *call)
{
    for (int32_t i = 0; i < call->n_tokens; i++) PyBuffer_Release(&call->tokens[i]);
    call->n_tokens = 0;
}

/* Last, when no Python code can run any more before the batch is submitted: checks the sequences, marks them and enters the list. */
static int call_begin(run_call *call)
{
    if (air__py_engine_usable(call->engine) < 0) return -1;
    for (int32_t i = 0; i < call->n; i++) {
        if (sequence_of(call, i)->engine != call->engine) {
            air__py_raise_text(air__py_state((PyObject *)call->engine), AIR_E_ARGUMENT,
                               "item %d: its sequence belongs to another engine", (int)i);
            return -1;
        }
        if (air__py_sequence_usable(sequence_of(call, i)) < 0) return -1;
        call->item[i].sequence = sequence_of(call, i)->sequence;
    }
    for (int32_t i = 0; i < call->n; i++) sequence_of(call, i)->busy = 1;
    call->busy = 1;
    air__py_run_enter(call->engine, &call->link);
    return 0;
}

static void call_end(run_call *call)
{
    for (int32_t i = 0; call->busy && i < call->n; i++) sequence_of(call, i)->busy = 0;
    air__py_run_leave(call->engine, &call->link);
    release_tokens(call);
    air_free(call->tokens);
    air_free(call->sampling);
    air_free(call->item);
    Py_XDECREF(call->items);
}

/* Signals and progress; 0, or -1 with an exception. */
static int look_up(PyObject *progress, const air_progress *p)
{
    if (PyErr_CheckSignals() < 0) return -1;
    if (progress == Py_None) return 0;
    PyObject *result = PyObject_CallFunction(progress, "iiii", (int)p->layers_done, (int)p->n_layers, (int)p->passes_done,
                                             (int)p->n_passes);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

/* Until the batch has ended. An exception of ours cancels it and goes on waiting, so that nothing still uses the sequences. */
static air_status call_wait(run_call *call, PyObject *progress, air_error *err)
{
    for (;;) {
        int done = 0;
        air_progress at = {0};
        air_status st;
        Py_BEGIN_ALLOW_THREADS
        st = air_batch_wait(call->link.batch, SLICE_NS, &done, &at, err);
        Py_END_ALLOW_THREADS
        if (done) return st;
        if (!PyErr_Occurred() && look_up(progress, &at) < 0) air_batch_cancel(call->link.batch);
    }
}

/* Submits and waits: the ended batch, or NULL with an exception. */
static air_batch *call_batch(run_call *call, const air_batch_request *request, PyObject *progress)
{
    const core_state *state = air__py_state((PyObject *)call->engine);
    air_error err;
    air_status st;
    air_batch *batch;
    Py_BEGIN_ALLOW_THREADS
    st = air_batch_submit(&batch, call->engine->engine, request, &err);
    Py_END_ALLOW_THREADS
    release_tokens(call);
    if (st) {
        (void)air__py_raise(state, &err);
        return NULL;
    }
    call->link.batch = batch;
    if (call->link.cancelled) air_batch_cancel(batch);
    st = call_wait(call, progress, &err);
    call->link.batch = NULL;
    if (!st && !PyErr_Occurred()) return batch;
    air_batch_free(batch);
    if (!PyErr_Occurred()) (void)air__py_raise(state, &err);
    return NULL;
}

static PyObject *call_run(run_call *call, int walk, int logits, int hidden, PyObject *progress)
{
    air_batch_request request = {.items = call->item, .n_items = call->n, .sampled_only = !logits, .keep_hidden = hidden, .walk = walk};
    air_batch *batch = call_batch(call, &request, progress);
    return batch ? air__py_result_new(call->engine, batch, call->n, logits, hidden) : NULL;
}

int air__py_engine_hold(EngineObject *engine, const air_adapter_room *room, air_batch **held)
{
    run_call call = {.engine = engine};
    air_batch_request request = {.hold = *room};
    *held = call_begin(&call) == 0 ? call_batch(&call, &request, Py_None) : NULL;
    call_end(&call);
    return *held ? 0 : -1;
}

/* floats(rows, cols, /) -> Array of float32 (rows, cols), zeros, writable. Waits for the pass that is under way, without the GIL. */
PyObject *air__py_engine_floats(PyObject *o, PyObject *args)
{
    core_state *state = air__py_state(o);
    PyObject *given[2];
    int64_t rows, cols;
    if (!PyArg_ParseTuple(args, "OO:floats", &given[0], &given[1])) return NULL;
    if (air__py_to_i64(state, "rows", given[0], 1, INT64_MAX, &rows) < 0) return NULL;
    if (air__py_to_i64(state, "cols", given[1], 1, INT64_MAX / rows, &cols) < 0) return NULL;
    run_call call = {.engine = (EngineObject *)o};
    air_batch_request request = {.floats = (uint64_t)(rows * cols)};
    air_batch *batch = call_begin(&call) == 0 ? call_batch(&call, &request, Py_None) : NULL;
    PyObject *result = batch ? air__py_result_new(call.engine, batch, 0, 1, 0) : NULL;
    call_end(&call);
    PyObject *array = result ? air__py_matrix_new(state, result, air_batch_logits(batch), rows, cols) : NULL;
    Py_XDECREF(result);
    return array;
}

/* run(items, *, logits=False, hidden=False, progress=None) -> Result. Blocks, without the GIL. */
PyObject *air__py_engine_run(PyObject *o, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"items", "logits", "hidden", "progress", NULL};
    PyObject *items, *progress = Py_None;
    int logits = 0, hidden = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|$ppO:run", names, &items, &logits, &hidden, &progress)) return NULL;
    if (progress != Py_None && !PyCallable_Check(progress))
        return PyErr_Format(PyExc_TypeError, "progress must be callable or None, not %R", Py_TYPE(progress));
    run_call call = {.engine = (EngineObject *)o};
    PyObject *result = NULL;
    if (parse_items(&call, items) == 0 && call_begin(&call) == 0) result = call_run(&call, 0, logits, hidden, progress);
    call_end(&call);
    return result;
}

/* walk() -> Result. Blocks, without the GIL. */
PyObject *air__py_engine_walk(PyObject *o, PyObject *unused)
{
    (void)unused;
    run_call call = {.engine = (EngineObject *)o};
    PyObject *result = call_begin(&call) == 0 ? call_run(&call, 1, 0, 0, Py_None) : NULL;
    call_end(&call);
    return result;
}

/* sample(logits: float32 (n_vocab,), n, sampling, /) -> int. With the GIL: an engine cannot close meanwhile. */
PyObject *air__py_engine_sample(PyObject *o, PyObject *args)
{
    EngineObject *self = (EngineObject *)o;
    const core_state *state = air__py_state(o);
    PyObject *logits, *length, *given;
    Py_buffer view;
    air_sampling sampling;
    int64_t n;
    if (!PyArg_ParseTuple(args, "OOO:sample", &logits, &length, &given)) return NULL;
    if (air__py_to_i64(state, "n", length, 0, INT64_MAX, &n) < 0 || parse_sampling(state, given, &sampling) < 0) return NULL;
    if (PyObject_GetBuffer(logits, &view, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS) < 0) return NULL;
    if (air__py_engine_usable(self) < 0) { /* asked last: what came before may have run anybody's code */
        PyBuffer_Release(&view);
        return NULL;
    }
    int64_t n_vocab = air_model_program(air_engine_model(self->engine))->n_vocab;
    air_error err;
    air_status st;
    int32_t token = -1;
    if (view.itemsize != 4 || !view.format || strcmp(view.format, "f") || view.len != n_vocab * 4)
        st = air_fail(&err, AIR_E_ARGUMENT, "logits must be %lld of float32", (long long)n_vocab);
    else st = air_engine_sample(self->engine, &sampling, view.buf, n, &token, &err);
    PyBuffer_Release(&view);
    return st ? air__py_raise(state, &err) : PyLong_FromLong(token);
}
