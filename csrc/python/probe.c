/* python/probe.c: functions of the module about this machine, its disk and the formats of tensors. */
#include "python/core.h"

#include "memory/probe.h"
#include "platform/cpuid.h"
#include "platform/file.h"
#include "platform/sysmem.h"
#include "platform/threads.h"

const char *const air__tier_names[AIR_TIER_COUNT] = {
    [AIR_TIER_REF] = "ref", [AIR_TIER_AVX2] = "avx2", [AIR_TIER_AVX512] = "avx512",
};

static int check_seconds(const core_state *state, double seconds)
{
    if (seconds > 0 && seconds <= 60) return 0;
    air__raise_text(state, AIR_E_ARGUMENT, "seconds must be above 0 and at most 60");
    return -1;
}

/* probe_disk(path, seconds=0.5, source="") -> {disk, block_bytes, depth}. Blocks for about seconds, without the GIL. */
PyObject *air__probe_disk(PyObject *module, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"path", "seconds", "source", NULL};
    const core_state *state = PyModule_GetState(module);
    PyObject *path_arg;
    double seconds = 0.5;
    const char *spec = "";
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|ds:probe_disk", names, &path_arg, &seconds, &spec)) return NULL;
    if (check_seconds(state, seconds) < 0) return NULL;
    PyObject *path = air__to_path(path_arg);
    if (!path) return NULL;

    air_bandwidths found = {0};
    air_source *source = NULL;
    air_error err;
    air_status st;
    const char *text = PyBytes_AsString(path);
    Py_BEGIN_ALLOW_THREADS
    st = air_source_file(&source, text, &err);
    if (!st && *spec) st = air_source_tampered(&source, source, spec, &err);
    if (!st) st = air_probe_disk(source, seconds, &found, &err);
    air_source_close(source);
    Py_END_ALLOW_THREADS
    Py_DECREF(path);
    if (st) return air__raise(state, &err);
    return Py_BuildValue("{sdsKsi}", "disk", found.disk, "block_bytes", (unsigned long long)found.block_bytes, "depth", (int)found.depth);
}

/* {type name: per_type[id]} of the types in set, a bit per id. */
static PyObject *rates_dict(const double *per_type, uint64_t set)
{
    PyObject *dict = PyDict_New();
    for (size_t i = 0; dict && i < air_format_count(); i++) {
        const air_format *format = air_format_at(i);
        if (!(set >> format->id & 1)) continue;
        if (air__dict_take(dict, format->name, PyFloat_FromDouble(per_type[format->id])) < 0) Py_CLEAR(dict);
    }
    return dict;
}

static int type_set(const core_state *state, PyObject *types, uint64_t *set)
{
    *set = 0;
    PyObject *iterator = PyObject_GetIter(types);
    if (!iterator) return -1;
    for (PyObject *item; (item = PyIter_Next(iterator));) {
        const air_format *format = air__to_format(state, item);
        Py_DECREF(item);
        if (!format) break;
        *set |= UINT64_C(1) << format->id;
    }
    Py_DECREF(iterator);
    return PyErr_Occurred() ? -1 : 0;
}

/* probe_compute(types, threads=0, tier="", max_bytes=0, seconds=0.5) -> {memory, product, product_columns}, bytes per second.
 * Blocks for about seconds, without the GIL. */
PyObject *air__probe_compute(PyObject *module, PyObject *args, PyObject *kwargs)
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
    if (threads_arg && air__to_i64(state, "threads", threads_arg, 0, AIR_PY_MAX_THREADS, &threads) < 0) return NULL;
    if (tier_arg && air__to_tier(state, tier_arg, &tier) < 0) return NULL;
    if (bytes_arg && air__to_u64(state, "max_bytes", bytes_arg, &bytes) < 0) return NULL;
    if (!threads) threads = air_cpu_count();

    air_bandwidths found = {0};
    air_error err;
    air_status st;
    Py_BEGIN_ALLOW_THREADS
    st = air_probe_compute((int)threads, tier, set, bytes ? bytes : UINT64_C(256) << 20, seconds, &found, &err);
    Py_END_ALLOW_THREADS
    if (st) return air__raise(state, &err);
    return Py_BuildValue("{sdsNsN}", "memory", found.memory, "product", rates_dict(found.product, set), "product_columns",
                         rates_dict(found.product_columns, set));
}

/* memory_info() -> {total, available, cgroup_limit (-1: none), cgroup_usage, process_anonymous, default_budget}, bytes. */
PyObject *air__memory_info(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    air_memory_info info = air_memory_query();
    long long limit = info.cgroup_limit == AIR_MEMORY_UNLIMITED ? -1 : (long long)info.cgroup_limit;
    return Py_BuildValue("{sKsKsLsKsKsK}", "total", (unsigned long long)info.total, "available", (unsigned long long)info.available,
                         "cgroup_limit", limit, "cgroup_usage", (unsigned long long)info.cgroup_usage, "process_anonymous",
                         (unsigned long long)info.process_anonymous, "default_budget",
                         (unsigned long long)air_memory_default_budget(&info));
}

static PyObject *feature_names(void)
{
    static const struct { uint32_t bit; const char *name; } features[] = {
        {AIR_CPU_AVX2, "avx2"}, {AIR_CPU_AVX_VNNI, "avx_vnni"}, {AIR_CPU_AVX512, "avx512"}, {AIR_CPU_AVX512_VNNI, "avx512_vnni"},
        {AIR_CPU_AVX512_VBMI, "avx512_vbmi"}, {AIR_CPU_AVX512_BF16, "avx512_bf16"},
    };
    PyObject *list = PyList_New(0);
    for (size_t i = 0; list && i < AIR_COUNT(features); i++) {
        if (!(air_cpu_features() & features[i].bit)) continue;
        PyObject *name = PyUnicode_FromString(features[i].name);
        if (!name || PyList_Append(list, name) < 0) Py_CLEAR(list);
        Py_XDECREF(name);
    }
    return list;
}

/* cpu_info() -> {name, threads: how many this process may use, features: [str], tier: the best of TIERS}. */
PyObject *air__cpu_info(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    return Py_BuildValue("{sssisNss}", "name", air_cpu_name(), "threads", air_cpu_count(), "features", feature_names(), "tier",
                         air_ops_best(AIR_TIER_COUNT)->name);
}

/* file_identity(path) -> int: a hash of device, inode, size and modification time. */
PyObject *air__file_identity(PyObject *module, PyObject *path_arg)
{
    PyObject *path = air__to_path(path_arg);
    if (!path) return NULL;
    air_file *file;
    air_error err;
    air_status st;
    uint64_t identity = 0;
    const char *text = PyBytes_AsString(path);
    Py_BEGIN_ALLOW_THREADS
    st = air_file_open(&file, text, AIR_FILE_CACHED, &err);
    if (!st) identity = air_file_identity(file);
    air_file_close(file);
    Py_END_ALLOW_THREADS
    Py_DECREF(path);
    return st ? air__raise(PyModule_GetState(module), &err) : PyLong_FromUnsignedLongLong(identity);
}

/* dequantize(type, data, /) -> float32 Array (elements,). data: any C-contiguous buffer of whole blocks. */
PyObject *air__dequantize(PyObject *module, PyObject *args)
{
    core_state *state = PyModule_GetState(module);
    PyObject *type, *data;
    if (!PyArg_ParseTuple(args, "OO:dequantize", &type, &data)) return NULL;
    const air_format *format = air__to_format(state, type);
    Py_buffer view;
    if (!format || PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) return NULL;

    PyObject *array = NULL;
    void *out;
    int64_t blocks = view.len / format->bytes;
    if (view.len % format->bytes)
        air__raise_text(state, AIR_E_ARGUMENT, "%zd bytes are not whole blocks of %s, which take %u each", view.len, format->name,
                        (unsigned)format->bytes);
    else if (blocks > PY_SSIZE_T_MAX / 8 / format->block)
        PyErr_NoMemory();
    else
        array = air__array_make(state, "f", 4, blocks * format->block, &out);
    if (array) {
        Py_BEGIN_ALLOW_THREADS
        format->decode(view.buf, out, blocks);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&view);
    return array;
}
