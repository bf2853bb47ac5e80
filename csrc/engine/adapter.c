/* Adapters: from matrices by name to parts of the program's weights, in memory that the budgets know: the CPU's in one block of the host's,
 * a device's in one of its own. */
#include <stdatomic.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "engine/internal.h"

typedef struct slot {
    air_adapter_matrix matrix;
    float *a, *b; /* of a device: in its memory */
} slot;

struct air_engine_adapter {
    air_adapter adapter;     /* slots, parts, and of the CPU matrices and scratch follow in the same block */
    air_engine *engine;
    air_engine_adapter *next; /* of those in the device's memory; under the engine's lock */
    void *device;            /* memory of a device: parts, then matrices; NULL: the CPU's */
    air_adapter_room held;   /* of the budgets */
    slot *slots;
    int32_t n;
    AIR_ATOMIC(int) used;    /* by a sequence: it is read from now on */
};

/* The weights that a tensor is: one, or some that are rows of it. */
static int is_of(const air_weight *w, const char *name) { return !strcmp(w->name, name); }

static air_status refuse_use(const air_weight *w, air_error *err)
{
    if (w->use == AIR_WEIGHT_EXPERTS)
        return air_fail(err, AIR_E_UNSUPPORTED, "the adapter changes %s, experts of a mixture, which is not supported", w->name);
    return air_fail(err, AIR_E_UNSUPPORTED, "the adapter changes %s, which is %s; only products of matrices can be adapted", w->name,
                    w->use == AIR_WEIGHT_TABLE ? "a table" : "a vector");
}

/* Whether a weight is matrices of heads, each of which reads a part of its own. */
static int is_by_heads(const air_program *p, int32_t weight)
{
    for (int32_t i = 0; i < p->n_ops; i++)
        if (p->ops[i].kind == AIR_OP_PRODUCT && p->ops[i].weight == weight && p->ops[i].heads) return 1;
    return 0;
}

/* rows: of all weights that the tensor is; cols: theirs; first: where it begins in its file. */
static air_status find_tensor(const air_program *p, const air_adapter_matrix *m, int64_t *rows, int64_t *cols, uint64_t *first,
                              air_error *err)
{
    *rows = 0;
    *first = UINT64_MAX;
    for (int32_t i = 0; i < p->n_weights; i++) {
        const air_weight *w = &p->weights[i];
        if (!is_of(w, m->name)) continue;
        if (w->use != AIR_WEIGHT_MATRIX) return refuse_use(w, err);
        if (is_by_heads(p, i))
            return air_fail(err, AIR_E_UNSUPPORTED, "the adapter changes %s, matrices of heads, which is not supported", w->name);
        *rows += w->rows;
        *cols = w->cols;
        *first = air_min_u64(*first, w->offset);
    }
    if (!*rows) return air_fail(err, AIR_E_MODEL, "the adapter changes %s, which this model does not have", m->name);
    if (m->rank < 1 || m->cols != *cols || m->rows != *rows)
        return air_fail(err, AIR_E_MODEL, "the adapter has [%lld, %lld] and [%lld, %lld] for %s, which is [%lld, %lld]",
                        (long long)m->cols, (long long)m->rank, (long long)m->rank, (long long)m->rows, m->name, (long long)*cols,
                        (long long)*rows);
    return AIR_OK;
}

static int has_before(const air_adapter_matrix *matrices, int32_t i)
{
    for (int32_t j = 0; j < i; j++)
        if (!strcmp(matrices[j].name, matrices[i].name)) return 1;
    return 0;
}

/* Floats of the matrices, as they lie behind each other. */
static air_status measure(const air_engine *e, const air_adapter_matrix *matrices, int32_t n, uint64_t *floats, int64_t *rank_most,
                          air_error *err)
{
    const air_program *p = air_model_program(e->model);
    uint64_t pair;
    *floats = 0;
    *rank_most = 0;
    for (int32_t i = 0; i < n; i++) {
        int64_t rows, cols;
        uint64_t first;
        air_status st = find_tensor(p, &matrices[i], &rows, &cols, &first, err);
        if (st) return st;
        if (has_before(matrices, i)) return air_fail(err, AIR_E_MODEL, "the adapter has %s twice", matrices[i].name);
        if (!air_mul_u64((uint64_t)matrices[i].rank, (uint64_t)(rows + cols), &pair) || !air_add_u64(*floats, pair, floats))
            return air_fail(err, AIR_E_MODEL, "the adapter's rank for %s is %lld", matrices[i].name, (long long)matrices[i].rank);
        if (matrices[i].rank > *rank_most) *rank_most = matrices[i].rank;
    }
    if (*floats > SIZE_MAX / 8) return air_fail(err, AIR_E_MODEL, "the adapter's rank is %lld", (long long)*rank_most);
    return AIR_OK;
}

/* Of the CPU, A x of a pass. */
static int scratch_floats(const air_engine *e, int64_t rank_most, uint64_t *floats)
{
    uint64_t places = (uint64_t)(air_adapter_products(air_model_program(e->model)) * e->plan->max_rows);
    return air_mul_u64(places, (uint64_t)rank_most, floats);
}

static uint64_t table_bytes(const air_program *p)
{
    return air_round_up((uint64_t)p->n_weights * sizeof(air_adapter_part), AIR_DEVICE_ALIGN);
}

air_status air_engine_adapter_room(air_engine *e, const air_adapter_matrix *matrices, int32_t n, air_adapter_room *out, air_error *err)
{
    const air_program *p = air_model_program(e->model);
    uint64_t floats, scratch;
    air_status st = measure(e, matrices, n, &floats, &out->rank, err);
    if (st) return st;
    out->host = sizeof(air_engine_adapter) + (uint64_t)n * sizeof(slot) + (uint64_t)p->n_weights * sizeof(air_adapter_part);
    out->device = 0;
    if (air__engine_on_device(e)) {
        out->device = air_device_allocation(table_bytes(p) + floats * sizeof(float));
        return AIR_OK;
    }
    if (!scratch_floats(e, out->rank, &scratch) || !air_add_u64(floats, scratch, &floats) || floats > SIZE_MAX / 8)
        return air_fail(err, AIR_E_MODEL, "the adapter's rank is %lld", (long long)out->rank);
    out->host += floats * sizeof(float);
    return AIR_OK;
}

void air__adapter_room_release(air_engine *e, const air_adapter_room *room)
{
    air_budget_release(&e->budget, AIR_HOLD_ADAPTERS, room->host);
    air_budget_release(&e->device_budget, AIR_HOLD_ADAPTERS, room->device);
}

int64_t air__engine_rank(air_engine *e)
{
    int64_t most = 0;
    air_mutex_lock(&e->lock);
    for (const air_engine_adapter *a = e->adapters; a; a = a->next)
        if (a->adapter.rank_most > most) most = a->adapter.rank_most;
    air_mutex_unlock(&e->lock);
    return most;
}

/* Gives one tensor's matrices their place, which begins at `at`, and points the weights that it is to them. */
static float *place(const air_program *p, slot *s, air_adapter_part *parts, float *at, int on_device)
{
    const air_adapter_matrix *m = &s->matrix;
    int64_t rows, cols;
    uint64_t first;
    if (find_tensor(p, m, &rows, &cols, &first, NULL)) return at;
    s->a = at;
    s->b = at + m->rank * cols;
    for (int32_t i = 0; i < p->n_weights; i++) {
        const air_weight *w = &p->weights[i];
        if (!is_of(w, m->name)) continue;
        int64_t row = (int64_t)((w->offset - first) / w->row_bytes);
        parts[i] = (air_adapter_part){.rank = m->rank, .a = s->a, .b = s->b + (on_device ? row : row * m->rank),
                                      .step = on_device ? rows : m->rank};
    }
    return s->b + rows * m->rank;
}

static void enlist(air_engine_adapter *own)
{
    air_mutex_lock(&own->engine->lock);
    own->next = own->engine->adapters;
    own->engine->adapters = own;
    air_mutex_unlock(&own->engine->lock);
}

static void delist(air_engine_adapter *own)
{
    air_mutex_lock(&own->engine->lock);
    air_engine_adapter **at = &own->engine->adapters;
    while (*at && *at != own) at = &(*at)->next;
    if (*at) *at = own->next;
    air_mutex_unlock(&own->engine->lock);
}

air_status air_engine_adapter_new(air_engine_adapter **out, air_engine *e, const air_adapter_matrix *matrices, int32_t n,
                                  air_batch *held, air_error *err)
{
    const air_program *p = air_model_program(e->model);
    air_adapter_room room;
    *out = NULL;
    air_status st = air_engine_adapter_room(e, matrices, n, &room, err);
    if (st) return st;
    air_engine_adapter *own = air_calloc(1, (size_t)room.host);
    if (!own) return air_fail(err, AIR_E_NOMEM, "adapter: %llu bytes", (unsigned long long)room.host);
    own->engine = e;
    own->n = n;
    own->slots = (slot *)(void *)(own + 1);
    air_adapter_part *parts = (air_adapter_part *)(void *)(own->slots + n);
    float *at = (float *)(void *)(parts + p->n_weights);
    if (room.device) st = e->api->adapter_alloc(e->backend, &own->device, (size_t)room.device, err);
    if (own->device) at = (float *)(void *)((char *)own->device + table_bytes(p));
    for (int32_t i = 0; i < n && !st; i++) {
        own->slots[i].matrix = matrices[i];
        at = place(p, &own->slots[i], parts, at, own->device != NULL);
        own->slots[i].matrix.name = NULL; /* the caller's */
    }
    own->adapter = (air_adapter){.parts = parts, .on_device = own->device, .rank_most = room.rank};
    if (!room.device) own->adapter.scratch = at;
    own->adapter.scratch_rows = e->plan->max_rows;
    if (own->device) st = e->api->state_copy(e->backend, own->device, parts, (size_t)p->n_weights * sizeof *parts, 1, err);
    if (st) {
        if (own->device) e->api->adapter_free(e->backend, own->device);
        air_free(own);
        return st;
    }
    own->held = air__batch_take_hold(held);
    if (own->device) enlist(own);
    *out = own;
    return AIR_OK;
}

int32_t air_engine_adapter_count(const air_engine_adapter *a) { return a->n; }
air_adapter_matrix air_engine_adapter_matrix(const air_engine_adapter *a, int32_t i) { return a->slots[i].matrix; }
/* B as a device has it: column after column. */
static air_status copy_columns(air_engine *e, float *to, const float *b, int64_t rows, int64_t rank, air_error *err)
{
    size_t bytes = (size_t)(rows * rank) * sizeof *b;
    float *turned = air_malloc(bytes);
    if (!turned) return air_fail(err, AIR_E_NOMEM, "adapter: %zu bytes", bytes);
    for (int64_t r = 0; r < rank; r++)
        for (int64_t row = 0; row < rows; row++) turned[r * rows + row] = b[row * rank + r];
    air_status st = e->api->state_copy(e->backend, to, turned, bytes, 1, err);
    air_free(turned);
    return st;
}

air_status air_engine_adapter_fill(air_engine_adapter *own, int32_t i, const float *a, const float *b, air_error *err)
{
    const slot *s = &own->slots[i];
    const air_adapter_matrix *m = &s->matrix;
    air_engine *e = own->engine;
    size_t bytes = (size_t)(m->rank * m->cols) * sizeof *a;
    if (atomic_load(&own->used)) return air_fail(err, AIR_E_CLOSED, "a sequence has the adapter already");
    if (own->device) {
        air_status st = e->api->state_copy(e->backend, s->a, a, bytes, 1, err);
        return st ? st : copy_columns(e, s->b, b, m->rows, m->rank, err);
    }
    memcpy(s->a, a, bytes);
    memcpy(s->b, b, (size_t)(m->rows * m->rank) * sizeof *b);
    return AIR_OK;
}

void air_engine_adapter_free(air_engine_adapter *a)
{
    if (!a) return;
    if (a->device) {
        delist(a);
        a->engine->api->adapter_free(a->engine->backend, a->device);
    }
    air__adapter_room_release(a->engine, &a->held);
    air_free(a);
}

air_adapter_room air_engine_adapter_held(const air_engine_adapter *a) { return a->held; }

air_status air_sequence_adapt(air_sequence *s, air_engine_adapter *a, float scale, air_error *err)
{
    air_status st = air__sequence_take(s, err);
    if (st) return st;
    if (a && a->engine != s->engine) st = air_fail(err, AIR_E_ARGUMENT, "the adapter belongs to another model");
    else if (s->length)
        st = air_fail(err, AIR_E_ARGUMENT, "the sequence has %lld tokens already, computed otherwise", (long long)s->length);
    else s->adapted = (air_adapted){.adapter = a ? &a->adapter : NULL, .scale = scale};
    if (a && !st) atomic_store(&a->used, 1);
    air__sequence_release(s);
    return st;
}
