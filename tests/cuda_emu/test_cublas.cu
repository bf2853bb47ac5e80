/* Products of prompts by cuBLAS (cuda/cublas.h), of which fake_cublas.cpp is one on the emulated CUDA. Whole models:
 * tests/python/test_cublas.py. On a GPU (tests/gpu) it is the true one, where the system's loader finds it: above all, whether its bits are
 * what cublas.h counts on. */
#include <dlfcn.h>

#include "cuda/cublas.h"
#include "kernel_check.h"

extern "C" {
#include "quant/format.h"
#include "weights.h"
}

#if defined(AIR_CUDA_EMULATED)
enum { MAX_K = 96, LONG_K = 24 };
#else
enum { MAX_K = 4096, LONG_K = 4096 };
#define AIR_FAKE_CUBLAS "" /* none */
#endif

#if defined(AIR_CUDA_EMULATED)
/* As there. */
struct controls {
    cudaError_t (*launch)(cudaStream_t, void (*)(void *), void *);
    long fail_at;
    int status;
    long handles, products;
};
static controls *fake;
#endif

static float gaussian()
{
    double sum = -6;
    for (int i = 0; i < 12; i++) sum += (double)(check_random() >> 11) * 0x1p-53;
    return (float)sum;
}

struct problem {
    const air_format *format;
    int64_t rows, k, n;
    std::vector<uint8_t> w;
    std::vector<float> x;
    size_t shift = 0;

    problem(uint32_t type, int64_t rows_, int64_t k_, int64_t n_, float size = 1)
        : format(air_format_by_id(type)), rows(rows_), k(k_), n(n_), w((size_t)(rows_ * k_ * 2)), x((size_t)(n_ * k_))
    {
        weights_fill(w.data(), format, rows * k, WEIGHTS_PLAIN, check_random);
        for (float &each : x) each = gaussian() * size * (check_random() % 64 ? 1.0f : 1000.0f);
    }
};

struct opened {
    air_cuda_cublas *cublas;
    cudaStream_t stream;
    air_status status;
    air_error error = {};

    opened()
    {
        must(cudaStreamCreate(&stream));
        status = air_cuda_cublas_open(&cublas, AIR_FAKE_CUBLAS, MAX_K, stream, &error);
    }
    ~opened()
    {
        must(cudaStreamSynchronize(stream));
        air_cuda_cublas_close(cublas);
        must(cudaStreamDestroy(stream));
    }
};

/* [n][rows], bias and what was there before folded in; checks that nothing else was written. */
static std::vector<float> product_of(const problem &p, air_cuda_cublas *cublas, cudaStream_t stream,
                                     air_cuda_epilogue epilogue = {})
{
    const int64_t stride = p.rows + 3;
    std::vector<uint8_t> shifted(p.shift, (uint8_t)0xff);
    shifted.insert(shifted.end(), p.w.begin(), p.w.end());
    GuardedArray<uint8_t> w(shifted);
    GuardedArray<float> x(p.x), out(std::vector<float>((size_t)(p.n * stride), 0.5f)), bias(std::vector<float>((size_t)p.rows, 0.25f));
    air_cuda_product product = {};
    product.type = p.format->id, product.role = AIR_CUDA_PROMPT, product.w = w.get() + p.shift, product.row_bytes = (size_t)p.k * 2;
    product.rows = p.rows, product.k = p.k, product.n = p.n, product.x = x.get(), product.out = out.get(), product.out_stride = stride;
    product.epilogue = epilogue, product.bias = epilogue.kind == AIR_EPILOGUE_SET ? nullptr : bias.get();
    air_error err = {};
    if (cublas) {
        CHECK(air_cuda_cublas_takes(&product));
        CHECK_EQ(air_cuda_cublas_product(cublas, &product, &err), AIR_OK);
    } else must(air_cuda_product_run(&product, stream));
    must(cudaStreamSynchronize(stream));
    check_emulation();
    CHECK(w.guarded() && x.guarded() && out.guarded());
    std::vector<float> all = out.read(), y;
    for (size_t i = 0; i < all.size(); i++) {
        if ((int64_t)i % stride < p.rows) y.push_back(all[i]);
        else CHECK(all[i] == 0.5f);
    }
    return y;
}

#if defined(AIR_CUDA_EMULATED)
TEST(which_cublas_it_is_is_said)
{
    char text[512];
    air_error err = {};
    void *system = dlopen(("libcublas.so." + std::to_string(CUDART_VERSION / 1000)).c_str(), RTLD_NOW);
    if (!system) {
        CHECK_EQ(air_cuda_cublas_find("/nowhere::/", text, sizeof text, &err), AIR_E_UNSUPPORTED);
        CHECK(strstr(err.text, "no cuBLAS of CUDA") && strstr(err.text, "install airpy[cuda"));
    }
    CHECK_EQ(air_cuda_cublas_find("/nowhere:" AIR_FAKE_CUBLAS, text, sizeof text, &err), AIR_OK);
    CHECK(strstr(text, ".2.1, " AIR_FAKE_CUBLAS "/libcublas.so."));
    CHECK_EQ(air_cuda_cublas_find("", text, sizeof text, &err), AIR_OK); /* the process has it now */
    if (system) dlclose(system);
}
#endif

TEST(products_by_cublas_are_those_of_our_kernels)
{
    opened o;
    CHECK_EQ(o.status, AIR_OK);
    without_tensor_cores for_our_kernels;
    for (uint32_t type : {AIR_TYPE_F16, AIR_TYPE_BF16})
        for (float size : {1.0f, 1e-12f, 1e20f, 0.0f}) {
            problem p(type, 67, 72, size == 1 ? 130 : 3, size);
            std::vector<float> want = product_of(p, nullptr, o.stream), got = product_of(p, o.cublas, o.stream);
            check_near(got, want, 1e-12, p.format->name);
        }
    const air_cuda_epilogue epilogues[] = {{AIR_EPILOGUE_ADD, AIR_ACTIVATION_NONE, 0, 0, 0}, {AIR_EPILOGUE_GATED, AIR_ACTIVATION_SILU, 0, 0, 0},
                                           {AIR_EPILOGUE_SET, AIR_ACTIVATION_GELU, 0.5f, 0, 30}};
    for (air_cuda_epilogue epilogue : epilogues) {
        problem p(AIR_TYPE_F16, 5, 8, 2);
        check_near(product_of(p, o.cublas, o.stream, epilogue), product_of(p, nullptr, o.stream, epilogue), 1e-12, "epilogue");
    }
}

/* Invariant 1: also where they lie, and how many of them a launch has. */
TEST(the_bits_of_a_result_are_its_rows_and_columns_alone)
{
    opened o;
    for (uint32_t type : {AIR_TYPE_F16, AIR_TYPE_BF16}) {
        problem all(type, AIR_DEVICE_CUBLAS_ROWS + 5, LONG_K, AIR_DEVICE_CUBLAS_COLUMNS + 2);
        std::vector<float> together = product_of(all, o.cublas, o.stream);
        struct { int64_t row, rows, column, n; size_t shift; } parts[] = {
            {0, AIR_DEVICE_CUBLAS_ROWS, 0, 1, 0}, {0, AIR_DEVICE_CUBLAS_ROWS, 120, 10, 2}, {1000, 29, 3, 3, 0}, {7, 1, 127, 2, 6},
        };
        for (const auto &part : parts) {
            problem p = all;
            p.rows = part.rows, p.n = part.n, p.shift = part.shift;
            p.w.assign(all.w.begin() + part.row * all.k * 2, all.w.begin() + (part.row + part.rows) * all.k * 2);
            p.x.assign(all.x.begin() + part.column * all.k, all.x.begin() + (part.column + part.n) * all.k);
            std::vector<float> got = product_of(p, o.cublas, o.stream), want;
            for (int64_t i = 0; i < p.n * p.rows; i++)
                want.push_back(together[(size_t)((part.column + i / p.rows) * all.rows + part.row + i % p.rows)]);
            CHECK(same_bits(got, want));
        }
    }
}

TEST(only_prompts_of_16_bit_numbers_are_taken)
{
    air_cuda_product p = {};
    p.type = AIR_TYPE_BF16, p.role = AIR_CUDA_PROMPT, p.k = 64, p.n = p.rows = 1;
    CHECK(air_cuda_cublas_takes(&p));
    p.k = 63;
    CHECK(!air_cuda_cublas_takes(&p));
    p.k = 64, p.role = AIR_CUDA_DECODE;
    CHECK(!air_cuda_cublas_takes(&p));
    p.role = AIR_CUDA_PROMPT, p.type = AIR_TYPE_F32;
    CHECK(!air_cuda_cublas_takes(&p));
}

#if defined(AIR_CUDA_EMULATED)
/* Of cuBLAS's own calls, then of CUDA's. */
TEST(what_fails_is_a_typed_error_and_leaves_nothing)
{
    air::fake::Stats before = air::fake::stats();
    for (int n = 1; n <= 4; n++) {
        fake->fail_at = n, fake->status = n == 1 ? 3 : 13;
        opened o;
        CHECK_EQ(o.status, n == 1 ? AIR_E_NOMEM : AIR_E_DEVICE);
        CHECK(!o.cublas && strstr(o.error.text, n == 1 ? "cublasCreate failed with status 3, no memory" : "cublasSet"));
    }
    for (const char *call : {"cudaMalloc", "cudaGetDevice", "cudaDeviceGetAttribute"}) {
        air::fake::reset();
        air::fake::fault(call, 1, cudaErrorMemoryAllocation);
        opened o;
        CHECK(!o.cublas && (o.status == AIR_E_NOMEM || o.status == AIR_E_DEVICE));
    }
    air::fake::reset();
    CHECK_EQ(fake->handles, 0);
    CHECK_EQ(air::fake::stats().live_device, before.live_device);
}
#else
/* MiB that the library takes beside our memory: what plans guess is AIR_DEVICE_CUBLAS_LIBRARY. */
static double own_vram()
{
    size_t before, after, total;
    must(cudaMemGetInfo(&before, &total));
    opened o;
    for (uint32_t type : {AIR_TYPE_F16, AIR_TYPE_BF16})
        (void)product_of(problem(type, AIR_DEVICE_CUBLAS_ROWS, MAX_K, 1), o.cublas, o.stream);
    must(cudaMemGetInfo(&after, &total));
    return ((double)before - (double)after - (double)air_device_cublas_layout_of(MAX_K).total) / (1 << 20);
}
#endif

int main(int argc, char **argv)
{
    check_begin(argc, argv);
#if defined(AIR_CUDA_EMULATED)
    RUN(which_cublas_it_is_is_said);
    std::string path = AIR_FAKE_CUBLAS "/libcublas.so." + std::to_string(CUDART_VERSION / 1000);
    void *library = dlopen(path.c_str(), RTLD_NOW);
    fake = library ? (controls *)dlsym(library, "fake_cublas") : nullptr;
    if (!fake) {
        printf("no %s\n", path.c_str());
        return 1;
    }
    fake->launch = cudaLaunchHostFunc;
    RUN(what_fails_is_a_typed_error_and_leaves_nothing);
#else
    char text[512];
    air_error err = {};
    if (air_cuda_cublas_find("", text, sizeof text, &err)) {
        printf("left out: %s\n", err.text);
        return check_end();
    }
    printf("%s; %.1f MiB of VRAM\n", text, own_vram());
#endif
    RUN(products_by_cublas_are_those_of_our_kernels);
    RUN(the_bits_of_a_result_are_its_rows_and_columns_alone);
    RUN(only_prompts_of_16_bit_numbers_are_taken);
    return check_end();
}
