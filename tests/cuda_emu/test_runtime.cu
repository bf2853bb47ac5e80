/* The emulated runtime: planted mistakes of a streaming pipeline are found, failures are reported, devices are kept apart. */
#include <chrono>
#include <thread>

#include "check.h"
#include "cuda/dialect.h"
#include "device_array.h"
#include "runtime.h"
#include "sanitized_child.h"

using namespace air::fake;

#define TRY(call)                      \
    do {                               \
        cudaError_t error_ = (call);   \
        if (error_) return error_;     \
    } while (0)

/* --- the code under test: weights of a layer at a time, through three slots --- */

static __global__ void layer_step(const float *w, float *x, int n, int rows)
{
    int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= n) return;
    float sum = 0;
    for (int r = 0; r < rows; r++) sum += w[r * n + i];
    x[i] = 0.5f * x[i] + sum;
}

enum Mistake {
    NONE,
    REFILLS_EARLY,       /* a pinned slot, without waiting for its copy */
    OVERWRITES_EARLY,    /* a device slot, without waiting for its kernel */
    COMPUTES_EARLY,      /* the kernel does not wait for the copy */
    READS_EARLY,         /* the result, without waiting for the stream */
    WAITS_TOO_LONG,      /* for a later event than it must: legal */
    RECORDS_EARLY,       /* the event of the kernel, before its launch */
    MISTAKES
};

struct Pipeline {
    enum { SLOTS = 3 };
    int n, rows;
    float *x = nullptr, *out = nullptr, *device[SLOTS] = {}, *pinned[SLOTS] = {};
    cudaEvent_t copied[SLOTS] = {}, used[SLOTS] = {};
    cudaStream_t copies = nullptr, kernels = nullptr;

    Pipeline(int n_, int rows_) : n(n_), rows(rows_) {}
    Pipeline(const Pipeline &) = delete;
    Pipeline &operator=(const Pipeline &) = delete;
    ~Pipeline()
    {
        if (copies) cudaStreamDestroy(copies);
        if (kernels) cudaStreamDestroy(kernels);
        cudaFree(x);
        cudaFreeHost(out);
        for (int i = 0; i < SLOTS; i++) {
            cudaFree(device[i]);
            cudaFreeHost(pinned[i]);
            if (copied[i]) cudaEventDestroy(copied[i]);
            if (used[i]) cudaEventDestroy(used[i]);
        }
    }

    size_t bytes() const { return sizeof(float) * static_cast<size_t>(n) * static_cast<size_t>(rows); }

    cudaError_t open()
    {
        size_t row = sizeof(float) * static_cast<size_t>(n);
        TRY(cudaMalloc(&x, row));
        TRY(cudaHostAlloc(&out, row, cudaHostAllocDefault));
        TRY(cudaStreamCreateWithFlags(&copies, cudaStreamNonBlocking));
        TRY(cudaStreamCreateWithFlags(&kernels, cudaStreamNonBlocking));
        for (int i = 0; i < SLOTS; i++) {
            TRY(cudaMalloc(&device[i], bytes()));
            TRY(cudaHostAlloc(&pinned[i], bytes(), cudaHostAllocDefault));
            TRY(cudaEventCreateWithFlags(&copied[i], cudaEventDisableTiming));
            TRY(cudaEventCreateWithFlags(&used[i], cudaEventDisableTiming));
        }
        return cudaSuccess;
    }

    template <class Fill>
    cudaError_t run(int layers, Fill fill, std::vector<float> *result, int mistake)
    {
        TRY(cudaMemsetAsync(x, 0, sizeof(float) * static_cast<size_t>(n), kernels));
        for (int l = 0; l < layers; l++) {
            int slot = l % SLOTS, waited = mistake == WAITS_TOO_LONG ? (slot + 1) % SLOTS : slot;
            if (l >= SLOTS && mistake != REFILLS_EARLY) TRY(cudaEventSynchronize(copied[slot]));
            fill(l, pinned[slot]);
            if (l >= SLOTS && mistake != OVERWRITES_EARLY) TRY(cudaStreamWaitEvent(copies, used[waited], 0));
            TRY(cudaMemcpyAsync(device[slot], pinned[slot], bytes(), cudaMemcpyHostToDevice, copies));
            TRY(cudaEventRecord(copied[slot], copies));
            if (mistake != COMPUTES_EARLY) TRY(cudaStreamWaitEvent(kernels, copied[slot], 0));
            if (mistake == RECORDS_EARLY) TRY(cudaEventRecord(used[slot], kernels));
            TRY(air_launch(layer_step, static_cast<unsigned>(n + 255) / 256, 256, 0, kernels, device[slot], x, n, rows));
            if (mistake != RECORDS_EARLY) TRY(cudaEventRecord(used[slot], kernels));
        }
        TRY(cudaMemcpyAsync(out, x, sizeof(float) * static_cast<size_t>(n), cudaMemcpyDeviceToHost, kernels));
        if (mistake != READS_EARLY) TRY(cudaStreamSynchronize(kernels));
        result->assign(out, out + n);
        return cudaSuccess;
    }
};

static float weight(int layer, int i) { return static_cast<float>((layer * 131 + i * 7) % 1000) * 1e-4f; }

static bool is_right(const std::vector<float> &got, int n, int rows, int layers)
{
    for (int i = 0; i < n; i += 17) {
        float x = 0;
        for (int l = 0; l < layers; l++) {
            float sum = 0;
            for (int r = 0; r < rows; r++) sum += weight(l, r * n + i);
            x = 0.5f * x + sum;
        }
        if (!(got[static_cast<size_t>(i)] == x)) return false;
    }
    return true;
}

static cudaError_t run_pipeline(int n, int rows, int layers, int mistake, bool *right)
{
    Pipeline pipeline(n, rows);
    std::vector<float> result;
    auto fill = [&](int l, float *slot) {
        for (int i = 0; i < n * rows; i++) slot[i] = weight(l, i);
    };
    *right = false;
    TRY(pipeline.open());
    TRY(pipeline.run(layers, fill, &result, mistake));
    *right = is_right(result, n, rows, layers);
    return cudaSuccess;
}

/* Whether one run under these words comes out wrong, or fails. */
static bool goes_wrong(const std::string &words, int mistake)
{
    std::string wrong = configure(words);
    CHECK_STR_EQ(wrong.c_str(), "");
    air::emu::options.tsan_coarse = true;
    bool right;
    cudaError_t error = run_pipeline(600, 4, 9, mistake, &right);
    CHECK(!stats().leaks());
    return error || !right;
}

static bool is_legal(int mistake) { return mistake == NONE || mistake == WAITS_TOO_LONG; }

TEST(the_laziest_and_random_orders_find_each_mistake_of_a_pipeline)
{
    enum { SEEDS = 40 };
    for (int mistake = NONE; mistake < MISTAKES; mistake++) {
        bool lazy = goes_wrong("mode=sched", mistake);
        int random = 0;
        for (int seed = 1; seed <= SEEDS; seed++) random += goes_wrong("mode=sched,seed=" + std::to_string(seed), mistake);
        printf("  mistake %d: laziest %d of 1, random %d of %d\n", mistake, lazy, random, SEEDS);
        CHECK_EQ(lazy || random, !is_legal(mistake));
        CHECK(log().empty());
    }
}

TEST(work_done_at_once_finds_none_of_them)  /* which is why there are other modes */
{
    for (int mistake = NONE; mistake < MISTAKES; mistake++) CHECK(!goes_wrong("mode=sync", mistake));
}

TEST(a_correct_pipeline_is_right_with_threads_and_modelled_copies)
{
    for (const char *words : {"mode=threads", "mode=threads,h2d=4,d2h=4,copy=early", "mode=threads,h2d=4,copy=late,kernel_us=50",
                              "mode=threads,h2d=4,copy=spread"}) {
        CHECK(!goes_wrong(words, NONE));
        CHECK(!goes_wrong(words, WAITS_TOO_LONG));
    }
    configure("");
}

static void planted_case(const std::string &, int mistake)
{
    configure("mode=threads,h2d=1");
    air::emu::options.tsan_coarse = true;
    bool right;
    run_pipeline(600, 4, 9, mistake, &right);
}

TEST(thread_sanitizer_finds_each_mistake_of_a_pipeline)
{
    if (!THREAD_SANITIZER) return;
    for (int mistake = NONE; mistake < MISTAKES; mistake++) {
        std::string report = report_of("pipeline", mistake);
        if (mentions(report, "data race") == is_legal(mistake)) printf("  mistake %d: %s\n", mistake, report.c_str());
        CHECK_EQ(mentions(report, "data race"), !is_legal(mistake));
    }
}

/* --- orders --- */

static void count(void *counter) { ++*static_cast<int *>(counter); }

TEST(the_laziest_order_does_what_is_waited_for_and_no_more)
{
    configure("mode=sched");
    cudaStream_t a, b;
    cudaEvent_t event;
    int in_a = 0, in_b = 0;
    must(cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking));
    must(cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking));
    must(cudaEventCreate(&event));
    must(cudaLaunchHostFunc(a, count, &in_a));
    must(cudaEventRecord(event, a));
    must(cudaLaunchHostFunc(a, count, &in_a));
    must(cudaLaunchHostFunc(b, count, &in_b));
    must(cudaStreamSynchronize(b));
    CHECK(in_a == 0 && in_b == 1);
    must(cudaStreamWaitEvent(b, event, 0));
    must(cudaLaunchHostFunc(b, count, &in_b));
    must(cudaStreamSynchronize(b));
    CHECK(in_a == 1 && in_b == 2);
    must(cudaStreamDestroy(a));
    CHECK_EQ(in_a, 2);
    must(cudaStreamDestroy(b));
    must(cudaEventDestroy(event));
    configure("");
}

/* --- failures --- */

TEST(nothing_is_done_after_a_failed_operation)
{
    configure("mode=sched,fail_op=2");
    cudaStream_t stream;
    int done = 0;
    must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    for (int i = 0; i < 3; i++) must(cudaLaunchHostFunc(stream, count, &done));
    CHECK_EQ(cudaStreamSynchronize(stream), cudaErrorLaunchFailure);
    CHECK_EQ(done, 1);
    CHECK_EQ(cudaLaunchHostFunc(stream, count, &done), cudaErrorLaunchFailure);
    CHECK_EQ(cudaStreamDestroy(stream), cudaErrorLaunchFailure);
    CHECK(!stats().leaks());
    configure("");
}

/* Every call and every operation fails once. A run must then say so, or have come out right, and give everything back. */
static void sweep(const std::string &words)
{
    bool right;
    configure(words);
    air::emu::options.tsan_coarse = true;
    CHECK_EQ(run_pipeline(200, 2, 5, NONE, &right), cudaSuccess);
    CHECK(right);
    Stats clean = stats();
    CHECK(clean.calls > 50 && clean.ops > 20);
    for (long nth = 1; nth <= clean.calls; nth++) {
        reset();
        cudaError_t injected = nth % 2 ? cudaErrorMemoryAllocation : cudaErrorUnknown;
        fault("*", nth, injected);
        cudaError_t error = run_pipeline(200, 2, 5, NONE, &right);
        CHECK(error == injected || (!error && right));
        CHECK(!stats().leaks());
    }
    for (long nth = 1; nth <= clean.ops; nth++) {
        reset();
        fault_op(nth, cudaErrorLaunchFailure);
        CHECK_EQ(run_pipeline(200, 2, 5, NONE, &right), cudaErrorLaunchFailure);
        CHECK(!stats().leaks());
        CHECK_EQ(cudaDeviceSynchronize(), cudaErrorLaunchFailure);  /* sticky */
    }
    configure("");
}

TEST(a_failure_of_any_call_or_operation_is_reported_and_leaks_nothing)
{
    for (const char *words : {"mode=sync", "mode=sched", "mode=sched,seed=5", "mode=threads"}) sweep(words);
}

TEST(a_fault_names_its_api_and_call)
{
    configure("fail=cudaMalloc:2,fail=cudaStreamCreate:1:999");
    void *p, *q;
    cudaStream_t stream;
    CHECK_EQ(cudaMalloc(&p, 10), cudaSuccess);
    CHECK_EQ(cudaMalloc(&q, 10), cudaErrorMemoryAllocation);
    CHECK_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
    CHECK_EQ(cudaGetLastError(), cudaSuccess);
    CHECK_EQ(cudaStreamCreate(&stream), cudaErrorUnknown);
    CHECK_EQ(cudaMalloc(&q, 10), cudaSuccess);
    CHECK_EQ(cudaFree(p), cudaSuccess);
    CHECK_EQ(cudaFree(q), cudaSuccess);
    CHECK_EQ(cudaFree(q), cudaErrorInvalidValue);
}

TEST(words_that_are_not_understood_are_refused)
{
    for (const char *words : {"vrm=1", "vram=1Mb", "mode=fast", "devices=9", "fail=cudaMalloc", "devices", "lose=0", "seed="})
        CHECK(!configure(words).empty());
    CHECK(configure("").empty());
}

/* --- memory --- */

TEST(vram_has_a_limit_and_a_peak)
{
    configure("vram=1MiB");
    void *p, *q;
    size_t free_bytes, total;
    CHECK_EQ(cudaMalloc(&p, (1 << 20) - 512), cudaSuccess);
    CHECK_EQ(cudaMalloc(&q, 513), cudaErrorMemoryAllocation);
    CHECK(!q);
    CHECK_EQ(cudaMalloc(&q, 1), cudaSuccess);
    CHECK_EQ(cudaMemGetInfo(&free_bytes, &total), cudaSuccess);
    CHECK_EQ(free_bytes, 0);
    CHECK_EQ(total, 1 << 20);
    CHECK_EQ(stats().live_device, 2);
    cudaFree(p);
    cudaFree(q);
    Stats s = stats();
    CHECK_EQ(s.vram_used, 0);
    CHECK_EQ(s.vram_peak, 1 << 20);
    bool right;
    configure("vram=16KiB");
    CHECK_EQ(run_pipeline(512, 4, 7, NONE, &right), cudaErrorMemoryAllocation);
    CHECK(!stats().leaks());
    configure("");
}

TEST(new_memory_is_nan)
{
    configure("");
    DeviceArray<float> device(4);
    for (float v : device.read()) CHECK(v != v);
    float *pinned;
    must(cudaMallocHost(&pinned, 16));
    for (int i = 0; i < 4; i++) CHECK(pinned[i] != pinned[i]);
    cudaFreeHost(pinned);
}

TEST(registration_may_be_refused_and_is_counted)
{
    configure("register=64KiB,pinned=96KiB");
    std::vector<char> memory(128 * 1024);
    void *pinned;
    CHECK_EQ(cudaHostRegister(memory.data(), 65 * 1024, 0), cudaErrorMemoryAllocation);
    CHECK_EQ(cudaHostRegister(memory.data(), 64 * 1024, cudaHostRegisterReadOnly), cudaSuccess);
    CHECK_EQ(cudaHostRegister(memory.data() + 1024, 1024, 0), cudaErrorHostMemoryAlreadyRegistered);
    CHECK_EQ(cudaHostAlloc(&pinned, 33 * 1024, 0), cudaErrorMemoryAllocation);
    CHECK_EQ(cudaHostAlloc(&pinned, 32 * 1024, 0), cudaSuccess);
    CHECK_EQ(stats().page_locked, 96 * 1024);
    CHECK_EQ(stats().live_registered, 1);
    CHECK_EQ(cudaFreeHost(memory.data()), cudaErrorInvalidValue);
    CHECK_EQ(cudaHostUnregister(memory.data() + 1), cudaErrorHostMemoryNotRegistered);
    CHECK_EQ(cudaHostUnregister(memory.data()), cudaSuccess);
    CHECK_EQ(cudaHostRegister(memory.data(), 64 * 1024, 0), cudaSuccess);  /* what was given back is there again */
    CHECK_EQ(cudaHostUnregister(memory.data()), cudaSuccess);
    CHECK_EQ(cudaFreeHost(pinned), cudaSuccess);
    CHECK(!stats().leaks());
    configure("register=0");
    CHECK_EQ(cudaHostRegister(memory.data(), 1, 0), cudaErrorMemoryAllocation);
    int supported = -1;
    CHECK_EQ(cudaDeviceGetAttribute(&supported, cudaDevAttrHostRegisterSupported, 0), cudaSuccess);
    CHECK_EQ(supported, 0);
    configure("");
}

TEST(a_copy_that_leaves_its_memory_or_goes_the_wrong_way_is_refused)
{
    configure("");
    std::vector<char> host(300);
    DeviceArray<char> device(256), other(256);
    CHECK_EQ(cudaMemcpyAsync(device.get() + 1, host.data(), 256, cudaMemcpyHostToDevice, 0), cudaErrorInvalidValue);
    CHECK(mentions(log(), "runs over the end"));
    CHECK_EQ(cudaMemcpyAsync(device.get(), host.data(), 10, cudaMemcpyDeviceToHost, 0), cudaErrorInvalidValue);
    CHECK_EQ(cudaMemcpyAsync(host.data(), device.get(), 10, cudaMemcpyHostToDevice, 0), cudaErrorInvalidValue);
    CHECK_EQ(cudaMemsetAsync(device.get() + 250, 0, 7, 0), cudaErrorInvalidValue);
    CHECK_EQ(cudaMemsetAsync(host.data(), 0, 7, 0), cudaErrorInvalidValue);
    CHECK_EQ(cudaMemcpy(other.get(), device.get(), 256, cudaMemcpyDefault), cudaSuccess);
    CHECK_EQ(cudaStreamSynchronize(reinterpret_cast<cudaStream_t>(host.data())), cudaErrorInvalidResourceHandle);
}

TEST(a_copy_in_two_dimensions_moves_rows)
{
    configure("mode=sched");
    char *pinned;
    must(cudaMallocHost(&pinned, 64));
    for (int i = 0; i < 64; i++) pinned[i] = static_cast<char>(i);
    DeviceArray<char> device(std::vector<char>(64, -1));
    must(cudaMemcpy2DAsync(device.get(), 16, pinned + 2, 8, 5, 4, cudaMemcpyHostToDevice, 0));
    CHECK_EQ(cudaMemcpy2DAsync(device.get(), 4, pinned, 8, 5, 4, cudaMemcpyHostToDevice, 0), cudaErrorInvalidPitchValue);
    std::vector<char> got = device.read();
    for (size_t i = 0; i < 64; i++) CHECK_EQ(got[i], i % 16 < 5 ? static_cast<int>(i / 16 * 8 + 2 + i % 16) : -1);
    cudaFreeHost(pinned);
    configure("");
}

TEST(what_hides_a_wait_is_counted)
{
    configure("mode=sched");
    std::vector<float> pageable(16, 1.0f);
    DeviceArray<float> device(16);
    cudaEvent_t event;
    must(cudaEventCreate(&event));
    must(cudaStreamWaitEvent(0, event, 0));
    must(cudaMemcpyAsync(device.get(), pageable.data(), 64, cudaMemcpyHostToDevice, 0));
    pageable.assign(16, 2.0f);  /* staged already */
    for (float v : device.read()) CHECK_EQ(v, 1);
    Stats s = stats();
    CHECK_EQ(s.pageable_async, 1);
    CHECK_EQ(s.unrecorded_waits, 1);
    CHECK_EQ(s.null_stream_async, 1);
    cudaEventDestroy(event);
    configure("");
}

/* --- events --- */

static void pause_for_5_ms(void *) { std::this_thread::sleep_for(std::chrono::milliseconds(5)); }

TEST(events_measure_what_lies_between_them)
{
    configure("mode=sched");
    cudaStream_t stream;
    cudaEvent_t begin, end, untimed;
    must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    must(cudaEventCreate(&begin));
    must(cudaEventCreate(&end));
    must(cudaEventCreateWithFlags(&untimed, cudaEventDisableTiming));
    must(cudaEventRecord(begin, stream));
    must(cudaLaunchHostFunc(stream, pause_for_5_ms, nullptr));
    must(cudaEventRecord(end, stream));
    must(cudaEventRecord(untimed, stream));
    float milliseconds = 0;
    CHECK_EQ(cudaEventQuery(end), cudaErrorNotReady);
    CHECK_EQ(cudaEventElapsedTime(&milliseconds, begin, end), cudaErrorNotReady);
    CHECK_EQ(cudaStreamQuery(stream), cudaErrorNotReady);
    must(cudaStreamSynchronize(stream));
    CHECK_EQ(cudaEventQuery(end), cudaSuccess);
    must(cudaEventElapsedTime(&milliseconds, begin, end));
    CHECK(milliseconds >= 5 && milliseconds < 5000);
    CHECK_EQ(cudaEventElapsedTime(&milliseconds, begin, untimed), cudaErrorInvalidResourceHandle);
    for (cudaEvent_t event : {begin, end, untimed}) must(cudaEventDestroy(event));
    must(cudaStreamDestroy(stream));
    CHECK_EQ(cudaStreamDestroy(stream), cudaErrorInvalidResourceHandle);
    CHECK_EQ(cudaEventDestroy(begin), cudaErrorInvalidResourceHandle);
    CHECK(!stats().leaks());
    configure("");
}

/* --- devices --- */

static __global__ void increment(int *x) { x[threadIdx.x]++; }
struct Boxed {
    int n;
    int *x;
};
static __global__ void increment_boxed(Boxed box)
{
    if (static_cast<int>(threadIdx.x) < box.n) box.x[threadIdx.x]++;
}

TEST(devices_have_memory_streams_and_events_of_their_own)
{
    configure("devices=2,vram=1MiB/2MiB");
    int count = 0, current = -1;
    size_t free_bytes, total;
    CHECK_EQ(cudaGetDeviceCount(&count), cudaSuccess);
    CHECK_EQ(count, 2);
    CHECK_EQ(cudaSetDevice(2), cudaErrorInvalidDevice);
    void *p;
    cudaStream_t stream;
    cudaEvent_t event0;
    must(cudaEventCreate(&event0));
    must(cudaSetDevice(1));
    CHECK_EQ(cudaGetDevice(&current), cudaSuccess);
    CHECK_EQ(current, 1);
    CHECK_EQ(cudaMalloc(&p, 3 << 19), cudaSuccess);  /* more than device 0 has */
    must(cudaMemGetInfo(&free_bytes, &total));
    CHECK_EQ(total, 2 << 20);
    CHECK_EQ(free_bytes, 1 << 19);
    must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CHECK_EQ(cudaEventRecord(event0, stream), cudaErrorInvalidResourceHandle);
    std::thread([&] {
        cudaGetDevice(&current);  /* of another thread: still the first */
    }).join();
    CHECK_EQ(current, 0);
    CHECK_EQ(stats().device[1].vram_used, 3 << 19);
    CHECK_EQ(stats().device[0].vram_used, 0);
    must(cudaSetDevice(0));
    DeviceArray<int> x(std::vector<int>(32, 0));
    CHECK_EQ(air_launch(increment, 1, 32, 0, stream, x.get()), cudaErrorInvalidResourceHandle);
    must(cudaStreamDestroy(stream));
    must(cudaEventDestroy(event0));
    must(cudaFree(p));
}

TEST(memory_of_the_wrong_device_is_an_error)
{
    for (bool boxed : {false, true}) {
        configure("devices=2");
        {
            DeviceArray<int> on0(std::vector<int>(32, 5));
            must(cudaSetDevice(1));
            DeviceArray<int> on1(std::vector<int>(32, 6));
            CHECK_EQ(cudaMemcpyAsync(on0.get(), on1.get(), 128, cudaMemcpyDeviceToDevice, 0), cudaErrorInvalidValue);
            CHECK_EQ(cudaMemsetAsync(on0.get(), 0, 128, 0), cudaErrorInvalidValue);
            must(air_launch(increment, 1, 32, 0, 0, on1.get()));
            Boxed box = {32, on0.get() + 7};
            must(boxed ? air_launch(increment_boxed, 1, 32, 0, 0, box) : air_launch(increment, 1, 32, 0, 0, on0.get()));
            CHECK_EQ(cudaDeviceSynchronize(), cudaErrorIllegalAddress);
            CHECK(mentions(log(), boxed ? "increment_boxed on device 1 is given memory of device 0" : "increment on device 1 is given"));
            must(cudaSetDevice(0));
            CHECK_EQ(cudaDeviceSynchronize(), cudaSuccess);  /* the other device has not failed */
            CHECK_EQ(on0.read()[0], 5);
        }
        reset();
    }
    CHECK(!stats().leaks());
}

TEST(peers_copy_and_with_access_use_each_others_memory)
{
    configure("devices=2,mode=sched");
    int can = -1;
    must(cudaDeviceCanAccessPeer(&can, 0, 1));
    CHECK_EQ(can, 0);
    CHECK_EQ(cudaDeviceEnablePeerAccess(1, 0), cudaErrorPeerAccessUnsupported);
    DeviceArray<int> on0(std::vector<int>(32, 5));
    must(cudaSetDevice(1));
    DeviceArray<int> on1(std::vector<int>(32, 6));
    must(cudaMemcpyPeerAsync(on1.get(), 1, on0.get(), 0, 64, 0));
    CHECK_EQ(cudaMemcpyPeerAsync(on1.get(), 0, on0.get(), 1, 64, 0), cudaErrorInvalidValue);
    must(cudaDeviceSynchronize());
    CHECK(on1.read()[15] == 5 && on1.read()[16] == 6);
    cfg.peer = true;
    must(cudaDeviceCanAccessPeer(&can, 1, 0));
    CHECK_EQ(can, 1);
    must(cudaDeviceEnablePeerAccess(0, 0));
    CHECK_EQ(cudaDeviceEnablePeerAccess(0, 0), cudaErrorPeerAccessAlreadyEnabled);
    must(air_launch(increment, 1, 32, 0, 0, on0.get()));
    must(cudaDeviceSynchronize());
    must(cudaDeviceDisablePeerAccess(0));
    must(cudaSetDevice(0));
    CHECK_EQ(on0.read()[31], 6);
    configure("");
}

TEST(a_device_says_what_it_is)
{
    configure("sm=86,sms=7,vram=3GiB,optin=99KiB");
    cudaDeviceProp properties;
    must(cudaGetDeviceProperties(&properties, 0));
    CHECK_STR_EQ(properties.name, "Emulated GPU");
    CHECK_EQ(properties.major * 10 + properties.minor, 86);
    CHECK_EQ(properties.multiProcessorCount, 7);
    CHECK_EQ(properties.totalGlobalMem, size_t(3) << 30);
    CHECK_EQ(properties.sharedMemPerBlock, 48 * 1024);
    CHECK_EQ(properties.sharedMemPerBlockOptin, 99 * 1024);
    int value = 0, blocks = 0;
    must(cudaDeviceGetAttribute(&value, cudaDevAttrGlobalMemoryBusWidth, 0));
    CHECK_EQ(value, 256);
    must(cudaDeviceGetAttribute(&value, cudaDevAttrComputeCapabilityMinor, 0));
    CHECK_EQ(value, 6);
    CHECK_EQ(cudaDeviceGetAttribute(&value, cudaDevAttrWarpSize, 1), cudaErrorInvalidDevice);
    must(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, increment, 256, 0));
    CHECK_EQ(blocks, 6);
    configure("sm=75,image=80");
    DeviceArray<int> x(std::vector<int>(32, 0));
    CHECK_EQ(air_launch(increment, 1, 32, 0, 0, x.get()), cudaErrorNoKernelImageForDevice);
    configure("");
}

TEST(an_old_driver_or_no_device_is_said_by_every_call)
{
    int version = 0, count = -1;
    void *p;
    configure("driver=12020,runtime=13000");
    CHECK_EQ(cudaDriverGetVersion(&version), cudaSuccess);
    CHECK_EQ(version, 12020);
    CHECK_EQ(cudaRuntimeGetVersion(&version), cudaSuccess);
    CHECK_EQ(version, 13000);
    CHECK_EQ(cudaGetDeviceCount(&count), cudaErrorInsufficientDriver);
    CHECK_EQ(count, 0);
    CHECK_EQ(cudaMalloc(&p, 1), cudaErrorInsufficientDriver);
    configure("driver=12020,runtime=12080");  /* the same major: enough */
    CHECK_EQ(cudaGetDeviceCount(&count), cudaSuccess);
    configure("driver=0");
    CHECK_EQ(cudaDriverGetVersion(&version), cudaSuccess);
    CHECK_EQ(version, 0);
    CHECK_EQ(cudaGetDeviceCount(&count), cudaErrorInsufficientDriver);
    configure("devices=0");
    CHECK_EQ(cudaGetDeviceCount(&count), cudaErrorNoDevice);
    CHECK_EQ(cudaSetDevice(0), cudaErrorNoDevice);
    CHECK_STR_EQ(cudaGetErrorString(cudaErrorNoDevice), "no CUDA-capable device is detected");
    CHECK_STR_EQ(cudaGetErrorName(cudaErrorInsufficientDriver), "cudaErrorInsufficientDriver");
    configure("");
}

TEST(a_lost_device_stays_lost_and_leaves_the_other)
{
    for (const char *mode : {"mode=sync", "mode=sched"}) {
        configure(std::string("devices=2,lose=0:10,") + mode);
        bool right;
        CHECK_EQ(run_pipeline(200, 2, 5, NONE, &right), cudaErrorDevicesUnavailable);
        CHECK(!stats().leaks());
        CHECK_EQ(cudaDeviceSynchronize(), cudaErrorDevicesUnavailable);
        CHECK_EQ(cudaDeviceReset(), cudaErrorDevicesUnavailable);
        void *p;
        CHECK_EQ(cudaMalloc(&p, 1), cudaErrorDevicesUnavailable);
        CHECK_EQ(cudaSetDevice(0), cudaErrorDevicesUnavailable);
        CHECK_EQ(cudaSetDevice(1), cudaSuccess);
        CHECK_EQ(run_pipeline(200, 2, 5, NONE, &right), cudaSuccess);
        CHECK(right);
    }
    configure("fail_op=10");
    bool right;
    CHECK_EQ(run_pipeline(200, 2, 5, NONE, &right), cudaErrorLaunchFailure);
    CHECK_EQ(cudaDeviceReset(), cudaErrorLaunchFailure);  /* the last time that it is said */
    CHECK_EQ(run_pipeline(200, 2, 5, NONE, &right), cudaSuccess);
    configure("");
}

TEST(the_report_for_other_processes_names_what_is_left)
{
    configure("");
    void *p;
    must(cudaMalloc(&p, 1000));
    CHECK(mentions(air_emu_report(), "live_device 1\n") && mentions(air_emu_report(), "vram_used 1024\n"));
    must(cudaFree(p));
    CHECK(mentions(air_emu_report(), "live_device 0\n"));
}

/* --- graphs --- */

static __global__ void scale(float *x, float by) { x[threadIdx.x] *= by; }
static __global__ void add(float *x, const float *y) { x[threadIdx.x] += y[threadIdx.x]; }

/* x = 2 x, beside it y = 3 y in a second stream, then x += y. A graph without the wait in between must show it. */
static cudaError_t capture_sum(cudaStream_t main, cudaStream_t side, cudaEvent_t fork, cudaEvent_t join, float *x, float *y, bool waits,
                               cudaGraph_t *graph)
{
    TRY(cudaStreamBeginCapture(main, cudaStreamCaptureModeThreadLocal));
    TRY(cudaEventRecord(fork, main));
    TRY(cudaStreamWaitEvent(side, fork, 0));
    TRY(air_launch(scale, 1, 32, 0, side, y, 3.0f));
    TRY(cudaEventRecord(join, side));
    TRY(air_launch(scale, 1, 32, 0, main, x, 2.0f));
    if (waits) TRY(cudaStreamWaitEvent(main, join, 0));
    TRY(air_launch(add, 1, 32, 0, main, x, y));
    if (!waits) TRY(cudaStreamWaitEvent(main, join, 0));
    return cudaStreamEndCapture(main, graph);
}

/* Wrong results among some orders of three launches, after other work and in two streams: one launch begins when the last has ended. */
static int wrong_launches(bool waits)
{
    int wrong = 0;
    for (int seed = 0; seed < 20; seed++) {
        configure("mode=sched,seed=" + std::to_string(seed));
        DeviceArray<float> x(std::vector<float>(32, 1.0f)), y(std::vector<float>(32, 1.0f));
        cudaStream_t main, side;
        cudaEvent_t fork, join;
        cudaGraph_t graph;
        cudaGraphExec_t exec;
        must(cudaStreamCreateWithFlags(&main, cudaStreamNonBlocking));
        must(cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking));
        must(cudaEventCreate(&fork));
        must(cudaEventCreate(&join));
        must(capture_sum(main, side, fork, join, x.get(), y.get(), waits, &graph));
        CHECK_EQ(x.read()[0], 1);  /* captured, not run */
        must(cudaGraphInstantiate(&exec, graph, 0));
        must(air_launch(add, 1, 32, 0, main, x.get(), y.get()));
        for (int i = 0; i < 3; i++) must(cudaGraphLaunch(exec, i == 1 ? side : main));
        must(cudaStreamSynchronize(main));
        wrong += x.read()[31] != 2 * 8 + 4 * 3 + 2 * 9 + 27;
        must(cudaGraphExecDestroy(exec));
        must(cudaGraphDestroy(graph));
        must(cudaEventDestroy(fork));
        must(cudaEventDestroy(join));
        must(cudaStreamDestroy(main));
        must(cudaStreamDestroy(side));
    }
    CHECK(!stats().leaks());
    configure("");
    return wrong;
}

TEST(a_graph_repeats_what_was_captured)
{
    CHECK_EQ(wrong_launches(true), 0);
}

TEST(a_missing_wait_shows_in_a_graph_too)
{
    CHECK(wrong_launches(false) > 0);
}

TEST(a_capture_refuses_what_cannot_be_repeated)
{
    configure("mode=sched");
    DeviceArray<float> x(std::vector<float>(32, 1.0f));
    cudaStream_t main, side;
    cudaEvent_t fork;
    cudaGraph_t graph;
    cudaStreamCaptureStatus status;
    must(cudaStreamCreateWithFlags(&main, cudaStreamNonBlocking));
    must(cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking));
    must(cudaEventCreate(&fork));

    must(cudaStreamBeginCapture(main, cudaStreamCaptureModeGlobal));
    must(cudaEventRecord(fork, main));
    must(cudaStreamWaitEvent(side, fork, 0));
    must(air_launch(scale, 1, 32, 0, side, x.get(), 2.0f));
    CHECK_EQ(cudaStreamEndCapture(main, &graph), cudaErrorStreamCaptureUnjoined);

    must(cudaStreamBeginCapture(main, cudaStreamCaptureModeGlobal));
    CHECK_EQ(cudaStreamSynchronize(main), cudaErrorStreamCaptureUnsupported);
    must(cudaStreamIsCapturing(main, &status));
    CHECK_EQ(status, cudaStreamCaptureStatusInvalidated);
    CHECK_EQ(cudaStreamEndCapture(main, &graph), cudaErrorStreamCaptureInvalidated);

    must(cudaStreamBeginCapture(main, cudaStreamCaptureModeGlobal));
    void *p;
    CHECK_EQ(cudaMalloc(&p, 1), cudaErrorStreamCaptureUnsupported);
    CHECK_EQ(cudaStreamEndCapture(main, &graph), cudaErrorStreamCaptureInvalidated);
    CHECK_EQ(cudaStreamEndCapture(main, &graph), cudaErrorStreamCaptureUnmatched);

    must(cudaEventDestroy(fork));
    must(cudaStreamDestroy(main));
    must(cudaStreamDestroy(side));
    configure("");
}

/* --- host threads --- */

TEST(two_host_threads_may_wait_at_once)
{
    for (const char *words : {"mode=sync", "mode=sched", "mode=sched,seed=3", "mode=threads"}) {
        configure(words);
        air::emu::options.tsan_coarse = true;
        bool right[2] = {};
        std::thread threads[2];
        for (int i = 0; i < 2; i++) threads[i] = std::thread([&right, i] { run_pipeline(300, 2, 20, NONE, &right[i]); });
        for (std::thread &thread : threads) thread.join();
        CHECK(right[0] && right[1]);
        CHECK(log().empty());
        CHECK(!stats().leaks());
    }
    configure("");
}

int main(int argc, char **argv)
{
    if (sanitized_child(argc, argv, planted_case)) return EXIT_SUCCESS;
    check_begin(argc, argv);
    RUN(the_laziest_and_random_orders_find_each_mistake_of_a_pipeline);
    RUN(work_done_at_once_finds_none_of_them);
    RUN(a_correct_pipeline_is_right_with_threads_and_modelled_copies);
    RUN(thread_sanitizer_finds_each_mistake_of_a_pipeline);
    RUN(the_laziest_order_does_what_is_waited_for_and_no_more);
    RUN(nothing_is_done_after_a_failed_operation);
    RUN(a_failure_of_any_call_or_operation_is_reported_and_leaks_nothing);
    RUN(a_fault_names_its_api_and_call);
    RUN(words_that_are_not_understood_are_refused);
    RUN(vram_has_a_limit_and_a_peak);
    RUN(new_memory_is_nan);
    RUN(registration_may_be_refused_and_is_counted);
    RUN(a_copy_that_leaves_its_memory_or_goes_the_wrong_way_is_refused);
    RUN(a_copy_in_two_dimensions_moves_rows);
    RUN(what_hides_a_wait_is_counted);
    RUN(events_measure_what_lies_between_them);
    RUN(devices_have_memory_streams_and_events_of_their_own);
    RUN(memory_of_the_wrong_device_is_an_error);
    RUN(peers_copy_and_with_access_use_each_others_memory);
    RUN(a_device_says_what_it_is);
    RUN(an_old_driver_or_no_device_is_said_by_every_call);
    RUN(a_lost_device_stays_lost_and_leaves_the_other);
    RUN(the_report_for_other_processes_names_what_is_left);
    RUN(a_graph_repeats_what_was_captured);
    RUN(a_missing_wait_shows_in_a_graph_too);
    RUN(a_capture_refuses_what_cannot_be_repeated);
    RUN(two_host_threads_may_wait_at_once);
    return check_end();
}
