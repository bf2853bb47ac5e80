/* python/sequence.c: Sequence, one timeline of an Engine.
 *
 * Its C sequence is freed by close(), with the object, or when the engine closes, whichever comes first. */
#include <string.h>

#include "python/core.h"

/* Takes sequence, also on failure. adapter: that it has; borrowed, may be NULL. */
static PyObject *sequence_wrap(EngineObject *engine, air_sequence *sequence, PyObject *adapter, double scale)
{
    SequenceObject *self = PyObject_New(SequenceObject, air__py_state((PyObject *)engine)->sequence);
    if (!self) {
        air_sequence_free(sequence);
        return NULL;
    }
    self->sequence = sequence;
    self->engine = (EngineObject *)Py_NewRef((PyObject *)engine);
    self->busy = 0;
    self->adapter = Py_XNewRef(adapter);
    self->scale = scale;
    self->previous = NULL;
    self->next = engine->sequences;
    if (self->next) self->next->previous = self;
    engine->sequences = self;
    return (PyObject *)self;
}

PyObject *air__py_sequence_new(EngineObject *engine)
{
    air_sequence *sequence;
    air_error err;
    if (air_sequence_new(&sequence, engine->engine, &err)) return air__py_raise(air__py_state((PyObject *)engine), &err);
    return sequence_wrap(engine, sequence, NULL, 1);
}

void air__py_sequence_drop(SequenceObject *self)
{
    if (!self->sequence) return;
    /* In a forked child locks may be held by threads that are not there. */
    if (!air__py_engine_in_child(self->engine)) air_sequence_free(self->sequence);
    self->sequence = NULL;
    if (self->next) self->next->previous = self->previous;
    if (self->previous) self->previous->next = self->next;
    else self->engine->sequences = self->next;
}

static int not_busy(SequenceObject *self)
{
    if (!self->busy) return 0;
    air__py_raise_text(air__py_state((PyObject *)self), AIR_E_CLOSED, "the sequence is in use by a call of run");
    return -1;
}

int air__py_sequence_usable(SequenceObject *self)
{
    if (air__py_engine_usable(self->engine) < 0) return -1;
    if (!self->sequence) {
        air__py_raise_text(air__py_state((PyObject *)self), AIR_E_CLOSED, "the sequence is closed");
        return -1;
    }
    return not_busy(self);
}

static void sequence_dealloc(PyObject *o)
{
    SequenceObject *self = (SequenceObject *)o;
    PyTypeObject *type = Py_TYPE(o);
    air__py_sequence_drop(self);
    Py_XDECREF(self->adapter);
    Py_DECREF((PyObject *)self->engine);
    PyObject_Free(o);
    Py_DECREF(type);
}

/* tokens() -> int32 Array (length,), a copy. */
static PyObject *sequence_tokens(PyObject *o, PyObject *unused)
{
    (void)unused;
    SequenceObject *self = (SequenceObject *)o;
    if (air__py_sequence_usable(self) < 0) return NULL;
    void *data;
    int64_t length = air_sequence_length(self->sequence);
    PyObject *array = air__py_array_make(air__py_state(o), "i", 4, length, &data);
    if (array && length) memcpy(data, air_sequence_tokens(self->sequence), (size_t)length * 4);
    return array;
}

/* truncate(length, /): forgets the tokens from length on, or more where layers are recurrent. */
static PyObject *sequence_truncate(PyObject *o, PyObject *length_arg)
{
    SequenceObject *self = (SequenceObject *)o;
    const core_state *state = air__py_state(o);
    int64_t length;
    air_error err;
    if (air__py_sequence_usable(self) < 0 || air__py_to_i64(state, "length", length_arg, 0, INT64_MAX, &length) < 0) return NULL;
    /* The conversion above may have run Python code. */
    if (air__py_sequence_usable(self) < 0) return NULL;
    if (air_sequence_truncate(self->sequence, length, &err)) return air__py_raise(state, &err);
    Py_RETURN_NONE;
}

/* reach(length, /) -> the length that truncate would leave. */
static PyObject *sequence_reach(PyObject *o, PyObject *length_arg)
{
    SequenceObject *self = (SequenceObject *)o;
    int64_t length;
    if (air__py_sequence_usable(self) < 0 || air__py_to_i64(air__py_state(o), "length", length_arg, 0, INT64_MAX, &length) < 0) return NULL;
    if (air__py_sequence_usable(self) < 0) return NULL; /* as above */
    return PyLong_FromLongLong(air_sequence_reach(self->sequence, length));
}

/* repeat(n, /): n tokens more, with copies of the state of those it holds. */
static PyObject *sequence_repeat(PyObject *o, PyObject *n_arg)
{
    SequenceObject *self = (SequenceObject *)o;
    const core_state *state = air__py_state(o);
    int64_t n;
    air_error err;
    if (air__py_sequence_usable(self) < 0 || air__py_to_i64(state, "n", n_arg, 0, INT64_MAX, &n) < 0) return NULL;
    if (air__py_sequence_usable(self) < 0) return NULL; /* as above */
    if (air_sequence_repeat(self->sequence, n, &err)) return air__py_raise(state, &err);
    Py_RETURN_NONE;
}

/* fork() -> a second Sequence with the same tokens. */
static PyObject *sequence_fork(PyObject *o, PyObject *unused)
{
    (void)unused;
    SequenceObject *self = (SequenceObject *)o;
    if (air__py_sequence_usable(self) < 0) return NULL;
    air_sequence *copy;
    air_error err;
    if (air_sequence_fork(&copy, self->sequence, &err)) return air__py_raise(air__py_state(o), &err);
    return sequence_wrap(self->engine, copy, self->adapter, self->scale);
}

/* adapt(adapter or None, scale=1.0, /): of an empty sequence, what it and its forks are computed with. */
static PyObject *sequence_adapt(PyObject *o, PyObject *args)
{
    SequenceObject *self = (SequenceObject *)o;
    const core_state *state = air__py_state(o);
    PyObject *adapter, *factor = NULL;
    double scale = 1;
    air_error err;
    if (!PyArg_ParseTuple(args, "O|O:adapt", &adapter, &factor)) return NULL;
    if (factor && air__py_to_double("scale", factor, &scale) < 0) return NULL;
    if (adapter != Py_None && Py_TYPE(adapter) != state->adapter)
        return PyErr_Format(PyExc_TypeError, "an Adapter or None is expected, not %R", Py_TYPE(adapter));
    if (!(scale >= -1e6 && scale <= 1e6)) return air__py_raise_text(state, AIR_E_ARGUMENT, "scale is %R; it must be -1e6 to 1e6", factor);
    if (air__py_sequence_usable(self) < 0) return NULL; /* an open engine's adapters are there */
    air_engine_adapter *of = adapter == Py_None ? NULL : air__py_adapter_of(adapter, self->engine);
    if (!of && adapter != Py_None) return NULL;
    if (air_sequence_adapt(self->sequence, of, (float)scale, &err)) return air__py_raise(state, &err);
    PyObject *before = self->adapter;
    self->adapter = adapter == Py_None ? NULL : Py_NewRef(adapter);
    self->scale = scale;
    Py_XDECREF(before);
    Py_RETURN_NONE;
}

static PyObject *sequence_close(PyObject *o, PyObject *unused)
{
    (void)unused;
    SequenceObject *self = (SequenceObject *)o;
    if (not_busy(self) < 0) return NULL;
    air__py_sequence_drop(self);
    Py_RETURN_NONE;
}

static PyObject *sequence_length(PyObject *o, void *unused)
{
    (void)unused;
    SequenceObject *self = (SequenceObject *)o;
    return air__py_sequence_usable(self) < 0 ? NULL : PyLong_FromLongLong(air_sequence_length(self->sequence));
}

static PyObject *sequence_bytes(PyObject *o, void *unused)
{
    (void)unused;
    SequenceObject *self = (SequenceObject *)o;
    return air__py_sequence_usable(self) < 0 ? NULL : PyLong_FromUnsignedLongLong(air_sequence_bytes(self->sequence));
}

static PyObject *sequence_host_bytes(PyObject *o, void *unused)
{
    (void)unused;
    SequenceObject *self = (SequenceObject *)o;
    return air__py_sequence_usable(self) < 0 ? NULL : PyLong_FromUnsignedLongLong(air_sequence_host_bytes(self->sequence));
}

static PyObject *sequence_adapted(PyObject *o, void *unused)
{
    (void)unused;
    SequenceObject *self = (SequenceObject *)o;
    if (!self->adapter) Py_RETURN_NONE;
    return Py_BuildValue("(Od)", self->adapter, self->scale);
}

static PyMethodDef sequence_methods[] = {
    {"tokens", sequence_tokens, METH_NOARGS, "tokens($self, /)\n--\n\nThe token ids, a copy: int32 (length,)."},
    {"truncate", sequence_truncate, METH_O,
     "truncate($self, length, /)\n--\n\nForgets the tokens from length on; where layers are recurrent, down to reach(length)."},
    {"reach", sequence_reach, METH_O, "reach($self, length, /)\n--\n\nThe length that truncate would leave."},
    {"repeat", sequence_repeat, METH_O,
     "repeat($self, n, /)\n--\n\nn tokens more, with copies of the state held: a long context, for measurements."},
    {"fork", sequence_fork, METH_NOARGS, "fork($self, /)\n--\n\nA second sequence with the same tokens; state is copied when written."},
    {"adapt", sequence_adapt, METH_VARARGS,
     "adapt($self, adapter, scale=1.0, /)\n--\n\nOf an empty sequence: the Adapter, or None, that it and its forks are computed with."},
    {"close", sequence_close, METH_NOARGS, "close($self, /)\n--\n\nFrees the state. Idempotent."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef sequence_getset[] = {
    {"adapted", sequence_adapted, NULL, "(Adapter, scale), or None.", NULL},
    {"length", sequence_length, NULL, "Tokens whose state is held.", NULL},
    {"bytes", sequence_bytes, NULL, "Of state held, shared blocks counted in full.", NULL},
    {"host_bytes", sequence_host_bytes, NULL, "Of max_ram: where a device computes, those that lie in RAM.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot sequence_slots[] = {
    {Py_tp_doc, "One timeline of an Engine: token ids and their state. Made by Engine.sequence()."},
    {Py_tp_dealloc, sequence_dealloc},
    {Py_tp_methods, sequence_methods},
    {Py_tp_getset, sequence_getset},
    {0, NULL},
};

PyType_Spec air__py_sequence_spec = {
    .name = "airpy._core.Sequence",
    .basicsize = sizeof(SequenceObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = sequence_slots,
};
