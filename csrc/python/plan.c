/* python/plan.c: a plan as a dict, and solve_plan, which makes one without opening a model for use. */
#include <string.h>

#include "python/core.h"

#include "base/alloc.h"

/* The tiles of each weight, and how many of them stay, in host memory and in a device's, when the context is empty. Of a weight of experts,
 * experts, and as many as are likely to be in memory. */
typedef struct tile_counts { int32_t tiles, pinned, device; } tile_counts;

static tile_counts experts_of(const air_plan *plan, const air_mixture *m)
{
    int32_t there = (int32_t)(m->n_experts * plan->expert_hit + 0.5), device = (int32_t)(m->n_experts * plan->device_expert_hit + 0.5);
    return (tile_counts){.tiles = m->n_experts, .pinned = there > device ? there - device : 0, .device = device};
}

static void count_experts(const air_plan *plan, const air_program *program, tile_counts *counts)
{
    for (int32_t i = 0; program->mixtures && i < program->n_layers; i++) {
        const air_mixture *m = &program->mixtures[i];
        const int32_t weights[] = {m->gate, m->up, m->down};
        for (size_t j = 0; m->n_experts && j < AIR_COUNT(weights); j++)
            if (weights[j] != AIR_NONE)
                counts[weights[j]] = experts_of(plan, m);
    }
}

static tile_counts *count_tiles(const air_plan *plan, int32_t n_weights)
{
    tile_counts *counts = air_calloc((size_t)n_weights + 1, sizeof *counts);
    if (!counts) return NULL;
    for (int32_t i = 0; i < plan->n_tiles; i++) counts[plan->tiles[i].weight].tiles++;
    uint64_t bytes = 0;
    for (int32_t i = 0; i < plan->n_tiles; i++) {
        const air_tile *tile = &plan->tiles[plan->priority[i]];
        if (i < plan->n_device_tiles) {
            counts[tile->weight].device++;
            continue;
        }
        bytes += air_tile_memory(tile, AIR_PLAN_GRANULE);
        if (bytes > plan->pin_bytes) break;
        counts[tile->weight].pinned++;
    }
    return counts;
}

/* [(name, type, bytes, tiles, pinned tiles, device tiles)]; vectors, which are always there, left out. A table that is only gathered
 * has no tiles. */
static PyObject *weights_list(const air_plan *plan, const air_program *program)
{
    tile_counts *counts = count_tiles(plan, program->n_weights);
    if (counts) count_experts(plan, program, counts);
    PyObject *list = counts ? PyList_New(0) : PyErr_NoMemory();
    for (int32_t i = 0; list && i < program->n_weights; i++) {
        const air_weight *w = &program->weights[i];
        if (w->use == AIR_WEIGHT_VECTOR) continue;
        PyObject *name = air__py_from_string(w->name, strlen(w->name));
        PyObject *row = name ? Py_BuildValue("(NsKiii)", name, air_format_by_id(w->type)->name, (unsigned long long)w->bytes,
                                             (int)counts[i].tiles, (int)counts[i].pinned, (int)counts[i].device) : NULL;
        if (!row || PyList_Append(list, row) < 0) Py_CLEAR(list);
        Py_XDECREF(row);
    }
    air_free(counts);
    return list;
}

/* [{figure: bytes or tiles}], one for each device beside the first. */
static PyObject *helpers_list(const air_plan *plan)
{
    PyObject *list = PyList_New(0);
    for (int32_t i = 0; list && i < plan->n_helpers; i++) {
        const air_plan_helper *h = &plan->helpers[i];
#define U(field) #field, (unsigned long long)h->field
        PyObject *row = Py_BuildValue("{sK sK sK sK sK sK sK sK sK}", U(budget), U(fixed), U(buffer_bytes), U(ring_bytes), U(pin_bytes),
                                      U(weight_bytes), U(linked_bytes), U(n_tiles), U(linked_tiles));
#undef U
        if (!row || PyList_Append(list, row) < 0) Py_CLEAR(list);
        Py_XDECREF(row);
    }
    return list;
}

/* [{figure: bytes or seconds}], one for each device that computes. */
static PyObject *work_list(const air_plan *plan)
{
    PyObject *list = PyList_New(0);
    for (int32_t i = 0; list && plan->device_budget && i <= plan->n_helpers; i++) {
        const air_plan_work *w = &plan->work[i];
        PyObject *row = Py_BuildValue("{sK sK sd sd}", "weight_bytes", (unsigned long long)w->weight_bytes, "linked_bytes",
                                      (unsigned long long)w->linked_bytes, "link_s", w->link_s, "device_s", w->device_s);
        if (!row || PyList_Append(list, row) < 0) Py_CLEAR(list);
        Py_XDECREF(row);
    }
    return list;
}

PyObject *air__py_plan_dict(const air_plan *plan, const air_program *program)
{
    PyObject *weights = weights_list(plan, program), *helpers = weights ? helpers_list(plan) : NULL;
    PyObject *work = helpers ? work_list(plan) : NULL;
    if (!work) {
        Py_XDECREF(helpers);
        Py_XDECREF(weights);
        return NULL;
    }
#define U(field) #field, (unsigned long long)plan->field
#define I(field) #field, (long long)plan->field
#define D(field) #field, plan->field
    return Py_BuildValue("{ss ss sK sK sL sL sK sK sK sL sK sK sK sK sK sK sK sK sK sK sK sL sK "
                         "sK sK sK sK sK sK sL sK sK sL sK sK sN sN sK sK sK sK sK sd sd sd sd sd sd sd sd ss sd sL sN}",
                         "io", air_io_name(plan->io), "kv_dtype", air_state_names[plan->state_type],
                         U(budget), U(fixed), I(n_ctx), I(max_rows),
                         U(tile_bytes), U(ring_bytes),
                         U(block_bytes), I(depth), U(weight_bytes), U(pin_bytes), U(pin_bytes_full), U(state_bytes_full),
                         U(recurrent_bytes),
                         U(activation_bytes), U(activation_bytes_full), U(logit_bytes), U(staging_bytes),
                         U(device_budget), U(device_fixed), U(device_graph_bytes), I(n_device_tiles), U(device_pin_bytes),
                         U(device_weight_bytes), U(device_ring_bytes), U(device_state_bytes), U(device_activation_bytes),
                         U(device_activation_bytes_full), I(away_blocks), U(device_shuttle_bytes),
                         U(device_part_bytes), I(n_host_tiles), U(host_weight_bytes), U(share_bytes), "helpers", helpers, "work", work,
                         U(expert_weight_bytes), U(expert_token_bytes), U(expert_bytes), U(expert_bytes_full),
                         U(device_expert_bytes), D(expert_hit), D(device_expert_hit),
                         D(disk_s), D(link_s), D(device_s), D(compute_s), D(pass_s), D(full_s),
                         "bound", air_bound_name(plan->bound), D(prompt_s), I(n_tiles), "weights", weights);
#undef U
#undef I
#undef D
}

/* solve_plan(gguf, /, **options) -> dict: Engine's plan under the same options. Reads no weight, allocates nothing planned. */
PyObject *air__py_solve_plan(PyObject *module, PyObject *args, PyObject *kwargs)
{
    core_state *state = PyModule_GetState(module);
    air_engine_config config;
    PyObject *gguf;
    if (air__py_options_parse(state, "solve_plan()", args, kwargs, &config, &gguf) < 0) return NULL;

    air_error err;
    air_status st;
    air_model *model = NULL;
    air_plan *plan = NULL;
    Py_BEGIN_ALLOW_THREADS
    st = air_model_open(&model, config.set, &err);
    if (!st) st = air_engine_plan_only(&plan, &config, &err);
    Py_END_ALLOW_THREADS
    PyObject *dict = st ? air__py_raise(state, &err) : air__py_plan_dict(plan, air_model_program(model));
    air_plan_free(plan);
    air_model_close(model);
    return dict;
}
