/* python/options.c: the options of Engine and solve_plan, checked and put into an air_engine_config. */
#include <stddef.h>
#include <string.h>

#include "python/core.h"

#include "backend/loader.h"

typedef enum option_kind {
    OPTION_U64, OPTION_I64, OPTION_COUNT, OPTION_PINS, OPTION_IO, OPTION_STATE, OPTION_TIER, OPTION_SOURCE, OPTION_RATES,
    OPTION_PLUGIN, OPTION_DEVICES, OPTION_VRAM, OPTION_SHARE, OPTION_FLAG
} option_kind;

/* What each keyword is and where it goes; absent ones keep the defaults of air__py_options_parse. */
static const struct option { const char *name; option_kind kind; size_t offset; } options[] = {
    {"max_ram", OPTION_U64, offsetof(air_engine_config, max_ram)},
    {"fixed_bytes", OPTION_U64, offsetof(air_engine_config, fixed_bytes)},
    {"max_vram", OPTION_VRAM, 0},
    {"cpu_share", OPTION_SHARE, offsetof(air_engine_config, cpu_share)},
    {"io", OPTION_IO, offsetof(air_engine_config, io)},
    {"threads", OPTION_COUNT, offsetof(air_engine_config, threads)},
    {"tier", OPTION_TIER, offsetof(air_engine_config, cpu_tier)},
    {"plugin", OPTION_PLUGIN, offsetof(air_engine_config, backend)},
    {"device", OPTION_DEVICES, 0},
    {"n_ctx", OPTION_I64, offsetof(air_engine_config, n_ctx)},
    {"kv_dtype", OPTION_STATE, offsetof(air_engine_config, state_type)},
    {"ring_bytes", OPTION_U64, offsetof(air_engine_config, ring_bytes)},
    {"tile_bytes", OPTION_U64, offsetof(air_engine_config, tile_bytes)},
    {"max_rows", OPTION_I64, offsetof(air_engine_config, max_rows)},
    {"max_pins", OPTION_PINS, offsetof(air_engine_config, max_pins)},
    {"lookahead", OPTION_FLAG, offsetof(air_engine_config, lookahead)},
    {"bandwidths", OPTION_RATES, 0},
    {"source", OPTION_SOURCE, offsetof(air_engine_config, source_spec)},
};

static int to_rate(const core_state *state, const char *what, PyObject *o, double *out)
{
    double rate;
    if (air__py_to_double(what, o, &rate) < 0) return -1;
    if (rate >= 0 && rate <= 1e18) {
        *out = rate;
        return 0;
    }
    air__py_raise_text(state, AIR_E_ARGUMENT, "%s is %R, but must be bytes per second, 0 or more", what, o);
    return -1;
}

/* The items of any mapping, as a new list of pairs. */
static PyObject *items_of(const char *what, PyObject *o)
{
    if (!PyMapping_Check(o) || PyUnicode_Check(o) || PyList_Check(o) || PyTuple_Check(o)) {
        PyErr_Format(PyExc_TypeError, "%s must be a mapping, not %R", what, Py_TYPE(o));
        return NULL;
    }
    return PyMapping_Items(o);
}

/* {type: rate} into a table by type id. */
static int to_rates(const core_state *state, const char *what, PyObject *o, double *out)
{
    PyObject *items = items_of(what, o);
    if (!items) return -1;
    int st = 0;
    for (Py_ssize_t i = 0; !st && i < PyList_Size(items); i++) {
        PyObject *key, *value;
        if (!PyArg_ParseTuple(PyList_GetItem(items, i), "OO", &key, &value)) st = -1;
        const air_format *format = st ? NULL : air__py_to_format(state, key);
        if (!format || to_rate(state, what, value, &out[format->id]) < 0) st = -1;
    }
    Py_DECREF(items);
    return st;
}

/* What each figure of bandwidths is and where it goes: in air_bandwidths, or, of a device, in its air_device_rates. */
typedef struct known_rate { const char *name; enum { RATE, RATE_BYTES, RATE_TABLE, RATE_DEPTH } kind; size_t offset; } known_rate;
static const known_rate rates[] = {
    {"disk", RATE, offsetof(air_bandwidths, disk)},
    {"memory", RATE, offsetof(air_bandwidths, memory)},
    {"product", RATE_TABLE, offsetof(air_bandwidths, product)},
    {"product_columns", RATE_TABLE, offsetof(air_bandwidths, product_columns)},
    {"block_bytes", RATE_BYTES, offsetof(air_bandwidths, block_bytes)},
    {"depth", RATE_DEPTH, offsetof(air_bandwidths, depth)},
    {"latency_s", RATE, offsetof(air_bandwidths, latency_s)},
    {"op_s", RATE, offsetof(air_bandwidths, op_s)},
};
static const known_rate device_rates[] = {
    {"link", RATE, offsetof(air_device_rates, link)},
    {"link_back", RATE, offsetof(air_device_rates, link_back)},
    {"link_together", RATE, offsetof(air_device_rates, link_together)},
    {"device", RATE, offsetof(air_device_rates, memory)},
    {"device_op_s", RATE, offsetof(air_device_rates, op_s)},
    {"handover_s", RATE, offsetof(air_device_rates, handover_s)},
    {"device_product", RATE_TABLE, offsetof(air_device_rates, product)},
    {"device_product_columns", RATE_TABLE, offsetof(air_device_rates, product_columns)},
    {"device_context", RATE_BYTES, offsetof(air_device_rates, context)},
};

static int set_rate(const core_state *state, const known_rate *rate, PyObject *value, void *out)
{
    void *field = (char *)out + rate->offset;
    int64_t depth = 0;
    switch (rate->kind) {
    case RATE: return to_rate(state, rate->name, value, field);
    case RATE_TABLE: return to_rates(state, rate->name, value, field);
    case RATE_BYTES: return air__py_to_u64(state, rate->name, value, field);
    case RATE_DEPTH: break;
    }
    if (air__py_to_i64(state, rate->name, value, 0, 1024, &depth) < 0) return -1;
    ((air_bandwidths *)out)->depth = (int32_t)depth;
    return 0;
}

static const known_rate *find_rate(const known_rate *known, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(known[i].name, name)) return &known[i];
    return NULL;
}

/* Calls set for every key of a mapping. */
static int for_each_rate(const core_state *state, const char *what, PyObject *o, void *out,
                         int (*set)(const core_state *state, const char *name, PyObject *value, void *out))
{
    PyObject *items = items_of(what, o);
    if (!items) return -1;
    int st = 0;
    for (Py_ssize_t i = 0; !st && i < PyList_Size(items); i++) {
        PyObject *key, *value;
        const char *name;
        if (!PyArg_ParseTuple(PyList_GetItem(items, i), "OO", &key, &value)) st = -1;
        else if (air__py_to_text(state, "a key of bandwidths", key, &name) < 0) st = -1;
        else st = set(state, name, value, out);
    }
    Py_DECREF(items);
    return st;
}

static int set_device_rate(const core_state *state, const char *name, PyObject *value, void *out)
{
    const known_rate *known = find_rate(device_rates, AIR_COUNT(device_rates), name);
    if (known) return set_rate(state, known, value, out);
    PyErr_Format(PyExc_TypeError, "bandwidths of a device have no '%s'", name);
    return -1;
}

/* A list of rates: the i-th is the (i + 1)-th device's. */
static int to_helpers(const core_state *state, PyObject *o, air_bandwidths *out)
{
    PyObject *list = PySequence_List(o);
    int st = list ? 0 : -1;
    if (list && PyList_Size(list) >= AIR_DEVICES_MOST) {
        air__py_raise_text(state, AIR_E_ARGUMENT, "helpers of bandwidths are %zd, but may be %d at most", PyList_Size(list),
                           AIR_DEVICES_MOST - 1);
        st = -1;
    }
    for (Py_ssize_t i = 0; !st && i < PyList_Size(list); i++)
        st = for_each_rate(state, "an item of bandwidths' helpers", PyList_GetItem(list, i), &out->devices[i + 1], set_device_rate);
    Py_XDECREF(list);
    return st;
}

/* deciding is to_bandwidths' to look for, as it stands over the others. */
static int set_named_rate(const core_state *state, const char *name, PyObject *value, void *to)
{
    air_bandwidths *out = to;
    const known_rate *known = find_rate(rates, AIR_COUNT(rates), name);
    if (known) return set_rate(state, known, value, out);
    if (find_rate(device_rates, AIR_COUNT(device_rates), name)) return set_device_rate(state, name, value, &out->devices[0]);
    if (!strcmp(name, "helpers")) return to_helpers(state, value, out);
    if (!strcmp(name, "deciding")) return 0;
    PyErr_Format(PyExc_TypeError, "bandwidths has no '%s'", name);
    return -1;
}

static int to_bandwidths(const core_state *state, PyObject *o, air_engine_config *config)
{
    if (o == Py_None) return 0;
    if (for_each_rate(state, "bandwidths", o, &config->bandwidths, set_named_rate) < 0) return -1;
    config->deciding = config->bandwidths;
    PyObject *deciding = PyMapping_GetItemString(o, "deciding");
    if (!deciding) {
        PyErr_Clear();
        return 0;
    }
    int st = for_each_rate(state, "bandwidths' deciding", deciding, &config->deciding, set_named_rate);
    Py_DECREF(deciding);
    return st;
}

/* The path of a backend's plugin; "" for the CPU. */
static int to_backend(const core_state *state, PyObject *o, const air_backend_api **out)
{
    const char *path;
    air_error err;
    if (air__py_to_text(state, "plugin", o, &path) < 0) return -1;
    if (!*path || !air_backend_load(out, path, &err)) return 0;
    air__py_raise(state, &err);
    return -1;
}

/* One for each device: the i-th to config's i-th. */
static int set_of_device(const core_state *state, const struct option *option, PyObject *value, Py_ssize_t i, air_engine_config *c)
{
    uint64_t number = 0;
    if (air__py_to_u64(state, option->name, value, &number) < 0) return -1;
    if (i > c->n_helpers) c->n_helpers = (int32_t)i;
    if (option->kind == OPTION_VRAM) *(i ? &c->helpers[i - 1].max_vram : &c->max_vram) = number;
    else if (number <= INT32_MAX) *(i ? &c->helpers[i - 1].device : &c->device) = (int32_t)number;
    else {
        air__py_raise_text(state, AIR_E_ARGUMENT, "%s is %R, which is no device's number", option->name, value);
        return -1;
    }
    return 0;
}

/* A number, or a tuple of as many as there are devices. */
static int set_of_devices(const core_state *state, const struct option *option, PyObject *value, air_engine_config *config)
{
    if (!PyTuple_Check(value)) return set_of_device(state, option, value, 0, config);
    if (PyTuple_Size(value) < 1 || PyTuple_Size(value) > AIR_DEVICES_MOST) {
        air__py_raise_text(state, AIR_E_ARGUMENT, "%s has %zd items, but may have 1 to %d", option->name, PyTuple_Size(value),
                           AIR_DEVICES_MOST);
        return -1;
    }
    int st = 0;
    for (Py_ssize_t i = 0; i < PyTuple_Size(value) && !st; i++)
        st = set_of_device(state, option, PyTuple_GetItem(value, i), i, config);
    return st;
}

static int to_share(const core_state *state, const char *name, PyObject *o, double *out)
{
    double share;
    if (o == Py_None) return 0;
    if (air__py_to_double(name, o, &share) < 0) return -1;
    *out = share;
    if (share >= 0 && share <= 1) return 0;
    air__py_raise_text(state, AIR_E_ARGUMENT, "%s is %R, but must be within 0 to 1", name, o);
    return -1;
}

static int set_option(const core_state *state, const struct option *option, PyObject *value, air_engine_config *config)
{
    static const char *const io_names[AIR_IO_COUNT] = {[AIR_IO_AUTO] = "auto", [AIR_IO_DIRECT] = "direct", [AIR_IO_MMAP] = "mmap"};
    void *field = (char *)config + option->offset;
    int64_t number = 0;
    int choice = 0, st = -1;
    switch (option->kind) {
    case OPTION_U64: return air__py_to_u64(state, option->name, value, field);
    case OPTION_I64: return air__py_to_i64(state, option->name, value, 0, INT64_MAX, field);
    case OPTION_TIER: return air__py_to_tier(state, value, field);
    case OPTION_RATES: return to_bandwidths(state, value, config);
    case OPTION_COUNT:
        st = air__py_to_i64(state, option->name, value, 0, AIR_PY_MAX_THREADS, &number);
        if (!st) config->threads = (int)number;
        return st;
    case OPTION_PLUGIN: return to_backend(state, value, field);
    case OPTION_DEVICES:
    case OPTION_VRAM: return set_of_devices(state, option, value, config);
    case OPTION_SHARE: return to_share(state, option->name, value, field);
    case OPTION_FLAG:
        st = PyObject_IsTrue(value);
        if (st >= 0) config->lookahead = st;
        return st < 0 ? -1 : 0;
    case OPTION_PINS:
        st = air__py_to_i64(state, option->name, value, -1, INT64_MAX, &number);
        if (!st) config->max_pins = number < 0 ? UINT64_MAX : (uint64_t)number;
        return st;
    case OPTION_IO:
        st = air__py_to_choice(state, option->name, value, io_names, AIR_IO_COUNT, &choice);
        if (!st) config->io = (air_io_mode)choice;
        return st;
    case OPTION_STATE:
        if (PyUnicode_Check(value) && PyUnicode_GetLength(value) == 0) {
            config->state_type = AIR_STATE_TYPES;
            return 0;
        }
        st = air__py_to_choice(state, option->name, value, air_state_names, AIR_STATE_TYPES, &choice);
        if (!st) config->state_type = (air_state_type)choice;
        return st;
    case OPTION_SOURCE:
        st = air__py_to_text(state, option->name, value, &config->source_spec);
        if (!st && !*config->source_spec) config->source_spec = NULL;
        return st;
    }
    return st;
}

int air__py_options_parse(core_state *state, const char *who, PyObject *args, PyObject *kwargs, air_engine_config *config, PyObject **gguf)
{
    *config = (air_engine_config){
        .io = AIR_IO_AUTO, .cpu_tier = AIR_TIER_COUNT, .state_type = AIR_STATE_TYPES, .max_pins = UINT64_MAX,
        .cpu_share = AIR_SHARE_AUTO, .lookahead = 1,
    };
    if (PyTuple_Size(args) != 1) {
        PyErr_Format(PyExc_TypeError, "%s takes one positional argument, a GGUF, not %zd", who, PyTuple_Size(args));
        return -1;
    }
    *gguf = PyTuple_GetItem(args, 0);
    if (Py_TYPE(*gguf) != state->gguf) {
        PyErr_Format(PyExc_TypeError, "%s takes a GGUF, not %R", who, Py_TYPE(*gguf));
        return -1;
    }
    config->set = air__py_gguf_set(air__py_gguf_capsule(*gguf));
    PyObject *key, *value;
    for (Py_ssize_t position = 0; kwargs && PyDict_Next(kwargs, &position, &key, &value);) {
        const char *name;
        if (air__py_to_text(state, "an option", key, &name) < 0) return -1;
        size_t i = 0;
        while (i < AIR_COUNT(options) && strcmp(options[i].name, name)) i++;
        if (i == AIR_COUNT(options)) {
            PyErr_Format(PyExc_TypeError, "%s has no option %R", who, key);
            return -1;
        }
        if (set_option(state, &options[i], value, config) < 0) return -1;
    }
    return 0;
}
