/* python/convert.c: numbers, names, paths and strings between Python and C, with errors that name the argument. */
#include <string.h>

#include "python/core.h"

int air__py_to_i64(const core_state *state, const char *what, PyObject *o, int64_t min, int64_t max, int64_t *out)
{
    PyObject *index = PyNumber_Index(o);
    if (!index) {
        if (PyErr_ExceptionMatches(PyExc_TypeError)) PyErr_Format(PyExc_TypeError, "%s must be an int, not %R", what, Py_TYPE(o));
        return -1;
    }
    int overflow;
    long long value = PyLong_AsLongLongAndOverflow(index, &overflow);
    if (overflow || value < min || value > max) {
        air__py_raise_text(state, AIR_E_ARGUMENT, "%s is %S, but must lie from %lld to %lld", what, index, (long long)min, (long long)max);
        Py_DECREF(index);
        return -1;
    }
    Py_DECREF(index);
    *out = value;
    return 0;
}

int air__py_to_u64(const core_state *state, const char *what, PyObject *o, uint64_t *out)
{
    PyObject *index = PyNumber_Index(o);
    if (!index) {
        if (PyErr_ExceptionMatches(PyExc_TypeError)) PyErr_Format(PyExc_TypeError, "%s must be an int, not %R", what, Py_TYPE(o));
        return -1;
    }
    unsigned long long value = PyLong_AsUnsignedLongLong(index);
    if (value == (unsigned long long)-1 && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_OverflowError)) {
            PyErr_Clear();
            air__py_raise_text(state, AIR_E_ARGUMENT, "%s is %S, but must lie from 0 to 2**64 - 1", what, index);
        }
        Py_DECREF(index);
        return -1;
    }
    Py_DECREF(index);
    *out = value;
    return 0;
}

int air__py_to_double(const char *what, PyObject *o, double *out)
{
    double value = PyFloat_AsDouble(o);
    if (value == -1.0 && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_TypeError)) PyErr_Format(PyExc_TypeError, "%s must be a number, not %R", what, Py_TYPE(o));
        return -1;
    }
    *out = value;
    return 0;
}

int air__py_to_text(const core_state *state, const char *what, PyObject *o, const char **out)
{
    if (!PyUnicode_Check(o)) {
        PyErr_Format(PyExc_TypeError, "%s must be a str, not %R", what, Py_TYPE(o));
        return -1;
    }
    Py_ssize_t bytes;
    const char *text = PyUnicode_AsUTF8AndSize(o, &bytes);
    if (!text) return -1;
    if (strlen(text) != (size_t)bytes) {
        air__py_raise_text(state, AIR_E_ARGUMENT, "%s holds a NUL character", what);
        return -1;
    }
    *out = text;
    return 0;
}

int air__py_to_choice(const core_state *state, const char *what, PyObject *o, const char *const *names, int count, int *out)
{
    const char *text;
    if (air__py_to_text(state, what, o, &text) < 0) return -1;
    for (int i = 0; i < count; i++) {
        if (strcmp(names[i], text)) continue;
        *out = i;
        return 0;
    }
    PyObject *list = PyUnicode_FromString(names[0]);
    for (int i = 1; list && i < count; i++) {
        PyObject *longer = PyUnicode_FromFormat("%U, %s", list, names[i]);
        Py_DECREF(list);
        list = longer;
    }
    if (!list) return -1;
    air__py_raise_text(state, AIR_E_ARGUMENT, "%s is %R, but must be one of %U", what, o, list);
    Py_DECREF(list);
    return -1;
}

int air__py_to_tier(const core_state *state, PyObject *o, int *tier)
{
    const char *text;
    *tier = AIR_TIER_COUNT;
    if (air__py_to_text(state, "tier", o, &text) < 0) return -1;
    return *text ? air__py_to_choice(state, "tier", o, air_tier_names, AIR_TIER_COUNT, tier) : 0;
}

PyObject *air__py_to_path(PyObject *o)
{
    PyObject *path = NULL;
    return PyUnicode_FSConverter(o, &path) ? path : NULL;
}

const air_format *air__py_to_format(const core_state *state, PyObject *o)
{
    const air_format *format = NULL;
    if (PyUnicode_Check(o)) {
        const char *name;
        if (air__py_to_text(state, "type", o, &name) < 0) return NULL;
        format = air_format_by_name(name);
    } else {
        int64_t id;
        if (air__py_to_i64(state, "type", o, 0, UINT32_MAX, &id) < 0) return NULL;
        format = air_format_by_id((uint32_t)id);
    }
    if (!format) air__py_raise_text(state, AIR_E_ARGUMENT, "%R is not a tensor type; FORMATS lists those there are", o);
    return format;
}

PyObject *air__py_from_string(const char *data, size_t bytes)
{
    return PyUnicode_DecodeUTF8(bytes ? data : "", (Py_ssize_t)bytes, "surrogateescape");
}

int air__py_dict_take(PyObject *dict, const char *key, PyObject *value)
{
    if (!value) return -1;
    int st = PyDict_SetItemString(dict, key, value);
    Py_DECREF(value);
    return st;
}
