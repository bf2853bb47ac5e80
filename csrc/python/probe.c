/* python/probe.c: functions of the module that measure bandwidths for a plan. */
#include "python/core.h"

#include "backend/loader.h"
#include "memory/probe.h"
#include "platform/threads.h"

static int check_seconds(const core_state *state, double seconds)
{
    if (seconds > 0 && seconds <= 60) return 0;
    air__py_raise_text(state, AIR_E_ARGUMENT, "seconds must be above 0 and at most 60");
    return -1;
}

/* Signals, on the thread that probes: the GIL is taken for as long as that needs. The exception stays set. */
static int interrupted(void *context)
{
    PyThreadState **thread = context;
    PyEval_RestoreThread(*thread);
    int stop = PyErr_CheckSignals() < 0;
    *thread = PyEval_SaveThread();
    return stop;
}

/* probe_disk(path, seconds=0.5, source="") -> {disk, block_bytes, depth, latency_s}. Blocks for about seconds, without the GIL; Ctrl-C
 * ends it. */
PyObject *air__py_probe_disk(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"path", "seconds", "source", NULL};
    const core_state *state = PyModule_GetState(module);
    PyObject *path_arg;
    double seconds = 0.5;
    const char *spec = "";
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|ds:probe_disk", names, &path_arg, &seconds, &spec)) return NULL;
    if (check_seconds(state, seconds) < 0) return NULL;
    PyObject *path = air__py_to_path(path_arg);
    if (!path) return NULL;

    air_bandwidths found = {0};
    air_source *source = NULL;
    air_error err;
    air_status st;
    const char *text = PyBytes_AsString(path);
    PyThreadState *thread = PyEval_SaveThread();
    st = air_source_file(&source, text, &err);
    if (!st && *spec) st = air_source_tampered(&source, source, spec, &err);
    if (!st) st = air_probe_disk(source, seconds, (air_probe_watch){interrupted, &thread}, &found, &err);
    air_source_close(source);
    PyEval_RestoreThread(thread);
    Py_DECREF(path);
    if (PyErr_Occurred()) return NULL;
    if (st) return air__py_raise(state, &err);
    return Py_BuildValue("{sdsKsisd}", "disk", found.disk, "block_bytes", (unsigned long long)found.block_bytes, "depth", (int)found.depth,
                         "latency_s", found.latency_s);
}

/* {type name: per_type[id]} of the types in set, a bit per id. */
static PyObject *rates_dict(const double *per_type, uint64_t set)
{
    PyObject *dict = PyDict_New();
    for (size_t i = 0; dict && i < air_format_count(); i++) {
        const air_format *format = air_format_at(i);
        if (!(set >> format->id & 1)) continue;
        if (air__py_dict_take(dict, format->name, PyFloat_FromDouble(per_type[format->id])) < 0) Py_CLEAR(dict);
    }
    return dict;
}

static int type_set(const core_state *state, PyObject *types, uint64_t *set)
{
    *set = 0;
    PyObject *iterator = PyObject_GetIter(types);
    if (!iterator) return -1;
    for (PyObject *item; (item = PyIter_Next(iterator));) {
        const air_format *format = air__py_to_format(state, item);
        Py_DECREF(item);
        if (!format) break;
        *set |= UINT64_C(1) << format->id;
    }
    Py_DECREF(iterator);
    return PyErr_Occurred() ? -1 : 0;
}

/* probe_compute(types, threads=0, tier="", max_bytes=0, seconds=0.5) -> {memory, product, product_columns, op_s}, bytes per second and
 * seconds. Blocks for about seconds, without the GIL; Ctrl-C ends it. */
PyObject *air__py_probe_compute(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"types", "threads", "tier", "max_bytes", "seconds", NULL};
    const core_state *state = PyModule_GetState(module);
    PyObject *types, *threads_arg = NULL, *tier_arg = NULL, *bytes_arg = NULL;
    double seconds = 0.5;
    int64_t threads = 0;
    uint64_t bytes = 0, set;
    int tier = AIR_TIER_COUNT;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|OOOd:probe_compute", names, &types, &threads_arg, &tier_arg, &bytes_arg, &seconds))
        return NULL;
    if (check_seconds(state, seconds) < 0 || type_set(state, types, &set) < 0) return NULL;
    if (threads_arg && air__py_to_i64(state, "threads", threads_arg, 0, AIR_PY_MAX_THREADS, &threads) < 0) return NULL;
    if (tier_arg && air__py_to_tier(state, tier_arg, &tier) < 0) return NULL;
    if (bytes_arg && air__py_to_u64(state, "max_bytes", bytes_arg, &bytes) < 0) return NULL;
    if (!threads) threads = air_cpu_count();

    air_bandwidths found = {0};
    air_error err;
    air_status st;
    PyThreadState *thread = PyEval_SaveThread();
    st = air_probe_compute((int)threads, tier, set, bytes ? bytes : UINT64_C(512) << 20, seconds, (air_probe_watch){interrupted, &thread},
                           &found, &err);
    PyEval_RestoreThread(thread);
    if (PyErr_Occurred()) return NULL;
    if (st) return air__py_raise(state, &err);
    return Py_BuildValue("{sdsdsNsN}", "memory", found.memory, "op_s", found.op_s, "product", rates_dict(found.product, set),
                         "product_columns", rates_dict(found.product_columns, set));
}

static PyObject *device_rates(const air_device_rates *r, uint64_t set)
{
    return Py_BuildValue("{sdsdsdsdsdsNsNsK}", "link", r->link, "link_back", r->link_back, "device", r->memory, "device_op_s", r->op_s,
                         "handover_s", r->handover_s, "device_product", rates_dict(r->product, set), "device_product_columns",
                         rates_dict(r->product_columns, set), "device_context", (unsigned long long)r->context);
}

/* probe_links(plugin, devices, max_bytes=0, seconds=0.2) -> [bytes/s of each]: what copies to devices give while all are busy; max_bytes:
 * of each one's memory, 0: 32 MiB. Otherwise as probe_device(). */
PyObject *air__py_probe_links(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"plugin", "devices", "max_bytes", "seconds", NULL};
    const core_state *state = PyModule_GetState(module);
    PyObject *devices_arg, *bytes_arg = NULL;
    const air_backend_api *api;
    const char *path;
    double seconds = 0.2, found[AIR_DEVICES_MOST];
    uint64_t bytes = 0;
    int32_t devices[AIR_DEVICES_MOST];
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "sO!|Od:probe_links", names, &path, &PyTuple_Type, &devices_arg, &bytes_arg, &seconds))
        return NULL;
    if (check_seconds(state, seconds) < 0) return NULL;
    if (bytes_arg && air__py_to_u64(state, "max_bytes", bytes_arg, &bytes) < 0) return NULL;
    Py_ssize_t n = PyTuple_Size(devices_arg);
    for (Py_ssize_t i = 0; i < n && i < AIR_DEVICES_MOST; i++) {
        int64_t number;
        if (air__py_to_i64(state, "a device", PyTuple_GetItem(devices_arg, i), 0, INT32_MAX, &number) < 0) return NULL;
        devices[i] = (int32_t)number;
    }

    air_error err;
    air_status st;
    Py_BEGIN_ALLOW_THREADS
    st = air_backend_load(&api, path, &err);
    if (!st && !api->probe_links) st = air_fail(&err, AIR_E_UNSUPPORTED, "%s has no devices", api->name);
    if (!st) st = api->probe_links(devices, (int32_t)n, bytes ? bytes : UINT64_C(32) << 20, seconds, found, &err);
    Py_END_ALLOW_THREADS
    if (st) return air__py_raise(state, &err);
    PyObject *list = PyErr_CheckSignals() < 0 ? NULL : PyList_New(n);
    for (Py_ssize_t i = 0; list && i < n; i++) {
        PyObject *rate = PyFloat_FromDouble(found[i]);
        if (!rate || PyList_SetItem(list, i, rate) < 0) Py_CLEAR(list);
    }
    return list;
}

/* probe_device(plugin, device, types=(), max_bytes=0, seconds=0.4) -> {link, link_back, device, device_op_s, handover_s, device_product,
 * device_product_columns, device_context}: as bandwidths have them. max_bytes: of the device's memory, 0: 256 MiB. Blocks for about
 * seconds, and while a context is made, without the GIL. Raises what device_info() raises, OutOfMemoryError and DeviceError. */
PyObject *air__py_probe_device(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"plugin", "device", "types", "max_bytes", "seconds", NULL};
    const core_state *state = PyModule_GetState(module);
    PyObject *types = NULL, *bytes_arg = NULL;
    const air_backend_api *api;
    const char *path;
    double seconds = 0.4;
    uint64_t bytes = 0, set = 0;
    int device = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "si|OOd:probe_device", names, &path, &device, &types, &bytes_arg, &seconds)) return NULL;
    if (check_seconds(state, seconds) < 0 || (types && type_set(state, types, &set) < 0)) return NULL;
    if (bytes_arg && air__py_to_u64(state, "max_bytes", bytes_arg, &bytes) < 0) return NULL;

    air_device_rates found;
    air_error err;
    air_status st;
    Py_BEGIN_ALLOW_THREADS
    st = air_backend_load(&api, path, &err);
    if (!st && !api->probe) st = air_fail(&err, AIR_E_UNSUPPORTED, "%s has no devices", api->name);
    if (!st) st = api->probe(device, set, bytes ? bytes : UINT64_C(256) << 20, seconds, &found, &err);
    Py_END_ALLOW_THREADS
    if (st) return air__py_raise(state, &err);
    return PyErr_CheckSignals() < 0 ? NULL : device_rates(&found, set);
}
