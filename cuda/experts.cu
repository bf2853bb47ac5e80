/* Mixtures of experts: rows sorted by expert, and the experts computed with one after the other, those that lie in VRAM first.
 *
 *     compute stream:  router's logits · which experts · ↓ routing down                        kernels of one expert · … · sum
 *     host:                                              wait · sort rows · ask the feed · take …
 *     copy stream:                                                            wait used · copy into a place · record copied
 *
 * The feed says where an expert lies, or is to be copied to (backend.h); it decides what gives way. While one expert is read, or copied,
 * the device computes with others. Each row that is sent to an expert has a place of its own for its result, and a row's are added by
 * number of expert, so that bits depend on neither what lay where nor on other rows. */
#include <stdatomic.h>
#include <string.h>

#include "cuda/backend.h"

#define TRY(call) AIR_CUDA_TRY(call, "computing experts", err)

enum { TAKEN_MOST = 64 }; /* of the feed at a time */

static const air_weight *weight_of(const air_backend *h, int32_t weight) { return &h->program->weights[weight]; }
static bool reads(const air_backend *h, int32_t weight, air_input input)
{
    return weight != AIR_NONE && air_device_input(weight_of(h, weight)->type) == input;
}

/* --- life --- */

air_status air_cuda_experts_open(air_backend *h, const air_backend_config *c, air_error *err)
{
    air_cuda_experts *x = &h->experts;
    x->n_held = 0;
    if (!h->program->mixtures) return AIR_OK;
    x->used_by.assign((size_t)c->expert_places, 0);
    air_status st = air_cuda_vram((void **)&x->memory, c->expert_bytes, "experts", err);
    if (!st) st = air_cuda_make_event(&x->copied, err);
    if (!st) st = air_cuda_make_event(&x->routed, err);
    for (cudaEvent_t &event : x->used)
        if (!st) st = air_cuda_make_event(&event, err);
    for (cudaEvent_t &event : x->read)
        if (!st) st = air_cuda_make_waited_event(&event, err);
    return st;
}

void air_cuda_experts_close(air_backend *h)
{
    air_cuda_experts *x = &h->experts;
    for (cudaEvent_t event : {x->copied, x->routed})
        if (event) (void)cudaEventDestroy(event);
    for (cudaEvent_t event : x->used)
        if (event) (void)cudaEventDestroy(event);
    for (cudaEvent_t event : x->read)
        if (event) (void)cudaEventDestroy(event);
    (void)cudaFree(x->memory);
}

/* --- routing --- */

air_status air_cuda_experts_route(air_backend *h, const air_op *op, air_error *err)
{
    const air_mixture *m = &h->program->mixtures[op->layer];
    const float *bias = m->bias == AIR_NONE ? nullptr : h->vector_of[(size_t)m->bias];
    float *out = air_cuda_buffer(h, op->out);
    size_t bytes = (size_t)h->pass->rows * 2 * (size_t)m->n_used * sizeof *out;
    TRY(air_cuda_route(m, air_cuda_buffer(h, op->in), bias, h->pass->rows, out, h->compute));
    TRY(cudaMemcpyAsync(h->host + h->host_layout.routing, out, bytes, cudaMemcpyDeviceToHost, h->compute));
    TRY(cudaEventRecord(h->experts.routed, h->compute));
    return AIR_OK;
}

/* Which times that rows are sent are an expert's, generated rows before those of prompts; all of them in the order of experts. */
static void count_rows(air_cuda_experts *x, const air_mixture *m, const air_pass *pass, const float *routing)
{
    memset(x->rows, 0, sizeof x->rows);
    memset(x->generated, 0, sizeof x->generated);
    for (int64_t r = 0; r < pass->rows; r++)
        for (int32_t j = 0; j < m->n_used; j++) {
            int32_t expert = (int32_t)routing[r * 2 * m->n_used + j];
            x->rows[expert]++;
            x->generated[expert] += pass->roles[r] == AIR_ROW_GENERATED;
        }
    int32_t first = 0;
    x->n_asked = 0;
    for (int32_t i = 0; i < m->n_experts; i++) {
        x->first[i] = first;
        first += x->rows[i];
        if (!x->rows[i]) continue;
        x->asked[x->n_asked] = i;
        x->asked_rows[x->n_asked++] = x->rows[i];
    }
}

static void sort_rows(const air_cuda_experts *x, const air_mixture *m, const air_pass *pass, const float *routing, int32_t *sent,
                      int32_t *place)
{
    int32_t next[2][AIR_EXPERTS_MOST]; /* by role */
    for (int32_t i = 0; i < m->n_experts; i++) {
        next[AIR_ROW_GENERATED][i] = x->first[i];
        next[AIR_ROW_PROMPT][i] = x->first[i] + x->generated[i];
    }
    for (int64_t r = 0; r < pass->rows; r++)
        for (int32_t j = 0; j < m->n_used; j++) {
            int32_t at = next[pass->roles[r]][(int32_t)routing[r * 2 * m->n_used + j]]++;
            sent[at] = (int32_t)r;
            place[r * m->n_used + j] = at;
        }
}

/* Waits for the routing. What goes up of it lies where the last layer's did: that has gone up, for its sum came before this routing. */
static air_status sort(air_backend *h, const air_mixture *m, air_error *err)
{
    air_cuda_experts *x = &h->experts;
    size_t times = (size_t)(h->pass->rows * m->n_used);
    const float *routing = (const float *)(h->host + h->host_layout.routing);
    int32_t *sent = (int32_t *)(h->host + h->host_layout.sent), *place = sent + times;
    TRY(cudaEventSynchronize(x->routed));
    count_rows(x, m, h->pass, routing);
    sort_rows(x, m, h->pass, routing, sent, place);
    TRY(cudaMemcpyAsync(h->memory + h->layout.sent, sent, times * sizeof *sent, cudaMemcpyHostToDevice, h->compute));
    TRY(cudaMemcpyAsync(h->memory + h->layout.place, place, times * sizeof *place, cudaMemcpyHostToDevice, h->compute));
    return AIR_OK;
}

/* --- columns --- */

static air_cuda_q8 gathered_q8(const air_backend *h, int64_t k, int64_t n)
{
    return air_cuda_q8_place(h->memory + h->layout.gathered_q8, k, n);
}

static air_cuda_q8 input_q8(const air_backend *h, const air_op *op)
{
    return air_cuda_q8_place(h->memory + h->layout.q8, h->program->buffers[op->in].width, h->pass->rows);
}

/* The inputs of all times, so that an expert's lie one after the other: copies of words, whatever they stand for. */
static air_status gather(air_backend *h, const air_op *op, const air_mixture *m, air_error *err)
{
    const int32_t *sent = (const int32_t *)(h->memory + h->layout.sent);
    int64_t k = h->program->buffers[op->in].width, times = h->pass->rows * m->n_used;
    bool alone = true;
    for (int32_t i = 0; i < h->experts.n_asked; i++) alone = alone && h->experts.asked_rows[i] == 1;
    if (alone) return AIR_OK;
    if (reads(h, m->gate, AIR_INPUT_F32) || reads(h, m->up, AIR_INPUT_F32))
        TRY(air_cuda_select(air_cuda_buffer(h, op->in), sent, times, k, (float *)(h->memory + h->layout.gathered), h->compute));
    if (!reads(h, m->gate, AIR_INPUT_Q8) && !reads(h, m->up, AIR_INPUT_Q8)) return AIR_OK;
    air_cuda_q8 from = input_q8(h, op), to = gathered_q8(h, k, times);
    TRY(air_cuda_select((const float *)from.q, sent, times, k / 4, (float *)to.q, h->compute));
    TRY(air_cuda_select((const float *)from.sums, sent, times, k / AIR_Q8_SUM_GROUP / 2, (float *)to.sums, h->compute));
    TRY(air_cuda_select(from.scale, sent, times, k / AIR_Q8_GROUP, to.scale, h->compute));
    return AIR_OK;
}

/* --- products --- */

/* Times [first, first + n) of one role, of one expert, whose only row is `row` where n is 1. */
struct run_of_rows {
    int64_t first, n, row;
    air_row_role role;
    int32_t expert;
};

/* All rows of a matrix, and the bias of them, to out [n][rows]. */
static air_status multiply(air_backend *h, int32_t weight, int32_t bias, const uint8_t *data, const run_of_rows *run, const float *x,
                           air_cuda_q8 q8, air_cuda_epilogue epilogue, float *out, air_error *err)
{
    const air_weight *w = weight_of(h, weight);
    air_cuda_product p = {};
    p.type = w->type;
    p.role = (air_cuda_role)run->role;
    p.w = data;
    p.row_bytes = (size_t)w->row_bytes;
    p.rows = w->rows, p.k = w->cols, p.n = run->n;
    p.x = x, p.q8 = q8;
    if (bias != AIR_NONE) p.bias = h->vector_of[(size_t)bias] + run->expert * w->rows;
    p.epilogue = epilogue;
    p.out = out;
    p.out_stride = w->rows;
    p.tables = h->devices[0].tables;
    TRY(air_cuda_product_run(&p, h->compute));
    return AIR_OK;
}

static air_cuda_mixed mixed_of(const air_backend *h, const air_op *op, const air_mixture *m)
{
    air_cuda_mixed mixed = {};
    mixed.results = (const float *)(h->memory + h->layout.results);
    mixed.routing = air_cuda_buffer(h, op->in2);
    mixed.place = (const int32_t *)(h->memory + h->layout.place);
    mixed.out = air_cuda_buffer(h, op->out);
    mixed.rows = h->pass->rows, mixed.width = weight_of(h, m->down)->rows, mixed.used = m->n_used;
    mixed.adds = op->epilogue == AIR_EPILOGUE_ADD;
    mixed.weighed = m->weighs_input != 0;
    return mixed;
}

/* What an expert has made of a weighed input is that of the input, weighed: once before the activation, once where it is gated. */
static air_status weigh(air_backend *h, const air_op *op, const air_mixture *m, const run_of_rows *run, float *hidden, air_error *err)
{
    air_cuda_mixed mixed = mixed_of(h, op, m);
    mixed.width = m->n_ff;
    TRY(air_cuda_weigh(hidden, &mixed, (const int32_t *)(h->memory + h->layout.sent), run->first, run->n, h->compute));
    return AIR_OK;
}

static air_status gate_and_up(air_backend *h, const air_op *op, const air_mixture *m, const uint8_t *data, const run_of_rows *run,
                              float *hidden, air_error *err)
{
    int64_t k = h->program->buffers[op->in].width, times = h->pass->rows * m->n_used;
    bool alone = run->n == 1; /* its column is where it is */
    const float *x = alone ? air_cuda_buffer(h, op->in) + run->row * k : (const float *)(h->memory + h->layout.gathered) + run->first * k;
    air_cuda_q8 q8 = alone ? air_cuda_q8_from(input_q8(h, op), k, run->row) : air_cuda_q8_from(gathered_q8(h, k, times), k, run->first);
    air_cuda_epilogue plain = {}, gated = {};
    gated.kind = m->gate == AIR_NONE ? AIR_EPILOGUE_SET : AIR_EPILOGUE_GATED;
    gated.activation = m->activation;
    const uint8_t *up = data + air_device_expert_part(h->program, op->layer, 1);
    air_status st = m->gate == AIR_NONE ? AIR_OK : multiply(h, m->gate, m->gate_bias, data, run, x, q8, plain, hidden, err);
    if (!st && m->weighs_input) st = weigh(h, op, m, run, hidden, err);
    if (!st) st = multiply(h, m->up, m->up_bias, up, run, x, q8, gated, hidden, err);
    return st || !m->weighs_input ? st : weigh(h, op, m, run, hidden, err);
}

static air_status down(air_backend *h, const air_op *op, const air_mixture *m, const uint8_t *data, const run_of_rows *run,
                       const float *hidden, air_error *err)
{
    int64_t times = h->pass->rows * m->n_used;
    air_cuda_q8 q8 = {};
    float *out = (float *)(h->memory + h->layout.results) + run->first * weight_of(h, m->down)->rows;
    if (reads(h, m->down, AIR_INPUT_Q8)) {
        q8 = air_cuda_q8_from(air_cuda_q8_place(h->memory + h->layout.hidden_q8, m->n_ff, times), m->n_ff, run->first);
        TRY(air_cuda_quantize(hidden, m->n_ff, run->n, q8, h->compute));
    }
    data += air_device_expert_part(h->program, op->layer, 2);
    return multiply(h, m->down, m->down_bias, data, run, hidden, q8, {}, out, err);
}

/* An expert that lies in its place, or will when the compute stream gets there. */
static air_status compute(air_backend *h, const air_op *op, const air_expert *e, air_error *err)
{
    const air_cuda_experts *x = &h->experts;
    const air_mixture *m = &h->program->mixtures[op->layer];
    const int32_t *sent = (const int32_t *)(h->host + h->host_layout.sent);
    int64_t generated = x->generated[e->expert], first = x->first[e->expert];
    const run_of_rows runs[] = {{first, generated, 0, AIR_ROW_GENERATED, e->expert},
                                {first + generated, x->rows[e->expert] - generated, 0, AIR_ROW_PROMPT, e->expert}};
    for (run_of_rows run : runs) {
        if (!run.n) continue;
        run.row = sent[run.first];
        float *hidden = (float *)(h->memory + h->layout.hidden) + run.first * m->n_ff;
        air_status st = gate_and_up(h, op, m, x->memory + e->at, &run, hidden, err);
        if (!st) st = down(h, op, m, x->memory + e->at, &run, hidden, err);
        if (st) return st;
    }
    return AIR_OK;
}

/* --- places --- */

static void give(air_backend *h, const air_expert *e) { h->feed->experts.give(h->feed->self, e); }

static void give_oldest(air_backend *h)
{
    air_cuda_experts *x = &h->experts;
    give(h, &x->held[0]);
    x->n_held--;
    x->held[0] = x->held[1];
}

/* Gives back what has been copied from; waits for a copy where as many as may be are under way. */
static air_status make_room(air_backend *h, air_error *err)
{
    air_cuda_experts *x = &h->experts;
    while (x->n_held) {
        cudaEvent_t oldest = x->read[(x->reads - (uint64_t)x->n_held) % AIR_CUDA_READING];
        cudaError_t error = x->n_held == AIR_CUDA_READING ? cudaEventSynchronize(oldest) : cudaEventQuery(oldest);
        if (error == cudaErrorNotReady) return (void)cudaGetLastError(), AIR_OK;
        TRY(error);
        give_oldest(h);
    }
    return AIR_OK;
}

void air_cuda_experts_drain(air_backend *h, bool well)
{
    while (well && h->experts.n_held) give_oldest(h);
    h->experts.n_held = 0; /* after a failure the feed takes them back by itself */
}

/* Before a copy into a place: what was last computed with what lies there. Of turns long ago no events are left, but of later ones. */
static air_status await_place(air_backend *h, int32_t place, air_error *err)
{
    air_cuda_experts *x = &h->experts;
    uint64_t turn = x->used_by[(size_t)place], oldest = x->turns > AIR_CUDA_EXPERT_TURNS ? x->turns - AIR_CUDA_EXPERT_TURNS + 1 : 1;
    if (!turn) return AIR_OK;
    TRY(cudaStreamWaitEvent(h->copy, x->used[(turn < oldest ? oldest : turn) % AIR_CUDA_EXPERT_TURNS], 0));
    return AIR_OK;
}

static air_status copy_part(air_backend *h, const air_expert *e, int32_t weight, const uint8_t *from, int part, air_error *err)
{
    const air_weight *w = weight_of(h, weight);
    uint8_t *to = h->experts.memory + e->at + air_device_expert_part(h->program, e->layer, part);
    uint64_t bytes = (uint64_t)w->rows * w->row_bytes;
    if (!e->locked) return air_cuda_copy_staged(h, &h->devices[0], to, from, bytes, h->copy, err);
    TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, h->copy));
    return AIR_OK;
}

/* To its place, if it is not there. */
static air_status bring(air_backend *h, const air_mixture *m, const air_expert *e, air_error *err)
{
    air_cuda_experts *x = &h->experts;
    if (!e->down) return AIR_OK;
    air_status st = await_place(h, e->place, err);
    if (!st && m->gate != AIR_NONE) st = copy_part(h, e, m->gate, e->gate, 0, err);
    if (!st) st = copy_part(h, e, m->up, e->up, 1, err);
    if (!st) st = copy_part(h, e, m->down, e->down, 2, err);
    if (st) return st;
    TRY(cudaEventRecord(x->copied, h->copy));
    TRY(cudaStreamWaitEvent(h->compute, x->copied, 0));
    if (e->locked) TRY(cudaEventRecord(x->read[x->reads++ % AIR_CUDA_READING], h->copy));
    return AIR_OK;
}

/* It is computed with: the feed has it back now, or when what lies in page-locked memory has been copied. */
static air_status leave(air_backend *h, const air_expert *e, air_error *err)
{
    air_cuda_experts *x = &h->experts;
    uint64_t turn = ++x->turns;
    x->used_by[(size_t)e->place] = turn;
    TRY(cudaEventRecord(x->used[turn % AIR_CUDA_EXPERT_TURNS], h->compute));
    if (e->down && e->locked) x->held[x->n_held++] = *e;
    else give(h, e);
    return AIR_OK;
}

/* --- the op --- */

static air_status run_expert(air_backend *h, const air_op *op, const air_expert *e, air_error *err)
{
    if (atomic_load(h->pass->cancel)) return air_fail(err, AIR_E_CANCELLED, "cancelled in layer %d", (int)op->layer);
    air_status st = make_room(h, err);
    if (!st) st = bring(h, &h->program->mixtures[op->layer], e, err);
    if (!st) st = compute(h, op, e, err);
    return st ? st : leave(h, e, err);
}

static air_status run_all(air_backend *h, const air_op *op, air_error *err)
{
    air_cuda_experts *x = &h->experts;
    air_expert taken[TAKEN_MOST];
    int32_t n = 1;
    air_status st = h->feed->experts.ask(h->feed->self, op->layer, x->asked, x->asked_rows, x->n_asked, err);
    while (!st && n) {
        st = make_room(h, err);
        if (!st) st = h->feed->experts.take(h->feed->self, taken, TAKEN_MOST, &n, err);
        for (int32_t i = 0; i < n && !st; i++) st = run_expert(h, op, &taken[i], err);
    }
    return st;
}

air_status air_cuda_experts_run(air_backend *h, const air_op *op, air_error *err)
{
    const air_mixture *m = &h->program->mixtures[op->layer];
    bool q8 = reads(h, m->gate, AIR_INPUT_Q8) || reads(h, m->up, AIR_INPUT_Q8);
    air_status st = q8 ? air_cuda_quantize_buffer(h, op->in, err) : AIR_OK;
    if (!st) st = sort(h, m, err);
    air_cuda_experts_drain(h, !st); /* the last layer's, long copied: it came before this routing */
    if (!st) st = gather(h, op, m, err);
    if (!st) st = run_all(h, op, err);
    if (st) return st;
    air_cuda_mixed mixed = mixed_of(h, op, m);
    TRY(air_cuda_mix(&mixed, h->compute));
    return AIR_OK;
}
