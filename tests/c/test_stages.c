/* The CPU backend's walk: a stage holds only jobs that do not touch each other's memory, and the belt of spans gives the bits of one
 * thread with whole matrices, whatever the spans, holds no more than a feed allows, and gives back every one, however a pass ends. */
#include "backend/host.h"
#include "base/alloc.h"
#include "base/random.h"
#include "check.h"
#include "golden_logits.h"
#include "model/model.h"
#include "platform/threads.h"

enum { FILES = sizeof golden_logits / sizeof *golden_logits };

static uint64_t pick(uint64_t n) { return check_random() % n; }

/* --- the list --- */

enum { ROWS = 3 }; /* of the pass whose memory is looked at */

/* Floats that rows [first, last) of a buffer take. */
typedef struct piece { int memory; int64_t begin, end; } piece;

static piece piece_of(const air_program *p, int32_t buffer, int64_t first, int64_t last)
{
    if (buffer == AIR_NONE) return (piece){0};
    const air_buffer_desc *b = &p->buffers[buffer];
    int memory = buffer == p->logits ? 3 : b->rows == AIR_ROWS_ALL ? 1 : 2;
    return (piece){memory, b->offset * ROWS + first * b->width, b->offset * ROWS + last * b->width};
}

static int meet(piece a, piece b) { return a.memory && a.memory == b.memory && a.begin < b.end && b.begin < a.end; }

/* Whether what a writes for those rows is read or written by b for those. */
static int touches(const air_program *p, const air_op *a, int64_t a0, int64_t a1, const air_op *b, int64_t b0, int64_t b1)
{
    piece out = piece_of(p, a->out, a0, a1);
    return meet(out, piece_of(p, b->in, b0, b1)) || meet(out, piece_of(p, b->in2, b0, b1)) || meet(out, piece_of(p, b->out, b0, b1));
}

static void check_rows_stage(const air_program *p, const air_op *a, const air_op *b)
{
    for (int64_t r = 0; r < ROWS; r++)
        for (int64_t s = 0; s < ROWS; s++)
            if (r != s) CHECK(!touches(p, a, r, r + 1, b, s, s + 1) && !touches(p, b, s, s + 1, a, r, r + 1));
}

static void check_products_stage(const air_program *p, const air_op *a, const air_op *b)
{
    CHECK(a->in == b->in && a->heads == b->heads && a->from.step == b->from.step); /* there is one 8-bit form */
    CHECK(!meet(piece_of(p, a->out, 0, ROWS), piece_of(p, b->in, 0, ROWS)));
    CHECK(!meet(piece_of(p, b->out, 0, ROWS), piece_of(p, a->in, 0, ROWS)));
    if (a->out != b->out) CHECK(!meet(piece_of(p, a->out, 0, ROWS), piece_of(p, b->out, 0, ROWS)));
    else CHECK(b->epilogue != AIR_EPILOGUE_SET); /* folds: waits for the other */
}

/* Makes the stages and looks at each pair of ops in one; every op is in one stage, in order. Returns how many stages there are. */
static int32_t check_stages(const air_program *p)
{
    air_backend h = {.program = p, .ops = air_ops_best(AIR_TIER_COUNT)};
    int32_t next = 0;
    CHECK_EQ(air__stages_make(&h, NULL), AIR_OK);
    for (int32_t i = 0; i < h.n_stages; i++) {
        const air__stage *s = &h.stages[i];
        CHECK(s->first == next && (s->n_ops > 0 || s->quantize != AIR_NONE));
        next += s->n_ops;
        for (int32_t b = s->first; b < next; b++) {
            CHECK_EQ(p->ops[b].layer, s->layer);
            if (s->kind == AIR__STAGE_PRODUCTS && air__product_reads_q8(&h, &p->ops[b]))
                CHECK(i > 0 && s[-1].kind == AIR__STAGE_ROWS && p->ops[s[-1].quantize].in == p->ops[b].in &&
                      p->ops[s[-1].quantize].heads == p->ops[b].heads);
            for (int32_t a = s->first; a < b; a++) {
                if (s->kind == AIR__STAGE_ROWS) check_rows_stage(p, &p->ops[a], &p->ops[b]);
                else if (s->kind == AIR__STAGE_PRODUCTS) check_products_stage(p, &p->ops[a], &p->ops[b]);
                else CHECK(0); /* one op alone */
            }
        }
    }
    CHECK_EQ(next, p->n_ops);
    air_free(h.stages);
    return h.n_stages;
}

TEST(a_layer_takes_ten_stages_whatever_the_architecture_and_four_more_with_experts)
{
    for (int f = 0; f < FILES; f++) {
        char path[4096];
        air_error err = {0};
        air_gguf_set *set;
        air_model *m;
        (void)snprintf(path, sizeof path, "%s/%s.gguf", AIR_TEST_MODELS, golden_logits[f].name);
        REQUIRE(!air_gguf_open(&set, path, &err));
        REQUIRE(!air_model_open(&m, set, &err));
        const air_program *p = air_model_program(m);
        int32_t most = p->mixtures ? 14 : 10; /* the router, whose choice it is, experts, what all rows go to */
        int both = p->recurrent && p->recurrent[0].heads && p->attention[0].kv_heads; /* in one layer, side by side */
        if (both) most += 4; /* a convolution, a recurrence, its gate and norm, a product */
        CHECK(check_stages(p) <= most * p->n_layers + 4); /* embed; select; norm; logits */
        air_model_close(m);
        air_gguf_close(set);
    }
}

TEST(stages_of_random_programs_keep_their_jobs_apart)
{
    enum { OPS = 24, BUFFERS = 8 };
    static const air_op_kind kinds[] = {AIR_OP_RMS_NORM, AIR_OP_LAYER_NORM, AIR_OP_ROPE,
                                        AIR_OP_STORE, AIR_OP_PRODUCT, AIR_OP_PRODUCT, AIR_OP_PRODUCT};
    int joined = 0, apart = 0;
    for (int round = 0; round < 3000; round++) {
        air_weight weights[2] = {{.type = AIR_TYPE_F32}, {.type = AIR_TYPE_Q8_0}};
        air_buffer_desc buffers[BUFFERS];
        air_op ops[OPS];
        air_program p = {.ops = ops, .n_ops = OPS, .weights = weights, .n_weights = 2, .buffers = buffers, .n_buffers = BUFFERS,
                         .logits = BUFFERS - 1};
        for (int i = 0; i < BUFFERS; i++) { /* that share memory here and there, at different widths */
            int64_t width = 32 << pick(2), offset = 32 * (int64_t)pick(8);
            buffers[i] = (air_buffer_desc){.width = width, .offset = offset, .rows = pick(4) ? AIR_ROWS_ALL : AIR_ROWS_WANTED};
        }
        for (int i = 0; i < OPS; i++) {
            air_op_kind kind = kinds[pick(AIR_COUNT(kinds))];
            int32_t in = (int32_t)pick(BUFFERS), out = (int32_t)pick(BUFFERS), before = i ? ops[i - 1].in : in;
            if (pick(2)) in = before;
            if (kind != AIR_OP_PRODUCT || buffers[out].rows != buffers[in].rows) out = kind == AIR_OP_STORE ? AIR_NONE : in;
            if (kind == AIR_OP_PRODUCT && meet(piece_of(&p, in, 0, ROWS), piece_of(&p, out, 0, ROWS))) kind = AIR_OP_ROPE, out = in;
            ops[i] = (air_op){.kind = kind, .layer = i / 12, .in = in, .out = out, .weight = (int32_t)pick(2),
                              .in2 = kind == AIR_OP_STORE ? before : AIR_NONE, .epilogue = pick(2) ? AIR_EPILOGUE_ADD : AIR_EPILOGUE_SET};
        }
        int32_t n = check_stages(&p);
        joined += n < OPS;
        apart += n > OPS / 4;
    }
    CHECK(joined > 1000 && apart > 1000);
}

/* --- the belt --- */

enum { WIDTH = 64, FFN = 160, VOCAB = 200, LAYERS = 2, PER_LAYER = 7 };
enum { WEIGHTS = 2 + LAYERS * PER_LAYER + 1, OPS = 2 + LAYERS * PER_LAYER + 2 };
enum { X, N, Q, H, LAST, HIDDEN, LOGITS, BUFFERS };

/* A small decoder without attention; its feed, which cuts weights anywhere, naps, and watches how it is used. */
typedef struct decoder {
    air_program program;
    air_op ops[OPS];
    air_weight weights[WEIGHTS];
    air_buffer_desc buffers[BUFFERS];
    uint8_t *data[WEIGHTS];
    float ones[WIDTH], bias[WIDTH];
    const float *vectors[WEIGHTS];
    int n_weights;

    uint64_t seed, naps; /* one call of naps takes up to 60 us, long enough to fall asleep; 0: none */
    int32_t op;
    int64_t row, most;   /* of the next span; rows of a span at most */
    int64_t fail_at, cancel_at; /* the n-th span; -1: none */
    AIR_ATOMIC(int) cancel, asking, releasing, wrong;
    AIR_ATOMIC(int64_t) given, released;
    int failed;
} decoder;

static int32_t add_weight(decoder *d, uint32_t type, int64_t rows, int64_t cols)
{
    const air_format *format = air_format_by_id(type);
    uint64_t row_bytes = (uint64_t)cols / format->block * format->bytes, bytes = (uint64_t)rows * row_bytes;
    uint8_t *data = malloc(bytes);
    for (uint64_t i = 0; i < bytes; i++) data[i] = (uint8_t)check_random();
    if (type == AIR_TYPE_Q8_0)
        for (uint64_t i = 0; i < bytes; i += format->bytes) data[i + 1] = 0x14; /* scales near 2^-10 */
    if (type == AIR_TYPE_F32)
        for (int64_t i = 0; i < rows * cols; i++) ((float *)(void *)data)[i] = (float)check_random() * 0x1p-64f - 0.5f;
    d->data[d->n_weights] = data;
    d->weights[d->n_weights] = (air_weight){.name = "w", .use = AIR_WEIGHT_MATRIX, .type = type, .rows = rows, .cols = cols,
                                            .bytes = bytes, .row_bytes = row_bytes};
    return d->n_weights++;
}

static void emit(decoder *d, air_op_kind kind, int32_t layer, int32_t in, int32_t out, int32_t weight, air_epilogue epilogue)
{
    d->ops[d->program.n_ops++] = (air_op){.kind = kind, .layer = layer, .in = in, .in2 = AIR_NONE, .out = out, .weight = weight,
                                          .bias = out == Q ? 1 : AIR_NONE, .epilogue = epilogue, .eps = 1e-5f,
                                          .activation = epilogue == AIR_EPILOGUE_GATED ? AIR_ACTIVATION_SILU : AIR_ACTIVATION_NONE,
                                          .scale = kind == AIR_OP_EMBED};
}

static void emit_product(decoder *d, uint32_t type, int32_t layer, int32_t in, int32_t out, air_epilogue epilogue)
{
    emit(d, AIR_OP_PRODUCT, layer, in, out, add_weight(d, type, d->buffers[out].width, d->buffers[in].width), epilogue);
}

static void make(decoder *d)
{
    static const air_attention_shape attention[LAYERS] = {{.heads = 1, .kv_heads = 1, .key_dim = 1, .value_dim = 1},
                                                            {.heads = 1, .kv_heads = 1, .key_dim = 1, .value_dim = 1}}; /* never run */
    static const int64_t widths[BUFFERS] = {WIDTH, WIDTH, WIDTH, FFN, WIDTH, WIDTH, VOCAB};
    memset(d, 0, sizeof *d);
    for (int i = 0, at[2] = {0}; i < BUFFERS; i++) {
        air_rows rows = i < LAST ? AIR_ROWS_ALL : AIR_ROWS_WANTED;
        d->buffers[i] = (air_buffer_desc){.width = widths[i], .rows = rows, .offset = at[rows]};
        at[rows] += (int)widths[i];
    }
    for (int i = 0; i < WIDTH; i++) d->ones[i] = d->bias[i] = 1;
    (void)add_weight(d, AIR_TYPE_F32, 1, WIDTH); /* the norm */
    (void)add_weight(d, AIR_TYPE_F32, 1, WIDTH); /* the bias */
    d->vectors[0] = d->ones;
    d->vectors[1] = d->bias;
    emit(d, AIR_OP_EMBED, AIR_NONE, AIR_NONE, X, 0, AIR_EPILOGUE_SET);
    for (int32_t layer = 0; layer < LAYERS; layer++) {
        emit(d, AIR_OP_RMS_NORM, layer, X, N, 0, AIR_EPILOGUE_SET);
        emit_product(d, AIR_TYPE_Q8_0, layer, N, Q, AIR_EPILOGUE_SET);
        emit_product(d, AIR_TYPE_F32, layer, N, H, AIR_EPILOGUE_SET);
        emit_product(d, AIR_TYPE_Q8_0, layer, N, H, AIR_EPILOGUE_GATED);
        emit_product(d, AIR_TYPE_F32, layer, N, Q, AIR_EPILOGUE_ADD);
        emit_product(d, AIR_TYPE_Q8_0, layer, H, X, AIR_EPILOGUE_ADD);
        emit_product(d, AIR_TYPE_Q8_0, layer, Q, X, AIR_EPILOGUE_ADD);
    }
    emit(d, AIR_OP_SELECT, AIR_NONE, X, LAST, AIR_NONE, AIR_EPILOGUE_SET);
    emit(d, AIR_OP_RMS_NORM, AIR_NONE, LAST, HIDDEN, 0, AIR_EPILOGUE_SET);
    emit_product(d, AIR_TYPE_Q8_0, AIR_NONE, HIDDEN, LOGITS, AIR_EPILOGUE_SET);
    int32_t n_ops = d->program.n_ops;
    d->program = (air_program){.ops = d->ops, .n_ops = n_ops, .weights = d->weights, .n_weights = d->n_weights, .buffers = d->buffers,
                               .n_buffers = BUFFERS, .row_floats = 3 * WIDTH + FFN, .wanted_floats = 2 * WIDTH, .max_cols = FFN,
                               .n_layers = LAYERS, .attention = attention,
                               .logits = LOGITS, .hidden = HIDDEN, .n_vocab = VOCAB, .n_embd = WIDTH};
}

static void nap(decoder *d, uint64_t salt)
{
    uint64_t draw = air_random_u64(d->seed + salt, (uint64_t)atomic_load(&d->given));
    if (d->naps && draw % d->naps == 0) air_sleep_ns((draw >> 32) % 60000);
}

/* A copy of its own for each span, so that nobody can read it, unseen, after it was given back. */
static air_status next(void *self, air_span *span, air_error *err)
{
    decoder *d = self;
    int64_t n = atomic_load(&d->given);
    if (atomic_fetch_add(&d->asking, 1) || n - atomic_load(&d->released) > 2) atomic_fetch_add(&d->wrong, 1);
    nap(d, 1);
    if (n == d->cancel_at) atomic_store(&d->cancel, 1);
    air_status st = n == d->fail_at ? air_fail(err, AIR_E_IO, "the disk is gone") : AIR_OK;
    d->failed |= st != AIR_OK;
    if (!st) {
        while (d->ops[d->op].kind != AIR_OP_PRODUCT) d->op++;
        const air_weight *w = &d->weights[d->ops[d->op].weight];
        int64_t rows = 1 + (int64_t)(air_random_u64(d->seed, (uint64_t)n) % (uint64_t)d->most);
        if (rows > w->rows - d->row) rows = w->rows - d->row;
        uint8_t *data = malloc((size_t)rows * w->row_bytes);
        memcpy(data, d->data[d->ops[d->op].weight] + (size_t)d->row * w->row_bytes, (size_t)rows * w->row_bytes);
        *span = (air_span){.weight = d->ops[d->op].weight, .first_row = d->row, .rows = rows, .data = data, .slot = (uint64_t)n};
        d->row += rows;
        if (d->row == w->rows) d->op++, d->row = 0;
        atomic_fetch_add(&d->given, 1);
    }
    atomic_fetch_sub(&d->asking, 1);
    return st;
}

static void release(void *self, const air_span *span)
{
    decoder *d = self;
    if (atomic_fetch_add(&d->releasing, 1) || span->slot != (uint64_t)atomic_load(&d->released)) atomic_fetch_add(&d->wrong, 1);
    nap(d, 2);
    memset((void *)(uintptr_t)span->data, 0xff, (size_t)span->rows * d->weights[span->weight].row_bytes); /* NaN */
    free((void *)(uintptr_t)span->data);
    atomic_fetch_sub(&d->releasing, 1);
    atomic_fetch_add(&d->released, 1);
}

static air_status gather(void *self, int32_t weight, const int32_t *rows, int64_t n, float *out, air_error *err)
{
    (void)self, (void)weight, (void)rows, (void)err;
    for (int64_t i = 0; i < n * WIDTH; i++) out[i] = (float)((i * 37 + 11) % 64) / 32.0f - 1.0f;
    return AIR_OK;
}

/* One pass of rows rows, all of them wanted, on the decoder's seed, spans and faults; *logits is [rows][VOCAB]. */
static air_status run(decoder *d, air_backend *h, int64_t rows, float *logits, air_error *err)
{
    int32_t numbers[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    AIR_ATOMIC(int32_t) layers = 0;
    air_feed feed = {.self = d, .next = next, .release = release, .gather = gather, .vectors = d->vectors};
    air_pass pass = {.rows = rows, .tokens = numbers, .positions = numbers, .sequences = numbers, .wanted = numbers, .n_wanted = rows,
                     .logits = logits, .cancel = &d->cancel, .layers_done = &layers};
    d->op = 0;
    d->row = d->failed = 0;
    atomic_store(&d->given, 0);
    atomic_store(&d->released, 0);
    atomic_store(&d->cancel, 0);
    air_status st = air_backend_host.run(h, &pass, &feed, err);
    CHECK_EQ(atomic_load(&d->released), atomic_load(&d->given));
    if (!st) CHECK_EQ(atomic_load(&layers), LAYERS);
    return st;
}

/* The kernel of gates, which now and then takes longer than whoever comes behind it. */
static air_ops slow;

static void slow_product(const void *w, size_t row_bytes, int64_t rows, const air_columns *x, float *y, size_t y_stride)
{
    static AIR_ATOMIC(uint64_t) calls;
    if (air_random_u64(7, atomic_fetch_add(&calls, 1)) % 16 == 0) air_sleep_ns(50000);
    air_ops_best(AIR_TIER_COUNT)->product[AIR_TYPE_F32].fn(w, row_bytes, rows, x, y, y_stride);
}

typedef void with_backend(decoder *d, air_backend *h, int64_t rows, const float *want);

/* Calls body for backends of one to four threads, and passes of one row and of five. */
static void on_each(with_backend *body)
{
    static decoder d;
    static float want[5 * VOCAB];
    air_error err = {0};
    make(&d);
    for (int threads = 1; threads <= 4; threads++) {
        air_backend *h;
        air_backend_config config = {.program = &d.program, .threads = threads, .cpu_tier = AIR_TIER_COUNT};
        REQUIRE(!air_backend_host.open(&h, &config, &err));
        REQUIRE(!air_backend_host.reserve(h, 5, 5, 0, &err));
        slow = *h->ops;
        slow.product[AIR_TYPE_F32].fn = slow_product;
        h->ops = &slow;
        for (int64_t rows = 1; rows <= 5; rows += 4) {
            d.seed = d.naps = 0;
            d.most = 1000;
            d.fail_at = d.cancel_at = -1;
            if (threads == 1) CHECK_EQ(run(&d, h, rows, want, &err), AIR_OK); /* the five rows of one thread begin with its one */
            body(&d, h, rows, want);
        }
        air_backend_host.close(h);
    }
    CHECK_EQ(atomic_load(&d.wrong), 0);
    for (int i = 0; i < d.n_weights; i++) free(d.data[i]);
}

static void pass_often(decoder *d, air_backend *h, int64_t rows, const float *want)
{
    float got[5 * VOCAB];
    air_error err = {0};
    for (int i = 0; i < 60; i++) {
        d->seed = check_random();
        d->most = 1 + (int64_t)pick(i % 2 ? 20 : 200);
        d->naps = i % 3 ? 0 : 2 + pick(20);
        CHECK_EQ(run(d, h, rows, got, &err), AIR_OK);
        CHECK(memcmp(got, want, (size_t)rows * VOCAB * sizeof *got) == 0);
    }
}

TEST(spans_give_the_bits_of_whole_matrices_and_one_thread) { on_each(pass_often); }

static void fail_often(decoder *d, air_backend *h, int64_t rows, const float *want)
{
    float got[5 * VOCAB];
    air_error err = {0};
    for (int64_t n = 0; n < 60; n += 1 + n / 9) {
        d->seed = check_random();
        d->most = 20 + (int64_t)pick(60);
        d->naps = n % 2 ? 0 : 1 + pick(5);
        d->fail_at = n;
        air_status st = run(d, h, rows, got, &err);
        CHECK_EQ(st, d->failed ? AIR_E_IO : AIR_OK); /* or it took fewer spans than that */
        d->fail_at = -1;
        d->cancel_at = n;
        st = run(d, h, rows, got, &err);
        CHECK_EQ(st, atomic_load(&d->given) > n ? AIR_E_CANCELLED : AIR_OK);
        d->cancel_at = -1;
        CHECK_EQ(run(d, h, rows, got, &err), AIR_OK);
        CHECK(memcmp(got, want, (size_t)rows * VOCAB * sizeof *got) == 0);
    }
}

TEST(a_pass_that_fails_or_is_cancelled_gives_back_every_span) { on_each(fail_often); }

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(a_layer_takes_ten_stages_whatever_the_architecture_and_four_more_with_experts);
    RUN(stages_of_random_programs_keep_their_jobs_apart);
    RUN(spans_give_the_bits_of_whole_matrices_and_one_thread);
    RUN(a_pass_that_fails_or_is_cancelled_gives_back_every_span);
    return check_end();
}
