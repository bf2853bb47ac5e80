/* python/result.c: Result, what a call of run gave. Its arrays share the batch's memory, which counts against the budget while any
 * lives. */
#include "python/core.h"

struct ResultObject {
    PyObject_HEAD
    EngineObject *engine;
    air_batch *batch;              /* NULL where nothing is shown */
    ResultObject *next, *previous; /* on the engine's list, while attached */
    int attached;                  /* batch still refers to the engine */
    int logits, hidden;            /* whether asked for */
    int64_t n_vocab, n_embd;
    PyObject *sampled, *logprobs;  /* lists */
    air_batch_cost cost;
};

static PyObject *ints(const int32_t *values, int32_t n)
{
    PyObject *list = PyList_New(n);
    for (int32_t i = 0; list && i < n; i++) {
        PyObject *value = PyLong_FromLong(values[i]);
        if (!value || PyList_SetItem(list, i, value) < 0) Py_CLEAR(list);
    }
    return list;
}

static PyObject *floats(const float *values, int32_t n)
{
    PyObject *list = PyList_New(n);
    for (int32_t i = 0; list && i < n; i++) {
        PyObject *value = PyFloat_FromDouble((double)values[i]);
        if (!value || PyList_SetItem(list, i, value) < 0) Py_CLEAR(list);
    }
    return list;
}

static void leave_list(ResultObject *self)
{
    if (self->next) self->next->previous = self->previous;
    if (self->previous) self->previous->next = self->next;
    else self->engine->results = self->next;
    self->attached = 0;
}

PyObject *air__py_result_new(EngineObject *engine, air_batch *batch, int32_t n_items, int logits, int hidden)
{
    ResultObject *self = PyObject_New(ResultObject, air__py_state((PyObject *)engine)->result);
    if (!self) {
        air_batch_free(batch);
        return NULL;
    }
    const air_program *program = air_model_program(air_engine_model(engine->engine));
    self->engine = (EngineObject *)Py_NewRef((PyObject *)engine);
    self->logits = logits;
    self->hidden = hidden;
    self->n_vocab = program->n_vocab;
    self->n_embd = program->n_embd;
    self->sampled = ints(air_batch_sampled(batch), n_items);
    self->logprobs = floats(air_batch_logprobs(batch), n_items);
    self->cost = air_batch_cost_get(batch);
    self->attached = logits || hidden;
    if (self->attached) {
        self->batch = batch;
        self->previous = NULL;
        self->next = engine->results;
        if (self->next) self->next->previous = self;
        engine->results = self;
    } else {
        self->batch = NULL;
        air_batch_free(batch);
    }
    if (!self->sampled || !self->logprobs) {
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    return (PyObject *)self;
}

void air__py_result_detach(ResultObject *self)
{
    leave_list(self);
    air_batch_detach(self->batch);
}

static void result_dealloc(PyObject *o)
{
    ResultObject *self = (ResultObject *)o;
    PyTypeObject *type = Py_TYPE(o);
    /* In a forked child the engine's lock may be held by a thread that is not there. */
    int stranded = self->attached && air__py_engine_in_child(self->engine);
    if (self->attached) leave_list(self);
    if (!stranded) air_batch_free(self->batch);
    Py_XDECREF(self->sampled);
    Py_XDECREF(self->logprobs);
    Py_DECREF((PyObject *)self->engine);
    PyObject_Free(o);
    Py_DECREF(type);
}

static PyObject *matrix(ResultObject *self, int asked, float *data, int64_t cols)
{
    if (!asked) Py_RETURN_NONE;
    int64_t rows = data ? air_batch_rows_kept(self->batch) : 0;
    return air__py_matrix_new(air__py_state((PyObject *)self), (PyObject *)self, data, rows, cols);
}

static PyObject *result_logits(PyObject *o, void *unused)
{
    (void)unused;
    ResultObject *self = (ResultObject *)o;
    return matrix(self, self->logits, self->logits ? air_batch_logits(self->batch) : NULL, self->n_vocab);
}

static PyObject *result_hidden(PyObject *o, void *unused)
{
    (void)unused;
    ResultObject *self = (ResultObject *)o;
    return matrix(self, self->hidden, self->hidden ? air_batch_hidden(self->batch) : NULL, self->n_embd);
}

static PyObject *result_sampled(PyObject *o, void *unused)
{
    (void)unused;
    return Py_NewRef(((ResultObject *)o)->sampled);
}

static PyObject *result_logprobs(PyObject *o, void *unused)
{
    (void)unused;
    return Py_NewRef(((ResultObject *)o)->logprobs);
}

static PyObject *result_cost(PyObject *o, void *unused)
{
    (void)unused;
    const air_batch_cost *c = &((ResultObject *)o)->cost;
    return Py_BuildValue("(KKKKKd)", (unsigned long long)c->passes, (unsigned long long)c->pass_ns, (unsigned long long)c->disk_bytes,
                         (unsigned long long)c->ram_bytes, (unsigned long long)c->stall_ns, c->predicted_s);
}

static PyGetSetDef result_getset[] = {
    {"logits", result_logits, NULL, "float32 (sum of want, n_vocab), or None where not asked for.", NULL},
    {"hidden", result_hidden, NULL, "float32 (sum of want, n_embd), or None where not asked for.", NULL},
    {"sampled", result_sampled, NULL, "A token id per item; -1 where not asked for.", NULL},
    {"logprobs", result_logprobs, NULL, "Of the sampled ids under the model itself.", NULL},
    {"cost", result_cost, NULL, "(passes, pass_ns, disk_bytes, ram_bytes, stall_ns, predicted_s): sums over this call's passes.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot result_slots[] = {
    {Py_tp_doc, "What Engine.run gave."},
    {Py_tp_dealloc, result_dealloc},
    {Py_tp_getset, result_getset},
    {0, NULL},
};

PyType_Spec air__py_result_spec = {
    .name = "airpy._core.Result",
    .basicsize = sizeof(ResultObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = result_slots,
};
