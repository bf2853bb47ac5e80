/* python/module.c: the module airpy._core: its types, functions and constants. */
#include <limits.h>
#include <stddef.h>

#include "python/core.h"

#include "base/alloc.h"
#include "quant/encode.h"

core_state *air__py_state(PyObject *self) { return PyType_GetModuleState(Py_TYPE(self)); }

/* alloc_fail_at(n, /): the n-th allocation from now on fails, once; 0 disarms. */
static PyObject *core_alloc_fail_at(PyObject *module, PyObject *n)
{
    uint64_t count;
    if (air__py_to_u64(PyModule_GetState(module), "n", n, &count) < 0) return NULL;
    air_alloc_fail_at(count);
    Py_RETURN_NONE;
}

static PyObject *core_alloc_failed(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    return PyBool_FromLong(air_alloc_failed());
}

static PyObject *core_alloc_live(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    return PyLong_FromLongLong(air_alloc_live());
}

#define KEYWORDS(function) ((PyCFunction)(void (*)(void))(function))

static PyMethodDef core_functions[] = {
    {"dequantize", air__py_dequantize, METH_VARARGS,
     "dequantize(type, data, /)\n--\n\nBlocks of a tensor type (name or id) as float32."},
    {"convert", air__py_convert, METH_VARARGS,
     "convert(source, target, data, first=0, /)\n--\n\nBlocks of one tensor type as blocks of another, of ENCODERS."},
    {"memory_info", air__py_memory_info, METH_NOARGS,
     "memory_info()\n--\n\nBytes of the machine, its cgroup and this process; cgroup_limit -1: none."},
    {"device_count", air__py_device_count, METH_O, "device_count(plugin, /)\n--\n\nHow many devices that backend has."},
    {"device_info", air__py_device_info, METH_VARARGS,
     "device_info(plugin, device, /)\n--\n\nOne of the devices of the backend whose plugin has that path."},
    {"check_device", air__py_check_device, METH_VARARGS,
     "check_device(plugin, gguf, /)\n--\n\nRaises UnsupportedError where that backend does not run the model."},
    {"cpu_info", air__py_cpu_info, METH_NOARGS, "cpu_info()\n--\n\nName, usable threads, features and best kernel tier."},
    {"file_identity", air__py_file_identity, METH_O,
     "file_identity(path, /)\n--\n\nA hash that changes when the path names another or a changed file."},
    {"probe_disk", KEYWORDS(air__py_probe_disk), METH_VARARGS | METH_KEYWORDS,
     "probe_disk(path, seconds=0.5, source='')\n--\n\nMeasures direct reads of a file: disk (bytes/s), block_bytes, depth, latency_s."},
    {"probe_compute", KEYWORDS(air__py_probe_compute), METH_VARARGS | METH_KEYWORDS,
     "probe_compute(types, threads=0, tier='', max_bytes=0, seconds=0.5)\n--\n\n"
     "Measures memory (bytes/s), product {type: bytes/s} and product_columns {type: bytes*columns/s}."},
    {"probe_links", KEYWORDS(air__py_probe_links), METH_VARARGS | METH_KEYWORDS,
     "probe_links(plugin, devices, max_bytes=0, seconds=0.2)\n--\n\nMeasures what copies to devices give while all are busy: [bytes/s]."},
    {"probe_device", KEYWORDS(air__py_probe_device), METH_VARARGS | METH_KEYWORDS,
     "probe_device(plugin, device, types=(), max_bytes=0, seconds=0.4)\n--\n\n"
     "Rates of its link, memory, launches, hand-overs and products, in bytes per second and seconds."},
    {"solve_plan", KEYWORDS(air__py_solve_plan), METH_VARARGS | METH_KEYWORDS,
     "solve_plan(gguf, /, **options)\n--\n\nThe plan that Engine would make with the same options; opens nothing."},
    {"alloc_fail_at", core_alloc_fail_at, METH_O,
     "alloc_fail_at(n, /)\n--\n\nFor tests: the n-th allocation of the engine from now on fails, once; 0 disarms."},
    {"alloc_failed", core_alloc_failed, METH_NOARGS, "alloc_failed()\n--\n\nFor tests: whether that failure has happened."},
    {"alloc_live", core_alloc_live, METH_NOARGS, "alloc_live()\n--\n\nFor tests: allocations of the engine not yet freed."},
    {NULL, NULL, 0, NULL},
};

static PyObject *formats_tuple(void)
{
    PyObject *tuple = PyTuple_New((Py_ssize_t)air_format_count());
    for (size_t i = 0; tuple && i < air_format_count(); i++) {
        const air_format *f = air_format_at(i);
        PyObject *row = Py_BuildValue("(sIIIs)", f->name, (unsigned)f->id, (unsigned)f->block, (unsigned)f->bytes,
                                      f->role == AIR_FORMAT_MATRIX ? "matrix" : "storage");
        if (!row || PyTuple_SetItem(tuple, (Py_ssize_t)i, row) < 0) Py_CLEAR(tuple);
    }
    return tuple;
}

/* name(0), name(1), … up to count or the first NULL, as a tuple. */
static PyObject *names_tuple(const char *(*name)(int), int count)
{
    int n = 0;
    while (n < count && name(n)) n++;
    PyObject *tuple = PyTuple_New(n);
    for (int i = 0; tuple && i < n; i++) {
        PyObject *text = PyUnicode_FromString(name(i));
        if (!text || PyTuple_SetItem(tuple, i, text) < 0) Py_CLEAR(tuple);
    }
    return tuple;
}

/* The i-th of the types that convert() writes. */
static const char *encoder_name(int i)
{
    for (size_t f = 0; f < air_format_count(); f++)
        if (air_encoder(air_format_at(f)->id) && i-- == 0) return air_format_at(f)->name;
    return NULL;
}

/* The i-th of the tiers that this machine has. */
static const char *tier_name(int i)
{
    for (int t = 0; t < AIR_TIER_COUNT; t++)
        if (air_ops_tier((air_cpu_tier)t) && i-- == 0) return air_tier_names[t];
    return NULL;
}

/* Steals value. */
static int add_value(PyObject *module, const char *name, PyObject *value)
{
    int st = value ? PyModule_AddObjectRef(module, name, value) : -1;
    Py_XDECREF(value);
    return st;
}

static int add_type(PyObject *module, PyTypeObject **slot, PyType_Spec *spec)
{
    *slot = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    return *slot ? PyModule_AddType(module, *slot) : -1;
}

static int core_exec(PyObject *module)
{
    core_state *state = PyModule_GetState(module);
    if (air__py_errors_init(state, module) < 0 || add_type(module, &state->array, &air__py_array_spec) < 0 ||
        add_type(module, &state->gguf, &air__py_gguf_spec) < 0 || add_type(module, &state->engine, &air__py_engine_spec) < 0 ||
        add_type(module, &state->sequence, &air__py_sequence_spec) < 0 ||
        add_type(module, &state->adapter, &air__py_adapter_spec) < 0 || add_type(module, &state->result, &air__py_result_spec) < 0)
        return -1;
    if (add_value(module, "VERSION", PyUnicode_FromString(AIRPY_VERSION)) < 0 ||
        add_value(module, "FORMATS", formats_tuple()) < 0 ||
        add_value(module, "ENCODERS", names_tuple(encoder_name, INT_MAX)) < 0 ||
        add_value(module, "ARCHITECTURES", names_tuple(air_arch_name, INT_MAX)) < 0 ||
        add_value(module, "EVENT_KINDS", names_tuple(air__py_event_name, AIR_EVENT_COUNT)) < 0 ||
        add_value(module, "TIERS", names_tuple(tier_name, AIR_TIER_COUNT)) < 0 ||
        PyModule_AddIntConstant(module, "MAX_THREADS", AIR_PY_MAX_THREADS) < 0 ||
        PyModule_AddIntConstant(module, "MAX_DEVICES", AIR_DEVICES_MOST) < 0 ||
        PyModule_AddIntConstant(module, "DEVICE_CONTEXT", AIR_DEVICE_CONTEXT) < 0 ||
        PyModule_AddIntConstant(module, "DEVICE_HOST_CONTEXT", AIR_DEVICE_HOST_CONTEXT) < 0)
        return -1;
    return 0;
}

static int core_traverse(PyObject *module, visitproc visit, void *arg)
{
    core_state *state = PyModule_GetState(module);
    Py_VISIT(state->array);
    Py_VISIT(state->gguf);
    Py_VISIT(state->engine);
    Py_VISIT(state->sequence);
    Py_VISIT(state->adapter);
    Py_VISIT(state->result);
    for (int i = 0; i < AIR_STATUS_COUNT; i++) Py_VISIT(state->errors[i]);
    return 0;
}

static int core_clear(PyObject *module)
{
    core_state *state = PyModule_GetState(module);
    Py_CLEAR(state->array);
    Py_CLEAR(state->gguf);
    Py_CLEAR(state->engine);
    Py_CLEAR(state->sequence);
    Py_CLEAR(state->adapter);
    Py_CLEAR(state->result);
    for (int i = 0; i < AIR_STATUS_COUNT; i++) Py_CLEAR(state->errors[i]);
    return 0;
}

static void core_free(void *module) { (void)core_clear(module); }

static PyModuleDef_Slot core_slots[] = {
    {Py_mod_exec, core_exec},
    {0, NULL},
};

static struct PyModuleDef core_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_core",
    .m_doc = "The C engine of airpy.",
    .m_size = sizeof(core_state),
    .m_methods = core_functions,
    .m_slots = core_slots,
    .m_traverse = core_traverse,
    .m_clear = core_clear,
    .m_free = core_free,
};

PyMODINIT_FUNC PyInit__core(void);
PyMODINIT_FUNC PyInit__core(void) { return PyModuleDef_Init(&core_module); }
