/* python/quant.c: tensor types, from and to floats. */
#include "python/core.h"

#include "quant/encode.h"

/* dequantize(type, data, /) -> float32 Array (elements,). data: any C-contiguous buffer of whole blocks. */
PyObject *air__py_dequantize(PyObject *module, PyObject *args)
{
    core_state *state = PyModule_GetState(module);
    PyObject *type, *data;
    if (!PyArg_ParseTuple(args, "OO:dequantize", &type, &data)) return NULL;
    const air_format *format = air__py_to_format(state, type);
    Py_buffer view;
    if (!format || PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) return NULL;

    PyObject *array = NULL;
    void *out;
    int64_t blocks = view.len / format->bytes;
    if (view.len % format->bytes)
        air__py_raise_text(state, AIR_E_ARGUMENT, "%zd bytes are not whole blocks of %s, which take %u each", view.len, format->name,
                        (unsigned)format->bytes);
    else if (blocks > PY_SSIZE_T_MAX / 8 / format->block)
        PyErr_NoMemory();
    else
        array = air__py_array_make(state, "f", 4, blocks * format->block, &out);
    if (array) {
        Py_BEGIN_ALLOW_THREADS
        format->decode(view.buf, out, blocks);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&view);
    return array;
}

/* What convert() does once its buffers are held. */
static PyObject *convert_blocks(core_state *state, const air_format *from, const air_format *to, const Py_buffer *view, int64_t first)
{
    void *out;
    int64_t blocks = view->len / from->bytes, n = blocks * from->block;
    if (view->len % from->bytes)
        return air__py_raise_text(state, AIR_E_ARGUMENT, "%zd bytes are not whole blocks of %s, which take %u each", view->len, from->name,
                                  (unsigned)from->bytes);
    PyObject *array = air__py_array_make(state, "B", 1, n / to->block * to->bytes, &out);
    if (!array) return NULL;
    air_error err;
    air_status st;
    Py_BEGIN_ALLOW_THREADS
    st = air_convert(from, to, view->buf, out, n, first, &err);
    Py_END_ALLOW_THREADS
    if (!st) return array;
    Py_DECREF(array);
    return air__py_raise(state, &err);
}

/* convert(source, target, data, first=0, /): blocks of one type as blocks of another. */
PyObject *air__py_convert(PyObject *module, PyObject *args)
{
    core_state *state = PyModule_GetState(module);
    PyObject *source, *target, *data;
    long long first = 0;
    if (!PyArg_ParseTuple(args, "OOO|L:convert", &source, &target, &data, &first)) return NULL;
    const air_format *from = air__py_to_format(state, source), *to = from ? air__py_to_format(state, target) : NULL;
    Py_buffer view;
    if (!to || PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) return NULL;
    PyObject *array = convert_blocks(state, from, to, &view, first);
    PyBuffer_Release(&view);
    return array;
}
