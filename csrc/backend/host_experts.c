/* Mixtures of experts on the CPU: which experts a row goes to, and what they make of it.
 *
 * Rows are sorted by expert, so that each expert's matrices are taken once for all its rows. A layer runs in rounds: what the feed has in
 * memory by then is computed while it reads the rest. Every result has a place of its own and a row's are added up at the end, by
 * number of expert, so that bits depend on neither the order of rounds nor on other rows. */
#include <math.h>
#include <string.h>

#include "backend/host.h"

enum {
    COLUMNS = 32,   /* of an expert that one job takes: what they are copied to is small beside the last cache */
    GUESS_ROWS = 4, /* of passes in which experts are guessed: more use most of them */
};

static int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }

/* --- the router --- */

/* The largest of values that are not taken yet; where none is a number, the first. */
static int32_t largest(const float *values, const unsigned char *taken, int32_t first, int32_t end)
{
    int32_t best = AIR_NONE;
    for (int32_t i = first; i < end; i++)
        if (!taken[i] && (best == AIR_NONE || values[i] > values[best])) best = i;
    return best;
}

/* Of a group of experts: its largest value, or where a bias is in them its two largest (DeepSeek-V3, arXiv 2412.19437). */
static float group_score(const air_mixture *m, const float *values, int32_t first, int32_t end)
{
    float one = -INFINITY, two = -INFINITY;
    for (int32_t i = first; i < end; i++) {
        if (values[i] > one) two = one, one = values[i];
        else if (values[i] > two) two = values[i];
    }
    return m->bias == AIR_NONE ? one : one + two;
}

/* Takes the experts of all groups but the best ones. */
static void choose_groups(const air_mixture *m, const float *values, unsigned char *taken)
{
    float scores[AIR_EXPERTS_MOST];
    unsigned char chosen[AIR_EXPERTS_MOST] = {0};
    int32_t each = m->n_experts / m->n_groups;
    for (int32_t g = 0; g < m->n_groups; g++) scores[g] = group_score(m, values, g * each, (g + 1) * each);
    for (int32_t i = 0; i < m->groups_used; i++) chosen[largest(scores, chosen, 0, m->n_groups)] = 1;
    for (int32_t i = 0; i < m->n_experts; i++) taken[i] = !chosen[i / each];
}

static void gate(const air_backend *h, const air_mixture *m, float *values)
{
    if (m->gating == AIR_GATING_SOFTMAX) (void)h->ops->softmax(values, m->n_experts);
    if (m->gating == AIR_GATING_SIGMOID)
        for (int32_t i = 0; i < m->n_experts; i++) values[i] = 1.0f / (1.0f + expf(-values[i]));
}

/* values [n_experts] become weights; those of chosen, ascending, to out. */
static void weigh(const air_backend *h, const air_mixture *m, const float *values, const unsigned char *chosen, float *out)
{
    int32_t n = 0;
    float sum = 0;
    for (int32_t i = 0; i < m->n_experts; i++) {
        if (!chosen[i]) continue;
        out[n] = (float)i;
        out[m->n_used + n++] = values[i];
    }
    float *weights = out + m->n_used;
    if (m->gating == AIR_GATING_CHOSEN) (void)h->ops->softmax(weights, n);
    for (int32_t i = 0; i < n; i++) sum += weights[i];
    for (int32_t i = 0; i < n; i++) weights[i] = (m->normalise ? weights[i] / (sum + 1e-20f) : weights[i]) * m->scale;
}

/* The weight of the largest logit of those not taken yet, beside those of them that are near. */
static float weight_among_near(const air_mixture *m, const float *logits, const unsigned char *taken, int32_t best)
{
    float most = logits[best], sum = 0;
    for (int32_t i = 0; i < m->n_experts; i++) {
        float size = fabsf(logits[i]) > most ? fabsf(logits[i]) : most;
        if (!taken[i] && !((most - logits[i]) / size > AIR_SPARSE_MIXER_NEAR)) sum += expf(logits[i] - most);
    }
    return 1.0f / sum;
}

static void mix_sparsely(const air_backend *h, const air_mixture *m, const float *logits, float *out)
{
    float values[AIR_EXPERTS_MOST] = {0};
    unsigned char taken[AIR_EXPERTS_MOST] = {0};
    for (int32_t i = 0; i < m->n_used; i++) {
        int32_t best = largest(logits, taken, 0, m->n_experts);
        values[best] = weight_among_near(m, logits, taken, best);
        taken[best] = 1;
    }
    weigh(h, m, values, taken, out);
}

/* A row's experts by its logits, and their weights, to out. */
static void route(const air_backend *h, const air_mixture *m, const float *logits, float *out)
{
    float values[AIR_EXPERTS_MOST], biased[AIR_EXPERTS_MOST];
    unsigned char taken[AIR_EXPERTS_MOST] = {0}, chosen[AIR_EXPERTS_MOST] = {0};
    const float *bias = m->bias == AIR_NONE ? NULL : h->feed->vectors[m->bias];
    if (m->gating == AIR_GATING_SPARSE_MIXER) {
        mix_sparsely(h, m, logits, out);
        return;
    }
    memcpy(values, logits, (size_t)m->n_experts * sizeof *values);
    gate(h, m, values);
    for (int32_t i = 0; i < m->n_experts; i++) biased[i] = values[i] + (bias ? bias[i] : 0);
    if (m->n_groups > 1) choose_groups(m, biased, taken);
    for (int32_t i = 0; i < m->n_used; i++) {
        int32_t best = largest(biased, taken, 0, m->n_experts);
        taken[best] = chosen[best] = 1;
    }
    weigh(h, m, values, chosen, out);
}

void air__route(const air_backend *h, const air_op *op, int64_t row)
{
    const air_mixture *m = &h->program->mixtures[op->layer];
    route(h, m, air__host_buffer(h, op->in) + row * m->n_experts, air__host_buffer(h, op->out) + row * 2 * m->n_used);
}

/* --- guesses --- */

/* The layer's experts of a row, if its router saw what is in the residual now: what layers between add to that is little. */
static void guess_row(const air_backend *h, const air_mixture *m, const uint8_t *router, int64_t row, float *out)
{
    const air_weight *w = &h->program->weights[m->router];
    float logits[AIR_EXPERTS_MOST], *normed = air__host_scratch(h, 0);
    const float *x = air__host_buffer(h, m->residual) + row * w->cols;
    h->ops->rms_norm(x, h->feed->vectors[m->norm], normed, w->cols, m->norm_eps);
    air_columns column = {.k = w->cols, .n = 1, .f32 = normed, .f32_stride = (size_t)w->cols};
    air__multiply(h->ops, w, router, w->rows, &column, logits, (size_t)w->rows, normed + ((w->cols + 15) & ~(int64_t)15));
    if (m->router_bias != AIR_NONE) h->ops->add(logits, h->feed->vectors[m->router_bias], w->rows);
    route(h, m, logits, out);
}

/* Of one row's guess or of several, rank by rank, the surest experts first. */
static int32_t by_weight(const air_mixture *m, const float *guesses, int64_t rows, int32_t *experts)
{
    unsigned char taken[GUESS_ROWS][AIR_EXPERTS_MOST] = {0};
    int32_t n = 0;
    for (int32_t rank = 0; rank < m->n_used; rank++)
        for (int64_t row = 0; row < rows; row++) {
            const float *guess = guesses + row * 2 * m->n_used;
            int32_t best = largest(guess + m->n_used, taken[row], 0, m->n_used);
            taken[row][best] = 1;
            experts[n++] = (int32_t)guess[best];
        }
    return n < m->n_experts ? n : m->n_experts;
}

static void guess_layer(const air_backend *h, int32_t layer, int64_t rows)
{
    const air_mixture *m = &h->program->mixtures[layer];
    if (m->router == AIR_NONE || air__reads_q8(h->ops, &h->program->weights[m->router])) return;
    const uint8_t *router = h->feed->experts.router(h->feed->self, layer);
    float guesses[GUESS_ROWS * 2 * AIR_EXPERTS_MOST];
    int32_t experts[GUESS_ROWS * AIR_EXPERTS_MOST];
    if (!router) return;
    for (int64_t row = 0; row < rows; row++) guess_row(h, m, router, row, guesses + row * 2 * m->n_used);
    h->feed->experts.expect(h->feed->self, layer, experts, by_weight(m, guesses, rows, experts));
}

/* While a layer's experts are computed, those of the next ones are read, the nearest first: of passes of a few rows, which use a few of
 * them. What is two layers ahead is for when all of the next one's is there. */
static void guess_next(const air_backend *h, int32_t layer)
{
    enum { AHEAD = 2 };
    const air_program *p = h->program;
    int64_t rows = air__host_rows(h, p->ops[h->stage->first].in);
    if (rows > GUESS_ROWS || !h->feed->experts.guesses(h->feed->self)) return;
    for (int guessed = 0; ++layer < p->n_layers && guessed < AHEAD;) {
        if (!p->mixtures[layer].n_experts) continue;
        guess_layer(h, layer, rows);
        guessed++;
    }
}

/* --- memory --- */

static int64_t most_sent(const air_program *p, int64_t width(const air_program *p, const air_mixture *m))
{
    int64_t most = 0;
    for (int32_t i = 0; p->mixtures && i < p->n_layers; i++) {
        const air_mixture *m = &p->mixtures[i];
        if (m->n_experts && m->n_used * width(p, m) > most) most = m->n_used * width(p, m);
    }
    return most;
}

static int64_t one(const air_program *p, const air_mixture *m) { return (void)p, (void)m, 1; }
static int64_t hidden(const air_program *p, const air_mixture *m) { return (void)p, m->n_ff; }
static int64_t result(const air_program *p, const air_mixture *m) { return p->weights[m->down].rows; }

static int64_t most_ff(const air_program *p)
{
    int64_t most = 0;
    for (int32_t i = 0; p->mixtures && i < p->n_layers; i++)
        if (p->mixtures[i].n_experts && p->mixtures[i].n_ff > most) most = p->mixtures[i].n_ff;
    return most;
}

static size_t cut(size_t *at, size_t bytes)
{
    size_t offset = *at;
    *at += (bytes + 63) & ~(size_t)63;
    return offset;
}

air__mixture_layout air__mixture_layout_of(const air_program *p, int64_t rows)
{
    air__mixture_layout l = {0};
    size_t at = 0, sent = (size_t)(rows * most_sent(p, one));
    if (!p->mixtures) return l;
    l.sent = cut(&at, sent * sizeof(int32_t));
    l.place = cut(&at, sent * sizeof(int32_t));
    l.hidden = cut(&at, (size_t)(rows * most_sent(p, hidden)) * sizeof(float));
    l.results = cut(&at, (size_t)(rows * most_sent(p, result)) * sizeof(float));
    l.q8 = cut(&at, air_q8_bytes((most_ff(p) + AIR_Q8_GROUP - 1) / AIR_Q8_GROUP * AIR_Q8_GROUP, (int64_t)sent));
    l.total = at;
    return l;
}

size_t air__mixture_scratch_floats(const air_program *p)
{
    if (!p->mixtures) return 0;
    int64_t k = (p->max_cols + AIR_Q8_GROUP - 1) / AIR_Q8_GROUP * AIR_Q8_GROUP;
    return (size_t)(2 * k + COLUMNS * k + 2 * COLUMNS * AIR__CHUNK_ROWS) + air_q8_bytes(k, COLUMNS) / sizeof(float) + 64;
}

/* --- rows by expert --- */

/* Counts rows of each expert and says where the first of each goes among all that are sent; lists those that get any. */
static void count_rows(air__mixture_run *run, const air_mixture *m, const float *routing, int64_t rows)
{
    memset(run->rows, 0, sizeof run->rows);
    for (int64_t r = 0; r < rows; r++)
        for (int32_t j = 0; j < m->n_used; j++) run->rows[(int32_t)routing[r * 2 * m->n_used + j]]++;
    int32_t first = 0;
    run->n_experts = 0;
    for (int32_t i = 0; i < m->n_experts; i++) {
        run->first[i] = first;
        first += run->rows[i];
        if (!run->rows[i]) continue;
        run->experts[run->n_experts] = i;
        run->counts[run->n_experts++] = run->rows[i];
    }
}

static void sort_rows(air__mixture_run *run, const air_mixture *m, const float *routing, int64_t rows)
{
    int32_t next[AIR_EXPERTS_MOST];
    memcpy(next, run->first, sizeof next);
    for (int64_t r = 0; r < rows; r++)
        for (int32_t j = 0; j < m->n_used; j++) {
            int32_t at = next[(int32_t)routing[r * 2 * m->n_used + j]]++;
            run->sent[at] = (int32_t)r;
            run->place[r * m->n_used + j] = at;
        }
}

/* --- jobs --- */

/* Rows of the matrix of one job: its place among those of the experts of the round, a chunk of each. */
typedef struct part { const air_expert *expert; int64_t row, rows; } part;

static int64_t chunks_of(const air_backend *h, int64_t rows)
{
    int64_t each = h->mixture.chunk_rows;
    return (rows + each - 1) / each;
}

static part part_of(const air_backend *h, int64_t job, int64_t rows)
{
    int64_t chunks = chunks_of(h, rows), each = h->mixture.chunk_rows, row = job % chunks * each;
    return (part){&h->mixture.taken[job / chunks], row, min64(each, rows - row)};
}

/* Columns first to first + n of an expert: its rows of the op's input; as they lie where there is one, else copied to scratch. */
static air_columns gather(const air_backend *h, const air_op *op, const air_expert *e, int64_t first, int64_t n, float **scratch)
{
    const air__mixture_run *run = &h->mixture;
    const int32_t *rows = run->sent + run->first[e->expert] + first;
    int64_t k = h->program->buffers[op->in].width;
    const float *x = air__host_buffer(h, op->in);
    air_q8 q8 = air__q8_of(h, op, 0, 0);
    if (n == 1) return (air_columns){.k = k, .n = 1, .f32 = x + rows[0] * k, .f32_stride = (size_t)k, .q8 = air_q8_at(q8, k, rows[0], 0)};
    air_columns out = {.k = k, .n = n, .f32 = *scratch, .f32_stride = (size_t)k};
    for (int64_t c = 0; c < n && run->reads_f32; c++) memcpy(*scratch + c * k, x + rows[c] * k, (size_t)k * sizeof(float));
    *scratch += (n * k + 15) & ~(int64_t)15;
    if (!run->reads_q8) return out;
    out.q8 = air_q8_place(*scratch, k, n);
    *scratch += (air_q8_bytes(k, n) + 63) / 64 * 16;
    for (int64_t c = 0; c < n; c++) {
        air_q8 from = air_q8_at(q8, k, rows[c], 0), to = air_q8_at(out.q8, k, c, 0);
        memcpy(to.q, from.q, (size_t)k);
        memcpy(to.turned, from.turned, (size_t)air_q8_turned_bytes(k));
        memcpy(to.sums, from.sums, (size_t)(k / AIR_Q8_SUM_GROUP) * sizeof *to.sums);
        memcpy(to.scale, from.scale, (size_t)(k / AIR_Q8_GROUP) * sizeof *to.scale);
    }
    return out;
}

/* What an expert's matrix gives for n columns from a row on, and the bias of these rows where there is one. */
static void expert_product(const air_backend *h, int32_t weight, int32_t bias, const uint8_t *data, part p, const air_columns *x, float *y,
                           size_t y_stride, float *decoded)
{
    const air_weight *w = &h->program->weights[weight];
    air__multiply(h->ops, w, data + (uint64_t)p.row * w->row_bytes, p.rows, x, y, y_stride, decoded);
    if (bias == AIR_NONE) return;
    const float *of_rows = h->feed->vectors[bias] + p.expert->expert * w->rows + p.row;
    for (int64_t c = 0; c < x->n; c++) h->ops->add(y + (size_t)c * y_stride, of_rows, p.rows);
}

/* Of a column of an expert's, which is a row's. */
static float weight_of(const air_backend *h, const air_op *op, int32_t expert, int64_t column)
{
    const air_mixture *m = &h->program->mixtures[op->layer];
    const float *routing = air__host_buffer(h, op->in2) + (int64_t)h->mixture.sent[column] * 2 * m->n_used;
    int32_t j = 0;
    while ((int32_t)routing[j] != expert) j++;
    return routing[m->n_used + j];
}

/* What products give for a weighed input is what they give for it, weighed. */
static void weigh_column(float weight, float *gated, float *raised, int64_t n)
{
    for (int64_t i = 0; i < n; i++) gated[i] *= weight, raised[i] *= weight;
}

static void join(const air_backend *h, const air_mixture *m, const float *gated, const float *raised, float *out, int64_t n)
{
    if (m->gate == AIR_NONE) h->ops->activate[m->activation](raised, out, n);
    else h->ops->gated[m->activation](gated, raised, out, n);
}

static void gate_and_up(const air_backend *h, int64_t job, float *scratch)
{
    const air_op *op = &h->program->ops[h->stage->first];
    const air_mixture *m = &h->program->mixtures[op->layer];
    part p = part_of(h, job, m->n_ff);
    int64_t all = h->mixture.rows[p.expert->expert];
    float *out = h->mixture.hidden + h->mixture.first[p.expert->expert] * m->n_ff + p.row;
    for (int64_t c = 0; c < all; c += COLUMNS) {
        int64_t n = min64(COLUMNS, all - c);
        float *at = scratch;
        air_columns x = gather(h, op, p.expert, c, n, &at);
        int64_t size = (p.rows * n + 15) & ~(int64_t)15;
        float *gated = at, *raised = gated + size, *decoded = raised + size;
        if (m->gate != AIR_NONE) expert_product(h, m->gate, m->gate_bias, p.expert->gate, p, &x, gated, (size_t)p.rows, decoded);
        expert_product(h, m->up, m->up_bias, p.expert->up, p, &x, raised, (size_t)p.rows, decoded);
        for (int64_t i = 0; m->weighs_input && i < n; i++) {
            float weight = weight_of(h, op, p.expert->expert, h->mixture.first[p.expert->expert] + c + i);
            weigh_column(weight, gated + i * p.rows, raised + i * p.rows, p.rows);
        }
        for (int64_t i = 0; i < n; i++) join(h, m, gated + i * p.rows, raised + i * p.rows, out + (c + i) * m->n_ff, p.rows);
    }
}

static air_q8 hidden_q8(const air_backend *h, const air_mixture *m)
{
    int64_t rows = air__host_rows(h, h->program->ops[h->stage->first].in);
    return air_q8_place(h->mixture.q8, m->n_ff, rows * m->n_used);
}

/* Columns of the hidden state of a round's experts, one after the other: which number a job's is among all that are sent. */
static int64_t column_of(const air_backend *h, int64_t job)
{
    const air__mixture_run *run = &h->mixture;
    for (int32_t i = 0;; i++) {
        int64_t rows = run->rows[run->taken[i].expert];
        if (job < rows) return run->first[run->taken[i].expert] + job;
        job -= rows;
    }
}

static void quantize(const air_backend *h, int64_t job)
{
    const air_mixture *m = &h->program->mixtures[h->stage->layer];
    int64_t c = column_of(h, job);
    h->ops->quantize(h->mixture.hidden + c * m->n_ff, m->n_ff, air_q8_at(hidden_q8(h, m), m->n_ff, c, 0));
}

static void down(const air_backend *h, int64_t job, float *scratch)
{
    const air_mixture *m = &h->program->mixtures[h->stage->layer];
    const air_weight *w = &h->program->weights[m->down];
    part p = part_of(h, job, w->rows);
    int64_t first = h->mixture.first[p.expert->expert], all = h->mixture.rows[p.expert->expert];
    for (int64_t c = first; c < first + all; c += AIR__CHUNK_COLUMNS) {
        air_columns x = {
            .k = m->n_ff, .n = min64(AIR__CHUNK_COLUMNS, first + all - c), .f32 = h->mixture.hidden + c * m->n_ff,
            .f32_stride = (size_t)m->n_ff, .q8 = air_q8_at(hidden_q8(h, m), m->n_ff, c, 0),
        };
        expert_product(h, m->down, m->down_bias, p.expert->down, p, &x, h->mixture.results + c * w->rows + p.row, (size_t)w->rows, scratch);
    }
}

static void add_up(const air_backend *h, int64_t row)
{
    const air_op *op = &h->program->ops[h->stage->first];
    const air_mixture *m = &h->program->mixtures[op->layer];
    const float *weights = air__host_buffer(h, op->in2) + row * 2 * m->n_used + m->n_used;
    int64_t n = h->program->buffers[op->out].width;
    float *out = air__host_buffer(h, op->out) + row * n;
    for (int64_t from = 0; from < n; from += 64) {
        float sum[64] = {0};
        int64_t width = min64(64, n - from);
        for (int32_t j = 0; j < m->n_used; j++) {
            const float *y = h->mixture.results + h->mixture.place[row * m->n_used + j] * n + from;
            float weight = m->weighs_input ? 1 : weights[j];
            for (int64_t i = 0; i < width; i++) sum[i] += weight * y[i];
        }
        for (int64_t i = 0; i < width; i++) out[from + i] = op->epilogue == AIR_EPILOGUE_ADD ? out[from + i] + sum[i] : sum[i];
    }
}

/* --- rounds --- */

static void give_taken(air_backend *h)
{
    for (int32_t i = 0; i < h->mixture.n_taken; i++) h->feed->experts.give(h->feed->self, &h->mixture.taken[i]);
    h->mixture.n_taken = 0;
}

void air__experts_clear(air_backend *h) { give_taken(h); }

int air__experts_read_q8(const air_backend *h, const air_op *op)
{
    const air_mixture *m = &h->program->mixtures[op->layer];
    return (m->gate != AIR_NONE && air__reads_q8(h->ops, &h->program->weights[m->gate])) ||
           air__reads_q8(h->ops, &h->program->weights[m->up]);
}

static int experts_read_f32(const air_backend *h, const air_mixture *m)
{
    return (m->gate != AIR_NONE && !air__reads_q8(h->ops, &h->program->weights[m->gate])) ||
           !air__reads_q8(h->ops, &h->program->weights[m->up]);
}

static int64_t taken_rows(const air__mixture_run *run)
{
    int64_t rows = 0;
    for (int32_t i = 0; i < run->n_taken; i++) rows += run->rows[run->taken[i].expert];
    return rows;
}

/* The first step of another round, or of the end; the step's jobs are made. */
static void next_round(air_backend *h, const air_op *op)
{
    air__mixture_run *run = &h->mixture;
    const air_mixture *m = &h->program->mixtures[op->layer];
    give_taken(h);
    h->status = h->feed->experts.take(h->feed->self, run->taken, AIR_COUNT(run->taken), &run->n_taken, &h->error);
    if (h->status) return;
    run->step = run->n_taken ? AIR__MIXTURE_UP : AIR__MIXTURE_ADD;
    run->chunk_rows = air__chunk_rows(h->threads, m->n_ff * run->n_taken);
    if (run->n_taken) air_pool_job_reset(&h->job, run->n_taken * chunks_of(h, m->n_ff));
    else air_pool_job_reset(&h->job, air__host_rows(h, op->out));
}

static void next_step(air_backend *h, const air_op *op)
{
    air__mixture_run *run = &h->mixture;
    const air_mixture *m = &h->program->mixtures[op->layer];
    const air_weight *w = &h->program->weights[m->down];
    if (run->step == AIR__MIXTURE_UP && air__reads_q8(h->ops, w)) {
        run->step = AIR__MIXTURE_QUANTIZE;
        air_pool_job_reset(&h->job, taken_rows(run));
    } else if (run->step == AIR__MIXTURE_UP || run->step == AIR__MIXTURE_QUANTIZE) {
        run->step = AIR__MIXTURE_DOWN;
        run->chunk_rows = air__chunk_rows(h->threads, w->rows * run->n_taken);
        air_pool_job_reset(&h->job, run->n_taken * chunks_of(h, w->rows));
    } else if (run->step == AIR__MIXTURE_DOWN) {
        next_round(h, op);
    } else {
        run->step = AIR__MIXTURE_DONE;
    }
}

int air__experts_next(air_backend *h)
{
    enum { ALONE = 8 }; /* columns to quantise or rows to add up that take less time than a barrier */
    const air_op *op = &h->program->ops[h->stage->first];
    air__mixture_run *run = &h->mixture;
    while (run->step != AIR__MIXTURE_DONE && !h->status) {
        next_step(h, op);
        int little = run->step == AIR__MIXTURE_QUANTIZE || (run->step == AIR__MIXTURE_ADD && h->job.chunks == 1);
        if (h->status || run->step == AIR__MIXTURE_DONE) return 0;
        if (!little || h->job.chunks > ALONE) return 1;
        air__experts_run(h, 0);
    }
    return 0;
}

int air__experts_begin(air_backend *h)
{
    const air_op *op = &h->program->ops[h->stage->first];
    const air_mixture *m = &h->program->mixtures[op->layer];
    air__mixture_run *run = &h->mixture;
    int64_t rows = air__host_rows(h, op->in);
    const float *routing = air__host_buffer(h, op->in2);
    run->reads_q8 = air__experts_read_q8(h, op);
    run->reads_f32 = experts_read_f32(h, m);
    count_rows(run, m, routing, rows);
    sort_rows(run, m, routing, rows);
    run->n_taken = 0;
    run->step = AIR__MIXTURE_DOWN; /* after which a round begins */
    h->status = h->feed->experts.ask(h->feed->self, op->layer, run->experts, run->counts, run->n_experts, &h->error);
    if (h->status) return 0;
    guess_next(h, op->layer);
    return air__experts_next(h);
}

void air__experts_run(air_backend *h, int index)
{
    float *scratch = air__host_scratch(h, index);
    for (int64_t i; (i = air_pool_job_take(&h->job)) >= 0 && !air__host_cancelled(h);) {
        if (h->mixture.step == AIR__MIXTURE_UP) gate_and_up(h, i, scratch);
        if (h->mixture.step == AIR__MIXTURE_QUANTIZE) quantize(h, i);
        if (h->mixture.step == AIR__MIXTURE_DOWN) down(h, i, scratch);
        if (h->mixture.step == AIR__MIXTURE_ADD) add_up(h, i);
    }
}
