/* Life of an engine: open, its thread, statistics, close. */
#include "engine/engine.h"

#include <stdatomic.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "engine/internal.h"
#include "memory/mixtures.h"
#include "platform/sysmem.h"

air_status air__engine_usable(air_engine *e, air_error *err)
{
    if (e->process != air_process_id())
        return air_fail(err, AIR_E_CLOSED, "the model was opened before fork(); a forked process must open its own");
    if (e->closing) return air_fail(err, AIR_E_CLOSED, "the model is closed");
    return AIR_OK;
}

/* --- the plan's request --- */

static uint64_t vector_bytes(const air_program *p)
{
    uint64_t total = 0;
    for (int32_t i = 0; i < p->n_weights; i++)
        if (p->weights[i].use == AIR_WEIGHT_VECTOR) total += (uint64_t)p->weights[i].cols * sizeof(float);
    return total;
}

static const air_backend_api *backend_of(const air_engine_config *c) { return c->backend ? c->backend : &air_backend_host; }

static air_state_type state_type_of(const air_engine_config *c, const air_program *p)
{
    return c->state_type != AIR_STATE_TYPES ? c->state_type : p->bidirectional ? AIR_STATE_F32 : AIR_STATE_F16;
}

/* Beside the context: tables, small weights. */
static uint64_t device_small_bytes(const air_program *p)
{
    uint64_t total = AIR_DEVICE_TABLES;
    for (int32_t i = 0; i < p->n_weights; i++)
        if (p->weights[i].use == AIR_WEIGHT_VECTOR)
            total += air_round_up((uint64_t)(p->weights[i].rows * p->weights[i].cols) * sizeof(float), AIR_DEVICE_ALIGN);
    return total;
}

/* Of the device's memory: as measured, if that can be true (others' memory is in it where they came first). */
static uint64_t context_bytes(const air_engine_config *c, int32_t which, int32_t processors)
{
    const air_device_rates *known = c->bandwidths.devices;
    uint64_t measured = known[known[which].memory > 0 ? which : 0].context, usual = (uint64_t)processors * AIR_DEVICE_CONTEXT_PROCESSOR;
    usual = air_max_u64(usual, AIR_DEVICE_CONTEXT);
    return measured && measured <= 2 * usual ? measured : usual;
}

/* What a device, the config's so manieth, has, as the plan needs it: never more than is free. */
static air_status device_request(const air_engine_config *c, const air_program *p, int32_t which, uint64_t budget,
                                 air_device_request *out, air_error *err)
{
    const air_backend_api *api = backend_of(c);
    air_device_info info;
    *out = (air_device_request){
        .budget = budget, .fixed = context_bytes(c, which, 0) + device_small_bytes(p),
        .shuttle_per_block = AIR_DEVICE_SHUTTLE * air_device_shuttle_block(p, state_type_of(c, p)),
    };
    if (!p->bidirectional) out->away_per_block = air__state_block_bytes(p, state_type_of(c, p)); /* there passes write all they read */
    if (!api->device_info) return AIR_OK; /* a plan alone may be for a device that is elsewhere */
    air_status st = api->device_info(which ? c->helpers[which - 1].device : c->device, &info, err);
    if (st) return st;
    out->fixed = context_bytes(c, which, info.processors) + device_small_bytes(p);
    out->reach = info.free + context_bytes(c, which, info.processors);
    if (!out->budget) out->budget = out->reach - out->reach / 20; /* others may want some */
    if (out->budget <= out->reach) return AIR_OK;
    return air_fail(err, AIR_E_BUDGET, "max_vram %.1f MiB is more than there is: %s has %.1f MiB free of %.1f; lower max_vram or leave it "
                    "out", air_mib(out->budget), info.name, air_mib(air_min_u64(out->reach, info.total)), air_mib(info.total));
}

static air_status device_requests(const air_engine_config *c, const air_program *p, air_plan_request *r, air_error *err)
{
    air_status st = device_request(c, p, 0, c->max_vram, &r->device, err);
    r->device.graph = p->mixtures ? 0 : air_device_graph_bytes(p); /* their passes are walked: the host asks for experts */
    r->n_helpers = c->n_helpers;
    for (int32_t i = 0; i < c->n_helpers && !st; i++) {
        uint64_t vram = c->helpers[i].max_vram;
        st = device_request(c, p, i + 1, vram ? vram : c->max_vram, &r->helpers[i], err);
    }
    return st;
}

static int is_for_device(const air_engine_config *c) { return c->max_vram || backend_of(c)->device_info; }

/* Of max_ram, what is there beside all that the engine allocates. */
static uint64_t held_bytes(const air_engine_config *c, const air_program *p)
{
    uint64_t driver = is_for_device(c) ? AIR_DEVICE_HOST_CONTEXT * (uint64_t)(1 + c->n_helpers) : 0;
    return c->fixed_bytes + air_sample_scratch(p->n_vocab) + driver;
}

static uint64_t state_block_bytes(const air_engine_config *c, const air_program *p)
{
    uint64_t bytes = air__state_block_bytes(p, state_type_of(c, p));
    return is_for_device(c) ? air_device_allocation(bytes) : bytes;
}

static uint64_t recurrent_block_bytes(const air_engine_config *c, const air_program *p)
{
    uint64_t bytes = air__recurrent_block_bytes(p);
    return is_for_device(c) ? air_device_allocation(bytes) : bytes;
}

static air_plan_request request_for(const air_engine_config *c, const air_model *model)
{
    const air_program *p = air_model_program(model);
    air_memory_info memory = air_memory_query();
    air_plan_request r = {
        .program = p, .state_type = state_type_of(c, p), .fixed = held_bytes(c, p) + vector_bytes(p),
        .state_per_block = state_block_bytes(c, p), .recurrent = AIR__RECURRENT_BLOCKS * recurrent_block_bytes(c, p),
        .n_ctx = c->n_ctx, .n_ctx_trained = air_model_hparams(model)->n_ctx_trained, .pass_bytes = air_backend_host.pass_bytes,
        .threads = c->threads ? c->threads : air_cpu_count(), .io = c->io,
        .available = air_memory_default_budget(&memory), .reach = air_memory_room(&memory) + c->fixed_bytes,
        .ring_bytes = c->ring_bytes, .tile_bytes = c->tile_bytes, .max_rows = c->max_rows, .cpu_share = c->cpu_share,
        .bandwidths = c->bandwidths, .deciding = c->deciding,
    };
    r.budget = c->max_ram ? c->max_ram : r.available;
    for (uint32_t i = 0; i < c->set->parts; i++) r.file_bytes += c->set->bytes[i];
    return r;
}

air_status air_engine_plan_only(air_plan **out, const air_engine_config *config, air_error *err)
{
    *out = NULL;
    air_model *model = NULL;
    air_status st = air_model_open(&model, config->set, err);
    if (st) return st;
    const air_program *p = air_model_program(model);
    air_plan_request request = request_for(config, model);
    if (config->max_ram > request.reach) { /* another machine's, which then has what we grant of it */
        request.reach = 0;
        request.available = config->max_ram;
    }
    st = backend_of(config)->supports(p, err);
    if (!st) st = device_requests(config, p, &request, err);
    if (!st) st = air_plan_make(out, &request, err);
    air_model_close(model);
    return st;
}

/* --- open --- */

static air_status open_sources(air_engine *e, const char *spec, air_error *err)
{
    e->sources = air_calloc(e->set->parts, sizeof(air_source *));
    if (!e->sources) return air_fail(err, AIR_E_NOMEM, "engine: %u files", e->set->parts);
    for (uint32_t i = 0; i < e->set->parts; i++) {
        air_status st = air_source_file(&e->sources[i], e->set->paths[i], err);
        if (!st && e->sources[i]->bytes != e->set->bytes[i])
            st = air_fail(err, AIR_E_CHANGED, "%s had %llu bytes when its header was read and has %llu now", e->set->paths[i],
                          (unsigned long long)e->set->bytes[i], (unsigned long long)e->sources[i]->bytes);
        if (!st && spec) {
            air_source *inner = e->sources[i];
            e->sources[i] = NULL;
            st = air_source_tampered(&e->sources[i], inner, spec, err);
        }
        if (st) return st;
    }
    return AIR_OK;
}

/* What of the first device's memory is there from open to close; helpers have nothing else, and the plan has summed it up. */
static air_status book_device(air_engine *e, air_error *err)
{
    const air_plan *plan = e->plan;
    air_status st = air_budget_reserve(&e->device_budget, AIR_HOLD_FIXED,
                                            plan->device_fixed + plan->device_part_bytes + plan->device_graph_bytes, err);
    if (!st) st = air_budget_reserve(&e->device_budget, AIR_HOLD_PINS, plan->device_pin_bytes, err);
    if (!st) st = air_budget_reserve(&e->device_budget, AIR_HOLD_EXPERTS, plan->device_expert_bytes, err);
    return st ? st : air_budget_reserve(&e->device_budget, AIR_HOLD_RING, plan->device_ring_bytes + plan->device_shuttle_bytes, err);
}

/* What the CPU does for a device: its share of products, and copies from mapped files. */
static air_status open_share(air_engine *e, const air_engine_config *c, air_error *err)
{
    int copies = air__engine_on_device(e) && e->plan->io == AIR_IO_MMAP, products = e->plan->n_host_tiles > 0;
    int duties = (copies ? AIR_HOST_COPIES : 0) + (products ? AIR_HOST_PRODUCTS : 0);
    if (!duties) return AIR_OK;
    air_status st = air_budget_reserve(&e->budget, AIR_HOLD_FIXED, e->plan->share_bytes, err);
    return st ? st : air_host_share_open(&e->host_share, air_model_program(e->model), duties, e->request.threads, c->cpu_tier, err);
}

/* Who computes with which tile, and what stays where. The lists are the caller's to free, also after a failure. */
static air_status device_config(const air_engine *e, const air_engine_config *c, air_backend_config *b, air_kept_tile **kept, int8_t **who,
                                air_error *err)
{
    const air_plan *plan = e->plan;
    air_status st = air_plan_who(who, plan, err);
    b->who = *who;
    b->n_devices = 1 + plan->n_helpers;
    for (int32_t i = 0; i < b->n_devices && !st; i++) {
        air_backend_device *d = &b->devices[i];
        st = air_plan_device_places(&kept[i], &d->n_kept, plan, i, err);
        d->number = i ? c->helpers[i - 1].device : c->device;
        d->kept = kept[i];
        d->kept_bytes = i ? plan->helpers[i - 1].pin_bytes : plan->device_pin_bytes;
    }
    return st;
}

static air_status open_backend(air_engine *e, const air_engine_config *c, air_error *err)
{
    const air_plan *plan = e->plan;
    air_kept_tile *kept[AIR_DEVICES_MOST] = {NULL};
    int8_t *who = NULL;
    air_backend_config b = {
        .program = air_model_program(e->model), .threads = e->request.threads, .cpu_tier = c->cpu_tier, .n_tiles = plan->n_tiles,
        .part_bytes = plan->part_bytes, .n_ctx = plan->n_ctx, .max_rows = plan->max_rows,
        .state_type = plan->state_type, .away_most = plan->away_blocks,
    };
    if (plan->device_expert_bytes) {
        b.expert_bytes = air__experts_fit(b.program, AIR_DEVICE_ALIGN, plan->device_expert_bytes);
        b.expert_places = air__experts_slots(b.program, AIR_DEVICE_ALIGN, plan->device_expert_bytes);
    }
    for (int32_t i = 0; i < plan->n_tiles; i++) b.tile_bytes = air_max_u64(b.tile_bytes, air_tile_device_memory(&plan->tiles[i]));
    air_status st = air__engine_on_device(e) ? book_device(e, err) : AIR_OK;
    if (!st && air__engine_on_device(e)) st = device_config(e, c, &b, kept, &who, err);
    if (!st) st = open_share(e, c, err);
    if (!st && e->host_share) b.host = air_host_share_help(e->host_share);
    if (!st) st = e->api->open(&e->backend, &b, err);
    for (int32_t i = 0; i < AIR_DEVICES_MOST; i++) air_free(kept[i]);
    air_free(who);
    return st;
}

static air_status open_memory(air_engine *e, const air_engine_config *c, air_error *err)
{
    if (c->max_vram && !e->api->device_info)
        return air_fail(err, AIR_E_ARGUMENT, "max_vram is the memory of a device, but the %s computes", e->api->name);
    air_status st = air_model_open(&e->model, e->set, err);
    if (st) return st;
    const air_program *p = air_model_program(e->model);
    st = e->api->supports(p, err);
    if (st) return st;
    if (c->n_ctx > p->positions_most)
        return air_fail(err, AIR_E_ARGUMENT, "n_ctx is %lld, but the model has learned %lld positions and no more", (long long)c->n_ctx,
                        (long long)p->positions_most);
    e->request = request_for(c, e->model);
    st = device_requests(c, p, &e->request, err);
    if (!st) st = air_plan_make(&e->plan, &e->request, err);
    if (st) return st;
    e->max_pins = c->max_pins;
    for (int32_t i = 0; i < e->plan->n_tiles; i++) e->all_pins += air_tile_memory(&e->plan->tiles[i], AIR_PLAN_GRANULE);
    e->all_pins += air__experts_memory(p, AIR_PLAN_GRANULE);
    e->experts_least = air__experts_least(p, AIR_PLAN_GRANULE);
    air_budget_init(&e->budget, "max_ram", e->plan->budget);
    air_budget_init(&e->device_budget, "max_vram", e->plan->device_budget);
    st = air_budget_reserve(&e->budget, AIR_HOLD_FIXED, held_bytes(c, p), err);
    if (!st) st = air_budget_reserve(&e->budget, AIR_HOLD_FIXED, e->plan->staging_bytes, err);
    if (!st) e->staging_bytes = e->plan->staging_bytes;
    if (!st) st = open_sources(e, c->source_spec, err);
    if (!st) st = open_backend(e, c, err); /* before the pager, whose pages it locks */
    if (!st) st = air_timeline_open(&e->timeline, err);
    if (st) return st;
    return air_pager_open(&e->pager, &(air_pager_config){
        .program = p, .plan = e->plan, .sources = e->sources, .paths = (const char *const *)e->set->paths, .parts = e->set->parts,
        .budget = &e->budget, .api = e->api, .backend = e->backend, .timeline = e->timeline,
        .lookahead = c->lookahead}, err);
}

static air_status open_compute(air_engine *e, const air_engine_config *c, air_error *err)
{
    const air_program *p = air_model_program(e->model);
    size_t layers = (size_t)p->n_layers + 1;
    air_status st = air__state_pool_init(&e->pool, p, e->plan->state_type, err);
    if (st) return st;
    e->pool.block_bytes[AIR_STATE_PAGED] = (size_t)e->request.state_per_block;
    e->pool.block_bytes[AIR_STATE_RECURRENT] = (size_t)recurrent_block_bytes(c, p);
    e->pool.api = e->api;
    e->pool.backend = e->backend;
    e->pool.budget = air__engine_on_device(e) ? &e->device_budget : &e->budget;
    e->pool.host_budget = air__engine_on_device(e) ? &e->budget : NULL;
    e->pool.away_most = e->plan->away_blocks;
    e->ops = air_ops_best((air_cpu_tier)c->cpu_tier);
    e->sample_scratch = air_malloc(air_sample_scratch(p->n_vocab));
    e->layer_ns = air_calloc(layers, sizeof *e->layer_ns);
    e->stall_before = air_calloc(layers, sizeof *e->stall_before);
    e->last_busy = air_calloc(layers, sizeof *e->last_busy);
    e->last_stall = air_calloc(layers, sizeof *e->last_stall);
    if (!e->sample_scratch || !e->layer_ns || !e->stall_before || !e->last_busy || !e->last_stall)
        return air_fail(err, AIR_E_NOMEM, "engine: scratch for a vocabulary of %lld", (long long)p->n_vocab);
    e->stats.threads = e->request.threads;
    e->stats.kernels = e->api->kernels(e->backend);
    return AIR_OK;
}

/* --- the thread --- */

static void serve(air_engine *e, air_batch *b)
{
    air_status st = air__batch_run(e, b, &b->error);
    air_pager_set_cancel(e->pager, NULL);
    air_mutex_lock(&e->lock);
    e->running = NULL;
    air__batch_end(b, st);
    air_mutex_unlock(&e->lock);
    air_cond_broadcast(&e->ended);
}

/* Under the lock, which it gives away meanwhile. Until the first batch there is something better to do than to sleep: whoever opened
 * the model builds a tokenizer now, or writes a prompt. A mapped file that memory does not hold would only push itself out. */
static void wait_for_batch(air_engine *e)
{
    int more = e->plan->io == AIR_IO_DIRECT || e->request.file_bytes <= e->request.available;
    while (!e->first && !e->closing) {
        if (more && !e->stats.passes) {
            air_mutex_unlock(&e->lock);
            more = air_pager_read_ahead(e->pager);
            air_mutex_lock(&e->lock);
        } else {
            air_cond_wait(&e->wake, &e->lock);
        }
    }
}

static void engine_main(void *context)
{
    air_engine *e = context;
    for (;;) {
        air_mutex_lock(&e->lock);
        wait_for_batch(e);
        air_batch *b = e->first;
        if (b) {
            e->first = b->next;
            if (!e->first) e->last = NULL;
            b->phase = AIR_BATCH_RUNNING;
            e->running = b;
            if (e->closing) atomic_store(&b->cancel, 1);
        }
        air_mutex_unlock(&e->lock);
        if (!b) return;
        serve(e, b);
    }
}

air_status air_engine_open(air_engine **out, const air_engine_config *config, air_error *err)
{
    *out = NULL;
    air_engine *e = air_calloc(1, sizeof *e);
    if (!e) return air_fail(err, AIR_E_NOMEM, "engine: %zu bytes", sizeof *e);
    air_mutex_init(&e->lock);
    air_cond_init(&e->wake);
    air_cond_init(&e->ended);
    e->set = config->set;
    e->api = backend_of(config);
    e->process = air_process_id();
    air_status st = open_memory(e, config, err);
    if (!st) st = open_compute(e, config, err);
    if (!st) st = air__expect_one_row(e, err);
    if (!st) st = air_thread_start(&e->thread, "airpy-engine", engine_main, e, err);
    if (st) {
        air_engine_close(e);
        return st;
    }
    *out = e;
    return AIR_OK;
}

void air_engine_close(air_engine *e)
{
    if (!e || e->process != air_process_id()) return; /* a forked child has neither the threads nor the right to end them */
    air_mutex_lock(&e->lock);
    e->closing = 1;
    if (e->running) atomic_store(&e->running->cancel, 1);
    air_cond_signal(&e->wake);
    air_mutex_unlock(&e->lock);
    air_thread_join(e->thread);
    air_pager_close(e->pager);
    air_timeline_close(e->timeline);
    for (uint32_t i = 0; e->sources && i < e->set->parts; i++) air_source_close(e->sources[i]);
    air_free(e->sources);
    air__state_pool_deinit(&e->pool);
    if (e->backend) e->api->close(e->backend);
    air_host_share_close(e->host_share);
    air_free(e->sample_scratch);
    air_free(e->layer_ns);
    air_free(e->stall_before);
    air_free(e->last_busy);
    air_free(e->last_stall);
    air_plan_free(e->plan);
    air_model_close(e->model);
    air_cond_deinit(&e->ended);
    air_cond_deinit(&e->wake);
    air_mutex_deinit(&e->lock);
    air_free(e);
}

/* --- queries --- */

const air_model *air_engine_model(const air_engine *e) { return e->model; }
const air_plan *air_engine_plan(const air_engine *e) { return e->plan; }

air_engine_stats air_engine_stats_get(air_engine *e)
{
    air_mutex_lock(&e->lock);
    air_engine_stats s = e->stats;
    air_mutex_unlock(&e->lock);
    s.pager = air_pager_stats_get(e->pager);
    s.budget = e->budget.limit;
    s.held = atomic_load(&e->budget.total);
    s.peak_held = atomic_load(&e->budget.peak);
    for (int i = 0; i < AIR_HOLD_COUNT; i++) s.held_by[i] = atomic_load(&e->budget.held[i]);
    s.predicted_s = air_plan_predict(&e->request, e->plan, s.pager.pinned_bytes + s.pager.expert_bytes, 1);
    return s;
}

int32_t air_engine_layer_times(air_engine *e, uint64_t *busy_ns, uint64_t *stall_ns, int32_t n)
{
    int32_t layers = air_model_program(e->model)->n_layers + 1, count = n < layers ? n : layers;
    air_mutex_lock(&e->lock);
    for (int32_t i = 0; i < count; i++) {
        busy_ns[i] = e->last_busy[i];
        stall_ns[i] = e->last_stall[i];
    }
    air_mutex_unlock(&e->lock);
    return layers;
}

air_status air_engine_sample(const air_engine *e, const air_sampling *sampling, const float *logits, int64_t n, int32_t *token,
                             air_error *err)
{
    int64_t n_vocab = air_model_program(e->model)->n_vocab;
    air_sampling s = *sampling;
    float logprob;
    air_status st = air_sampling_check(sampling, err);
    if (st) return st;
    s.repetition_penalty = 1;
    s.frequency_penalty = s.presence_penalty = 0;
    void *scratch = air_malloc(air_sample_scratch(n_vocab));
    if (!scratch) return air_fail(err, AIR_E_NOMEM, "scratch for a vocabulary of %lld", (long long)n_vocab);
    air_sample_args args = {.sampling = &s, .ops = e->ops, .logits = logits, .n_vocab = n_vocab, .n = n, .scratch = scratch};
    st = air_sample(&args, token, &logprob, err);
    air_free(scratch);
    return st;
}

int32_t air_engine_expert_rows(air_engine *e, int32_t layer, uint64_t *rows, int32_t n)
{
    return air_pager_expert_rows(e->pager, layer, rows, n);
}
