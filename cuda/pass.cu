/* The walk: every op of the program is enqueued on the compute stream, the weights it reads ahead of it on the copy stream. The host runs
 * at most a few layers ahead, so that a pass can be cancelled and its progress is true. */
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "cuda/backend.h"
#include "platform/clock.h"
#include "platform/threads.h"

#define TRY(call) AIR_CUDA_TRY(call, "computing", err)

static int64_t width_of(const air_backend *h, int32_t buffer) { return h->program->buffers[buffer].width; }

static int64_t rows_of(const air_backend *h, int32_t buffer)
{
    return h->program->buffers[buffer].rows == AIR_ROWS_ALL ? h->pass->rows : h->pass->n_wanted;
}

static const float *vector_of(const air_backend *h, int32_t weight) { return weight == AIR_NONE ? nullptr : h->vector_of[(size_t)weight]; }

static air_cuda_q8 q8_of_rows(const air_backend *h, int32_t buffer)
{
    return air_cuda_q8_place(h->memory + h->layout.q8, width_of(h, buffer), rows_of(h, buffer));
}

/* What a product reads, as gather_heads leaves it where that is by heads. */
static air_cuda_q8 q8_of(const air_backend *h, const air_op *op)
{
    int64_t parts = op->heads ? op->heads : 1, k = h->program->weights[op->weight].cols;
    return air_cuda_q8_place(h->memory + h->layout.q8, k, parts * rows_of(h, op->in));
}

/* --- before the walk --- */

/* Where numbers that are added to all of them are among them. */
static size_t append(std::vector<float> *all, const float *data, size_t n)
{
    size_t at = all->size(), align = AIR_DEVICE_ALIGN / sizeof(float);
    all->resize((at + n + align - 1) / align * align);
    memcpy(all->data() + at, data, n * sizeof *data);
    return at;
}

/* Small weights, and what of ALiBi each layer has, go up in the first pass and stay. */
static air_status load_vectors(air_backend *h, air_error *err)
{
    const air_program *p = h->program;
    std::vector<float> all;
    std::vector<size_t> slopes((size_t)p->n_layers);
    std::vector<size_t> at((size_t)p->n_weights);
    std::vector<const float *> vector_of((size_t)p->n_weights);
    if (!h->vector_of.empty()) return AIR_OK;
    for (int32_t i = 0; i < p->n_weights; i++) {
        const float *data = h->feed->vectors[i];
        if (data) at[(size_t)i] = append(&all, data, (size_t)(p->weights[i].rows * p->weights[i].cols));
    }
    for (int32_t i = 0; i < p->n_layers; i++) {
        const air_attention_shape *a = &p->attention[i];
        bool again = i && a->slopes == a[-1].slopes;
        if (a->slopes) slopes[(size_t)i] = again ? slopes[(size_t)i - 1] : append(&all, a->slopes, (size_t)a->heads);
    }
    if (!all.empty()) {
        air_status st = air_cuda_upload(h, 0, &h->vectors, all.data(), all.size() * sizeof(float), "small weights", err);
        if (st) return st;
    }
    for (size_t i = 0; i < at.size(); i++)
        if (h->feed->vectors[i]) vector_of[i] = (const float *)h->vectors + at[i];
    h->slopes_of.assign((size_t)p->n_layers, nullptr);
    for (size_t i = 0; i < slopes.size(); i++)
        if (p->attention[i].slopes) h->slopes_of[i] = (const float *)h->vectors + slopes[i];
    h->vector_of.swap(vector_of);
    return AIR_OK;
}

/* Angles once per pass, in double, as on the CPU. */
static void fill_angles(const air_backend *h, const air_rope *rope, float *cosines, float *sines)
{
    int32_t weight = air_rope_factors(rope, h->n_ctx);
    const float *factors = weight == AIR_NONE ? nullptr : h->feed->vectors[weight];
    cosines += rope->first * h->pass->rows, sines += rope->first * h->pass->rows;
    for (int64_t r = 0; r < h->pass->rows; r++)
        for (int64_t i = 0; i < rope->pairs; i++) {
            double angle = h->pass->positions[r] * rope->frequency[i] / (factors ? (double)factors[i] : 1.0);
            *cosines++ = (float)(cos(angle) * rope->magnitude);
            *sines++ = (float)(sin(angle) * rope->magnitude);
        }
}

/* An entry of the table: where a block begins, or of one that is away, odd, where it does in the shuttle. */
static const void *block_entry(const air_backend *h, const air_state_view *view, int64_t b)
{
    int32_t away = view->away ? view->away[b] : -1;
    return away < 0 ? view->k[b] : (const void *)((size_t)away * h->shuttle.block_bytes * 2 + 1);
}

/* So many passes are alike that follow each other: to kernels a greater position means threads that find nothing to do. */
static int64_t bucket_of(const air_backend *h, int64_t position)
{
    int64_t last = position / AIR_DEVICE_ATTENTION_PART * AIR_DEVICE_ATTENTION_PART + AIR_DEVICE_ATTENTION_PART - 1;
    return last < h->n_ctx ? last : h->n_ctx - 1;
}

/* Where the blocks of each sequence begin, as many of all of them as the longest one of the pass has; and how far it goes. Sequences
 * count from the first of the pass: those before it had their passes. */
static air_status fill_blocks(air_backend *h, const void **blocks, air_error *err)
{
    const air_pass *pass = h->pass;
    int32_t first = pass->sequences[0], last = first;
    h->max_position = 0;
    h->min_position = INT64_MAX;
    for (int64_t r = 0; r < pass->rows; r++) {
        if (pass->positions[r] > h->max_position) h->max_position = pass->positions[r];
        if (pass->positions[r] < h->min_position) h->min_position = pass->positions[r];
        if (pass->sequences[r] < first) first = pass->sequences[r];
        if (pass->sequences[r] > last) last = pass->sequences[r];
    }
    int64_t sequences = (int64_t)last - first + 1;
    if (air_cuda_graph_takes(h)) h->max_position = bucket_of(h, h->max_position);
    h->block_stride = h->max_position / AIR_BLOCK_POSITIONS + 1;
    size_t room = (h->layout.courses - h->layout.blocks) / sizeof(void *);
    h->first_sequence = first;
    h->sequences = sequences;
    if ((size_t)sequences * (size_t)h->block_stride > room)
        return air_fail(err, AIR_E_ARGUMENT, "cuda: %lld sequences of %lld blocks, reserved for %zu", (long long)sequences,
                        (long long)h->block_stride, room);
    memset(blocks, 0, (size_t)sequences * (size_t)h->block_stride * sizeof *blocks);
    for (int64_t r = 0; r < pass->rows; r++) {
        int32_t s = pass->sequences[r];
        const void **of = blocks + (s - first) * h->block_stride;
        for (int64_t b = pass->positions[r] / AIR_BLOCK_POSITIONS; b >= 0 && !of[b]; b--) of[b] = block_entry(h, &pass->states[s], b);
    }
    return AIR_OK;
}

static air_status upload(air_backend *h, size_t to, size_t from, size_t bytes, air_error *err)
{
    if (bytes) TRY(cudaMemcpyAsync(h->memory + to, h->host + from, bytes, cudaMemcpyHostToDevice, h->compute));
    return AIR_OK;
}

static bool is_embed(const air_op *op) { return op->kind == AIR_OP_EMBED || op->kind == AIR_OP_EMBED_POSITION; }

/* Rows of tables begin a program; those of each lie after those of the one before, all as wide. */
static float *embedded(const air_backend *h, const air_op *op)
{
    size_t before = 0;
    for (const air_op *o = h->program->ops; o < op; o++) before += is_embed(o);
    return (float *)(h->host + h->host_layout.embed) + before * (size_t)(h->pass->rows * h->program->n_embd);
}

/* Embeddings come first, as their rows may have to be read. */
static air_status fill_embedding(air_backend *h, const air_op *op, air_error *err)
{
    const int32_t *which = op->kind == AIR_OP_EMBED ? h->pass->tokens : h->pass->positions;
    size_t n = (size_t)(h->pass->rows * width_of(h, op->out));
    float *x = embedded(h, op);
    air_status st = h->feed->gather(h->feed->self, op->weight, which, h->pass->rows, x, err);
    bool scaled = op->kind == AIR_OP_EMBED && op->scale != 1.0f;
    for (size_t i = 0; !st && scaled && i < n; i++) x[i] *= op->scale;
    return st;
}

/* How many positions sequences have, and the rows' types: each has room for a number of every row. */
static void fill_more(const air_backend *h, int32_t *out)
{
    const air_pass *p = h->pass;
    memset(out, 0, 2 * (size_t)p->rows * sizeof *out);
    for (int64_t s = 0; s < h->sequences; s++) out[s] = (int32_t)p->states[h->first_sequence + s].end;
    for (int64_t r = 0; r < p->rows && p->types; r++) out[p->rows + r] = p->types[r];
}

/* Where each sequence's recurrent state comes from and goes to. */
static void fill_courses(const air_backend *h, air_device_course *out)
{
    for (int64_t s = 0; s < h->sequences; s++) {
        const air_state_view *view = &h->pass->states[h->first_sequence + s];
        out[s] = air_device_course{};
        out[s].first = (int32_t)view->spans[0].first;
        out[s].spans = view->n_spans;
        out[s].before = view->spans[0].before;
        for (int32_t i = 0; i < view->n_spans; i++) {
            out[s].ends[i] = (int32_t)(view->spans[i].first + view->spans[i].rows);
            out[s].after[i] = view->spans[i].after;
        }
    }
}

/* What goes up, into memory of the host that stays where it is. */
static air_status fill_inputs(air_backend *h, air_error *err)
{
    const air_pass *p = h->pass;
    const air_cuda_host_layout *l = &h->host_layout;
    size_t rows = (size_t)p->rows;
    int32_t *tokens = (int32_t *)(h->host + l->tokens);
    air_status st = AIR_OK;
    for (const air_op *op = h->program->ops, *end = op + h->program->n_ops; op < end && !st; op++)
        if (is_embed(op)) st = fill_embedding(h, op, err);
    if (st) return st;
    for (int32_t i = 0; i < h->program->n_ropes; i++)
        fill_angles(h, &h->program->ropes[i], (float *)(h->host + l->cos), (float *)(h->host + l->sin));
    memcpy(tokens, p->positions, rows * sizeof *tokens);
    st = fill_blocks(h, (const void **)(h->host + l->blocks), err);
    for (size_t r = 0; r < rows; r++) tokens[rows + r] = p->sequences[r] - h->first_sequence;
    if (p->n_wanted) memcpy(tokens + 2 * rows, p->wanted, (size_t)p->n_wanted * sizeof *tokens);
    if (air_device_more_numbers(h->program)) fill_more(h, tokens + 2 * rows + p->n_wanted);
    if (!st && h->program->recurrent) fill_courses(h, (air_device_course *)(h->host + l->courses));
    if (!st) st = air_cuda_adapters_fill(h, (air_device_adapted *)(h->host + l->adapted), err);
    return st;
}

static air_status upload_inputs(air_backend *h, air_error *err)
{
    const air_pass *p = h->pass;
    const air_cuda_host_layout *l = &h->host_layout;
    size_t rows = (size_t)p->rows, angles = rows * (size_t)h->program->rope_pairs * sizeof(float);
    air_status st = upload(h, h->layout.cos, l->cos, angles, err);
    if (!st) st = upload(h, h->layout.sin, l->sin, angles, err);
    size_t numbers = (2 + (size_t)air_device_more_numbers(h->program)) * rows + (size_t)p->n_wanted;
    if (!st) st = upload(h, h->layout.tokens, l->tokens, numbers * sizeof(int32_t), err);
    size_t table = (size_t)(h->sequences * h->block_stride) * sizeof(void *);
    size_t courses = h->program->recurrent ? (size_t)h->sequences * sizeof(air_device_course) : 0;
    if (!st) st = upload(h, h->layout.courses, l->courses, courses, err);
    size_t adapted = h->adapting.ranks.empty() ? 0 : (size_t)h->sequences * sizeof(air_device_adapted);
    if (!st) st = upload(h, h->layout.adapted, l->adapted, adapted, err);
    return st ? st : upload(h, h->layout.blocks, l->blocks, table, err);
}

/* --- ops --- */

static air_status embed(air_backend *h, const air_op *op, air_error *err)
{
    const float *x = embedded(h, op);
    size_t n = (size_t)(h->pass->rows * width_of(h, op->out));
    TRY(cudaMemcpyAsync(air_cuda_buffer(h, op->out), x, n * sizeof *x, cudaMemcpyHostToDevice, h->compute));
    return AIR_OK;
}

static int reads_q8(const air_backend *h, const air_op *op)
{
    return op->kind == AIR_OP_PRODUCT && air_device_input(h->program->weights[op->weight].type) == AIR_INPUT_Q8;
}

/* A norm writes the 8-bit form too where the next op is a product that reads it. */
static air_status norm(air_backend *h, const air_op *op, air_error *err)
{
    const air_op *next = op + 1, *end = h->program->ops + h->program->n_ops;
    int quantize = next < end && reads_q8(h, next) && next->in == op->out && !next->heads && !op->from.step;
    int32_t sized = op->weight == AIR_NONE ? op->bias : op->weight;
    air_cuda_norm n = {};
    n.centers = op->kind == AIR_OP_LAYER_NORM;
    n.x = air_cuda_buffer(h, op->in), n.y = air_cuda_buffer(h, op->out);
    n.weight = vector_of(h, op->weight), n.bias = vector_of(h, op->bias);
    n.rows = rows_of(h, op->in), n.width = width_of(h, op->in);
    n.group = op->head_dim ? op->head_dim : n.width;
    bool apart = op->from.first || (op->from.step && op->from.step != n.group);
    if (apart) n.first = op->from.first, n.step = op->from.step;
    n.weights = sized == AIR_NONE ? 0 : h->program->weights[sized].cols;
    n.eps = op->eps;
    if (quantize) n.q8 = q8_of_rows(h, op->out);
    TRY(air_cuda_norm_run(&n, h->compute));
    if (quantize) h->quantized = op->out;
    return AIR_OK;
}

static air_status add(air_backend *h, const air_op *op, air_error *err)
{
    if (op->in2 != AIR_NONE) {
        TRY(air_cuda_add_gated(air_cuda_buffer(h, op->out), air_cuda_buffer(h, op->in), air_cuda_buffer(h, op->in2), rows_of(h, op->in),
                               width_of(h, op->in), h->compute));
        return AIR_OK;
    }
    TRY(air_cuda_add(air_cuda_buffer(h, op->out), air_cuda_buffer(h, op->in), rows_of(h, op->in) * width_of(h, op->in), h->compute));
    return AIR_OK;
}

static air_status rotate(air_backend *h, const air_op *op, air_error *err)
{
    const air_rope *rope = &h->program->ropes[op->rope];
    const float *cosines = (const float *)(h->memory + h->layout.cos) + rope->first * h->pass->rows;
    const float *sines = (const float *)(h->memory + h->layout.sin) + rope->first * h->pass->rows;
    air_cuda_parts at = {width_of(h, op->in), op->from.first, op->from.step ? op->from.step : op->head_dim};
    TRY(air_cuda_rope(air_cuda_buffer(h, op->in), at, h->pass->rows, op->heads, rope->pairs, rope->kind, cosines, sines, h->compute));
    return AIR_OK;
}

/* What air_device_more_numbers counts. */
static const int32_t *ends_of(const air_backend *h)
{
    return (const int32_t *)(h->memory + h->layout.tokens) + 2 * h->pass->rows + h->pass->n_wanted;
}

static air_status add_type(air_backend *h, const air_op *op, air_error *err)
{
    TRY(air_cuda_add_type(air_cuda_buffer(h, op->out), vector_of(h, op->weight), ends_of(h) + h->pass->rows, h->pass->rows,
                          width_of(h, op->out), h->compute));
    return AIR_OK;
}

static air_status temper(air_backend *h, const air_op *op, air_error *err)
{
    const int32_t *positions = (const int32_t *)(h->memory + h->layout.tokens);
    TRY(air_cuda_temper(air_cuda_buffer(h, op->in), positions, h->pass->rows, width_of(h, op->in), op->shift, op->period, op->scale,
                        h->compute));
    return AIR_OK;
}

static air_status copy_parts(air_backend *h, const air_op *op, air_error *err)
{
    air_cuda_parts from = {width_of(h, op->in), op->from.first, op->from.step}, to = {width_of(h, op->out), op->to.first, op->to.step};
    TRY(air_cuda_copy(air_cuda_buffer(h, op->out), to, air_cuda_buffer(h, op->in), from, h->pass->rows, op->heads, op->head_dim, h->compute));
    return AIR_OK;
}

static air_status multiply(air_backend *h, const air_op *op, air_error *err)
{
    int64_t n = h->pass->rows * width_of(h, op->out);
    TRY(air_cuda_multiply(air_cuda_buffer(h, op->out), air_cuda_buffer(h, op->in), n, op->activation, h->compute));
    return AIR_OK;
}

/* --- what goes on from one position to the next --- */

static air_cuda_recurrent recurrent_at(const air_backend *h, uint64_t offset)
{
    const int32_t *tokens = (const int32_t *)(h->memory + h->layout.tokens);
    const air_device_course *courses = (const air_device_course *)(h->memory + h->layout.courses);
    return air_cuda_recurrent{courses, tokens + h->pass->rows, h->pass->rows, h->sequences, (size_t)offset};
}

static air_status convolve(air_backend *h, const air_op *op, air_error *err)
{
    const air_recurrent_shape *s = &h->program->recurrent[op->layer];
    air_cuda_convolution c = {};
    c.at = recurrent_at(h, s->offset);
    c.x = air_cuda_buffer(h, op->in), c.y = air_cuda_buffer(h, op->out);
    c.weight = vector_of(h, op->weight), c.bias = vector_of(h, op->bias);
    c.channels = s->channels, c.taps = s->taps;
    c.activation = op->activation;
    TRY(air_cuda_convolve(&c, h->compute));
    return AIR_OK;
}

static air_status scan(air_backend *h, const air_op *op, air_error *err)
{
    const air_recurrent_shape *s = &h->program->recurrent[op->layer];
    air_cuda_scan to = {};
    to.at = recurrent_at(h, s->offset + (uint64_t)air_recurrent_matrices_at(s) * sizeof(float));
    to.kind = s->kind;
    to.heads = s->heads, to.key_heads = s->key_heads, to.key_dim = s->key_dim, to.value_dim = s->value_dim, to.in_turn = s->in_turn;
    to.in = air_cuda_buffer(h, op->in), to.steps = air_cuda_buffer(h, op->in2), to.out = air_cuda_buffer(h, op->out);
    to.in_width = width_of(h, op->in), to.steps_width = width_of(h, op->in2);
    to.q = s->q, to.k = s->k, to.v = s->v;
    to.rate = vector_of(h, s->rate), to.step_bias = vector_of(h, s->step_bias), to.skip = vector_of(h, s->skip);
    to.eps = s->eps;
    TRY(air_cuda_scan_run(&to, h->compute));
    return AIR_OK;
}

/* --- attention --- */

/* A layer's K and V lie at the same place in all blocks: that of the first block of the pass tells it. */
size_t air_cuda_layer_offset(const air_backend *h, int32_t layer)
{
    const air_state_view *view = &h->pass->states[h->pass->sequences[0]];
    return (size_t)((const char *)view->k[layer * view->stride] - (const char *)view->k[0]);
}

static air_cuda_state state_of(const air_backend *h, int32_t layer)
{
    const air_attention_shape *a = &h->program->attention[layer];
    const air_state_view *view = &h->pass->states[h->pass->sequences[0]];
    const char *block = (const char *)view->k[0];
    const int32_t *tokens = (const int32_t *)(h->memory + h->layout.tokens);
    air_cuda_state s = {};
    s.blocks = (const uint8_t *const *)(h->memory + h->layout.blocks);
    s.stride = h->block_stride;
    s.positions = tokens;
    s.sequences = tokens + h->pass->rows;
    s.shuttle = air_cuda_shuttle_layer(h, layer);
    s.k_offset = air_cuda_layer_offset(h, layer);
    s.v_offset = (size_t)((const char *)view->v[layer * view->stride] - block);
    s.type = h->pass->state_type;
    s.heads = a->heads;
    s.kv_heads = a->kv_heads;
    s.key_dim = a->key_dim;
    s.value_dim = a->value_dim;
    s.values_in_keys = a->values_in_keys;
    return s;
}

static air_status store(air_backend *h, const air_op *op, air_error *err)
{
    air_cuda_state state = state_of(h, op->layer);
    const float *values = op->in2 == AIR_NONE ? nullptr : air_cuda_buffer(h, op->in2);
    TRY(air_cuda_store(&state, air_cuda_buffer(h, op->in), values, h->pass->rows, h->compute));
    return AIR_OK;
}

/* How many rows from `row` on are of its role: and of a prompt, follow each other in one sequence. */
static int64_t rows_alike(const air_pass *p, int64_t row)
{
    int64_t next = row + 1;
    while (next < p->rows && p->roles[next] == p->roles[row]) {
        int follows = p->sequences[next] == p->sequences[row] && p->positions[next] == p->positions[next - 1] + 1;
        if (p->roles[row] == AIR_ROW_PROMPT && !follows) break;
        next++;
    }
    return next - row;
}

static air_status attend(air_backend *h, const air_op *op, air_error *err)
{
    const air_attention_shape *shape = &h->program->attention[op->layer];
    const float *q = air_cuda_buffer(h, op->in);
    float *out = air_cuda_buffer(h, op->out);
    air_cuda_attention a = {};
    a.max_position = h->max_position;
    a.window = shape->window ? shape->window : INT64_MAX;
    a.scale = op->scale;
    a.softcap = shape->softcap;
    a.chunk = shape->chunk;
    a.ahead = shape->ahead;
    a.ends = ends_of(h);
    a.slopes = h->slopes_of[(size_t)op->layer];
    a.sinks = vector_of(h, op->bias);
    a.scratch = h->memory + h->layout.attention;
    air_status st = air_cuda_shuttle_await(h, op->layer, err);
    if (st) return st;
    for (int64_t row = 0; row < h->pass->rows; row += a.rows) {
        a.state = state_of(h, op->layer);
        a.state.positions += row;
        a.state.sequences += row;
        a.q = q + row * width_of(h, op->in);
        a.out = out + row * width_of(h, op->out);
        a.rows = rows_alike(h->pass, row);
        a.role = (air_cuda_role)h->pass->roles[row];
        TRY(air_cuda_attention_run(&a, h->compute));
    }
    return air_cuda_shuttle_leave(h, op->layer, err);
}

static air_status select_rows(air_backend *h, const air_op *op, air_error *err)
{
    const int32_t *wanted = (const int32_t *)(h->memory + h->layout.tokens) + 2 * h->pass->rows;
    TRY(air_cuda_select(air_cuda_buffer(h, op->in), wanted, h->pass->n_wanted, width_of(h, op->in), air_cuda_buffer(h, op->out),
                        h->compute));
    return AIR_OK;
}

/* --- products --- */

static air_row_role role_of(const air_backend *h, int32_t buffer, int64_t row)
{
    const air_pass *p = h->pass;
    return (air_row_role)p->roles[h->program->buffers[buffer].rows == AIR_ROWS_ALL ? row : p->wanted[row]];
}

int64_t air_cuda_columns_alike(const air_backend *h, const air_op *op, int64_t c, int64_t n, int64_t most, air_row_role *role)
{
    int64_t alike = 1;
    *role = role_of(h, op->in, c);
    while (alike < most && c + alike < n && role_of(h, op->in, c + alike) == *role) alike++;
    return alike;
}

bool air_cuda_has_role(const air_backend *h, int32_t buffer, air_row_role role)
{
    for (int64_t c = 0; c < rows_of(h, buffer); c++)
        if (role_of(h, buffer, c) == role) return true;
    return false;
}

cudaError_t air_cuda_product_by_heads(const air_op *op, const air_weight *w, int64_t first_row, const air_head_parts *to, air_cuda_product p,
                                      cudaStream_t stream)
{
    const air_cuda_product all = p;
    int64_t each = w->rows / op->heads;
    p.head_out = to ? to->step : each;
    for (int64_t row = 0; row < all.rows; row += p.heads * p.rows) {
        int64_t head = (first_row + row) / each, at = (first_row + row) % each, left = all.rows - row, column = head * all.head_columns;
        p.heads = at || left < each ? 1 : left / each;
        p.rows = left < each - at ? left : each - at;
        p.w = all.w + (size_t)row * all.row_bytes;
        if (all.x) p.x = all.x + column * all.k;
        if (all.q8.q) p.q8 = air_cuda_q8_from(all.q8, all.k, column);
        p.out = all.out + (to ? to->first + head * to->step + at : row);
        cudaError_t error = air_cuda_product_run(&p, stream);
        if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
}

/* The parts of heads that a product by heads reads, in 8 bits or as they are, each head's after those of the one before. */
static air_status gather_heads(air_backend *h, const air_op *op, int64_t n, air_error *err)
{
    int64_t k = h->program->weights[op->weight].cols;
    air_cuda_parts from = {width_of(h, op->in), op->from.first, op->from.step};
    const float *x = air_cuda_buffer(h, op->in);
    if (!reads_q8(h, op)) {
        TRY(air_cuda_copy(air_cuda_gathered(h), {k, 0, n * k}, x, from, n, op->heads, k, h->compute));
        return AIR_OK;
    }
    h->quantized = AIR_NONE;
    TRY(air_cuda_quantize_parts(x, from, k, op->heads, n, air_cuda_q8_place(h->memory + h->layout.q8, k, op->heads * n), h->compute));
    return AIR_OK;
}

/* Rows of the tile for columns of one role after those of the other; not for those that the CPU computes. */
static air_status product_tile(air_backend *h, const air_op *op, const air_cuda_tile *tile, int64_t n, air_error *err)
{
    const air_weight *w = &h->program->weights[op->weight];
    const float *bias = vector_of(h, op->bias);
    const bool adapts = air_cuda_adapts(h, op);
    air_cuda_product p = {};
    p.type = w->type;
    p.w = tile->data;
    p.row_bytes = (size_t)w->row_bytes;
    p.rows = tile->rows;
    p.k = w->cols;
    p.bias = bias ? bias + tile->first_row : nullptr;
    p.epilogue = air_cuda_epilogue_of(op);
    p.out_stride = width_of(h, op->out);
    p.tables = h->devices[0].tables;
    const int64_t most = air_cuda_adapters_columns(h, op, tile->rows, n);
    for (int64_t c = 0; c < n; c += p.n) {
        air_row_role role;
        p.n = air_cuda_columns_alike(h, op, c, n, most, &role);
        if (tile->host && role == AIR_ROW_GENERATED) continue;
        p.role = (air_cuda_role)role;
        p.x = (op->heads ? air_cuda_gathered(h) : air_cuda_buffer(h, op->in)) + c * p.k;
        if (reads_q8(h, op)) p.q8 = air_cuda_q8_from(q8_of(h, op), p.k, c);
        p.out = air_cuda_buffer(h, op->out) + c * p.out_stride + (op->heads ? 0 : tile->first_row);
        p.head_columns = n;
        air_cuda_product own = p;
        if (adapts) air_cuda_adapters_redirect(h, op, &own);
        if (op->heads) TRY(air_cuda_product_by_heads(op, w, tile->first_row, &op->to, own, h->compute));
        else TRY(air_cuda_product_run(&own, h->compute));
        air_cuda_part part = {tile->first_row, tile->rows, c, p.n};
        air_status st = adapts ? air_cuda_adapters_fold(h, op, own.out, own.out_stride, &part, err) : AIR_OK;
        if (st) return st;
    }
    return AIR_OK;
}

air_status air_cuda_quantize_buffer(air_backend *h, int32_t buffer, air_error *err)
{
    if (h->quantized == buffer) return AIR_OK;
    TRY(air_cuda_quantize(air_cuda_buffer(h, buffer), width_of(h, buffer), rows_of(h, buffer), q8_of_rows(h, buffer), h->compute));
    h->quantized = buffer;
    return AIR_OK;
}

/* A tile by whoever computes with it. */
static air_status compute_tile(air_backend *h, const air_op *op, const air_cuda_tile *tile, int64_t n, air_error *err)
{
    air_status st = AIR_OK;
    if (tile->rows && tile->data && n)
        st = tile->device ? air_cuda_share_by_device(h, op, tile, n, err) : product_tile(h, op, tile, n, err);
    if (!st && tile->host) st = air_cuda_share_by_host(h, op, tile, n, err);
    return st ? st : air_cuda_weights_leave(h, tile, err);
}

/* What is on the devices already. */
static air_status compute_what_is_here(air_backend *h, const air_op *op, int64_t n, air_error *err)
{
    air_cuda_tile tile;
    for (int32_t d = h->n_devices - 1; d >= 0; d--) /* the first last: it waits for the others */
        for (int32_t at = 0; air_cuda_weights_here(h, d, (int32_t)(op - h->program->ops), &at, &tile);) {
            air_status st = compute_tile(h, op, &tile, n, err);
            if (st) return st;
        }
    return AIR_OK;
}

/* Of logits that nobody asks for there are none, as where no row is wanted. */
static int64_t columns_of(const air_backend *h, const air_op *op)
{
    int asked = op->out != h->program->logits || h->pass->logits || h->pass->n_candidates;
    return asked ? rows_of(h, op->in) : 0;
}

/* Also where nothing is to be computed: the weights come by all the same. */
static air_status product(air_backend *h, const air_op *op, air_error *err)
{
    int64_t n = columns_of(h, op), rows = h->program->weights[op->weight].rows;
    air_status st = AIR_OK;
    if (n && op->heads) st = gather_heads(h, op, n, err);
    else if (n && reads_q8(h, op)) st = air_cuda_quantize_buffer(h, op->in, err);
    if (op->heads) air_cuda_share_forget(h, op->in); /* others have it in another form */
    if (!st && n) st = air_cuda_share_begin(h, op, n, err);
    if (!st && n) st = air_cuda_adapters_begin(h, op, n, err);
    if (!st && n) st = compute_what_is_here(h, op, n, err);
    for (int64_t row = 0; row < rows && !st && !h->capturing;) {
        air_cuda_tile tile;
        st = air_cuda_weights_next(h, &tile, err);
        if (st) return st;
        if (tile.span.weight != op->weight)
            return air_fail(err, AIR_E_ARGUMENT, "cuda: the feed brought weight %d where %d was due", (int)tile.span.weight,
                            (int)op->weight);
        row = tile.span.first_row + tile.span.rows;
        st = compute_tile(h, op, &tile, n, err);
    }
    if (!st) st = air_cuda_share_end(h, op, n, err);
    if (op->heads) air_cuda_share_forget(h, op->in);
    return st;
}

static air_status run_op(air_backend *h, const air_op *op, air_error *err)
{
    if (op->out != AIR_NONE && op->out == h->quantized) h->quantized = AIR_NONE;
    if (op->out != AIR_NONE) air_cuda_share_forget(h, op->out);
    if (op->kind != AIR_OP_PRODUCT && op->out != AIR_NONE && !rows_of(h, op->out)) return AIR_OK; /* no row is wanted */
    switch (op->kind) {
    case AIR_OP_EMBED:
    case AIR_OP_EMBED_POSITION: return embed(h, op, err);
    case AIR_OP_RMS_NORM:
    case AIR_OP_LAYER_NORM: return norm(h, op, err);
    case AIR_OP_ADD: return add(h, op, err);
    case AIR_OP_PRODUCT: return product(h, op, err);
    case AIR_OP_ROPE: return rotate(h, op, err);
    case AIR_OP_TEMPER: return temper(h, op, err);
    case AIR_OP_STORE: return store(h, op, err);
    case AIR_OP_ATTENTION: return attend(h, op, err);
    case AIR_OP_SELECT: return select_rows(h, op, err);
    case AIR_OP_ROUTE: return air_cuda_experts_route(h, op, err);
    case AIR_OP_EXPERTS: return air_cuda_experts_run(h, op, err);
    case AIR_OP_ADD_TYPE: return add_type(h, op, err);
    case AIR_OP_COPY: return copy_parts(h, op, err);
    case AIR_OP_MULTIPLY: return multiply(h, op, err);
    case AIR_OP_CONVOLVE: return convolve(h, op, err);
    case AIR_OP_SCAN: return scan(h, op, err);
    }
    return air_fail(err, AIR_E_UNSUPPORTED, "cuda: op %d", (int)op->kind);
}

/* --- the walk --- */

/* What the device gets to is noted by events, which the host sleeps at, but for the last one: h->marks in order. */
static cudaEvent_t mark_of_layer(const air_backend *h, int32_t layer) { return h->marks[(size_t)layer + 2]; }

static air_status begin(air_backend *h, air_error *err)
{
    TRY(cudaEventRecord(h->marks[0], h->compute));
    return AIR_OK;
}

/* The host has enqueued a layer: waits until the one before the last few is done. */
static air_status end_layer(air_backend *h, int32_t layer, air_error *err)
{
    if (h->capturing) return AIR_OK;
    TRY(cudaEventRecord(mark_of_layer(h, layer), h->compute));
    if (layer < AIR_CUDA_LAYERS_AHEAD) return AIR_OK;
    TRY(cudaEventSynchronize(mark_of_layer(h, layer - AIR_CUDA_LAYERS_AHEAD)));
    atomic_store(h->pass->layers_done, layer - AIR_CUDA_LAYERS_AHEAD + 1);
    return AIR_OK;
}

static air_status walk(air_backend *h, air_error *err)
{
    const air_program *p = h->program;
    air_status st = AIR_OK;
    int32_t before = AIR_NONE;
    for (int32_t i = 0; i < p->n_ops && !st; i++) {
        const air_op *op = &p->ops[i];
        if (atomic_load(h->pass->cancel)) {
            if (op->layer == AIR_NONE) return air_fail(err, AIR_E_CANCELLED, "cancelled in the %s", i ? "output" : "embedding");
            return air_fail(err, AIR_E_CANCELLED, "cancelled in layer %d", (int)op->layer);
        }
        if (op->layer == 0 && before == AIR_NONE && !h->capturing) TRY(cudaEventRecord(h->marks[1], h->compute));
        before = op->layer;
        st = run_op(h, op, err);
        /* Of a captured pass kernels follow kernels, but for what is copied at its ends, and no weights come meanwhile. */
        air_launches_early = h->capturing && h->launches_early && !is_embed(op);
        int ends = op->layer != AIR_NONE && (i + 1 == p->n_ops || p->ops[i + 1].layer != op->layer);
        if (!st && ends) st = end_layer(h, op->layer, err);
    }
    return st;
}

/* From one mark to the next, in the device's time: with waits for weights, as on the CPU. A graph has its first and last mark only:
 * layers had their parts of the last pass that was walked. */
static air_status note_times(air_backend *h, bool graph, air_error *err)
{
    int32_t n = h->program->n_layers;
    double all = 0;
    std::vector<double> &share = h->layer_share;
    if (!h->pass->layer_ns) return AIR_OK;
    if (!graph) share.assign(share.size(), 0);
    for (int32_t i = 0; i < n + 2 && !graph; i++) {
        float ms;
        TRY(cudaEventElapsedTime(&ms, h->marks[(size_t)i], h->marks[(size_t)i + 1]));
        share[(size_t)(i == 0 || i > n ? n : i - 1)] += (double)ms;
    }
    float ms;
    TRY(cudaEventElapsedTime(&ms, h->marks[0], h->marks.back()));
    for (double part : share) all += part;
    for (int32_t i = 0; i <= n && all > 0; i++)
        atomic_fetch_add(&h->pass->layer_ns[i], (uint64_t)((double)ms * 1e6 * share[(size_t)i] / all));
    return AIR_OK;
}

air_status air_cuda_enqueue(air_backend *h, air_error *err)
{
    h->quantized = AIR_NONE;
    air_status st = upload_inputs(h, err);
    if (!st) st = air_cuda_shuttle_begin(h, err);
    if (!st) st = walk(h, err);
    return st ? st : air_cuda_results_bring(h, err);
}

/* A host that sleeps at an event wakes some tens of microseconds after it, more where it is a guest. So it sleeps for most of a pass alone
 * and spins at its end: from the end of the last layer on, or, as a graph has no such mark, from three quarters of what the last ones took.
 * Who shares products with the CPU is there with the device, and threads that spin would be in the way of one that wakes. */
static air_status await_end(air_backend *h, bool graph, air_error *err)
{
    enum { LEAST_NS = 500000 }; /* a shorter sleep might be too long */
    air_cuda_graph *g = &h->graph;
    uint64_t asleep = graph ? g->usual_ns / 4 * 3 : 0, passed = graph ? air_clock_ns() - g->launched_ns : 0;
    if (!graph && !h->share.host.product) TRY(cudaEventSynchronize(mark_of_layer(h, h->program->n_layers - 1)));
    if (asleep > LEAST_NS && passed < asleep) air_sleep_ns(asleep - passed);
    TRY(cudaEventSynchronize(h->marks.back()));
    if (!graph) return AIR_OK;
    uint64_t took = air_clock_ns() - g->launched_ns, most = g->usual_ns + g->usual_ns / 16;
    g->usual_ns = g->usual_ns && took > most ? most : took;
    return AIR_OK;
}

/* Waits for the results and hands them out. */
static air_status finish(air_backend *h, bool graph, air_error *err)
{
    TRY(cudaEventRecord(h->marks.back(), h->compute));
    air_status st = await_end(h, graph, err);
    if (st) return st;
    air_cuda_results_hand_out(h);
    return AIR_OK;
}

air_status air_cuda_run(air_backend *h, const air_pass *pass, const air_feed *feed, air_error *err)
{
    h->pass = pass;
    h->feed = feed;
    bool graph = false;
    air_cuda_share_reset(h);
    air_status st = load_vectors(h, err);
    if (!st) st = fill_inputs(h, err);
    if (!st) st = begin(h, err);
    if (!st) st = air_cuda_graph_run(h, &graph, err);
    if (!st && !graph) st = air_cuda_enqueue(h, err);
    if (!st) st = finish(h, graph, err);
    /* Whatever happened, nothing of this pass is under way when it returns: its memory may be used again. */
    cudaError_t late = air_cuda_settle_all(h);
    air_cuda_weights_drain(h);
    air_cuda_experts_drain(h, !st && late == cudaSuccess);
    if (!st && late != cudaSuccess) st = air_cuda_fail(late, "computing", err);
    if (!st) st = note_times(h, graph, err);
    if (!st) air_cuda_weights_settle(h);
    if (!st) atomic_store(pass->layers_done, h->program->n_layers);
    return st;
}
