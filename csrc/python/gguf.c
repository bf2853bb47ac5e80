/* python/gguf.c: GGUF, the header of a model file as Python values. */
#include "python/core.h"

static const char capsule_name[] = "airpy._core.gguf";

typedef struct GGUFObject {
    PyObject_HEAD
    PyObject *capsule;  /* owns the air_gguf_set */
    PyObject *metadata; /* mappingproxy, NULL until asked for */
} GGUFObject;

static void capsule_free(PyObject *capsule) { air_gguf_close(PyCapsule_GetPointer(capsule, capsule_name)); }
const air_gguf_set *air__py_gguf_set(PyObject *capsule) { return PyCapsule_GetPointer(capsule, capsule_name); }
PyObject *air__py_gguf_capsule(PyObject *gguf) { return ((GGUFObject *)gguf)->capsule; }
static const air_gguf_set *set_of(PyObject *o) { return air__py_gguf_set(((GGUFObject *)o)->capsule); }

static PyObject *gguf_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"path", NULL};
    core_state *state = PyType_GetModuleState(type);
    PyObject *path_arg, *capsule = NULL;
    GGUFObject *self = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:GGUF", names, &path_arg)) return NULL;
    PyObject *path = air__py_to_path(path_arg);
    if (!path) return NULL;

    air_gguf_set *set;
    air_error err;
    air_status st;
    const char *text = PyBytes_AsString(path);
    Py_BEGIN_ALLOW_THREADS
    st = air_gguf_open(&set, text, &err);
    Py_END_ALLOW_THREADS
    Py_DECREF(path);
    if (st) return air__py_raise(state, &err);

    capsule = PyCapsule_New(set, capsule_name, capsule_free);
    if (!capsule) {
        air_gguf_close(set);
        return NULL;
    }
    self = PyObject_New(GGUFObject, type);
    if (!self) {
        Py_DECREF(capsule);
        return NULL;
    }
    self->capsule = capsule;
    self->metadata = NULL;
    return (PyObject *)self;
}

static void gguf_dealloc(PyObject *o)
{
    PyTypeObject *type = Py_TYPE(o);
    Py_XDECREF(((GGUFObject *)o)->metadata);
    Py_DECREF(((GGUFObject *)o)->capsule);
    PyObject_Free(o);
    Py_DECREF(type);
}

/* How numpy sees an element type, NULL for those that become Python objects. */
static const struct { const char *format; Py_ssize_t bytes; } numeric[AIR_GGUF_TYPE_COUNT] = {
    [AIR_GGUF_U8] = {"B", 1},  [AIR_GGUF_I8] = {"b", 1},  [AIR_GGUF_U16] = {"H", 2}, [AIR_GGUF_I16] = {"h", 2},
    [AIR_GGUF_U32] = {"I", 4}, [AIR_GGUF_I32] = {"i", 4}, [AIR_GGUF_F32] = {"f", 4}, [AIR_GGUF_BOOL] = {"?", 1},
    [AIR_GGUF_U64] = {"Q", 8}, [AIR_GGUF_I64] = {"q", 8}, [AIR_GGUF_F64] = {"d", 8},
};

static PyObject *value_object(core_state *state, PyObject *capsule, const air_gguf_value *value);

static PyObject *array_object(core_state *state, PyObject *capsule, const air_gguf_value *value)
{
    if (value->element < AIR_GGUF_TYPE_COUNT && numeric[value->element].format)
        return air__py_array_new(state, capsule, value->as.items, numeric[value->element].format, numeric[value->element].bytes,
                                 (int64_t)value->count);
    PyObject *list = PyList_New((Py_ssize_t)value->count);
    for (uint64_t i = 0; list && i < value->count; i++) {
        PyObject *item;
        if (value->element == AIR_GGUF_STRING) {
            const air_string *s = (const air_string *)value->as.items + i;
            item = air__py_from_string(s->data, s->bytes);
        } else {
            item = value_object(state, capsule, (const air_gguf_value *)value->as.items + i);
        }
        if (item && PyList_SetItem(list, (Py_ssize_t)i, item) == 0) continue;
        Py_CLEAR(list);
    }
    return list;
}

static PyObject *value_object(core_state *state, PyObject *capsule, const air_gguf_value *value)
{
    switch (value->type) {
    case AIR_GGUF_U8: case AIR_GGUF_U16: case AIR_GGUF_U32: case AIR_GGUF_U64: return PyLong_FromUnsignedLongLong(value->as.u);
    case AIR_GGUF_I8: case AIR_GGUF_I16: case AIR_GGUF_I32: case AIR_GGUF_I64: return PyLong_FromLongLong(value->as.i);
    case AIR_GGUF_F32: case AIR_GGUF_F64: return PyFloat_FromDouble(value->as.f);
    case AIR_GGUF_BOOL: return PyBool_FromLong(value->as.u != 0);
    case AIR_GGUF_STRING: return air__py_from_string(value->as.string.data, value->as.string.bytes);
    case AIR_GGUF_ARRAY: return array_object(state, capsule, value);
    case AIR_GGUF_TYPE_COUNT: break;
    }
    return air__py_raise_text(state, AIR_E_FORMAT, "metadata of type %d", (int)value->type);
}

static PyObject *gguf_metadata(PyObject *o, void *unused)
{
    (void)unused;
    GGUFObject *self = (GGUFObject *)o;
    if (self->metadata) return Py_NewRef(self->metadata);
    core_state *state = air__py_state(o);
    const air_gguf *gguf = set_of(o)->gguf;
    PyObject *dict = PyDict_New();
    if (!dict) return NULL;
    for (uint64_t i = 0; i < air_gguf_entry_count(gguf); i++) {
        const air_gguf_entry *entry = air_gguf_entry_at(gguf, i);
        PyObject *key = air__py_from_string(entry->key.data, entry->key.bytes);
        PyObject *value = key ? value_object(state, self->capsule, &entry->value) : NULL;
        int st = value ? PyDict_SetItem(dict, key, value) : -1;
        Py_XDECREF(key);
        Py_XDECREF(value);
        if (st < 0) goto done;
    }
    /* Another thread may have made one while allocations above let it run. */
    if (!self->metadata) self->metadata = PyDictProxy_New(dict);
done:
    Py_DECREF(dict);
    return PyErr_Occurred() ? NULL : Py_XNewRef(self->metadata);
}

/* (type, that of an array's elements or None), by the names of the format. */
static PyObject *type_object(const air_gguf_value *value)
{
    const char *element = value->type == AIR_GGUF_ARRAY ? air_gguf_type_name(value->element) : NULL;
    return Py_BuildValue("(sz)", air_gguf_type_name(value->type), element);
}

static PyObject *gguf_types(PyObject *o, void *unused)
{
    (void)unused;
    const air_gguf *gguf = set_of(o)->gguf;
    PyObject *dict = PyDict_New();
    for (uint64_t i = 0; dict && i < air_gguf_entry_count(gguf); i++) {
        const air_gguf_entry *entry = air_gguf_entry_at(gguf, i);
        PyObject *key = air__py_from_string(entry->key.data, entry->key.bytes), *type = key ? type_object(&entry->value) : NULL;
        if (!type || PyDict_SetItem(dict, key, type) < 0) Py_CLEAR(dict);
        Py_XDECREF(key);
        Py_XDECREF(type);
    }
    return dict;
}

static PyObject *tensor_object(const air_tensor *t)
{
    PyObject *shape = PyTuple_New((Py_ssize_t)t->n_dims);
    for (uint32_t i = 0; shape && i < t->n_dims; i++) {
        PyObject *n = PyLong_FromUnsignedLongLong(t->shape[i]);
        if (!n || PyTuple_SetItem(shape, (Py_ssize_t)i, n) < 0) Py_CLEAR(shape);
    }
    PyObject *name = air__py_from_string(t->name.data, t->name.bytes);
    if (!shape || !name) {
        Py_XDECREF(shape);
        Py_XDECREF(name);
        return NULL;
    }
    return Py_BuildValue("(NsNIKK)", name, air_format_by_id(t->type)->name, shape, t->part, (unsigned long long)t->offset,
                         (unsigned long long)t->bytes);
}

static PyObject *gguf_tensors(PyObject *o, void *unused)
{
    (void)unused;
    const air_gguf *gguf = set_of(o)->gguf;
    uint64_t count = air_gguf_tensor_count(gguf);
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (uint64_t i = 0; list && i < count; i++) {
        PyObject *tensor = tensor_object(air_gguf_tensor_at(gguf, i));
        if (!tensor || PyList_SetItem(list, (Py_ssize_t)i, tensor) < 0) Py_CLEAR(list);
    }
    return list;
}

static PyObject *gguf_version(PyObject *o, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLong(air_gguf_version(set_of(o)->gguf));
}

static PyObject *gguf_alignment(PyObject *o, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLongLong(air_gguf_alignment(set_of(o)->gguf));
}

static PyObject *gguf_bytes(PyObject *o, void *unused)
{
    (void)unused;
    const air_gguf_set *set = set_of(o);
    unsigned long long sum = 0;
    for (uint32_t i = 0; i < set->parts; i++) sum += set->bytes[i];
    return PyLong_FromUnsignedLongLong(sum);
}

static PyObject *gguf_held_bytes(PyObject *o, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLongLong(air_gguf_held_bytes(set_of(o)->gguf));
}

static PyObject *gguf_paths(PyObject *o, void *unused)
{
    (void)unused;
    const air_gguf_set *set = set_of(o);
    PyObject *list = PyList_New((Py_ssize_t)set->parts);
    for (uint32_t i = 0; list && i < set->parts; i++) {
        PyObject *path = PyUnicode_DecodeFSDefault(set->paths[i]);
        if (!path || PyList_SetItem(list, (Py_ssize_t)i, path) < 0) Py_CLEAR(list);
    }
    return list;
}

static PyGetSetDef gguf_getset[] = {
    {"version", gguf_version, NULL, "Of the format: 2 or 3.", NULL},
    {"alignment", gguf_alignment, NULL, "Of tensor data, in bytes.", NULL},
    {"paths", gguf_paths, NULL, "The files, in order.", NULL},
    {"bytes", gguf_bytes, NULL, "Of all files together.", NULL},
    {"held_bytes", gguf_held_bytes, NULL, "What the header takes in memory, without metadata that was asked for.", NULL},
    {"metadata", gguf_metadata, NULL, "Key to str, int, float, bool, Array (of numbers) or list.", NULL},
    {"types", gguf_types, NULL, "Key to (type, type of an array's elements or None), as GGUF names them.", NULL},
    {"tensors", gguf_tensors, NULL, "(name, type, shape with the contiguous axis first, part, offset, bytes) of each.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot gguf_slots[] = {
    {Py_tp_doc, "GGUF(path)\n--\n\nThe header of a GGUF file or split set. Reads headers only."},
    {Py_tp_new, gguf_new},
    {Py_tp_dealloc, gguf_dealloc},
    {Py_tp_getset, gguf_getset},
    {0, NULL},
};

PyType_Spec air__py_gguf_spec = {
    .name = "airpy._core.GGUF",
    .basicsize = sizeof(GGUFObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = gguf_slots,
};
