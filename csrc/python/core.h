/* python/core.h: what the files of the extension airpy._core share.
 *
 * The extension checks arguments, converts, releases the GIL, calls the engine and raises; nothing else. One file per Python type.
 * All state hangs from the module (core_state) or from objects; there is no static mutable state. Every function here runs with the GIL.
 * Types are final, so the module of an object is that of its exact type.
 *
 * Who keeps whom alive: an Array its owner; an Engine its GGUF's directory; a Sequence and a Result their Engine. No cycles: no type
 * needs the garbage collector. Closing an engine frees what its sequences hold; the handles stay and raise StateError. */
#ifndef AIR_PYTHON_CORE_H
#define AIR_PYTHON_CORE_H

#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030b0000
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "engine/engine.h"

typedef struct core_state {
    PyTypeObject *array, *gguf, *engine, *sequence, *result, *adapter;
    PyObject *errors[AIR_STATUS_COUNT]; /* by status; [AIR_OK] is their common base AirpyError */
} core_state;

enum { AIR_PY_MAX_THREADS = 256 };

core_state *air__py_state(PyObject *self); /* of any object of this module's types */

/* --- errors.c --- */
int air__py_errors_init(core_state *state, PyObject *module);
/* Raises what err says and returns NULL. */
PyObject *air__py_raise(const core_state *state, const air_error *err);
/* Raises the exception of status with a message as PyErr_Format makes it, and returns NULL. */
PyObject *air__py_raise_text(const core_state *state, air_status status, const char *format, ...);

/* --- convert.c: from Python. Each returns 0, or -1 with an exception that names what. --- */
int air__py_to_i64(const core_state *state, const char *what, PyObject *o, int64_t min, int64_t max, int64_t *out);
int air__py_to_u64(const core_state *state, const char *what, PyObject *o, uint64_t *out);
int air__py_to_double(const char *what, PyObject *o, double *out);
/* out borrows from o. NULs inside are refused. */
int air__py_to_text(const core_state *state, const char *what, PyObject *o, const char **out);
/* One of names[0 … count - 1], to its index. */
int air__py_to_choice(const core_state *state, const char *what, PyObject *o, const char *const *names, int count, int *out);
/* "" (the best there is, AIR_TIER_COUNT) or the name of a tier. */
int air__py_to_tier(const core_state *state, PyObject *o, int *tier);
/* A new bytes object holding a path that str or os.PathLike named, or NULL. */
PyObject *air__py_to_path(PyObject *o);
/* A name ("Q4_K") or id to a format of formats.def, or NULL. */
const air_format *air__py_to_format(const core_state *state, PyObject *o);

/* --- convert.c: to Python; new references or NULL --- */
PyObject *air__py_from_string(const char *data, size_t bytes); /* str; bytes that are not UTF-8 become surrogates */
/* Steals value; 0, or -1 where value is NULL or the dict cannot take it. */
int air__py_dict_take(PyObject *dict, const char *key, PyObject *value);

/* --- array.c --- */
extern PyType_Spec air__py_array_spec;
/* Read-only view of [count] elements at data, which owner keeps valid. format is struct's and static. The array takes a reference to owner
 * of its own. */
PyObject *air__py_array_new(core_state *state, PyObject *owner, const void *data, const char *format, Py_ssize_t item_bytes, int64_t count);
/* The same of [rows][cols] floats, which whoever has it may write to. */
PyObject *air__py_matrix_new(core_state *state, PyObject *owner, float *data, int64_t rows, int64_t cols);
/* The same over a bytes object that this call makes; *data is where to write. */
PyObject *air__py_array_make(core_state *state, const char *format, Py_ssize_t item_bytes, int64_t count, void **data);

/* --- gguf.c --- */
extern PyType_Spec air__py_gguf_spec;
/* Borrowed from capsule, which is what keeps a directory alive: GGUF objects, their arrays and engines each hold a reference. */
const air_gguf_set *air__py_gguf_set(PyObject *capsule);
PyObject *air__py_gguf_capsule(PyObject *gguf); /* borrowed */

/* --- options.c --- */
/* Reads Engine's and solve_plan's (gguf, **options). The config borrows from args and kwargs. who: for messages. */
int air__py_options_parse(core_state *state, const char *who, PyObject *args, PyObject *kwargs, air_engine_config *config, PyObject **gguf);

/* --- plan.c --- */
PyObject *air__py_plan_dict(const air_plan *plan, const air_program *program);
PyObject *air__py_solve_plan(PyObject *module, PyObject *args, PyObject *kwargs);

/* --- engine.c --- */
typedef struct engine_run { /* one call of run under way: on the list of its engine, on the stack of its thread */
    struct engine_run *next;
    air_batch *batch;      /* NULL until submitted */
    unsigned long thread;  /* that called run */
    int cancelled;         /* also what must happen to a batch that is not submitted yet */
} engine_run;

typedef struct SequenceObject SequenceObject;
typedef struct ResultObject ResultObject;
typedef struct AdapterObject AdapterObject;

typedef struct EngineObject {
    PyObject_HEAD
    air_engine *engine;        /* NULL once closed */
    PyObject *capsule;         /* of the GGUF */
    PyObject *source;          /* the str that config.source_spec borrowed, or NULL */
    SequenceObject *sequences; /* all that hold a C sequence; not references */
    ResultObject *results;     /* all that hold a batch; not references */
    AdapterObject *adapters;   /* all that hold a C adapter; not references */
    engine_run *runs;
    int closing;               /* no call may begin */
    uint64_t process;          /* that opened it */
} EngineObject;

extern PyType_Spec air__py_engine_spec;
int air__py_engine_usable(EngineObject *self);         /* 0, or -1 and StateError: closed, or this is a forked child */
int air__py_engine_in_child(const EngineObject *self); /* of fork: its threads are not here, so nothing may wait for them */
/* A call that waits without the GIL: close() waits for it to leave. */
void air__py_run_enter(EngineObject *self, engine_run *run);
void air__py_run_leave(EngineObject *self, engine_run *run); /* legal for one that has not entered */

/* --- run.c --- */
PyObject *air__py_engine_run(PyObject *self, PyObject *args, PyObject *kwargs);
PyObject *air__py_engine_walk(PyObject *self, PyObject *unused);
PyObject *air__py_engine_floats(PyObject *self, PyObject *args);
PyObject *air__py_engine_sample(PyObject *self, PyObject *args);
/* Waits, with looks for signals, until there is room for an adapter: 0 and a batch that holds it, to be freed; or -1. */
int air__py_engine_hold(EngineObject *engine, const air_adapter_room *room, air_batch **held);

/* --- adapter.c --- */
extern PyType_Spec air__py_adapter_spec;
PyObject *air__py_engine_adapter(PyObject *self, PyObject *matrices);
air_engine_adapter *air__py_adapter_of(PyObject *adapter, const EngineObject *engine); /* NULL and ArgumentError: another engine's */
void air__py_adapter_drop(AdapterObject *self);            /* frees the C adapter, if there is one, and leaves the list */

/* --- timeline.c --- */
PyObject *air__py_timeline_begin(PyObject *self, PyObject *max_events);
PyObject *air__py_timeline_stop(PyObject *self, PyObject *unused);
PyObject *air__py_weight_names(PyObject *self, void *unused);
const char *air__py_event_name(int kind);

/* --- sequence.c --- */
struct SequenceObject {
    PyObject_HEAD
    air_sequence *sequence;          /* NULL once closed */
    EngineObject *engine;
    SequenceObject *next, *previous; /* on the engine's list, while sequence is not NULL */
    int busy;                        /* in a call of run */
    PyObject *adapter;               /* that it is computed with, or NULL */
    double scale;                    /* of it */
};

extern PyType_Spec air__py_sequence_spec;
PyObject *air__py_sequence_new(EngineObject *engine);
int air__py_sequence_usable(SequenceObject *self); /* 0, or -1 and StateError: closed, in use, or its engine is */
void air__py_sequence_drop(SequenceObject *self);  /* frees the C sequence, if there is one, and leaves the list */

/* --- result.c --- */
extern PyType_Spec air__py_result_spec;
/* Takes an ended batch, also on failure; keeps it only if logits or hidden states are to be shown. */
PyObject *air__py_result_new(EngineObject *engine, air_batch *batch, int32_t n_items, int logits, int hidden);
void air__py_result_detach(ResultObject *self); /* before its engine goes: what it shows stays valid */

/* --- probe.c --- */
PyObject *air__py_probe_disk(PyObject *module, PyObject *args, PyObject *kwargs);
PyObject *air__py_probe_compute(PyObject *module, PyObject *args, PyObject *kwargs);
PyObject *air__py_probe_device(PyObject *module, PyObject *args, PyObject *kwargs);
PyObject *air__py_probe_links(PyObject *module, PyObject *args, PyObject *kwargs);

/* --- machine.c --- */
PyObject *air__py_device_count(PyObject *module, PyObject *plugin);
PyObject *air__py_device_info(PyObject *module, PyObject *args);
PyObject *air__py_check_device(PyObject *module, PyObject *args);
PyObject *air__py_memory_info(PyObject *module, PyObject *unused);
PyObject *air__py_cpu_info(PyObject *module, PyObject *unused);
PyObject *air__py_file_identity(PyObject *module, PyObject *path);

/* --- quant.c --- */
PyObject *air__py_dequantize(PyObject *module, PyObject *args);
PyObject *air__py_convert(PyObject *module, PyObject *args);

#endif
