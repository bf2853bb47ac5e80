/* python/machine.c: functions of the module about this machine, its files and the formats of tensors. */
#include "python/core.h"

#include "backend/loader.h"
#include "model/model.h"
#include "platform/cpuid.h"
#include "platform/file.h"
#include "platform/sysmem.h"
#include "platform/threads.h"

/* memory_info() -> {total, available, cgroup_limit (-1: none), cgroup_usage, address_space (-1: no limit), process_anonymous, room,
 * default_budget}, bytes. */
PyObject *air__py_memory_info(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    air_memory_info info = air_memory_query();
    long long limit = info.cgroup_limit == AIR_MEMORY_UNLIMITED ? -1 : (long long)info.cgroup_limit;
    long long space = info.address_space == AIR_MEMORY_UNLIMITED ? -1 : (long long)info.address_space;
    return Py_BuildValue("{sKsKsLsKsLsKsKsK}", "total", (unsigned long long)info.total, "available", (unsigned long long)info.available,
                         "cgroup_limit", limit, "cgroup_usage", (unsigned long long)info.cgroup_usage, "address_space", space,
                         "process_anonymous", (unsigned long long)info.process_anonymous, "room",
                         (unsigned long long)air_memory_room(&info), "default_budget",
                         (unsigned long long)air_memory_default_budget(&info));
}

static PyObject *feature_names(void)
{
    static const struct { uint32_t bit; const char *name; } features[] = {
        {AIR_CPU_AVX2, "avx2"}, {AIR_CPU_AVX_VNNI, "avx_vnni"}, {AIR_CPU_AVX512, "avx512"}, {AIR_CPU_AVX512_VNNI, "avx512_vnni"},
        {AIR_CPU_AVX512_VBMI, "avx512_vbmi"}, {AIR_CPU_AVX512_BF16, "avx512_bf16"}, {AIR_CPU_NEON, "neon"}, {AIR_CPU_DOTPROD, "dotprod"},
        {AIR_CPU_I8MM, "i8mm"},
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
PyObject *air__py_cpu_info(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    return Py_BuildValue("{sssisNss}", "name", air_cpu_name(), "threads", air_cpu_count(), "features", feature_names(), "tier",
                         air_ops_best(AIR_TIER_COUNT)->name);
}

/* file_identity(path) -> int: a hash of device, inode, size and modification time. */
PyObject *air__py_file_identity(PyObject *module, PyObject *path_arg)
{
    PyObject *path = air__py_to_path(path_arg);
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
    return st ? air__py_raise(PyModule_GetState(module), &err) : PyLong_FromUnsignedLongLong(identity);
}

/* The backend whose plugin has that path, and how many devices it has, which touches none of them. -1 with an exception set. */
static int find_devices(core_state *state, PyObject *plugin, const air_backend_api **api, int32_t *n)
{
    const char *path;
    if (air__py_to_text(state, "plugin", plugin, &path) < 0) return -1;
    air_error err;
    air_status st;
    Py_BEGIN_ALLOW_THREADS
    st = air_backend_load(api, path, &err);
    if (!st) st = (*api)->devices ? (*api)->devices(n, &err) : air_fail(&err, AIR_E_UNSUPPORTED, "%s has no devices", (*api)->name);
    Py_END_ALLOW_THREADS
    if (!st) return 0;
    air__py_raise(state, &err);
    return -1;
}

/* device_count(plugin, /) -> int. Raises as devices() does. */
PyObject *air__py_device_count(PyObject *module, PyObject *plugin)
{
    const air_backend_api *api;
    int32_t n = 0;
    return find_devices(PyModule_GetState(module), plugin, &api, &n) < 0 ? NULL : PyLong_FromLong(n);
}

/* check_device(plugin, gguf, /): raises UnsupportedError saying what of the model the backend has no kernels for; what opening the model
 * raises; FileIOError where there is no such plugin. Touches no device. */
PyObject *air__py_check_device(PyObject *module, PyObject *args)
{
    core_state *state = PyModule_GetState(module);
    const air_backend_api *api;
    const char *plugin;
    PyObject *gguf;
    air_model *model = NULL;
    air_error err;
    air_status st;
    if (!PyArg_ParseTuple(args, "sO!:check_device", &plugin, state->gguf, &gguf)) return NULL;
    const air_gguf_set *set = air__py_gguf_set(air__py_gguf_capsule(gguf));
    Py_BEGIN_ALLOW_THREADS
    st = air_backend_load(&api, plugin, &err);
    if (!st) st = air_model_open(&model, set, &err);
    if (!st) st = api->supports(air_model_program(model), &err);
    air_model_close(model);
    Py_END_ALLOW_THREADS
    if (st) return air__py_raise(state, &err);
    Py_RETURN_NONE;
}

/* device_info(plugin, device, /) -> {name, id: a UUID in hexadecimal, total, free, capability: (major, minor), processors, driver: 1000 ×
 * major + 10 × minor} of one of a backend's devices with memory of their own, bytes; it makes a context there. Raises UnsupportedError
 * saying why there is none, FileIOError where there is no such plugin. */
PyObject *air__py_device_info(PyObject *module, PyObject *args)
{
    core_state *state = PyModule_GetState(module);
    const air_backend_api *api;
    air_device_info info;
    air_error err;
    air_status st;
    PyObject *plugin;
    int device = 0;
    int32_t n = 0;
    if (!PyArg_ParseTuple(args, "Oi:device_info", &plugin, &device) || find_devices(state, plugin, &api, &n) < 0) return NULL;
    Py_BEGIN_ALLOW_THREADS
    st = api->device_info(device, &info, &err);
    Py_END_ALLOW_THREADS
    if (st) return air__py_raise(state, &err);
    return Py_BuildValue("{sssssKsKs(ii)sisi}", "name", info.name, "id", info.id, "total", (unsigned long long)info.total, "free",
                         (unsigned long long)info.free, "capability", (int)info.major, (int)info.minor, "processors",
                         (int)info.processors, "driver", (int)info.driver);
}
