/* What a device can do, measured by the kernels and copies that passes are made of: short, in memory that goes back at the end.
 *
 * Weights are walked through in a window of VRAM, as large as was asked for where the device is fast, so that no cache holds it; a device
 * that takes long for a small one, such as an emulated one, is measured with that. What lies there is random: the time of looking up
 * depends on what is looked up, and a GPU's clock on how many bits change. */
#include <algorithm>

#include "base/checked.h"
#include "cuda/backend.h"
#include "platform/clock.h"
#include "quant/format.h"

namespace {

constexpr uint64_t WINDOW_LEAST = 1 << 20, WINDOW_MOST = 256 << 20;
constexpr uint64_t HOST_MOST = 32 << 20;       /* page-locked, what one copy takes: as large as tiles are */
constexpr double QUICK_S = 1e-3;               /* what takes less may be made larger */
constexpr double LONG_S = 2e-3;                /* of which waiting for the device is little */
constexpr int REPEAT_MOST = 256;
constexpr int64_t COLUMNS_LEAST = 8, COLUMNS_MOST = 512, ROWS_LEAST = 64, ROWS_MOST = 4096, COLS_MOST = 4096, COLS_LEAST = 256;
constexpr uint64_t ANSWER_BYTES = 16 << 10;    /* of a hand-over, there and back: about what a token brings */
constexpr uint64_t CONTEXT_GROWS = 32 << 20;   /* by kernels that have not run yet */
constexpr int READ_BLOCKS = 8; /* of each multiprocessor */

/* Of a product: columns, and what is written. Both are cut from one region. */
struct activations {
    uint8_t *memory;
    size_t bytes;
};

struct prober {
    cudaStream_t stream;
    cudaEvent_t seen;
    uint8_t *host, *window;
    uint64_t host_bytes, bytes;
    activations work;
    void *tables;
    unsigned blocks;  /* of a kernel that reads the window */
    double each;      /* seconds of a figure */
};

double now() { return (double)air_clock_ns() * 1e-9; }

/* --- memory --- */

void free_window(prober *p)
{
    (void)cudaFree(p->window);
    (void)cudaFreeHost(p->host);
    p->window = p->host = nullptr;
}

void fill_random(uint8_t *out, uint64_t bytes)
{
    uint64_t x = UINT64_C(0x9e3779b97f4a7c15);
    for (uint64_t at = 0; at < bytes; at += sizeof x) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        memcpy(out + at, &x, sizeof x);
    }
}

/* Random bytes, again and again. */
air_status fill(prober *p, uint8_t *to, uint64_t bytes, air_error *err)
{
    for (uint64_t at = 0; at < bytes; at += p->host_bytes)
        AIR_CUDA_TRY(cudaMemcpyAsync(to + at, p->host, (size_t)std::min(p->host_bytes, bytes - at), cudaMemcpyHostToDevice, p->stream),
                     "copying for a measurement", err);
    AIR_CUDA_TRY(cudaStreamSynchronize(p->stream), "copying for a measurement", err);
    return AIR_OK;
}

air_status make_window(prober *p, uint64_t bytes, air_error *err)
{
    free_window(p);
    p->bytes = bytes;
    p->host_bytes = std::min(bytes, HOST_MOST);
    air_status st = air_cuda_vram((void **)&p->window, bytes, "a measurement", err);
    if (!st) st = air_cuda_locked((void **)&p->host, p->host_bytes, "a measurement", err);
    if (st) return st;
    fill_random(p->host, p->host_bytes);
    return fill(p, p->window, bytes, err);
}

/* --- time --- */

air_status run_once(prober *p, int n, double *seconds, air_error *err, cudaError_t (*enqueue)(prober *, int, void *), void *context)
{
    double began = now();
    for (int i = 0; i < n; i++) AIR_CUDA_TRY(enqueue(p, i, context), "a measurement", err);
    AIR_CUDA_TRY(cudaStreamSynchronize(p->stream), "a measurement", err);
    *seconds = std::max((now() - began) / n, 1e-9);
    return AIR_OK;
}

/* Seconds of one of some that are under way together; the best of a few times, as others use the machine too. */
template <class F> air_status seconds_of(prober *p, F work, double *out, air_error *err)
{
    auto enqueue = [](prober *q, int i, void *f) { return (*(F *)f)(q, i); };
    double end = now() + p->each, seconds = 0;
    int n = 1;
    *out = 0;
    do {
        air_status st = run_once(p, n, &seconds, err, enqueue, &work);
        if (st) return st;
        *out = *out > 0 ? std::min(*out, seconds) : seconds;
        while (n < REPEAT_MOST && seconds * n < LONG_S) n *= 2;
    } while (now() < end);
    return AIR_OK;
}

/* --- what is measured --- */

cudaError_t read_some(prober *p, uint64_t bytes, unsigned blocks)
{
    return air_cuda_read(p->window, bytes, blocks, (unsigned *)p->work.memory, p->stream);
}

/* The largest window up to most that is quickly read. */
air_status choose_window(prober *p, uint64_t most, air_error *err)
{
    air_status st = AIR_OK;
    for (uint64_t bytes = std::min(WINDOW_LEAST, most); !st; bytes = std::min(bytes * 4, most)) {
        double seconds = 0;
        auto read = [](prober *q, int, void *) { return read_some(q, q->bytes, q->blocks); };
        st = make_window(p, bytes, err);
        if (!st) st = run_once(p, 1, &seconds, err, read, nullptr); /* also loads the kernel */
        if (!st) st = run_once(p, 1, &seconds, err, read, nullptr);
        if (bytes == most || seconds > QUICK_S) break;
    }
    return st;
}

air_status probe_link(prober *p, air_device_rates *out, air_error *err)
{
    double up = 0, down = 0;
    uint64_t places = p->bytes / p->host_bytes;
    auto place = [places](prober *q, int i) { return q->window + (uint64_t)i % places * q->host_bytes; };
    air_status st = seconds_of(p, [place](prober *q, int i) {
        return cudaMemcpyAsync(place(q, i), q->host, q->host_bytes, cudaMemcpyHostToDevice, q->stream);
    }, &up, err);
    if (!st) st = seconds_of(p, [place](prober *q, int i) {
        return cudaMemcpyAsync(q->host, place(q, i), q->host_bytes, cudaMemcpyDeviceToHost, q->stream);
    }, &down, err);
    if (st) return st;
    out->link = (double)p->host_bytes / up;
    out->link_back = (double)p->host_bytes / down;
    return AIR_OK;
}

/* Of a hand-over as products are shared with the CPU: what the device has made comes down, the host sees it, and a kernel reads the
 * host's answer where that lies. */
cudaError_t hand_over(prober *p)
{
    cudaError_t error = read_some(p, sizeof(uint4), 1);
    if (error == cudaSuccess) error = cudaMemcpyAsync(p->host, p->window, ANSWER_BYTES, cudaMemcpyDeviceToHost, p->stream);
    if (error == cudaSuccess) error = cudaEventRecord(p->seen, p->stream);
    if (error == cudaSuccess) error = cudaEventSynchronize(p->seen);
    if (error != cudaSuccess) return error;
    return air_cuda_read(p->host, ANSWER_BYTES, 1, (unsigned *)p->work.memory, p->stream);
}

air_status probe_device(prober *p, air_device_rates *out, air_error *err)
{
    double seconds = 0;
    air_status st = seconds_of(p, [](prober *q, int) { return read_some(q, q->bytes, q->blocks); }, &seconds, err);
    if (st) return st;
    out->memory = (double)p->bytes / seconds;
    st = seconds_of(p, [](prober *q, int) { return read_some(q, sizeof(uint4), 1); }, &out->op_s, err);
    return st ? st : seconds_of(p, [](prober *q, int) { return hand_over(q); }, &out->handover_s, err);
}

/* --- products --- */

air_cuda_product product_of(const prober *p, const air_format *f, int64_t k, int64_t n, air_cuda_role role)
{
    size_t x = air_round_up((uint64_t)(k * n) * sizeof(float), AIR_DEVICE_ALIGN), q8 = air_cuda_q8_bytes(k, n);
    air_cuda_product product = {};
    product.type = f->id, product.role = role, product.w = p->window, product.k = k, product.n = n, product.tables = p->tables;
    product.row_bytes = (size_t)(k / f->block) * f->bytes;
    product.x = (const float *)p->work.memory;
    product.q8 = air_cuda_q8_place(p->work.memory + x, k, n);
    product.out = (float *)(p->work.memory + x + air_round_up(q8, AIR_DEVICE_ALIGN));
    return product;
}

/* Room for any of them: of the most columns with the most rows, of one column with all that the window holds. */
size_t work_bytes(uint64_t window, int64_t k)
{
    uint64_t rows = window / (COLS_LEAST / 8) + 1; /* more than there are: no format takes a bit for a weight */
    uint64_t column = (uint64_t)k * sizeof(float) + air_cuda_q8_bytes(k, COLUMNS_MOST) / COLUMNS_MOST + 1;
    uint64_t many = COLUMNS_MOST * (column + std::min(rows, (uint64_t)ROWS_MOST) * sizeof(float));
    return (size_t)(many + rows * sizeof(float) + 4 * AIR_DEVICE_ALIGN);
}

void set_rows(const prober *p, air_cuda_product *product, int64_t most)
{
    product->rows = std::clamp((int64_t)((p->bytes - AIR_DEVICE_ALIGN) / product->row_bytes), (int64_t)1, most);
    product->out_stride = product->rows;
}

air_status probe_columns(prober *p, const air_format *f, int64_t k, double *out, air_error *err)
{
    double seconds = 0;
    air_cuda_product product = {};
    auto work = [&product](prober *q, int) { return air_cuda_product_run(&product, q->stream); };
    auto enqueue = [](prober *q, int, void *with) { return air_cuda_product_run((air_cuda_product *)with, q->stream); };
    for (int64_t rows = ROWS_LEAST, n = COLUMNS_LEAST;; rows = std::min(4 * rows, ROWS_MOST), n = std::min(4 * n, COLUMNS_MOST)) {
        product = product_of(p, f, k, n, AIR_CUDA_PROMPT);
        set_rows(p, &product, rows);
        air_status st = run_once(p, 1, &seconds, err, enqueue, &product);
        if (!st && n == COLUMNS_LEAST) st = run_once(p, 1, &seconds, err, enqueue, &product); /* the first has loaded it */
        if (st) return st;
        if (seconds > QUICK_S || (rows == ROWS_MOST && n == COLUMNS_MOST)) break;
    }
    air_status st = seconds_of(p, work, &seconds, err);
    if (!st) *out = (double)((uint64_t)product.rows * product.row_bytes) * (double)product.n / seconds;
    return st;
}

air_status probe_product(prober *p, const air_format *f, int64_t k, double *out, air_error *err)
{
    double seconds = 0;
    air_cuda_product product = product_of(p, f, k, 1, AIR_CUDA_DECODE);
    set_rows(p, &product, INT32_MAX);
    air_status st = seconds_of(p, [&product](prober *q, int) { return air_cuda_product_run(&product, q->stream); }, &seconds, err);
    if (!st) *out = (double)((uint64_t)product.rows * product.row_bytes) / seconds;
    return st;
}

bool is_probed(uint64_t types, uint32_t id) { return types >> id & 1 && air_cuda_product_supports(id); }

air_status probe_products(prober *p, uint64_t types, air_device_rates *out, air_error *err)
{
    int64_t k = p->bytes < (uint64_t)COLS_MOST * COLS_MOST ? COLS_LEAST : COLS_MOST;
    air_status st = AIR_OK;
    for (size_t i = 0; i < air_format_count() && !st; i++) {
        const air_format *f = air_format_at(i);
        if (!is_probed(types, f->id)) continue;
        st = probe_product(p, f, k, &out->product[f->id], err);
        if (!st) st = probe_columns(p, f, k, &out->product_columns[f->id], err);
    }
    return st;
}

/* --- together --- */

air_status open_prober(prober *p, int32_t device, uint64_t bytes, air_error *err)
{
    size_t free = 0, total = 0;
    int processors = 1;
    AIR_CUDA_TRY(cudaMemGetInfo(&free, &total), "asking for free VRAM", err);
    AIR_CUDA_TRY(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), "asking for the device's properties", err);
    AIR_CUDA_TRY(cudaStreamCreateWithFlags(&p->stream, cudaStreamNonBlocking), "a stream", err);
    AIR_CUDA_TRY(cudaEventCreateWithFlags(&p->seen, cudaEventDisableTiming), "an event", err);
    p->blocks = (unsigned)(processors * READ_BLOCKS);
    /* Half is left to whoever else is there; a quarter of it is for activations. */
    uint64_t most = std::min(std::min(bytes, WINDOW_MOST), (uint64_t)free / 4);
    most = std::max(most, (uint64_t)64 << 10) / AIR_DEVICE_ALIGN * AIR_DEVICE_ALIGN;
    p->work.bytes = work_bytes(most, most < (uint64_t)COLS_MOST * COLS_MOST ? COLS_LEAST : COLS_MOST);
    air_status st = air_cuda_vram((void **)&p->work.memory, p->work.bytes, "a measurement", err);
    if (!st) st = air_cuda_vram(&p->tables, air_cuda_tables_bytes(), "a measurement", err);
    return st ? st : choose_window(p, most, err);
}

air_status fill_work(prober *p, air_error *err)
{
    size_t n = air_cuda_tables_bytes();
    air_status st = fill(p, p->work.memory, p->work.bytes, err);
    if (st || n > p->host_bytes) return st ? st : air_fail(err, AIR_E_ARGUMENT, "cuda: %zu bytes of tables", n);
    air_cuda_tables_fill(p->host);
    AIR_CUDA_TRY(cudaMemcpyAsync(p->tables, p->host, n, cudaMemcpyHostToDevice, p->stream), "copying tables", err);
    AIR_CUDA_TRY(cudaStreamSynchronize(p->stream), "copying tables", err);
    return AIR_OK;
}

void close_prober(prober *p)
{
    if (p->stream) (void)cudaStreamSynchronize(p->stream);
    free_window(p);
    (void)cudaFree(p->work.memory);
    (void)cudaFree(p->tables);
    if (p->seen) (void)cudaEventDestroy(p->seen);
    if (p->stream) (void)cudaStreamDestroy(p->stream);
    (void)cudaGetLastError(); /* what this failed with is not the next one's */
}

int bits_of(uint64_t types)
{
    int n = 0;
    for (uint32_t id = 0; id < AIR_TYPE_COUNT; id++) n += is_probed(types, id);
    return n;
}

/* With nothing of ours on the device, what is taken of it is the context's, and others'. */
air_status context_bytes(uint64_t *out, air_error *err)
{
    size_t free = 0, total = 0;
    AIR_CUDA_TRY(cudaMemGetInfo(&free, &total), "asking for free VRAM", err);
    *out = total - free + CONTEXT_GROWS;
    return AIR_OK;
}

} // namespace

air_status air_cuda_probe(int32_t device, uint64_t types, uint64_t bytes, double seconds, air_device_rates *out, air_error *err)
{
    prober p = {};
    p.each = seconds / (5 + 2 * bits_of(types));
    air_status st = open_prober(&p, device, bytes, err);
    if (!st) st = fill_work(&p, err);
    if (!st) st = probe_link(&p, out, err);
    if (!st) st = probe_device(&p, out, err);
    if (!st) st = probe_products(&p, types, out, err);
    close_prober(&p);
    return st ? st : context_bytes(&out->context, err);
}
