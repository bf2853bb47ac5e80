/* Adapters: from matrices by name to parts of the program's weights, in memory that the budget knows. */
#include <stdatomic.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "engine/internal.h"

typedef struct slot {
    air_adapter_matrix matrix;
    float *a, *b;
} slot;

struct air_engine_adapter {
    air_adapter adapter;     /* slots, parts, matrices and scratch follow in the same block */
    air_engine *engine;
    uint64_t bytes;          /* held of the budget */
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

/* Floats of the matrices and of scratch, as they lie behind each other; 0 for more than there can be. */
static air_status measure(const air_engine *e, const air_adapter_matrix *matrices, int32_t n, uint64_t *floats, int64_t *rank_most,
                          air_error *err)
{
    const air_program *p = air_model_program(e->model);
    uint64_t scratch, pair;
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
    uint64_t places = (uint64_t)(air_adapter_products(p) * e->plan->max_rows);
    if (!air_mul_u64(places, (uint64_t)*rank_most, &scratch) || !air_add_u64(*floats, scratch, floats) || *floats > SIZE_MAX / 8)
        return air_fail(err, AIR_E_MODEL, "the adapter's rank is %lld", (long long)*rank_most);
    return AIR_OK;
}

static uint64_t block_bytes(const air_program *p, int32_t n, uint64_t floats)
{
    return sizeof(air_engine_adapter) + (uint64_t)n * sizeof(slot) + (uint64_t)p->n_weights * sizeof(air_adapter_part) +
           floats * sizeof(float);
}

air_status air_engine_adapter_bytes(air_engine *e, const air_adapter_matrix *matrices, int32_t n, uint64_t *bytes, air_error *err)
{
    uint64_t floats;
    int64_t rank;
    if (air__engine_on_device(e))
        return air_fail(err, AIR_E_UNSUPPORTED, "adapters are computed by the CPU alone, and %s computes here; open the model with device "
                        "'cpu'", e->api->name);
    air_status st = measure(e, matrices, n, &floats, &rank, err);
    if (!st) *bytes = block_bytes(air_model_program(e->model), n, floats);
    return st;
}

/* Gives one tensor's matrices their place, which begins at `at`, and points the weights that it is to them. */
static float *place(const air_program *p, slot *s, air_adapter_part *parts, float *at)
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
        parts[i] = (air_adapter_part){.rank = m->rank, .a = s->a, .b = s->b + row * m->rank};
    }
    return s->b + rows * m->rank;
}

air_status air_engine_adapter_new(air_engine_adapter **out, air_engine *e, const air_adapter_matrix *matrices, int32_t n,
                                  air_batch *held, air_error *err)
{
    const air_program *p = air_model_program(e->model);
    uint64_t floats;
    int64_t rank_most;
    *out = NULL;
    air_status st = measure(e, matrices, n, &floats, &rank_most, err);
    if (st) return st;
    uint64_t bytes = block_bytes(p, n, floats);
    air_engine_adapter *own = air_calloc(1, (size_t)bytes);
    if (!own) return air_fail(err, AIR_E_NOMEM, "adapter: %llu bytes", (unsigned long long)bytes);
    own->engine = e;
    own->n = n;
    own->slots = (slot *)(void *)(own + 1);
    air_adapter_part *parts = (air_adapter_part *)(void *)(own->slots + n);
    float *at = (float *)(void *)(parts + p->n_weights);
    for (int32_t i = 0; i < n; i++) {
        own->slots[i].matrix = matrices[i];
        at = place(p, &own->slots[i], parts, at);
        own->slots[i].matrix.name = NULL; /* the caller's */
    }
    own->adapter = (air_adapter){.parts = parts, .rank_most = rank_most, .scratch = at, .scratch_rows = e->plan->max_rows};
    own->bytes = air__batch_take_hold(held);
    *out = own;
    return AIR_OK;
}

int32_t air_engine_adapter_count(const air_engine_adapter *a) { return a->n; }
air_adapter_matrix air_engine_adapter_matrix(const air_engine_adapter *a, int32_t i) { return a->slots[i].matrix; }
float *air_engine_adapter_a(air_engine_adapter *a, int32_t i) { return atomic_load(&a->used) ? NULL : a->slots[i].a; }
float *air_engine_adapter_b(air_engine_adapter *a, int32_t i) { return atomic_load(&a->used) ? NULL : a->slots[i].b; }

void air_engine_adapter_free(air_engine_adapter *a)
{
    if (!a) return;
    air_budget_release(&a->engine->budget, AIR_HOLD_ADAPTERS, a->bytes);
    air_free(a);
}

uint64_t air_engine_adapter_held(const air_engine_adapter *a) { return a->bytes; }

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
