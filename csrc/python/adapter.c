/* python/adapter.c: Adapter, what sequences of an Engine may be computed with beside the model.
 *
 * Its C adapter is freed with the object, which every sequence that has it keeps, or when the engine closes, after all sequences. */
#include <string.h>

#include "python/core.h"

#include "base/alloc.h"

struct AdapterObject {
    PyObject_HEAD
    air_engine_adapter *adapter;    /* NULL once the engine is closed */
    EngineObject *engine;
    AdapterObject *next, *previous; /* on the engine's list, while adapter is not NULL */
};

typedef struct matrices {
    PyObject *items; /* a tuple of tuples: keeps the names */
    air_adapter_matrix *matrix;
    Py_ssize_t n;
} matrices;

static int parse_matrix(const core_state *state, PyObject *item, air_adapter_matrix *out)
{
    PyObject *name, *rank, *rows, *cols;
    if (!PyTuple_Check(item)) {
        PyErr_SetString(PyExc_TypeError, "a matrix is a tuple (name, rank, rows, cols)");
        return -1;
    }
    if (!PyArg_ParseTuple(item, "OOOO;a matrix is (name, rank, rows, cols)", &name, &rank, &rows, &cols)) return -1;
    return air__py_to_text(state, "name", name, &out->name) < 0 || air__py_to_i64(state, "rank", rank, 1, INT32_MAX, &out->rank) < 0 ||
                   air__py_to_i64(state, "rows", rows, 1, INT64_MAX, &out->rows) < 0 ||
                   air__py_to_i64(state, "cols", cols, 1, INT64_MAX, &out->cols) < 0 ? -1 : 0;
}

static int parse_matrices(const core_state *state, matrices *m, PyObject *given)
{
    m->items = PySequence_Tuple(given);
    if (!m->items) return -1;
    m->n = PyTuple_Size(m->items);
    if (m->n < 1 || m->n > INT32_MAX) {
        air__py_raise_text(state, AIR_E_ARGUMENT, "an adapter of %zd matrices", m->n);
        return -1;
    }
    m->matrix = air_calloc((size_t)m->n, sizeof *m->matrix);
    if (!m->matrix) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < m->n; i++)
        if (parse_matrix(state, PyTuple_GetItem(m->items, i), &m->matrix[i]) < 0) return -1;
    return 0;
}

static void release_matrices(matrices *m)
{
    air_free(m->matrix);
    Py_XDECREF(m->items);
}

/* Takes adapter, also on failure. */
static PyObject *adapter_wrap(EngineObject *engine, air_engine_adapter *adapter)
{
    AdapterObject *self = PyObject_New(AdapterObject, air__py_state((PyObject *)engine)->adapter);
    if (!self) {
        air_engine_adapter_free(adapter);
        return NULL;
    }
    self->adapter = adapter;
    self->engine = (EngineObject *)Py_NewRef((PyObject *)engine);
    self->previous = NULL;
    self->next = engine->adapters;
    if (self->next) self->next->previous = self;
    engine->adapters = self;
    return (PyObject *)self;
}

/* adapter(matrices, /) -> Adapter. Waits for the pass that is under way, without the GIL. */
PyObject *air__py_engine_adapter(PyObject *o, PyObject *given)
{
    EngineObject *engine = (EngineObject *)o;
    core_state *state = air__py_state(o);
    matrices m = {0};
    air_engine_adapter *adapter = NULL;
    air_batch *held = NULL;
    air_adapter_room room;
    air_error err;
    PyObject *wrapped = NULL;
    if (parse_matrices(state, &m, given) == 0 && air__py_engine_usable(engine) == 0) {
        air_status st = air_engine_adapter_room(engine->engine, m.matrix, (int32_t)m.n, &room, &err);
        if (st) (void)air__py_raise(state, &err);
        else if (air__py_engine_hold(engine, &room, &held) == 0) {
            st = air_engine_adapter_new(&adapter, engine->engine, m.matrix, (int32_t)m.n, held, &err);
            wrapped = st ? air__py_raise(state, &err) : adapter_wrap(engine, adapter);
        }
    }
    air_batch_free(held);
    release_matrices(&m);
    return wrapped;
}

air_engine_adapter *air__py_adapter_of(PyObject *o, const EngineObject *engine)
{
    AdapterObject *self = (AdapterObject *)o;
    if (self->engine == engine) return self->adapter;
    (void)air__py_raise_text(air__py_state(o), AIR_E_ARGUMENT, "the adapter belongs to another model");
    return NULL;
}

void air__py_adapter_drop(AdapterObject *self)
{
    if (!self->adapter) return;
    if (!air__py_engine_in_child(self->engine)) air_engine_adapter_free(self->adapter);
    self->adapter = NULL;
    if (self->next) self->next->previous = self->previous;
    if (self->previous) self->previous->next = self->next;
    else self->engine->adapters = self->next;
}

static void adapter_dealloc(PyObject *o)
{
    AdapterObject *self = (AdapterObject *)o;
    PyTypeObject *type = Py_TYPE(o);
    air__py_adapter_drop(self);
    Py_DECREF((PyObject *)self->engine);
    PyObject_Free(o);
    Py_DECREF(type);
}

static int has_shape(const Py_buffer *view, int64_t rows, int64_t cols)
{
    return view->ndim == 2 && view->itemsize == 4 && view->format && !strcmp(view->format, "f") && view->shape[0] == rows &&
           view->shape[1] == cols;
}

/* Copies what the buffers have to where it belongs; 0, or -1 with an exception. */
static int fill(AdapterObject *self, int64_t i, const Py_buffer *a, const Py_buffer *b)
{
    const core_state *state = air__py_state((PyObject *)self);
    if (air__py_engine_usable(self->engine) < 0) return -1; /* asked when nobody's code runs any more */
    if (i >= air_engine_adapter_count(self->adapter)) {
        air__py_raise_text(state, AIR_E_ARGUMENT, "the adapter has %d matrices", (int)air_engine_adapter_count(self->adapter));
        return -1;
    }
    air_adapter_matrix m = air_engine_adapter_matrix(self->adapter, (int32_t)i);
    air_error err;
    if (!has_shape(a, m.rank, m.cols) || !has_shape(b, m.rows, m.rank)) {
        air__py_raise_text(state, AIR_E_ARGUMENT, "matrix %d needs float32 a [%lld, %lld], b [%lld, %lld]", (int)i, (long long)m.rank,
                           (long long)m.cols, (long long)m.rows, (long long)m.rank);
        return -1;
    }
    if (!air_engine_adapter_fill(self->adapter, (int32_t)i, a->buf, b->buf, &err)) return 0;
    (void)air__py_raise(state, &err);
    return -1;
}

/* set(i, a, b, /): fills matrix number i, before a sequence has the adapter. */
static PyObject *adapter_set(PyObject *o, PyObject *args)
{
    PyObject *number, *a, *b;
    Py_buffer of_a, of_b;
    int64_t i;
    if (!PyArg_ParseTuple(args, "OOO:set", &number, &a, &b) || air__py_to_i64(air__py_state(o), "i", number, 0, INT32_MAX, &i) < 0)
        return NULL;
    if (PyObject_GetBuffer(a, &of_a, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS) < 0) return NULL;
    if (PyObject_GetBuffer(b, &of_b, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS) < 0) {
        PyBuffer_Release(&of_a);
        return NULL;
    }
    int st = fill((AdapterObject *)o, i, &of_a, &of_b);
    PyBuffer_Release(&of_a);
    PyBuffer_Release(&of_b);
    if (st < 0) return NULL;
    Py_RETURN_NONE;
}

static PyObject *adapter_bytes(PyObject *o, void *unused)
{
    (void)unused;
    AdapterObject *self = (AdapterObject *)o;
    if (air__py_engine_usable(self->engine) < 0) return NULL;
    return PyLong_FromUnsignedLongLong(air_engine_adapter_held(self->adapter).host);
}

static PyObject *adapter_device_bytes(PyObject *o, void *unused)
{
    (void)unused;
    AdapterObject *self = (AdapterObject *)o;
    if (air__py_engine_usable(self->engine) < 0) return NULL;
    return PyLong_FromUnsignedLongLong(air_engine_adapter_held(self->adapter).device);
}

static PyMethodDef adapter_methods[] = {
    {"set", adapter_set, METH_VARARGS,
     "set($self, i, a, b, /)\n--\n\nFills matrix number i: float32 a (rank, cols), b (rows, rank); before a sequence has the adapter."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef adapter_getset[] = {
    {"bytes", adapter_bytes, NULL, "Of max_ram, while it lives.", NULL},
    {"device_bytes", adapter_device_bytes, NULL, "Of max_vram, while it lives; 0 where the CPU computes.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot adapter_slots[] = {
    {Py_tp_doc, "Low-rank additions to some of a model's weights. Made by Engine.adapter(matrices)."},
    {Py_tp_dealloc, adapter_dealloc},
    {Py_tp_methods, adapter_methods},
    {Py_tp_getset, adapter_getset},
    {0, NULL},
};

PyType_Spec air__py_adapter_spec = {
    .name = "airpy._core.Adapter",
    .basicsize = sizeof(AdapterObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = adapter_slots,
};
