/* Probe of what ops take beside their bytes: their share of barriers, the walk, the feed's calls. It is measured by running: a program
 * of some layers as recipes write them, so small that nothing else takes time, whatever the backend makes of its ops. */
#include <stdatomic.h>
#include <string.h>

#include "backend/backend.h"
#include "base/alloc.h"
#include "memory/probe.h"
#include "memory/probe_internal.h"
#include "platform/clock.h"
#include "quant/format.h"

enum {
    WIDTH = 128, /* of every buffer: enough for threads to share the work of an op, as they do in earnest */
    HEADS = 4,
    HEAD_DIM = WIDTH / HEADS,
    PAIRS = HEAD_DIM / 2,
    LAYERS = 8,
    OPS_MOST = 16 * (LAYERS + 1),
    PASSES = 256, /* that are timed, at most */
};

/* Buffers; X to FFN have a row for each row of the pass, the rest for each wanted one. */
enum { X, NORMED, Q, KEYS, V, A, FFN, LAST, HIDDEN, LOGITS, BUFFERS };
enum { TABLE, VECTOR, MATRIX, WEIGHTS };

typedef struct tiny_model {
    air_program program;
    air_op ops[OPS_MOST];
    int32_t n_ops;
    air_buffer_desc buffers[BUFFERS];
    air_weight weights[WEIGHTS];
    air_attention_shape attention[LAYERS];
    double frequency[PAIRS];
    air_rope rope;
    uint8_t matrix[WIDTH * WIDTH * sizeof(float)]; /* zeros, whatever its format */
    float ones[WIDTH], logits[WIDTH];
    const float *vectors[WEIGHTS];
    air_backend *backend;
    void *state;
    void *blocks[LAYERS];              /* all the same: nobody looks at what is in it */
} tiny_model;

/* --- the program --- */

static air_op *emit(tiny_model *m, air_op_kind kind, int32_t layer, int32_t in, int32_t out)
{
    air_op *op = &m->ops[m->n_ops++];
    *op = (air_op){.kind = kind, .layer = layer, .in = in, .in2 = AIR_NONE, .out = out, .weight = AIR_NONE, .bias = AIR_NONE,
                   .heads = HEADS, .head_dim = HEAD_DIM, .eps = 1e-5f, .scale = 1.0f};
    return op;
}

static void emit_norm(tiny_model *m, int32_t layer, int32_t in, int32_t out)
{
    air_op *op = emit(m, AIR_OP_RMS_NORM, layer, in, out);
    op->weight = VECTOR;
    op->head_dim = 0;
}

static void emit_product(tiny_model *m, int32_t layer, int32_t in, int32_t out, air_epilogue epilogue)
{
    air_op *op = emit(m, AIR_OP_PRODUCT, layer, in, out);
    op->weight = MATRIX;
    op->epilogue = epilogue;
    op->activation = epilogue == AIR_EPILOGUE_GATED ? AIR_ACTIVATION_SILU : AIR_ACTIVATION_NONE;
    op->scale = 0;
    op->heads = 0; /* one matrix, none by heads */
}

static void emit_layer(tiny_model *m, int32_t layer)
{
    emit_norm(m, layer, X, NORMED);
    emit_product(m, layer, NORMED, Q, AIR_EPILOGUE_SET);
    emit_product(m, layer, NORMED, KEYS, AIR_EPILOGUE_SET);
    emit_product(m, layer, NORMED, V, AIR_EPILOGUE_SET);
    (void)emit(m, AIR_OP_ROPE, layer, Q, Q);
    (void)emit(m, AIR_OP_ROPE, layer, KEYS, KEYS);
    emit(m, AIR_OP_STORE, layer, KEYS, AIR_NONE)->in2 = V;
    (void)emit(m, AIR_OP_ATTENTION, layer, Q, A);
    emit_product(m, layer, A, X, AIR_EPILOGUE_ADD);
    emit_norm(m, layer, X, NORMED);
    emit_product(m, layer, NORMED, FFN, AIR_EPILOGUE_SET);
    emit_product(m, layer, NORMED, FFN, AIR_EPILOGUE_GATED);
    emit_product(m, layer, FFN, X, AIR_EPILOGUE_ADD);
}

static void emit_program(tiny_model *m)
{
    emit(m, AIR_OP_EMBED, AIR_NONE, AIR_NONE, X)->weight = TABLE;
    for (int32_t layer = 0; layer < LAYERS; layer++) emit_layer(m, layer);
    (void)emit(m, AIR_OP_SELECT, AIR_NONE, X, LAST);
    emit_norm(m, AIR_NONE, LAST, HIDDEN);
    emit_product(m, AIR_NONE, HIDDEN, LOGITS, AIR_EPILOGUE_SET);
}

/* One whose products take 8-bit inputs, as those of most files do: making those is part of what ops take. */
static const air_format *matrix_format(const air_ops *ops)
{
    for (uint32_t id = 0; id < AIR_TYPE_COUNT; id++) {
        const air_format *format = air_format_by_id(id);
        if (format && ops->product[id].fn && ops->product[id].input == AIR_INPUT_Q8 && WIDTH % format->block == 0) return format;
    }
    return air_format_by_id(AIR_TYPE_F32);
}

static void fill_model(tiny_model *m, const air_format *format)
{
    uint64_t row_bytes = WIDTH / (uint64_t)format->block * (uint64_t)format->bytes;
    for (int32_t i = 0; i < BUFFERS; i++) {
        int64_t at = i < LAST ? i : i - LAST;
        m->buffers[i] = (air_buffer_desc){
            .name = "probe", .width = WIDTH, .rows = i < LAST ? AIR_ROWS_ALL : AIR_ROWS_WANTED, .offset = at * WIDTH};
    }
    for (int32_t i = 0; i < WEIGHTS; i++)
        m->weights[i] = (air_weight){.name = "probe", .type = format->id, .rows = WIDTH, .cols = WIDTH,
                                     .bytes = WIDTH * row_bytes, .row_bytes = row_bytes};
    m->weights[TABLE].use = AIR_WEIGHT_TABLE;
    m->weights[VECTOR].use = AIR_WEIGHT_VECTOR;
    m->weights[VECTOR].type = AIR_TYPE_F32;
    m->weights[MATRIX].use = AIR_WEIGHT_MATRIX;
    for (int i = 0; i < WIDTH; i++) m->ones[i] = 1.0f;
    for (int i = 0; i < PAIRS; i++) m->frequency[i] = 1.0;
    for (int i = 0; i < LAYERS; i++)
        m->attention[i] = (air_attention_shape){.heads = HEADS, .kv_heads = HEADS, .key_dim = HEAD_DIM, .value_dim = HEAD_DIM};
    m->vectors[VECTOR] = m->ones;
    m->rope = (air_rope){.pairs = PAIRS, .frequency = m->frequency, .factors = AIR_NONE, .long_factors = AIR_NONE, .magnitude = 1.0};
    emit_program(m);
    m->program = (air_program){
        .ops = m->ops, .n_ops = m->n_ops, .weights = m->weights, .n_weights = WEIGHTS, .buffers = m->buffers, .n_buffers = BUFFERS,
        .row_floats = LAST * WIDTH, .wanted_floats = (BUFFERS - LAST) * WIDTH, .max_cols = WIDTH, .n_layers = LAYERS,
        .attention = m->attention, .ropes = &m->rope, .n_ropes = 1, .rope_pairs = PAIRS,
        .logits = LOGITS, .hidden = HIDDEN, .n_vocab = WIDTH, .n_embd = WIDTH,
    };
}

/* --- its feed: the one matrix, whatever is asked for --- */

static air_status tiny_next(void *self, air_span *span, air_error *err)
{
    (void)err;
    *span = (air_span){.weight = MATRIX, .rows = WIDTH, .data = ((tiny_model *)self)->matrix};
    return AIR_OK;
}

static void tiny_release(void *self, const air_span *span) { (void)self, (void)span; }

static air_status tiny_gather(void *self, int32_t weight, const int32_t *rows, int64_t n, float *out, air_error *err)
{
    (void)self, (void)weight, (void)rows, (void)err;
    memset(out, 0, (size_t)n * WIDTH * sizeof *out);
    return AIR_OK;
}

/* --- the passes --- */

static air_status open_model(tiny_model *m, int threads, int cpu_tier, air_error *err)
{
    fill_model(m, matrix_format(air_ops_best((air_cpu_tier)cpu_tier)));
    air_backend_config config = {.program = &m->program, .threads = threads, .cpu_tier = cpu_tier};
    air_status st = air_backend_host.open(&m->backend, &config, err);
    if (!st) st = air_backend_host.reserve(m->backend, 1, 1, 0, err);
    if (st) return st;
    size_t block = AIR_BLOCK_POSITIONS * WIDTH * sizeof(float);
    st = air_backend_host.state_alloc(m->backend, &m->state, block, err);
    if (st) return st;
    for (int i = 0; i < LAYERS; i++) m->blocks[i] = m->state;
    return AIR_OK;
}

static void close_model(tiny_model *m)
{
    if (m->state) air_backend_host.state_free(m->backend, m->state, AIR_BLOCK_POSITIONS * WIDTH * sizeof(float));
    air_backend_host.close(m->backend);
    air_free(m);
}

static air_status time_passes(tiny_model *m, double seconds, double *pass_s, air_error *err)
{
    double times[PASSES];
    const int32_t zero = 0;
    AIR_ATOMIC(int) cancel = 0;
    AIR_ATOMIC(int32_t) layers_done = 0;
    air_state_view view = {.k = m->blocks, .v = m->blocks, .stride = 1};
    air_pass pass = {.rows = 1, .tokens = &zero, .positions = &zero, .sequences = &zero, .states = &view, .state_type = AIR_STATE_F16,
                     .wanted = &zero, .n_wanted = 1, .logits = m->logits, .cancel = &cancel, .layers_done = &layers_done};
    air_feed feed = {.self = m, .next = tiny_next, .release = tiny_release, .gather = tiny_gather, .vectors = m->vectors};
    uint64_t until = air_clock_ns() + (uint64_t)(seconds * 1e9);
    int n = 0;
    do {
        uint64_t begin = air_clock_ns();
        air_status st = air_backend_host.run(m->backend, &pass, &feed, err);
        if (st) return st;
        times[n++] = (double)(air_clock_ns() - begin) * 1e-9;
    } while (n < PASSES && air_clock_ns() < until);
    *pass_s = air__quantile(times, n, 0.5);
    return AIR_OK;
}

air_status air__probe_ops(int threads, int cpu_tier, double seconds, air_bandwidths *out, air_error *err)
{
    tiny_model *m = air_calloc(1, sizeof *m);
    if (!m) return air_fail(err, AIR_E_NOMEM, "probe: %zu bytes", sizeof *m);
    double pass_s = 0;
    air_status st = open_model(m, threads, cpu_tier, err);
    if (!st) st = time_passes(m, seconds, &pass_s, err);
    if (!st) out->op_s = pass_s / m->n_ops;
    close_model(m);
    return st;
}
