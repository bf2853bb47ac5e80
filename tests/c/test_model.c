/* Models and their programs: every weight bound once, buffers that live together apart, logits that are those of transformers, and a
 * backend that tells what it left undone. */
#include <stdatomic.h>

#include "check.h"
#include "engine/internal.h"
#include "engine/blocks.h"
#include "golden_logits.h"

enum { FILES = sizeof golden_logits / sizeof *golden_logits };

static air_status open_set(air_gguf_set **set, const char *name, air_error *err)
{
    char path[4096];
    (void)snprintf(path, sizeof path, "%s/%s.gguf", AIR_TEST_MODELS, name);
    return air_gguf_open(set, path, err);
}

/* --- programs --- */

static int reads(const air_op *op, int32_t buffer)
{
    int adds = op->kind == AIR_OP_ADD || (op->kind == AIR_OP_PRODUCT && op->epilogue != AIR_EPILOGUE_SET);
    return op->in == buffer || op->in2 == buffer || (adds && op->out == buffer);
}

/* From the op that writes it first to the one that uses it last, found from the ops alone. */
static void life_of(const air_program *p, int32_t buffer, int32_t *first, int32_t *last)
{
    *first = *last = -1;
    for (int32_t i = 0; i < p->n_ops; i++) {
        if (p->ops[i].out != buffer && !reads(&p->ops[i], buffer)) continue;
        if (*first < 0) *first = i;
        *last = i;
    }
}

static void check_buffers(const air_program *p)
{
    for (int32_t a = 0; a < p->n_buffers; a++) {
        const air_buffer_desc *x = &p->buffers[a];
        int32_t first, last;
        life_of(p, a, &first, &last);
        CHECK(first >= 0);
        CHECK(!reads(&p->ops[first], a)); /* nothing is read before it is written */
        if (a == p->logits) continue;
        CHECK_EQ(x->offset % 16, 0); /* rows start on a cache line where widths allow */
        CHECK(x->offset + x->width <= (x->rows == AIR_ROWS_ALL ? p->row_floats : p->wanted_floats));
        for (int32_t b = 0; b < a; b++) {
            const air_buffer_desc *y = &p->buffers[b];
            int32_t from, to;
            life_of(p, b, &from, &to);
            if (b == p->logits || y->rows != x->rows || to < first || last < from) continue;
            CHECK(x->offset + x->width <= y->offset || y->offset + y->width <= x->offset);
        }
    }
}

/* The last of heads' parts of so many elements ends in its row. */
static int parts_fit(int64_t width, const air_op *op, air_head_parts p, int64_t n)
{
    return p.first >= 0 && p.step >= n && p.first + (op->heads - 1) * p.step + n <= width;
}

static void check_product(const air_program *p, const air_op *op)
{
    const air_weight *w = &p->weights[op->weight];
    int64_t in = p->buffers[op->in].width, out = p->buffers[op->out].width;
    CHECK_EQ(p->buffers[op->in].rows, p->buffers[op->out].rows);
    CHECK(w->cols <= p->max_cols);
    if (op->heads) {
        CHECK(op->bias == AIR_NONE && w->rows % op->heads == 0);
        CHECK(parts_fit(in, op, op->from, w->cols) && parts_fit(out, op, op->to, w->rows / op->heads));
        return;
    }
    CHECK_EQ(in, w->cols);
    CHECK_EQ(out, w->rows);
    if (op->bias != AIR_NONE) CHECK_EQ(p->weights[op->bias].cols, w->rows);
}

static void check_widths(const air_program *p)
{
    for (int32_t i = 0; i < p->n_ops; i++) {
        const air_op *op = &p->ops[i];
        if (op->kind == AIR_OP_PRODUCT) check_product(p, op);
        if (op->kind == AIR_OP_COPY)
            CHECK(parts_fit(p->buffers[op->in].width, op, op->from, op->head_dim) &&
                  parts_fit(p->buffers[op->out].width, op, op->to, op->head_dim));
        if (op->from.step && (op->kind == AIR_OP_RMS_NORM || op->kind == AIR_OP_ROPE)) {
            CHECK(parts_fit(p->buffers[op->in].width, op, op->from, op->head_dim));
            continue;
        }
        if ((op->kind == AIR_OP_RMS_NORM || op->kind == AIR_OP_LAYER_NORM) && op->weight != AIR_NONE) {
            int64_t width = p->buffers[op->in].width, cols = p->weights[op->weight].cols;
            CHECK(cols == width || cols == op->head_dim);
            CHECK(!op->head_dim || width % op->head_dim == 0);
            if (op->bias != AIR_NONE) CHECK_EQ(p->weights[op->bias].cols, cols);
        }
        if (op->kind == AIR_OP_ROPE) {
            CHECK_EQ(p->buffers[op->in].width, (int64_t)op->heads * op->head_dim);
            CHECK(op->rope >= 0 && op->rope < p->n_ropes && 2 * p->ropes[op->rope].pairs <= op->head_dim);
        }
        if (op->kind == AIR_OP_ADD) CHECK(p->buffers[op->in].width == p->buffers[op->out].width && op->in != op->out);
    }
}

static int32_t uses_of(const air_program *p, int32_t weight)
{
    int32_t n = 0;
    for (int32_t i = 0; i < p->n_ropes; i++) n += (p->ropes[i].factors == weight) + (p->ropes[i].long_factors == weight);
    for (int32_t i = 0; p->mixtures && i < p->n_layers; i++) { /* whose router a product reads */
        const air_mixture *x = &p->mixtures[i];
        if (!x->n_experts) continue;
        n += (x->gate == weight) + (x->up == weight) + (x->down == weight) + (x->bias == weight);
        n += (x->gate_bias == weight) + (x->up_bias == weight) + (x->down_bias == weight);
    }
    for (int32_t i = 0; p->recurrent && i < p->n_layers; i++) {
        const air_recurrent_shape *x = &p->recurrent[i];
        if (x->heads) n += (x->rate == weight) + (x->step_bias == weight) + (x->skip == weight);
    }
    for (int32_t i = 0; i < p->n_ops; i++) n += (p->ops[i].weight == weight) + (p->ops[i].bias == weight);
    return n;
}

/* How many times over weights read a tensor's bytes: rows of it may be weights by themselves. */
static void check_tensor(const air_program *p, const air_tensor *t, int tied)
{
    int table = 0;
    uint64_t bytes = 0;
    for (int32_t w = 0; w < p->n_weights; w++) {
        const air_weight *weight = &p->weights[w];
        if (weight->part != t->part || weight->offset < t->offset || weight->offset >= t->offset + t->bytes) continue;
        CHECK(weight->offset + weight->bytes <= t->offset + t->bytes);
        bytes += weight->bytes;
        table += weight->use == AIR_WEIGHT_TABLE;
        for (int32_t v = 0; v < w; v++) {
            const air_weight *other = &p->weights[v];
            int apart = other->offset + other->bytes <= weight->offset || weight->offset + weight->bytes <= other->offset;
            CHECK(apart || other->use != weight->use);
        }
    }
    CHECK_EQ(bytes, t->bytes * (uint64_t)(1 + (tied && table && strcmp(t->name.data, "token_embd.weight") == 0)));
}

TEST(programs_bind_every_weight_once_and_keep_live_buffers_apart)
{
    for (int f = 0; f < FILES; f++) {
        air_error err = {0};
        air_gguf_set *set;
        air_model *m;
        REQUIRE(!open_set(&set, golden_logits[f].name, &err));
        REQUIRE(!air_model_open(&m, set, &err));
        const air_program *p = air_model_program(m);
        for (uint64_t t = 0; t < air_gguf_tensor_count(set->gguf); t++)
            check_tensor(p, air_gguf_tensor_at(set->gguf, t), air_model_hparams(m)->tied_output);
        for (int32_t w = 0; w < p->n_weights; w++) CHECK_EQ(uses_of(p, w), 1);
        check_buffers(p);
        check_widths(p);
        CHECK(p->logits >= 0 && p->buffers[p->logits].width == p->n_vocab);
        CHECK(p->hidden >= 0 && p->buffers[p->hidden].width == p->n_embd);
        air_model_close(m);
        air_gguf_close(set);
    }
}

/* Of 64 positions, in F32: the rank and what is rotated of two layers, 24 + 8 elements. */
TEST(a_compressed_state_has_no_values)
{
    air_error err = {0};
    air_gguf_set *set;
    air_model *m;
    REQUIRE(!open_set(&set, "deepseek2-v3", &err));
    REQUIRE(!air_model_open(&m, set, &err));
    CHECK_EQ(air__state_block_bytes(air_model_program(m), AIR_STATE_F32), 2 * 64 * 32 * sizeof(float));
    air_model_close(m);
    air_gguf_close(set);
}

TEST(memory_of_a_pass_is_shared_between_layers)
{
    air_error err = {0};
    air_gguf_set *set;
    air_model *m;
    REQUIRE(!open_set(&set, "llama-gqa", &err));
    REQUIRE(!air_model_open(&m, set, &err));
    const air_hparams *hp = air_model_hparams(m);
    const air_program *p = air_model_program(m);
    int64_t attention = (int64_t)hp->heads * (hp->key_dim + hp->value_dim) + (int64_t)hp->kv_heads * (hp->key_dim + hp->value_dim);
    int64_t one_layer = 2 * hp->n_embd + (attention > hp->n_ff ? attention : hp->n_ff) + 16 * 8; /* x, norm, the larger half */
    CHECK(p->row_floats <= one_layer);
    CHECK(hp->n_layers > 1);
    air_model_close(m);
    air_gguf_close(set);
}

/* --- what a whole model computes --- */

static air_status run_prompt(const air_gguf_set *set, air_cpu_tier tier, const int32_t *prompt, float *logits, air_error *err)
{
    air_engine *e = NULL;
    air_sequence *s = NULL;
    air_batch *b = NULL;
    air_status st = air_engine_open(&e, &(air_engine_config){.set = set, .max_ram = 64 << 20, .io = AIR_IO_DIRECT, .threads = 2,
                                        .cpu_tier = tier, .state_type = AIR_STATE_F32, .max_pins = UINT64_MAX}, err);
    if (!st) st = air_sequence_new(&s, e, err);
    air_batch_item item = {.sequence = s, .tokens = prompt, .n_tokens = GOLDEN_PROMPT, .want = 1};
    if (!st) st = air_batch_submit(&b, e, &(air_batch_request){.items = &item, .n_items = 1}, err);
    for (int done = st != AIR_OK; !done;) st = air_batch_wait(b, UINT64_MAX, &done, NULL, err);
    if (!st) memcpy(logits, air_batch_logits(b), GOLDEN_KEPT * sizeof *logits);
    air_batch_free(b);
    air_sequence_free(s);
    air_engine_close(e);
    return st;
}

TEST(logits_are_those_of_transformers_at_every_tier)
{
    for (int f = 0; f < FILES; f++) {
        air_error err = {0};
        air_gguf_set *set;
        REQUIRE(!open_set(&set, golden_logits[f].name, &err));
        for (int tier = AIR_TIER_REF; tier < AIR_TIER_COUNT; tier++) {
            float got[GOLDEN_KEPT];
            double error = 0, size = 0;
            CHECK_EQ(run_prompt(set, (air_cpu_tier)tier, golden_logits[f].prompt, got, &err), AIR_OK);
            for (int i = 0; i < GOLDEN_KEPT; i++) {
                double want = golden_logits[f].logits[i];
                error += (got[i] - want) * (got[i] - want);
                size += want * want;
            }
            CHECK(error <= 1e-6 * size); /* the gate of the whole model's error */
        }
        air_gguf_close(set);
    }
}

/* --- the backend --- */

/* A feed that cancels the pass while its last matrix is being handed out. */
typedef struct late {
    const air_feed *inner;
    int32_t last;
    AIR_ATOMIC(int) cancel;
} late;

static air_status late_next(void *self, air_span *span, air_error *err)
{
    late *l = self;
    air_status st = l->inner->next(l->inner->self, span, err);
    if (!st && span->weight == l->last) atomic_store(&l->cancel, 1);
    return st;
}

static void late_release(void *self, const air_span *span)
{
    late *l = self;
    l->inner->release(l->inner->self, span);
}

static air_status late_gather(void *self, int32_t weight, const int32_t *rows, int64_t n, float *out, air_error *err)
{
    late *l = self;
    return l->inner->gather(l->inner->self, weight, rows, n, out, err);
}

TEST(a_cancel_that_comes_during_the_last_op_is_no_success)
{
    air_error err = {0};
    air_gguf_set *set;
    air_engine *e;
    air_sequence *s;
    REQUIRE(!open_set(&set, "llama-gqa", &err));
    REQUIRE(!air_engine_open(&e, &(air_engine_config){.set = set, .max_ram = 64 << 20, .io = AIR_IO_DIRECT, .threads = 2,
                                 .cpu_tier = AIR_TIER_COUNT, .max_pins = UINT64_MAX, .tile_bytes = UINT64_MAX}, &err));
    REQUIRE(!air_sequence_new(&s, e, &err));
    REQUIRE(!air__state_settle(&e->pool, &(air_state_use){.sequence = s, .end = 1}, 1, &err));
    const air_program *p = air_model_program(e->model);
    static float logits[4096];
    int32_t zero = 0;
    AIR_ATOMIC(int32_t) layers = 0;
    late l = {.inner = air_pager_feed(e->pager), .last = p->ops[p->n_ops - 1].weight};
    air_feed feed = {.self = &l, .next = late_next, .release = late_release, .gather = late_gather, .vectors = l.inner->vectors};
    air_pass pass = {.rows = 1, .tokens = &zero, .positions = &zero, .sequences = &zero, .state_type = AIR_STATE_F16,
                     .states = &(air_state_view){.k = s->k, .v = s->v, .stride = s->block_capacity}, .wanted = &zero,
                     .n_wanted = 1, .logits = logits, .cancel = &l.cancel, .layers_done = &layers};
    REQUIRE(p->n_vocab <= 4096);
    REQUIRE(!e->api->reserve(e->backend, 1, 1, 0, &err));
    CHECK_EQ(e->api->run(e->backend, &pass, &feed, &err), AIR_E_CANCELLED);
    CHECK(strcmp(err.text, "cancelled in the output") == 0);
    air_pager_rewind(e->pager);
    l.last = AIR_NONE;
    CHECK_EQ(e->api->run(e->backend, &pass, &feed, &err), AIR_E_CANCELLED); /* cancel is still set: before the first op */
    CHECK(strcmp(err.text, "cancelled in the embedding") == 0);
    air_pager_rewind(e->pager);
    atomic_store(&l.cancel, 0);
    CHECK_EQ(e->api->run(e->backend, &pass, &feed, &err), AIR_OK);
    air_sequence_free(s);
    air_engine_close(e);
    air_gguf_close(set);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(programs_bind_every_weight_once_and_keep_live_buffers_apart);
    RUN(a_compressed_state_has_no_values);
    RUN(memory_of_a_pass_is_shared_between_layers);
    RUN(logits_are_those_of_transformers_at_every_tier);
    RUN(a_cancel_that_comes_during_the_last_op_is_no_success);
    return check_end();
}
