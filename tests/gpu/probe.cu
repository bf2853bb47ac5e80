/* gpu_probe: what the link and the memory of a GPU give, and what the kernels make of them. One JSON object on standard output.
 *
 *     gpu_probe link|memory|products|prompts|attention MEGABYTES SECONDS [NAME…]
 *
 * MEGABYTES is what is walked through in turns, several times the GPU's cache; SECONDS are spent on every figure; names select formats,
 * of attention depths. A figure is the median of several runs between two events, with all launches of a run under way at once. Weights
 * are random. Compiled for the emulation too (tests/cuda_emu), where its figures mean nothing. */
#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <string>

#include <sys/mman.h>

#include "check.h"
#include "cuda/kernels.h"
#include "device_array.h"

extern "C" {
#include "weights.h"
}

static size_t set_bytes;
static double seconds_each;
static std::vector<std::string> names;

/* What no GPU is measured with: for a test of this program, which takes as little as there is. */
static bool is_tiny() { return set_bytes < (size_t)64 << 20; }

static double now()
{
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/* --- time --- */

static float elapsed_ms(const std::function<void(int)> &launch, int first, int n, cudaEvent_t from, cudaEvent_t to)
{
    float ms = 0;
    must(cudaEventRecord(from, 0));
    for (int i = 0; i < n; i++) launch(first + i);
    must(cudaEventRecord(to, 0));
    must(cudaEventSynchronize(to));
    must(cudaEventElapsedTime(&ms, from, to));
    return ms;
}

/* Seconds of one launch; launch(i) takes the i-th piece of the set. */
static double seconds_of(const std::function<void(int)> &launch)
{
    const size_t least = is_tiny() ? 1 : 3, most = 101;
    const int launches = is_tiny() ? 1 : 16;
    cudaEvent_t from, to;
    must(cudaEventCreate(&from));
    must(cudaEventCreate(&to));
    std::vector<double> runs;
    double began = now();
    elapsed_ms(launch, 0, launches, from, to);
    while (runs.size() < least || (runs.size() < most && now() - began < seconds_each))
        runs.push_back((double)elapsed_ms(launch, (int)runs.size() * launches, launches, from, to) * 1e-3 / launches);
    must(cudaEventDestroy(from));
    must(cudaEventDestroy(to));
    std::sort(runs.begin(), runs.end());
    return runs[runs.size() / 2];
}

/* --- the output --- */

static int members;

static void figure(const std::string &name, double value)
{
    printf("%s\n  \"%s\": %.6g", members++ ? "," : "", name.c_str(), std::isfinite(value) ? value : 0.0);
}

static bool is_wanted(const std::string &name) { return names.empty() || std::find(names.begin(), names.end(), name) != names.end(); }

/* --- the link --- */

static double copy_rate(void *to, const void *from, size_t piece, cudaMemcpyKind kind)
{
    size_t pieces = std::max<size_t>(set_bytes / piece, 1);
    double s = seconds_of([&](int i) {
        size_t at = (size_t)i % pieces * piece;
        must(cudaMemcpyAsync((char *)to + at, (const char *)from + at, piece, kind, 0));
    });
    return (double)piece / s;
}

static void probe_registered(void *device, size_t piece)
{
    void *pages = mmap(nullptr, set_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) return;
    memset(pages, 1, set_bytes);
    figure("pageable", copy_rate(device, pages, piece, cudaMemcpyHostToDevice));
    double began = now();
    bool locked = cudaHostRegister(pages, set_bytes, cudaHostRegisterDefault) == cudaSuccess;
    double took = now() - began;
    (void)cudaGetLastError();
    figure("can_register", locked);
    if (locked) {
        figure("register_rate", (double)set_bytes / took);
        figure("registered", copy_rate(device, pages, piece, cudaMemcpyHostToDevice));
        must(cudaHostUnregister(pages));
    }
    munmap(pages, set_bytes);
}

static void probe_link()
{
    size_t piece = std::min<size_t>(set_bytes, (size_t)32 << 20), small = std::min<size_t>(set_bytes, (size_t)2 << 20);
    DeviceArray<char> device(set_bytes);
    void *host = nullptr;
    bool pinned = cudaHostAlloc(&host, set_bytes, cudaHostAllocDefault) == cudaSuccess;
    figure("can_pin", pinned);
    if (pinned) {
        memset(host, 1, set_bytes);
        figure("h2d", copy_rate(device.get(), host, piece, cudaMemcpyHostToDevice));
        figure("h2d_2mib", copy_rate(device.get(), host, small, cudaMemcpyHostToDevice));
        figure("d2h", copy_rate(host, device.get(), piece, cudaMemcpyDeviceToHost));
        must(cudaFreeHost(host));
    }
    (void)cudaGetLastError();
    probe_registered(device.get(), piece);
}

/* --- memory --- */

enum { READ_THREADS = 512, READ_BLOCKS = 132 * 8, READ_UNROLL = 4 };

static __global__ void read_all(const uint4 *from, size_t n, unsigned *out)
{
    size_t step = (size_t)gridDim.x * blockDim.x, at = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    unsigned sum = 0;
    for (; at + (READ_UNROLL - 1) * step < n; at += READ_UNROLL * step)
        for (int i = 0; i < READ_UNROLL; i++) {
            uint4 v = from[at + (size_t)i * step];
            sum ^= v.x ^ v.y ^ v.z ^ v.w;
        }
    for (; at < n; at += step) sum ^= from[at].x;
    if (sum == 0x12345678u) *out = sum; /* so that reading is not left out */
}

static void probe_memory()
{
    DeviceArray<char> from(set_bytes), to(set_bytes);
    DeviceArray<unsigned> out(1);
    must(cudaMemset(from.get(), 1, set_bytes));
    double read = seconds_of([&](int) {
        must(air_launch(read_all, READ_BLOCKS, READ_THREADS, 0, 0, (const uint4 *)from.get(), set_bytes / sizeof(uint4), out.get()));
    });
    double copy = seconds_of([&](int) { must(cudaMemcpyAsync(to.get(), from.get(), set_bytes, cudaMemcpyDeviceToDevice, 0)); });
    figure("read", (double)set_bytes / read);
    figure("copy", 2.0 * (double)set_bytes / copy);
}

/* --- products --- */

/* A set of random weights of a format: some made on the host, then copied over and over. */
struct weights_set {
    DeviceArray<uint8_t> memory;

    explicit weights_set(const air_format *f) : memory(set_bytes)
    {
        size_t some = std::min<size_t>(set_bytes, (size_t)4 << 20) / f->bytes * f->bytes;
        std::vector<uint8_t> host(some);
        weights_fill(host.data(), f, (int64_t)(some / f->bytes) * f->block, WEIGHTS_PLAIN, check_random);
        for (size_t at = 0; at < set_bytes; at += some)
            must(cudaMemcpy(memory.get() + at, host.data(), std::min(some, set_bytes - at), cudaMemcpyHostToDevice));
    }
};

struct product_bench {
    const air_format *format;
    int64_t k, n;
    size_t row_bytes;
    weights_set weights;
    DeviceArray<float> x;
    DeviceArray<uint8_t> q8_memory;
    DeviceArray<uint8_t> tables;
    air_cuda_product product;

    static std::vector<uint8_t> filled_tables()
    {
        std::vector<uint8_t> host(air_cuda_tables_bytes());
        air_cuda_tables_fill(host.data());
        return host;
    }

    static std::vector<float> random_input(int64_t n)
    {
        std::vector<float> x((size_t)n);
        for (float &each : x) each = (float)(check_random() >> 40) * 0x1p-23f - 1.0f;
        return x;
    }

    product_bench(const air_format *f, int64_t k_, int64_t n_, air_cuda_role role)
        : format(f), k(k_), n(n_), row_bytes((size_t)(k_ / f->block) * f->bytes), weights(f), x(random_input(k_ * n_)),
          q8_memory(air_cuda_q8_bytes(k_, n_)), tables(filled_tables()), product()
    {
        product.type = f->id, product.role = role, product.row_bytes = row_bytes, product.k = k, product.n = n;
        product.x = x.get(), product.q8 = air_cuda_q8_place(q8_memory.get(), k, n), product.tables = tables.get();
        must(air_cuda_quantize(x.get(), k, n, product.q8, 0));
    }

    /* Seconds of a product with so many rows, each launch with the next of the set. */
    double seconds(int64_t rows)
    {
        size_t bytes = (size_t)rows * row_bytes + 256, pieces = std::max<size_t>(set_bytes / bytes, 1);
        DeviceArray<float> out((size_t)(rows * n));
        air_cuda_product p = product;
        p.rows = rows, p.out = out.get(), p.out_stride = rows;
        return seconds_of([&](int i) {
            p.w = weights.memory.get() + (size_t)i % pieces * bytes / 256 * 256;
            must(air_cuda_product_run(&p, 0));
        });
    }

    int64_t rows_in(size_t bytes) const { return std::max<int64_t>((int64_t)((bytes - 256) / row_bytes), 1); }
};

template <class F> static void for_each_format(F test)
{
    for (size_t i = 0; i < air_format_count(); i++)
        if (air_format_at(i)->role == AIR_FORMAT_MATRIX && is_wanted(air_format_at(i)->name)) test(air_format_at(i));
}

/* Bytes of weights per second: of a matrix of a quarter of the set, and of one as large as a tile of a layer. */
static void probe_products()
{
    for_each_format([](const air_format *f) {
        product_bench b(f, 4096, 1, AIR_CUDA_DECODE);
        int64_t rows = b.rows_in(set_bytes / 4), layer = std::min<int64_t>(rows, 4096);
        figure(f->name, (double)((size_t)rows * b.row_bytes) / b.seconds(rows));
        figure(std::string(f->name) + " 4096x4096", (double)((size_t)layer * b.row_bytes) / b.seconds(layer));
    });
}

enum { PEAK_THREADS = 256, PEAK_SUMS = 8 /* of a thread, that do not wait for each other */ };

static __global__ void multiply_bytes(int times, int *out)
{
    unsigned a[4] = {threadIdx.x, 1, 2, 3}, b[2] = {threadIdx.x, 5};
    int d[PEAK_SUMS][4] = {}, sum = 0;
    if (!air_is_sm_75()) return;
    for (int i = 0; i < times; i++)
        for (int j = 0; j < PEAK_SUMS; j++) air_mma_m16n8k32_s8(d[j], a, b);
    for (int j = 0; j < PEAK_SUMS; j++) sum += d[j][0] + d[j][1] + d[j][2] + d[j][3];
    if (sum == -1) *out = sum; /* so that it is computed */
}

static __global__ void multiply_halves(int times, int *out)
{
    unsigned a[4] = {threadIdx.x, 1, 2, 3}, b[2] = {threadIdx.x, 5};
    float d[PEAK_SUMS][4] = {}, sum = 0;
    if (!air_is_sm_75()) return;
    for (int i = 0; i < times; i++)
        for (int j = 0; j < PEAK_SUMS; j++) air_mma_m16n8k16(d[j], a, b);
    for (int j = 0; j < PEAK_SUMS; j++) sum += d[j][0] + d[j][1] + d[j][2] + d[j][3];
    if (sum == -1.0f) *out = (int)sum;
}

/* What tensor cores could do of bytes and of halves, k elements of a row at a time. */
static void probe_peak(const char *name, void (*kernel)(int, int *), int k)
{
    if (air_compiled_for((const void *)kernel) < 75) return;
    const unsigned blocks = is_tiny() ? 1 : 2048;
    const int times = is_tiny() ? 1 : 256;
    DeviceArray<int> out(1);
    double ops = 2.0 * 16 * 8 * k * PEAK_SUMS * (PEAK_THREADS / 32) * blocks * times;
    figure(name, ops / seconds_of([&](int) { must(air_launch(kernel, blocks, PEAK_THREADS, 0, 0, times, out.get())); }));
}

/* Operations per second, a multiply and an add being two. */
static void probe_prompts()
{
    bool tiny = is_tiny();
    probe_peak("peak of bytes", multiply_bytes, 32);
    probe_peak("peak of halves", multiply_halves, 16);
    for_each_format([&](const air_format *f) {
        for (int64_t n : tiny ? std::vector<int64_t>{8} : std::vector<int64_t>{64, 512}) {
            product_bench b(f, tiny ? 512 : 4096, n, AIR_CUDA_PROMPT);
            int64_t rows = std::min<int64_t>(b.rows_in(set_bytes / 2), tiny ? 64 : 11008);
            figure(std::string(f->name) + " x " + std::to_string(n), 2.0 * (double)(rows * b.k * n) / b.seconds(rows));
        }
    });
}

/* --- attention --- */

/* Heads of a layer: of a Llama 3 8B, and of DeepSeek V3 with its compressed state. */
struct heads_shape {
    const char *name; /* before the type's, with a space */
    int64_t heads, kv_heads, key_dim, value_dim;
    bool values_in_keys;

    size_t values_at(air_state_type type) const { return (size_t)kv_heads * air_state_head_bytes(type, key_dim); }
    size_t bytes_of_block(air_state_type type) const
    {
        return values_at(type) + (values_in_keys ? 0 : (size_t)kv_heads * air_state_head_bytes(type, value_dim));
    }
};
static const heads_shape head_shapes[] = {{"", 32, 8, 128, 128, false}, {"mla ", 128, 1, 576, 512, true}};

/* Some layers' state of one sequence, as many as the set has room for. */
struct attention_bench {
    heads_shape shape;
    air_state_type type;
    int64_t depth, rows, blocks, layers;
    size_t layer_bytes;
    DeviceArray<uint8_t> memory;
    DeviceArray<const uint8_t *> table;
    DeviceArray<int32_t> sequences, positions;
    DeviceArray<float> q, out;
    DeviceArray<uint8_t> scratch;

    static std::vector<int32_t> last_positions(int64_t depth, int64_t rows)
    {
        std::vector<int32_t> p;
        for (int64_t i = 0; i < rows; i++) p.push_back((int32_t)(depth - rows + i));
        return p;
    }

    attention_bench(const heads_shape &s, air_state_type t, int64_t depth_, int64_t rows_)
        : shape(s), type(t), depth(depth_), rows(rows_), blocks((depth_ + AIR_BLOCK_POSITIONS - 1) / AIR_BLOCK_POSITIONS),
          layers(std::max<int64_t>((int64_t)(set_bytes / ((size_t)blocks * s.bytes_of_block(t))), 1)),
          layer_bytes((size_t)blocks * s.bytes_of_block(t)), memory(layer_bytes * (size_t)layers), table((size_t)(blocks * layers)),
          sequences(std::vector<int32_t>((size_t)rows_, 0)), positions(last_positions(depth_, rows_)),
          q(product_bench::random_input(rows_ * s.heads * s.key_dim)), out((size_t)(rows_ * s.heads * s.value_dim)),
          scratch(air_cuda_attention_scratch(rows_, s.heads, s.value_dim, depth_ - 1))
    {
        must(cudaMemset(memory.get(), 0x2c, layer_bytes * (size_t)layers)); /* halves of 0.065 */
        std::vector<const uint8_t *> at;
        for (int64_t i = 0; i < blocks * layers; i++) at.push_back(memory.get() + (size_t)i * s.bytes_of_block(t));
        table.set(at);
    }

    double seconds(air_cuda_role role)
    {
        air_cuda_attention a = {};
        a.q = q.get(), a.out = out.get(), a.rows = rows, a.max_position = depth - 1, a.window = INT64_MAX;
        a.scale = 1.0f / sqrtf((float)shape.key_dim), a.scratch = scratch.get(), a.role = role;
        return seconds_of([&](int i) {
            a.state = {table.get() + (int64_t)i % layers * blocks, blocks, sequences.get(), positions.get(), 0, shape.values_at(type), nullptr,
                       type, shape.heads, shape.kv_heads, shape.key_dim, shape.value_dim, shape.values_in_keys};
            must(air_cuda_attention_run(&a, 0));
        });
    }
};

/* Of decoding: bytes of K and V per second. Of a prompt's last rows: operations per second. */
static void probe_attention_of(const heads_shape &shape, air_state_type type, const std::string &name, int64_t depth)
{
    int64_t rows = std::min<int64_t>(is_tiny() ? 512 / shape.heads : 512, depth);
    attention_bench one(shape, type, depth, 1);
    figure("decode " + name, (double)one.layer_bytes / one.seconds(AIR_CUDA_DECODE));
    attention_bench many(shape, type, depth, rows);
    double seen = (double)rows * ((double)depth - (double)(rows - 1) / 2);
    figure("prompt " + name, 2.0 * (double)(shape.heads * (shape.key_dim + shape.value_dim)) * seen / many.seconds(AIR_CUDA_PROMPT));
}

static void probe_attention()
{
    const struct { air_state_type type; const char *name; } types[] = {{AIR_STATE_F16, "f16"}, {AIR_STATE_Q8_0, "q8_0"}};
    for (const std::string &name : names.empty() ? std::vector<std::string>{"8192", "32768"} : names)
        for (const heads_shape &shape : head_shapes)
            for (auto type : types)
                probe_attention_of(shape, type.type, std::string(shape.name) + type.name + " " + name, std::max<int64_t>(atoll(name.c_str()), 64));
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: gpu_probe link|memory|products|prompts|attention MEGABYTES SECONDS [NAME...]\n");
        return 2;
    }
    std::string task = argv[1];
    check_state.random = 1;
    set_bytes = std::max<size_t>((size_t)(atof(argv[2]) * (1 << 20)), (size_t)1 << 16);
    seconds_each = atof(argv[3]);
    for (int i = 4; i < argc; i++) names.push_back(argv[i]);
    printf("{");
    if (task == "link") probe_link();
    else if (task == "memory") probe_memory();
    else if (task == "products") probe_products();
    else if (task == "prompts") probe_prompts();
    else if (task == "attention") probe_attention();
    else return 2;
    must(cudaDeviceSynchronize());
    printf("\n}\n");
    return 0;
}
