/* The CUDA backend's life: devices, memory, state, and the one symbol that the plugin exports. */
#include "cuda/backend.h"

#include <exception>
#include <new>
#include <stdio.h>
#include <thread>

#include "cuda/tables.cuh"
#include "quant/format.h"

static double mib(size_t bytes) { return (double)bytes / (1 << 20); }

air_status air_cuda_fail(cudaError_t error, const char *what, air_error *err)
{
    size_t free = 0, total = 0;
    const char *text = cudaGetErrorString(error), *name = cudaGetErrorName(error);
    int memory = error == cudaErrorMemoryAllocation, known = memory && cudaMemGetInfo(&free, &total) == cudaSuccess;
    (void)cudaGetLastError(); /* not the next launch's */
    if (!known) return air_fail(err, memory ? AIR_E_NOMEM : AIR_E_DEVICE, "cuda: %s: %s (%s)", what, text, name);
    return air_fail(err, AIR_E_NOMEM, "cuda: %s: %s (%s); %.1f MiB of VRAM are free of %.1f; lower max_vram, or end what else uses the GPU",
                    what, text, name, mib(free), mib(total));
}

/* --- memory --- */

air_status air_cuda_vram(void **out, size_t bytes, const char *what, air_error *err)
{
    char text[96];
    cudaError_t error = cudaMalloc(out, bytes);
    if (error == cudaSuccess) return AIR_OK;
    *out = nullptr;
    (void)snprintf(text, sizeof text, "%.1f MiB of VRAM for %s", mib(bytes), what);
    return air_cuda_fail(error, text, err);
}

air_status air_cuda_locked(void **out, size_t bytes, const char *what, air_error *err)
{
    *out = nullptr;
    cudaError_t error = cudaHostAlloc(out, bytes, cudaHostAllocPortable);
    if (error == cudaSuccess) return AIR_OK;
    *out = nullptr;
    if (error != cudaErrorMemoryAllocation) return air_cuda_fail(error, what, err);
    (void)cudaGetLastError();
    return air_fail(err, AIR_E_NOMEM, "cuda: %.1f MiB of page-locked memory for %s were refused; lower max_ram, or free memory of this "
                    "machine", mib(bytes), what);
}

/* --- devices --- */

/* Why CUDA cannot be used, in words that say what would help: AIR_E_UNSUPPORTED where there is no GPU, AIR_E_DEVICE where one may be. */
static air_status no_cuda(cudaError_t error, air_error *err)
{
    int driver = 0;
    (void)cudaGetLastError();
    if (cudaDriverGetVersion(&driver) || driver == 0)
        return air_fail(err, AIR_E_UNSUPPORTED, "no NVIDIA driver was found; install one, or use device \"cpu\"");
    if (error == cudaErrorInsufficientDriver)
        return air_fail(err, AIR_E_DEVICE, "the NVIDIA driver is for CUDA %d.%d, this build needs %d.%d; update the driver",
                        driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    if (error == cudaErrorInitializationError)
        return air_fail(err, AIR_E_DEVICE, "CUDA cannot be used in a process that was forked after it was used; start that by spawn");
    if (error == cudaErrorNoDevice) return air_fail(err, AIR_E_UNSUPPORTED, "no CUDA device is visible (CUDA_VISIBLE_DEVICES hides them?)");
    return air_fail(err, AIR_E_DEVICE, "CUDA cannot be used: %s (%s)", cudaGetErrorString(error), cudaGetErrorName(error));
}

static air_status cuda_devices(int32_t *n, air_error *err)
{
    int count = 0;
    *n = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaSuccess && count == 0) error = cudaErrorNoDevice;
    if (error != cudaSuccess) return no_cuda(error, err);
    *n = count;
    return AIR_OK;
}

static air_status choose(int32_t device, air_error *err)
{
    AIR_CUDA_TRY(cudaSetDevice(device), "choosing the device", err);
    return AIR_OK;
}

static void write_id(const cudaDeviceProp *properties, char out[33])
{
    for (int i = 0; i < 16; i++) (void)snprintf(out + 2 * i, 3, "%02x", (unsigned)(unsigned char)properties->uuid.bytes[i]);
}

static air_status ask(int32_t device, air_device_info *out, air_error *err)
{
    cudaDeviceProp properties;
    size_t free = 0, total = 0;
    air_status st = choose(device, err);
    if (st) return st;
    AIR_CUDA_TRY(cudaGetDeviceProperties(&properties, device), "asking for the device's properties", err);
    AIR_CUDA_TRY(cudaMemGetInfo(&free, &total), "asking for free VRAM", err);
    (void)snprintf(out->name, sizeof out->name, "%s", properties.name);
    out->total = total;
    out->free = free;
    AIR_CUDA_TRY(cudaDriverGetVersion(&out->driver), "asking for the driver's version", err);
    write_id(&properties, out->id);
    out->major = properties.major;
    out->minor = properties.minor;
    out->processors = properties.multiProcessorCount;
    if (air_cuda_compiled_for()) return AIR_OK;
    return air_fail(err, AIR_E_UNSUPPORTED, "cuda:%d, %s, is of compute capability %d.%d, which this build has no code for; build airpy with "
                    "AIRPY_CUDA_ARCHITECTURES=%d%d, or use device \"cpu\"", (int)device, out->name, out->major, out->minor, out->major, out->minor);
}

/* Calls that users' threads make, which stay on the device that they are on: done on a thread of its own where that is another one. To go
 * there and back would make a context on both. */
template <class F> static air_status apart(int32_t device, air_error *err, F what)
{
    int current = 0;
    air_status st = AIR_OK;
    if (cudaGetDevice(&current) == cudaSuccess && current == device) return what();
    (void)cudaGetLastError();
    try {
        std::thread([&] { st = what(); }).join();
    } catch (const std::exception &) { /* no more threads, or no memory for one */
        st = air_fail(err, AIR_E_NOMEM, "cuda: a thread");
    }
    return st;
}

static air_status no_device(int32_t device, int32_t n, air_error *err)
{
    return air_fail(err, AIR_E_ARGUMENT, "there is no device cuda:%d; there are %d, counted from 0", (int)device, (int)n);
}

template <class F> static air_status on_device(int32_t device, air_error *err, F what)
{
    int32_t n;
    air_status st = cuda_devices(&n, err);
    if (st) return st;
    if (device < 0 || device >= n) return no_device(device, n, err);
    return apart(device, err, what);
}

static air_status cuda_device_info(int32_t device, air_device_info *out, air_error *err)
{
    *out = air_device_info{};
    return on_device(device, err, [=] { return ask(device, out, err); });
}

static std::atomic<int> open_backends; /* of this process, on any device */

static air_status cuda_probe(int32_t device, uint64_t types, uint64_t bytes, double seconds, air_device_rates *out, air_error *err)
{
    *out = air_device_rates{};
    return on_device(device, err, [=] {
        air_status st = choose(device, err);
        if (!st) st = air_cuda_probe(device, types, bytes, seconds, out, err);
        if (open_backends) out->context = 0; /* what they hold is none of it */
        return st;
    });
}

static air_status cuda_probe_links(const int32_t *devices, int32_t n, uint64_t bytes, double seconds, double *out, air_error *err)
{
    int32_t there;
    air_status st = cuda_devices(&there, err);
    if (st) return st;
    if (n < 1 || n > AIR_DEVICES_MOST)
        return air_fail(err, AIR_E_ARGUMENT, "links of %d devices, but 1 to %d are measured", (int)n, AIR_DEVICES_MOST);
    for (int32_t i = 0; i < n; i++)
        if (devices[i] < 0 || devices[i] >= there) return no_device(devices[i], there, err);
    return air_cuda_probe_links(devices, n, bytes, seconds, out, err);
}

/* --- a device that is lost --- */

cudaError_t air_cuda_settle(air_backend *h, cudaStream_t stream)
{
    cudaError_t error = cudaStreamSynchronize(stream);
    if (error == cudaSuccess) return error;
    (void)cudaGetLastError();
    cudaError_t again = cudaStreamSynchronize(stream);
    if (again != cudaSuccess) h->lost = again;
    return error;
}

cudaError_t air_cuda_settle_all(air_backend *h)
{
    cudaError_t first = cudaSuccess;
    if (h->shuttle.stream) first = air_cuda_settle(h, h->shuttle.stream);
    for (int32_t i = 0; i < h->n_devices; i++)
        for (cudaStream_t stream : {h->devices[i].compute, h->devices[i].copy}) {
            cudaError_t error = air_cuda_settle(h, stream);
            if (first == cudaSuccess) first = error;
        }
    return first;
}

static air_status fail_lost(const air_backend *h, air_error *err)
{
    cudaError_t error = h->lost;
    return air_fail(err, AIR_E_DEVICE, "cuda: the device is lost: %s (%s); close the model and open it again, in a new process if that "
                    "fails too", cudaGetErrorString(error), cudaGetErrorName(error));
}

/* The calls of a backend begin and end with these: what fails for the device's sake says so, now and for ever. */
static air_status use_device(const air_backend *h, air_error *err) { return h->lost ? fail_lost(h, err) : choose(h->device, err); }

static air_status leave_device(air_backend *h, air_status st, air_error *err)
{
    if (st == AIR_E_NOMEM || st == AIR_E_DEVICE) (void)air_cuda_settle(h, h->aside);
    return h->lost ? fail_lost(h, err) : st;
}

/* --- helpers of all files --- */

air_status air_cuda_use(const air_backend *h, int32_t device, air_error *err) { return choose(h->devices[device].number, err); }

air_status air_cuda_make_event(cudaEvent_t *event, air_error *err)
{
    AIR_CUDA_TRY(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "an event", err);
    return AIR_OK;
}

air_status air_cuda_make_waited_event(cudaEvent_t *event, air_error *err)
{
    AIR_CUDA_TRY(cudaEventCreateWithFlags(event, cudaEventDisableTiming | cudaEventBlockingSync), "an event", err);
    return AIR_OK;
}

/* --- memory of a pass --- */

static size_t cut(size_t *at, size_t bytes)
{
    size_t offset = *at;
    *at += (bytes + AIR_DEVICE_ALIGN - 1) / AIR_DEVICE_ALIGN * AIR_DEVICE_ALIGN;
    return offset;
}

/* What air_device_host_bytes counts. */
static air_cuda_host_layout host_layout_of(const air_backend *h, int64_t rows, int64_t n_wanted)
{
    const air_program *p = h->program;
    air_cuda_host_layout l;
    size_t at = 0, n = (size_t)rows, w = (size_t)n_wanted, pairs = (size_t)p->rope_pairs;
    l.embed = cut(&at, n * (size_t)(air_device_embeds(p) * p->n_embd) * sizeof(float));
    l.cos = cut(&at, n * pairs * sizeof(float));
    l.sin = cut(&at, n * pairs * sizeof(float));
    l.tokens = cut(&at, ((2 + (size_t)air_device_more_numbers(p)) * n + w) * sizeof(int32_t));
    l.blocks = cut(&at, h->layout.courses - h->layout.blocks);
    l.courses = cut(&at, h->layout.adapted - h->layout.courses);
    l.adapted = cut(&at, h->layout.attention - h->layout.adapted);
    l.logits = cut(&at, w * (size_t)p->n_vocab * sizeof(float));
    l.candidates = cut(&at, air_device_candidate_bytes(n_wanted, AIR_DEVICE_CANDIDATES));
    l.hidden = cut(&at, w * (size_t)p->n_embd * sizeof(float));
    size_t sent = n * (size_t)air_device_sent_most(p);
    l.routing = cut(&at, 2 * sent * sizeof(float));
    l.sent = cut(&at, 2 * sent * sizeof(int32_t));
    l.total = at;
    return l;
}

static void free_pass(air_backend *h)
{
    air_cuda_graph_drop(h); /* which names it */
    (void)cudaFree(h->memory);
    (void)cudaFreeHost(h->host);
    (void)cudaFree(h->adapting.memory);
    h->memory = h->host = h->adapting.memory = nullptr;
    h->rows_cap = h->wanted_cap = h->rank_cap = 0;
}

static air_status alloc_pass(air_backend *h, int64_t rows, int64_t n_wanted, int64_t rank, air_error *err)
{
    air_cuda_adapting *a = &h->adapting;
    a->layout = air_device_adapting_of(h->program, rows, rank);
    h->layout = air_device_layout_of(h->program, rows, n_wanted, h->n_ctx);
    h->host_layout = host_layout_of(h, rows, n_wanted);
    air_status st = air_cuda_vram((void **)&h->memory, h->layout.total, "activations", err);
    if (!st) st = air_cuda_locked((void **)&h->host, h->host_layout.total, "a pass", err);
    if (!st && rank) st = air_cuda_vram((void **)&a->memory, a->layout.total, "what adapters add", err);
    if (st) return st;
    h->rows_cap = rows;
    h->wanted_cap = n_wanted;
    h->rank_cap = rank;
    return AIR_OK;
}

/* Blocks that wait to be used again are nobody's in the budget: what is booked now may need their room. */
static void drop_free_state(air_backend *h)
{
    std::lock_guard<std::mutex> lock(h->state_lock);
    for (const std::pair<void *, size_t> &block : h->state_free) (void)cudaFree(block.first);
    h->state_free.clear();
}

/* The old memory goes first: both need not fit. After a failure the old size is made again, which was there before. */
static air_status reserve(air_backend *h, int64_t rows, int64_t n_wanted, int64_t rank, air_error *err)
{
    int64_t old_rows = h->rows_cap, old_wanted = h->wanted_cap, old_rank = h->rank_cap;
    size_t old_bytes = h->memory ? h->layout.total + h->adapting.layout.total : 0;
    size_t bytes = air_device_pass_bytes(h->program, rows, n_wanted, h->n_ctx) + air_device_adapting_of(h->program, rows, rank).total;
    air_status st = use_device(h, err);
    if (st) return leave_device(h, st, err);
    free_pass(h);
    if (bytes > old_bytes) drop_free_state(h);
    st = alloc_pass(h, rows, n_wanted, rank, err);
    if (!st) return AIR_OK;
    free_pass(h);
    if (old_rows && alloc_pass(h, old_rows, old_wanted, old_rank, nullptr)) free_pass(h);
    return leave_device(h, st, err);
}

static air_status cuda_reserve(air_backend *h, int64_t rows, int64_t n_wanted, int64_t rank, air_error *err)
{
    if (rows == h->rows_cap && n_wanted == h->wanted_cap && rank == h->rank_cap) return AIR_OK;
    return apart(h->device, err, [=] { return reserve(h, rows, n_wanted, rank, err); });
}

float *air_cuda_buffer(const air_backend *h, int32_t buffer)
{
    const air_buffer_desc *d = &h->program->buffers[buffer];
    if (buffer == h->program->logits) return (float *)(h->memory + h->layout.logits);
    if (d->rows == AIR_ROWS_ALL) return (float *)(h->memory + h->layout.rows) + d->offset * h->pass->rows;
    return (float *)(h->memory + h->layout.wanted) + d->offset * h->pass->n_wanted;
}

/* --- life --- */

static air_status close_all(air_backend *h)
{
    (void)cudaSetDevice(h->device);
    for (int32_t i = 0; i < h->n_devices; i++)
        for (cudaStream_t stream : {h->devices[i].compute, h->devices[i].copy})
            if (stream) (void)cudaStreamSynchronize(stream);
    free_pass(h);
    air_cuda_share_close(h);
    air_cuda_weights_close(h);
    air_cuda_shuttle_close(h);
    air_cuda_experts_close(h);
    drop_free_state(h);
    for (cudaEvent_t event : h->marks)
        if (event) (void)cudaEventDestroy(event);
    (void)cudaFree(h->vectors);
    for (int32_t i = 0; i < h->n_devices; i++) {
        (void)cudaFree(h->devices[i].tables);
        for (cudaStream_t stream : {h->devices[i].compute, h->devices[i].copy})
            if (stream) (void)cudaStreamDestroy(stream);
    }
    if (h->aside) (void)cudaStreamDestroy(h->aside);
    delete h;
    open_backends--;
    return AIR_OK;
}

static void cuda_close(air_backend *h)
{
    auto close = [h] { return close_all(h); };
    if (h && apart(h->device, nullptr, close)) (void)close(); /* there is no thread: then here */
}

static air_status open_streams(air_backend *h, air_error *err)
{
    for (int32_t i = h->n_devices - 1; i >= 0; i--) { /* so that the first is the thread's in the end */
        air_cuda_device *d = &h->devices[i];
        air_status st = air_cuda_use(h, i, err);
        if (st) return st;
        for (cudaStream_t *stream : {&d->compute, &d->copy})
            AIR_CUDA_TRY(cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking), "a stream", err);
    }
    h->compute = h->devices[0].compute;
    h->copy = h->devices[0].copy;
    AIR_CUDA_TRY(cudaStreamCreateWithFlags(&h->aside, cudaStreamNonBlocking), "a stream", err);
    h->layer_share.assign((size_t)h->program->n_layers + 1, 0);
    h->launches_early = air_cuda_compiled_for() >= AIR_CUDA_EARLY_LAUNCHES;
    h->marks.assign((size_t)h->program->n_layers + 3, nullptr);
    for (cudaEvent_t &event : h->marks) {
        unsigned flags = &event == &h->marks.back() ? cudaEventDefault : cudaEventBlockingSync; /* at which the host spins, or sleeps */
        AIR_CUDA_TRY(cudaEventCreateWithFlags(&event, flags), "an event", err);
    }
    return AIR_OK;
}

static air_status load_tables(air_backend *h, air_error *err)
{
    static_assert(sizeof(air_cuda_tables) <= AIR_DEVICE_TABLES, "the plan leaves no room for the tables");
    std::vector<uint8_t> tables(air_cuda_tables_bytes());
    air_cuda_tables_fill(tables.data());
    air_status st = AIR_OK;
    for (int32_t i = h->n_devices - 1; i >= 0 && !st; i--)
        st = air_cuda_upload(h, i, &h->devices[i].tables, tables.data(), tables.size(), "tables", err);
    return st;
}

static air_status open_devices(air_backend *h, const air_backend_config *config, air_error *err)
try {
    air_status st = use_device(h, err);
    if (!st) st = open_streams(h, err);
    h->share.host = config->host;
    if (!st) st = air_cuda_weights_open(h, config, err);
    if (!st) st = air_cuda_shuttle_open(h, config, err);
    if (!st) st = air_cuda_experts_open(h, config, err);
    if (!st) st = load_tables(h, err);
    if (!st) st = air_cuda_share_open(h, config, err);
    return st;
} catch (const std::bad_alloc &) {
    return air_fail(err, AIR_E_NOMEM, "cuda: %d tiles", (int)config->n_tiles);
}

static air_status cuda_open(air_backend **out, const air_backend_config *config, air_error *err)
{
    *out = nullptr;
    air_backend *h = new (std::nothrow) air_backend{};
    if (!h) return air_fail(err, AIR_E_NOMEM, "cuda: %zu bytes", sizeof *h);
    open_backends++;
    h->program = config->program;
    h->device = config->devices[0].number;
    h->n_devices = config->n_devices;
    for (int32_t i = 0; i < h->n_devices; i++) h->devices[i].number = config->devices[i].number;
    h->n_ctx = config->n_ctx;
    air_status st = apart(h->device, err, [=] { return open_devices(h, config, err); });
    if (st) {
        cuda_close(h);
        return st;
    }
    *out = h;
    return AIR_OK;
}

static const char *cuda_kernels(const air_backend *h)
{
    (void)h;
    return "cuda";
}

static air_status matrix_supports(const air_program *program, int32_t weight, air_error *err)
{
    const air_weight *w = &program->weights[weight];
    const air_format *format = air_format_by_id(w->type);
    if (air_cuda_product_supports(w->type)) return AIR_OK;
    return air_fail(err, AIR_E_UNSUPPORTED, "cuda: %s is of type %s, which has no kernel; use device \"cpu\"", w->name,
                    format ? format->name : "unknown");
}

static air_status cuda_supports(const air_program *program, air_error *err)
{
    air_status st = AIR_OK;
    for (int32_t i = 0; i < program->n_layers; i++) {
        const air_recurrent_shape *r = program->recurrent ? &program->recurrent[i] : nullptr;
        if (r && r->heads && !air_cuda_scan_takes(r->key_dim))
            return air_fail(err, AIR_E_UNSUPPORTED, "cuda: a recurrent state with keys of %d elements, but kernels are for up to %d; use "
                            "device \"cpu\"", (int)r->key_dim, AIR_CUDA_SCAN_KEYS);
        const air_attention_shape *a = &program->attention[i];
        if (a->values_in_keys && a->key_dim > AIR_CUDA_LATENT_KEYS)
            return air_fail(err, AIR_E_UNSUPPORTED, "cuda: attention over a compressed state (MLA) of %d elements, but kernels are for up to %d; "
                            "use device \"cpu\"", (int)a->key_dim, AIR_CUDA_LATENT_KEYS);
    }
    for (int32_t i = 0; i < program->n_ops && !st; i++) {
        const air_op *op = &program->ops[i];
        if (op->kind == AIR_OP_PRODUCT) st = matrix_supports(program, op->weight, err);
        if (op->kind != AIR_OP_EXPERTS) continue;
        const air_mixture *m = &program->mixtures[op->layer];
        for (int32_t weight : {m->gate, m->up, m->down})
            if (!st && weight != AIR_NONE) st = matrix_supports(program, weight, err);
    }
    return st;
}

/* --- state --- */

static void *take_free(air_backend *h, size_t bytes)
{
    std::lock_guard<std::mutex> lock(h->state_lock);
    for (size_t i = 0; i < h->state_free.size(); i++) {
        if (h->state_free[i].second != bytes) continue;
        void *block = h->state_free[i].first;
        h->state_free[i] = h->state_free.back();
        h->state_free.pop_back();
        return block;
    }
    return nullptr;
}

static air_status alloc_block(air_backend *h, void **out, size_t bytes, air_error *err)
{
    *out = nullptr;
    air_status st = use_device(h, err);
    if (!st) *out = take_free(h, bytes);
    if (st || *out) return st;
    drop_free_state(h); /* of other sizes, and nobody's */
    return air_cuda_vram(out, bytes, "more state", err);
}

static air_status cuda_state_alloc(air_backend *h, void **out, size_t bytes, air_error *err)
{
    return apart(h->device, err, [=] { return leave_device(h, alloc_block(h, out, bytes, err), err); });
}

/* Blocks are kept: freeing memory makes a device wait for all its streams. */
static void cuda_state_free(air_backend *h, void *p, size_t bytes)
{
    if (!p) return;
    try {
        std::lock_guard<std::mutex> lock(h->state_lock);
        h->state_free.emplace_back(p, bytes);
    } catch (const std::bad_alloc &) {
        if (cudaSetDevice(h->device) == cudaSuccess) (void)cudaFree(p);
    }
}

/* Pageable memory is copied by the driver's own pieces, the last of which may be on its way when that returns. */
static air_status copy_block(air_backend *h, void *to, const void *from, size_t bytes, int pageable, air_error *err)
{
    air_status st = use_device(h, err);
    if (st) return st;
    if (pageable) AIR_CUDA_TRY(cudaMemcpy(to, from, bytes, cudaMemcpyDefault), "copying state", err);
    else AIR_CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, h->aside), "copying state", err);
    AIR_CUDA_TRY(air_cuda_settle(h, pageable ? cudaStreamLegacy : h->aside), "copying state", err);
    return AIR_OK;
}

static air_status cuda_state_copy(air_backend *h, void *to, const void *from, size_t bytes, int pageable, air_error *err)
{
    return apart(h->device, err, [=] { return leave_device(h, copy_block(h, to, from, bytes, pageable, err), err); });
}

/* --- adapters --- */

static air_status alloc_adapter(air_backend *h, void **out, size_t bytes, air_error *err)
{
    *out = nullptr;
    air_status st = use_device(h, err);
    if (st) return st;
    drop_free_state(h);
    st = air_cuda_vram(out, bytes, "an adapter", err);
    if (st) return st;
    cudaError_t error = cudaMemsetAsync(*out, 0, bytes, h->aside);
    if (error == cudaSuccess) error = air_cuda_settle(h, h->aside);
    if (error == cudaSuccess) return AIR_OK;
    (void)cudaFree(*out);
    *out = nullptr;
    return air_cuda_fail(error, "an adapter", err);
}

static air_status cuda_adapter_alloc(air_backend *h, void **out, size_t bytes, air_error *err)
{
    return apart(h->device, err, [=] { return leave_device(h, alloc_adapter(h, out, bytes, err), err); });
}

static void cuda_adapter_free(air_backend *h, void *p)
{
    auto free = [=] {
        if (cudaSetDevice(h->device) == cudaSuccess) (void)cudaFree(p);
        return AIR_OK;
    };
    if (apart(h->device, nullptr, free)) (void)free(); /* there is no thread: then here */
}

/* --- memory of the host --- */

static int cuda_lock_pages(air_backend *h, void *p, size_t bytes)
{
    air_status st = apart(h->device, nullptr, [=] {
        if (cudaSetDevice(h->device) == cudaSuccess && cudaHostRegister(p, bytes, cudaHostRegisterPortable) == cudaSuccess) return AIR_OK;
        (void)cudaGetLastError(); /* not the next launch's */
        return AIR_E_DEVICE;
    });
    return !st;
}

static void cuda_unlock_pages(air_backend *h, void *p)
{
    auto unlock = [=] {
        (void)cudaSetDevice(h->device);
        (void)cudaHostUnregister(p);
        return AIR_OK;
    };
    if (apart(h->device, nullptr, unlock)) (void)unlock();
}

static uint64_t cuda_staging_bytes(const air_backend *h)
{
    return h->weights.staging ? AIR_DEVICE_STAGING_PIECES * h->weights.piece_bytes : 0;
}

static air_status cuda_run(air_backend *h, const air_pass *pass, const air_feed *feed, air_error *err)
{
    if (pass->rows > h->rows_cap || pass->n_wanted > h->wanted_cap)
        return air_fail(err, AIR_E_ARGUMENT, "cuda: a pass of %lld rows, reserved for %lld", (long long)pass->rows, (long long)h->rows_cap);
    air_status st = use_device(h, err);
    if (st) return leave_device(h, st, err);
    try {
        st = air_cuda_run(h, pass, feed, err);
    } catch (const std::bad_alloc &) { /* before anything was enqueued */
        st = air_fail(err, AIR_E_NOMEM, "cuda: %d weights", (int)h->program->n_weights);
    }
    return leave_device(h, st, err);
}

static const air_backend_api cuda_api = {
    AIR_BACKEND_VERSION,
    "cuda",
    cuda_devices,
    cuda_device_info,
    cuda_probe,
    cuda_probe_links,
    cuda_open,
    cuda_close,
    cuda_kernels,
    cuda_supports,
    nullptr,
    cuda_reserve,
    cuda_state_alloc,
    cuda_state_free,
    cuda_state_copy,
    cuda_adapter_alloc,
    cuda_adapter_free,
    cuda_lock_pages,
    cuda_unlock_pages,
    cuda_staging_bytes,
    cuda_run,
};

extern "C" __attribute__((visibility("default"))) const air_backend_api *air_backend_plugin(void);
const air_backend_api *air_backend_plugin(void) { return &cuda_api; }
