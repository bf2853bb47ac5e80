/* python/array.c: Array, memory of the engine as the buffer protocol shows it; numpy.asarray shares it. */
#include "python/core.h"

typedef struct ArrayObject {
    PyObject_HEAD
    PyObject *owner; /* keeps data valid */
    const void *data;
    const char *format;
    int n_dims, writable;
    Py_ssize_t item_bytes, bytes;
    Py_ssize_t shape[2], strides[2];
} ArrayObject;

static ArrayObject *new_array(core_state *state, PyObject *owner, const void *data, const char *format, Py_ssize_t item_bytes, int n_dims,
                              int64_t rows, int64_t cols)
{
    if (cols && (n_dims == 2 ? rows : 1) > PY_SSIZE_T_MAX / item_bytes / cols) return (ArrayObject *)PyErr_NoMemory();
    ArrayObject *self = PyObject_New(ArrayObject, state->array);
    if (!self) return NULL;
    self->owner = Py_NewRef(owner);
    self->data = data ? data : ""; /* an exporter may not show NULL, not even for nothing */
    self->format = format;
    self->n_dims = n_dims;
    self->item_bytes = item_bytes;
    self->shape[0] = n_dims == 2 ? (Py_ssize_t)rows : (Py_ssize_t)cols;
    self->shape[1] = (Py_ssize_t)cols;
    self->strides[0] = n_dims == 2 ? (Py_ssize_t)cols * item_bytes : item_bytes;
    self->strides[1] = item_bytes;
    self->bytes = self->shape[0] * self->strides[0];
    self->writable = 0;
    return self;
}

PyObject *air__py_array_new(core_state *state, PyObject *owner, const void *data, const char *format, Py_ssize_t item_bytes, int64_t count)
{
    return (PyObject *)new_array(state, owner, data, format, item_bytes, 1, 0, count);
}

PyObject *air__py_matrix_new(core_state *state, PyObject *owner, float *data, int64_t rows, int64_t cols)
{
    ArrayObject *self = new_array(state, owner, data, "f", sizeof *data, 2, rows, cols);
    if (self) self->writable = data != NULL;
    return (PyObject *)self;
}

PyObject *air__py_array_make(core_state *state, const char *format, Py_ssize_t item_bytes, int64_t count, void **data)
{
    if (count > (PY_SSIZE_T_MAX - 64) / item_bytes) return PyErr_NoMemory();
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)count * item_bytes);
    if (!bytes) return NULL;
    *data = PyBytes_AsString(bytes);
    PyObject *array = air__py_array_new(state, bytes, *data, format, item_bytes, count);
    Py_DECREF(bytes);
    return array;
}

static void array_dealloc(PyObject *o)
{
    PyTypeObject *type = Py_TYPE(o);
    Py_DECREF(((ArrayObject *)o)->owner);
    PyObject_Free(o);
    Py_DECREF(type);
}

static int array_getbuffer(PyObject *o, Py_buffer *view, int flags)
{
    ArrayObject *self = (ArrayObject *)o;
    if ((flags & PyBUF_WRITABLE) && !self->writable) {
        view->obj = NULL;
        PyErr_SetString(PyExc_BufferError, "this airpy Array is read-only");
        return -1;
    }
    int shaped = (flags & PyBUF_ND) == PyBUF_ND;
    *view = (Py_buffer){
        .buf = (void *)self->data,
        .obj = Py_NewRef(o),
        .len = self->bytes,
        .itemsize = self->item_bytes,
        .readonly = !self->writable,
        .ndim = shaped ? self->n_dims : 1,
        .format = flags & PyBUF_FORMAT ? (char *)self->format : NULL,
        .shape = shaped ? self->shape : NULL,
        .strides = (flags & PyBUF_STRIDES) == PyBUF_STRIDES ? self->strides : NULL,
    };
    return 0;
}

static PyObject *array_shape(PyObject *o, void *unused)
{
    (void)unused;
    ArrayObject *self = (ArrayObject *)o;
    return self->n_dims == 2 ? Py_BuildValue("(nn)", self->shape[0], self->shape[1]) : Py_BuildValue("(n)", self->shape[0]);
}

static PyGetSetDef array_getset[] = {
    {"shape", array_shape, NULL, "Elements along each axis.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot array_slots[] = {
    {Py_tp_doc, "C-contiguous memory with the buffer protocol: np.asarray(a) shares it and keeps it alive. Read-only, but for what a "
                "Result shows, and floats()."},
    {Py_tp_dealloc, array_dealloc},
    {Py_tp_getset, array_getset},
    {Py_bf_getbuffer, array_getbuffer},
    {0, NULL},
};

PyType_Spec air__py_array_spec = {
    .name = "airpy._core.Array",
    .basicsize = sizeof(ArrayObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = array_slots,
};
