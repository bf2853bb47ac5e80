/* python/errors.c: the exceptions, one per row of base/status.def, and how a status becomes one. */
#include <string.h>

#include "python/core.h"

static const struct {
    air_status status;
    const char *name; /* airpy.errors is where users find them */
    PyObject **base;
    const char *doc;
} rows[] = {
#define STATUS(code, text, exception, base) {AIR_E_##code, "airpy.errors." exception, &base, text},
#include "base/status.def"
#undef STATUS
};

/* Adds a new reference to error under the last part of its name. */
static int add_error(PyObject *module, const char *name, PyObject *error)
{
    return PyModule_AddObjectRef(module, strrchr(name, '.') + 1, error);
}

int air__py_errors_init(core_state *state, PyObject *module)
{
    static const char base_name[] = "airpy.errors.AirpyError";
    state->errors[AIR_OK] = PyErr_NewExceptionWithDoc(base_name, "What every error of airpy derives from.", NULL, NULL);
    if (!state->errors[AIR_OK] || add_error(module, base_name, state->errors[AIR_OK]) < 0) return -1;
    for (size_t i = 0; i < AIR_COUNT(rows); i++) {
        PyObject *bases = PyTuple_Pack(2, state->errors[AIR_OK], *rows[i].base);
        if (!bases) return -1;
        PyObject *error = PyErr_NewExceptionWithDoc(rows[i].name, rows[i].doc, bases, NULL);
        Py_DECREF(bases);
        if (!error) return -1;
        state->errors[rows[i].status] = error;
        if (add_error(module, rows[i].name, error) < 0) return -1;
    }
    return 0;
}

PyObject *air__py_raise(const core_state *state, const air_error *err)
{
    /* A message quotes names from the file, which need not be UTF-8, and may end inside a character. */
    PyObject *text = PyUnicode_DecodeUTF8(err->text, (Py_ssize_t)strlen(err->text), "backslashreplace");
    if (!text) return NULL;
    PyErr_SetObject(state->errors[(unsigned)err->status < AIR_STATUS_COUNT ? err->status : AIR_OK], text);
    Py_DECREF(text);
    return NULL;
}

PyObject *air__py_raise_text(const core_state *state, air_status status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    PyErr_FormatV(state->errors[status], format, args);
    va_end(args);
    return NULL;
}
