/* The SIMT engine: planted mistakes of kernels are found, and what CUDA defines comes out as plain loops have it. */
#include <algorithm>
#include <numeric>

#include "check.h"
#include "cuda/dialect.h"
#include "device_array.h"
#include "runtime.h"
#include "sanitized_child.h"

using air::emu::Order;
using air::emu::options;

static std::vector<int> numbers(int n)
{
    std::vector<int> values(static_cast<size_t>(n));
    std::iota(values.begin(), values.end(), 0);
    return values;
}

static std::vector<int> random_ints(size_t n)
{
    std::vector<int> values(n);
    for (int &v : values) v = static_cast<int>(check_random());
    return values;
}

/* Launches one block of up to 1024 threads over an array in place. */
template <class T>
static std::vector<T> run_on(const char *file, int line, void (*kernel)(T *), const std::vector<T> &values, unsigned threads)
{
    DeviceArray<T> array(values);
    must(air_launch(kernel, 1, threads, 0, 0, array.get()), file, line);
    must(cudaDeviceSynchronize(), file, line);
    return array.read();
}
#define RUN_ON(kernel, values, threads) run_on(__FILE__, __LINE__, kernel, values, threads)

/* --- planted mistakes --- */

enum Mistake {
    NONE,
    NO_BARRIER,            /* between writing and reading shared memory */
    DIVERGENT_BARRIER,     /* half of the block waits elsewhere */
    PAST_GLOBAL,           /* one element over the end */
    PAST_SHARED,
    UNINITIALISED,         /* one shared element is never written */
    EXITED_LANE,           /* a shuffle names a lane that has returned */
    NO_BARRIER_BEFORE_REUSE,
    NO_ASYNC_WAIT,         /* cp.async is read without a wait */
    TWO_BARRIERS,          /* the halves of a block at two different __syncthreads */
    NO_ATOMIC,             /* all blocks add to one element */
    NO_WARP_BARRIER,       /* neighbours in a warp exchange through shared memory */
    MISTAKES
};
enum { BLOCK = 128, ELEMENTS = 4 * BLOCK };

static __device__ float warp_sum(float v)
{
    for (int offset = 16; offset > 0; offset /= 2) v += __shfl_xor_sync(~0u, v, offset);
    return v;
}

/* Each block reverses its 128 elements through shared memory, but for what a mistake needs. */
template <int MISTAKE>
__global__ void reverse_blocks(const float *x, float *y, int n)
{
    AIR_SHARED(float, s, [BLOCK]);
    AIR_SHARED(float, unused, [8]);
    const int t = static_cast<int>(threadIdx.x), first = static_cast<int>(blockIdx.x) * BLOCK, i = first + t;
    if (MISTAKE == EXITED_LANE && t == 40) return;
    if (MISTAKE == NO_ASYNC_WAIT) {
        if (t < 32) {
            air_cp_async16(s + 4 * t, x + first + 4 * t);
            air_cp_async_commit();
        }
    } else if (MISTAKE != UNINITIALISED || t != 77) {
        s[t] = x[i];
    }
    if (MISTAKE == PAST_SHARED && t == BLOCK - 1) *(s + t + (n > 0)) = 1;
    if (MISTAKE == DIVERGENT_BARRIER) {
        if (t < 64) __syncthreads();
        else __syncwarp();
    } else if (MISTAKE == TWO_BARRIERS) {
        if (t < 64) __syncthreads();
        else
            __syncthreads();
    } else if (MISTAKE != NO_BARRIER && MISTAKE != NO_WARP_BARRIER) {
        __syncthreads();
    }
    float v = MISTAKE == NO_WARP_BARRIER ? s[t ^ 1] : s[BLOCK - 1 - t];
    if (MISTAKE == EXITED_LANE) v = warp_sum(v);
    if (MISTAKE == NO_BARRIER_BEFORE_REUSE) {
        s[t] = v * 2;
        __syncthreads();
        v = s[t ^ 64];
    }
    if (MISTAKE == NO_ATOMIC) {
        if (t == 0) y[0] += v;
        return;
    }
    if (MISTAKE == NONE && t < 8) unused[t] = 0;
    y[MISTAKE == PAST_GLOBAL ? i + (i == n - 1) : i] = v;
}

static float expected(int mistake, const std::vector<float> &x, int i)
{
    int first = i / BLOCK * BLOCK, t = i % BLOCK;
    auto at = [&](int j) { return x[static_cast<size_t>(j)]; };
    if (mistake == NO_WARP_BARRIER) return at(i ^ 1);
    if (mistake == NO_BARRIER_BEFORE_REUSE) return 2 * at(first + BLOCK - 1 - (t ^ 64));
    return at(first + BLOCK - 1 - t);
}

enum Outcome { CORRECT, WRONG, REFUSED };

template <int MISTAKE>
static Outcome outcome_of()
{
    std::vector<float> x(ELEMENTS), y;
    for (int i = 0; i < ELEMENTS; i++) x[static_cast<size_t>(i)] = static_cast<float>(i + 1);
    cudaError_t error;
    {
        DeviceArray<float> in(x), out(std::vector<float>(ELEMENTS, 0.0f));
        error = air_launch(reverse_blocks<MISTAKE>, ELEMENTS / BLOCK, BLOCK, 0, 0, in.get(), out.get(), ELEMENTS);
        if (!error) error = cudaDeviceSynchronize();
        if (!error) y = out.read();
    }
    if (error) return REFUSED;
    for (int i = 0; i < ELEMENTS; i++)
        if (!(y[static_cast<size_t>(i)] == expected(MISTAKE, x, i))) return WRONG;
    return CORRECT;
}

static Outcome outcome(int mistake)
{
    switch (mistake) {
    case NONE: return outcome_of<NONE>();
    case NO_BARRIER: return outcome_of<NO_BARRIER>();
    case DIVERGENT_BARRIER: return outcome_of<DIVERGENT_BARRIER>();
    case PAST_GLOBAL: return outcome_of<PAST_GLOBAL>();
    case PAST_SHARED: return outcome_of<PAST_SHARED>();
    case UNINITIALISED: return outcome_of<UNINITIALISED>();
    case EXITED_LANE: return outcome_of<EXITED_LANE>();
    case NO_BARRIER_BEFORE_REUSE: return outcome_of<NO_BARRIER_BEFORE_REUSE>();
    case NO_ASYNC_WAIT: return outcome_of<NO_ASYNC_WAIT>();
    case TWO_BARRIERS: return outcome_of<TWO_BARRIERS>();
    case NO_ATOMIC: return outcome_of<NO_ATOMIC>();
    default: return outcome_of<NO_WARP_BARRIER>();
    }
}

static void planted_case(const std::string &, int mistake)
{
    air::fake::configure("");
    outcome(mistake);
}

static bool is_race(int mistake)
{
    return mistake == NO_BARRIER || mistake == DIVERGENT_BARRIER || mistake == NO_BARRIER_BEFORE_REUSE || mistake == NO_ASYNC_WAIT
        || mistake == NO_ATOMIC || mistake == NO_WARP_BARRIER;
}

TEST(a_mistake_shows_in_every_order_as_a_wrong_result_or_an_error)
{
    enum { FORWARD, REVERSE, RANDOM_SEEDS = THREAD_SANITIZER ? 2 : 20 };
    for (int mistake = NONE; mistake < MISTAKES; mistake++) {
        if (mistake == PAST_GLOBAL || mistake == PAST_SHARED || mistake == NO_ATOMIC) continue;  /* the sanitizers' */
        if (THREAD_SANITIZER && is_race(mistake)) continue;
        for (int order = FORWARD; order < 2 + RANDOM_SEEDS; order++) {
            air::fake::configure("");
            options.order = order == FORWARD ? Order::forward : order == REVERSE ? Order::reverse : Order::random;
            options.seed = static_cast<unsigned>(order);
            Outcome got = outcome(mistake);
            bool found = got != CORRECT;
            if (found == (mistake == NONE)) printf("  mistake %d, order %d: %s\n", mistake, order, air::emu::last_error().c_str());
            CHECK_EQ(found, mistake != NONE);
            bool refused = mistake == DIVERGENT_BARRIER || mistake == TWO_BARRIERS || mistake == EXITED_LANE;
            CHECK_EQ(got == REFUSED, refused);
            CHECK_EQ(air::emu::last_error().empty(), !refused);
        }
    }
    air::fake::configure("");
}

TEST(thread_sanitizer_finds_races_of_kernels)
{
    if (!THREAD_SANITIZER) return;
    for (int mistake : {NONE, NO_BARRIER, DIVERGENT_BARRIER, NO_BARRIER_BEFORE_REUSE, NO_ASYNC_WAIT, NO_ATOMIC, NO_WARP_BARRIER}) {
        std::string report = report_of("kernel", mistake);
        bool found = mentions(report, "data race") && mentions(report, "test_simt.cu:");
        if (found != is_race(mistake)) printf("  mistake %d: %s\n", mistake, report.c_str());
        CHECK_EQ(found, is_race(mistake));
    }
}

TEST(address_sanitizer_finds_what_leaves_global_and_shared_memory)
{
    if (!ADDRESS_SANITIZER) return;
    CHECK(mentions(report_of("kernel", PAST_GLOBAL), "heap-buffer-overflow"));
    CHECK(mentions(report_of("kernel", PAST_SHARED), "use-after-poison"));
    CHECK(!mentions(report_of("kernel", NONE), "ERROR"));
}

/* --- errors of the engine --- */

static __global__ void two_barriers(int *x)
{
    if (threadIdx.x < 64) __syncthreads();
    else
        __syncthreads();
    x[threadIdx.x] = 0;
}
static __global__ void traps(int *x)
{
    if (x[threadIdx.x] == 7) __trap();
}
static __global__ void barrier_after_exit(int *x)
{
    if (threadIdx.x == 3) return;
    __syncthreads();
    x[threadIdx.x] = 1;
}
static __global__ void two_calls(int *x)
{
    if (threadIdx.x < 16) x[threadIdx.x] = __shfl_sync(~0u, 1, 0);
    else x[threadIdx.x] = __any_sync(~0u, 1);
}
static __global__ void not_in_its_mask(int *x) { x[threadIdx.x] = __shfl_sync(0xffffu, 1, 0); }
static __global__ void unaligned_async(int *x)
{
    AIR_SHARED(int, s, [8]);
    air_cp_async16(s, x + 1);
}
static __global__ void too_much_shared(int *x)
{
    AIR_SHARED(int, s, [12 * 1024]);
    AIR_SHARED(int, more, [1]);
    s[0] = more[0] = x[0];
}

template <class Kernel>
static std::string error_of(Kernel kernel, unsigned threads)
{
    {
        DeviceArray<int> x(numbers(256));
        air_launch(kernel, 1, threads, 0, 0, x.get());
        CHECK_EQ(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
    }
    std::string error = air::emu::last_error();
    air::fake::reset();
    return error;
}

TEST(an_error_says_which_kernel_and_where)
{
    air::fake::configure("");
    std::string error = error_of(two_barriers, 128);
    CHECK(mentions(error, "[kernel, block 0,0,0] divergent __syncthreads: thread 0 at test_simt.cu:"));
    CHECK(mentions(error, "thread 64 at test_simt.cu:"));
    CHECK(mentions(error_of(traps, 32), "__trap at test_simt.cu:"));
    CHECK(mentions(error_of(two_calls, 32), "lanes at different calls"));
    CHECK(mentions(error_of(not_in_its_mask, 32), "not in its mask"));
    CHECK(mentions(error_of(unaligned_async, 1), "no multiple of its size"));
    CHECK(mentions(error_of(too_much_shared, 1), "more does not fit: the limit of a block is 49152 bytes"));
}

TEST(a_barrier_after_an_exit_is_an_error_unless_a_test_allows_it)
{
    air::fake::configure("");
    CHECK(mentions(error_of(barrier_after_exit, 32), "after some threads of the block have returned"));
    air::fake::configure("strict_exit=0");
    std::vector<int> out = RUN_ON(barrier_after_exit, numbers(32), 32);
    CHECK(out[2] == 1 && out[3] == 3);
    air::fake::configure("");
}

TEST(the_engine_goes_on_after_an_error)
{
    air::fake::configure("order=random");
    for (int i = 0; i < 3; i++) {
        CHECK(!error_of(two_barriers, 128).empty());
        CHECK_EQ(outcome(NONE), CORRECT);
    }
    air::fake::configure("");
}

/* --- blocks, orders, shared memory --- */

static __global__ void count_threads(int *counts)
{
    unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    counts[block * blockDim.x * blockDim.y * blockDim.z + thread]++;
}

TEST(every_thread_of_every_block_runs_once_in_any_order)
{
    for (const char *order : {"order=forward", "order=reverse", "order=random", "order=random,order_seed=9"}) {
        air::fake::configure(order);
        for (dim3 grid : {dim3(1), dim3(2), dim3(7), dim3(3, 5, 2)}) {
            dim3 block(5, 3, 2);
            size_t n = size_t(grid.x) * grid.y * grid.z * 30;
            DeviceArray<int> counts(std::vector<int>(n, 0));
            must(air_launch(count_threads, grid, block, 0, 0, counts.get()));
            for (int count : counts.read()) CHECK_EQ(count, 1);
        }
    }
    air::fake::configure("");
}

static __global__ void first_of_dynamic(float *out, int n)
{
    AIR_DYN_SHARED(float, s);
    out[threadIdx.x] = s[threadIdx.x == 0 ? 0 : n - 1];
}

TEST(dynamic_shared_memory_is_poisoned_and_limited)
{
    air::fake::configure("optin=64KiB");
    DeviceArray<float> out(std::vector<float>(2, 0.0f));
    const int most = 48 * 1024, more = 64 * 1024;
    must(air_launch(first_of_dynamic, 1, 2, most, 0, out.get(), most / 4));
    for (float v : out.read()) CHECK(v != v);
    CHECK_EQ(air_launch(first_of_dynamic, 1, 2, most + 1, 0, out.get(), 1), cudaErrorInvalidValue);
    CHECK_EQ(cudaFuncSetAttribute(first_of_dynamic, cudaFuncAttributeMaxDynamicSharedMemorySize, more + 1), cudaErrorInvalidValue);
    must(cudaFuncSetAttribute(first_of_dynamic, cudaFuncAttributeMaxDynamicSharedMemorySize, more));
    must(air_launch(first_of_dynamic, 1, 2, more, 0, out.get(), more / 4));
    CHECK_EQ(air_launch(first_of_dynamic, 1, 2, more + 1, 0, out.get(), 1), cudaErrorInvalidValue);
    air::fake::configure("");
}

TEST(a_launch_that_no_device_takes_is_refused_and_changes_nothing)
{
    DeviceArray<int> x(numbers(32));
    CHECK_EQ(air_launch(traps, 1, 1025, 0, 0, x.get()), cudaErrorInvalidConfiguration);
    CHECK_EQ(air_launch(traps, 0, 32, 0, 0, x.get()), cudaErrorInvalidConfiguration);
    CHECK_EQ(air_launch(traps, dim3(1, 65536), 32, 0, 0, x.get()), cudaErrorInvalidConfiguration);
    CHECK_EQ(cudaGetLastError(), cudaErrorInvalidConfiguration);
    CHECK_EQ(cudaGetLastError(), cudaSuccess);
    CHECK_EQ(cudaDeviceSynchronize(), cudaSuccess);
}

/* --- warps --- */

static __global__ void shuffles(int *x)  /* [8][64] */
{
    int t = static_cast<int>(threadIdx.x), v = x[t];
    x[t] = __shfl_sync(~0u, v, 5);
    x[64 + t] = __shfl_sync(~0u, v, t + 3, 8);
    x[128 + t] = __shfl_xor_sync(~0u, v, 16);
    x[192 + t] = __shfl_xor_sync(~0u, v, 3, 8);
    x[256 + t] = __shfl_down_sync(~0u, v, 7);
    x[320 + t] = __shfl_down_sync(~0u, v, 3, 16);
    x[384 + t] = __shfl_up_sync(~0u, v, 7);
    x[448 + t] = __shfl_up_sync(~0u, v, 3, 16);
}

TEST(shuffles_move_what_the_guide_says)
{
    for (const char *order : {"order=forward", "order=reverse", "order=random"}) {
        air::fake::configure(order);
        std::vector<int> in = random_ints(8 * 64), out = RUN_ON(shuffles, in, 64);
        for (int t = 0; t < 64; t++) {
            auto from = [&](int lane) { return in[static_cast<size_t>(t / 32 * 32 + lane)]; };
            auto got = [&](int row) { return out[static_cast<size_t>(64 * row + t)]; };
            int lane = t % 32;
            CHECK_EQ(got(0), from(5));
            CHECK_EQ(got(1), from(lane / 8 * 8 + (t + 3) % 8));
            CHECK_EQ(got(2), from(lane ^ 16));
            CHECK_EQ(got(3), from(lane ^ 3));
            CHECK_EQ(got(4), from(lane + 7 < 32 ? lane + 7 : lane));
            CHECK_EQ(got(5), from(lane % 16 + 3 < 16 ? lane + 3 : lane));
            CHECK_EQ(got(6), from(lane >= 7 ? lane - 7 : lane));
            CHECK_EQ(got(7), from(lane % 16 >= 3 ? lane - 3 : lane));
        }
    }
    air::fake::configure("");
}

static __global__ void votes(unsigned *x)  /* [9][64]; row 0 in */
{
    unsigned t = threadIdx.x, v = x[t], half = t % 32 < 16 ? 0xffffu : 0xffff0000u;
    x[64 + t] = __ballot_sync(half, v & 1);
    x[128 + t] = static_cast<unsigned>(__any_sync(half, (v & 0x1f) == 0));
    x[192 + t] = static_cast<unsigned>(__all_sync(half, (v & 0x1f) != 0));
    x[256 + t] = __reduce_add_sync(half, v);
    x[320 + t] = __reduce_max_sync(half, v);
    x[384 + t] = static_cast<unsigned>(__reduce_min_sync(half, static_cast<int>(v)));
    x[448 + t] = __reduce_or_sync(half, v) ^ __reduce_and_sync(half, v);
    int odd = __syncthreads_count(v & 1), some_zero = __syncthreads_or(v == 0), none_zero = __syncthreads_and(v != 0);
    x[512 + t] = static_cast<unsigned>(odd + 100 * (some_zero != 0) + 1000 * (none_zero != 0));
}

TEST(votes_and_reductions_count_the_lanes_of_their_mask)
{
    air::fake::configure("order=random");
    std::vector<unsigned> in(9 * 64);
    for (unsigned &v : in) v = static_cast<unsigned>(check_random());
    std::vector<unsigned> out = RUN_ON(votes, in, 64);
    unsigned odd = 0;
    for (size_t t = 0; t < 64; t++) odd += in[t] & 1;
    for (size_t t = 0; t < 64; t++) {
        size_t first = t / 16 * 16;
        unsigned ballot = 0, any = 0, sum = 0, most = 0, bits = 0, all_bits = ~0u;
        int least = INT32_MAX;
        for (size_t i = first; i < first + 16; i++) {
            ballot |= (in[i] & 1) << i % 32;
            any |= (in[i] & 0x1f) == 0;
            sum += in[i];
            most = std::max(most, in[i]);
            least = std::min(least, static_cast<int>(in[i]));
            bits |= in[i];
            all_bits &= in[i];
        }
        CHECK_EQ(out[64 + t], ballot);
        CHECK_EQ(out[128 + t], any);
        CHECK_EQ(out[192 + t], !any);
        CHECK_EQ(out[256 + t], sum);
        CHECK_EQ(out[320 + t], most);
        CHECK_EQ(out[384 + t], static_cast<unsigned>(least));
        CHECK_EQ(out[448 + t], bits ^ all_bits);
        CHECK_EQ(out[512 + t], odd + 1000);
    }
    air::fake::configure("");
}

static __global__ void shuffle_from_outside(float *x)
{
    if (threadIdx.x < 16) x[threadIdx.x] = __shfl_down_sync(0xffffu, x[threadIdx.x], 8);
}

TEST(a_lane_outside_the_mask_lends_nan)
{
    std::vector<float> out = RUN_ON(shuffle_from_outside, std::vector<float>(32, 1.0f), 32);
    for (size_t t = 0; t < 16; t++) CHECK((t < 8) == (out[t] == 1.0f));
    CHECK(out[8] != out[8]);
}

/* --- one thread --- */

static __global__ void integers(unsigned *x)  /* [15][64]; rows 0 to 2 in */
{
    unsigned t = threadIdx.x, a = x[t], b = x[64 + t], c = x[128 + t];
    x[192 + t] = static_cast<unsigned>(__dp4a(static_cast<int>(a), static_cast<int>(b), static_cast<int>(c)));
    x[256 + t] = __dp4a(a, b, c);
    x[320 + t] = __byte_perm(a, b, c);
    x[384 + t] = __funnelshift_r(a, b, c);
    x[448 + t] = __funnelshift_l(a, b, c);
    x[512 + t] = __vsub4(a, b);
    x[576 + t] = __vsubss4(a, b);
    x[640 + t] = __vcmpne4(a, b);
    x[704 + t] = __brev(a);
    x[768 + t] = static_cast<unsigned>(__popc(a) + 100 * __clz(static_cast<int>(b)) + 10000 * __ffs(static_cast<int>(c)));
    x[832 + t] = __umulhi(a, b);
    x[896 + t] = __funnelshift_rc(a, b, c & 63);
}

static unsigned byte(unsigned word, int i) { return word >> 8 * i & 255; }

TEST(integer_intrinsics_are_exact)
{
    std::vector<unsigned> in(15 * 64);
    for (unsigned &v : in) v = static_cast<unsigned>(check_random());
    in[0] = in[64] = 0x80808080u, in[128] = 0x7fffffffu;
    in[1] = in[65] = 0, in[129] = 0;
    std::vector<unsigned> out = RUN_ON(integers, in, 64);
    for (size_t t = 0; t < 64; t++) {
        unsigned a = in[t], b = in[64 + t], c = in[128 + t], perm = 0, sub = 0, saturated = 0, unequal = 0, reversed = 0;
        long long dot = static_cast<int>(c);
        unsigned long long dot_unsigned = c, both = static_cast<unsigned long long>(b) << 32 | a;
        for (int i = 0; i < 4; i++) {
            int signed_a = static_cast<signed char>(byte(a, i)), signed_b = static_cast<signed char>(byte(b, i));
            dot += signed_a * signed_b;
            dot_unsigned += byte(a, i) * byte(b, i);
            unsigned pick = c >> 4 * i & 15, picked = static_cast<unsigned>(both >> 8 * (pick & 7)) & 255;
            perm |= (pick & 8 ? (picked >= 128 ? 255u : 0u) : picked) << 8 * i;
            sub |= ((byte(a, i) - byte(b, i)) & 255) << 8 * i;
            saturated |= (static_cast<unsigned>(std::clamp(signed_a - signed_b, -128, 127)) & 255) << 8 * i;
            unequal |= (byte(a, i) != byte(b, i) ? 255u : 0u) << 8 * i;
        }
        int leading = 0, lowest = 0, ones = 0;
        for (unsigned bit = 0; bit < 32; bit++) reversed |= (a >> bit & 1) << (31 - bit), ones += a >> bit & 1;
        while (leading < 32 && !(b >> (31 - leading) & 1)) leading++;
        while (c && !(c >> lowest & 1)) lowest++;
        unsigned shift = c & 31;
        CHECK_EQ(out[192 + t], static_cast<unsigned>(dot));
        CHECK_EQ(out[256 + t], static_cast<unsigned>(dot_unsigned));
        CHECK_EQ(out[320 + t], perm);
        CHECK_EQ(out[384 + t], shift ? a >> shift | b << (32 - shift) : a);
        CHECK_EQ(out[448 + t], shift ? b << shift | a >> (32 - shift) : b);
        CHECK_EQ(out[512 + t], sub);
        CHECK_EQ(out[576 + t], saturated);
        CHECK_EQ(out[640 + t], unequal);
        CHECK_EQ(out[704 + t], reversed);
        CHECK_EQ(out[768 + t], ones + 100 * leading + 10000 * (c ? lowest + 1 : 0));
        CHECK_EQ(out[832 + t], static_cast<unsigned>(static_cast<unsigned long long>(a) * b >> 32));
        CHECK_EQ(out[896 + t], static_cast<unsigned>(both >> ((c & 63) < 32 ? c & 63 : 32)));
    }
}

static __global__ void atomics(int *x, unsigned long long *most, float *sum)  /* x [6] */
{
    int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    atomicAdd(&x[0], i);
    atomicMax(&x[1], i);
    atomicMin(&x[2], -i);
    atomicOr(&x[3], 1 << i % 31);
    atomicSub(&x[4], 1);
    if (atomicCAS(&x[5], 0, i + 1) == 0) atomicExch(&x[5], 1000000);
    atomicMax(most, static_cast<unsigned long long>(i) << 32);
    atomicAdd(sum, 0.5f);
}

TEST(atomics_of_all_blocks_add_up)
{
    air::fake::configure("order=random");
    DeviceArray<int> x(std::vector<int>(6, 0));
    DeviceArray<unsigned long long> most(std::vector<unsigned long long>(1, 0));
    DeviceArray<float> sum(std::vector<float>(1, 0.0f));
    must(air_launch(atomics, 10, 100, 0, 0, x.get(), most.get(), sum.get()));
    std::vector<int> out = x.read();
    CHECK_EQ(out[0], 999 * 1000 / 2);
    CHECK_EQ(out[1], 999);
    CHECK_EQ(out[2], -999);
    CHECK_EQ(out[3], 0x7fffffff);
    CHECK_EQ(out[4], -1000);
    CHECK_EQ(out[5], 1000000);
    CHECK_EQ(most.read()[0] >> 32, 999);
    CHECK_EQ(sum.read()[0] * 2, 1000);
    air::fake::configure("");
}

static __global__ void to_integers(float *x)
{
    float v = x[threadIdx.x];
    x[threadIdx.x] = __int_as_float(threadIdx.x < 8 ? __float2int_rn(v) : __float2int_rz(v));
}

TEST(conversions_to_integers_round_and_saturate_as_on_the_device)
{
    float nan = __int_as_float(-1);
    std::vector<float> in = {0.5f, 1.5f, -2.5f, 3e9f, -3e9f, nan, 2.49f, -7.51f, 1.9f, -1.9f, 1e10f, -1e10f, nan, 0.0f};
    const int want[] = {0, 2, -2, INT32_MAX, INT32_MIN, 0, 2, -8, 1, -1, INT32_MAX, INT32_MIN, 0, 0};
    std::vector<float> out = RUN_ON(to_integers, in, 14);
    for (size_t i = 0; i < in.size(); i++) CHECK_EQ(__float_as_int(out[i]), want[i]);
}

/* --- half and bfloat16 --- */

TEST(halves_round_to_the_nearest_and_to_even_between_two)
{
    CHECK(__half2float(__ushort_as_half(0x3c00)) == 1.0f && __half2float(__ushort_as_half(0xc500)) == -5.0f);
    CHECK(__half2float(__ushort_as_half(1)) == 0x1p-24f && __half2float(__ushort_as_half(0x7bff)) == 65504.0f);
    for (unsigned h = 0; h < 0x7bff; h++) {  /* and its neighbour, the middle between them and either side of the middle */
        float low = __half2float(__ushort_as_half(static_cast<unsigned short>(h)));
        float high = __half2float(__ushort_as_half(static_cast<unsigned short>(h + 1)));
        float middle = 0.5f * (low + high);
        CHECK(low < high);
        CHECK_EQ(__half_as_ushort(__float2half(low)), h);
        CHECK_EQ(__half_as_ushort(__float2half(-low)), h | 0x8000);
        CHECK_EQ(__half_as_ushort(__float2half(middle)), h + (h & 1));
        CHECK_EQ(__half_as_ushort(__float2half(nextafterf(middle, 0.0f))), h);
        CHECK_EQ(__half_as_ushort(__float2half(nextafterf(middle, INFINITY))), h + 1);
    }
    CHECK_EQ(__half_as_ushort(__float2half(65519.99f)), 0x7bff);
    CHECK_EQ(__half_as_ushort(__float2half(65520.0f)), 0x7c00);
    CHECK_EQ(__half_as_ushort(__float2half(-INFINITY)), 0xfc00);
    CHECK(isinf(__half2float(__ushort_as_half(0x7c00))) && isnan(__half2float(__float2half(NAN))));
}

TEST(bfloat16s_round_to_the_nearest_and_to_even_between_two)
{
    for (uint32_t b = 0; b < 0x7f7f; b += 3) {
        float low = __int_as_float(static_cast<int>(b << 16)), middle = __int_as_float(static_cast<int>(b << 16 | 0x8000));
        CHECK(__bfloat162float(__ushort_as_bfloat16(static_cast<unsigned short>(b))) == low);
        CHECK_EQ(__bfloat16_as_ushort(__float2bfloat16(low)), b);
        CHECK_EQ(__bfloat16_as_ushort(__float2bfloat16(middle)), b + (b & 1));
        CHECK_EQ(__bfloat16_as_ushort(__float2bfloat16(nextafterf(middle, 0.0f))), b);
        CHECK_EQ(__bfloat16_as_ushort(__float2bfloat16(nextafterf(-middle, -INFINITY))), (b + 1) | 0x8000);
    }
    CHECK(isnan(__bfloat162float(__float2bfloat16(NAN))));
}

TEST(arithmetic_of_pairs_is_that_of_each)
{
    __half2 a = __floats2half2_rn(1.5f, -2.0f), b = __floats2half2_rn(2048.0f, 0.25f), c = __float2half2_rn(1.0f);
    float2 sum = __half22float2(__hadd2(a, b)), product = __half22float2(__hmul2(a, b)), fused = __half22float2(__hfma2(a, b, c));
    CHECK(sum.x == 2050.0f && sum.y == -1.75f);           /* 2049.5 has a step of 2 */
    CHECK(product.x == 3072.0f && product.y == -0.5f);
    CHECK(fused.x == 3072.0f && fused.y == 0.5f);         /* 3073 lies between two: even */
    CHECK(__low2float(__halves2half2(__high2half(a), __low2half(a))) == -2.0f);
    __nv_bfloat162 pair = __floats2bfloat162_rn(3.0f, -0.5f), twice = __hadd2(pair, pair);
    CHECK(__low2float(twice) == 6.0f && __high2float(__hmul2(pair, twice)) == 0.5f);
}

/* --- tensor cores and cp.async --- */

/* Loads fragments as the PTX ISA lays them out; `per` elements in a register. */
template <class T>
static __device__ void load_fragments(unsigned a[4], unsigned b[2], const T *A, const T *B, int k)
{
    const int per = 4 / static_cast<int>(sizeof(T)), lane = static_cast<int>(threadIdx.x), row = lane / 4, column = lane % 4 * per;
    memcpy(&a[0], A + row * k + column, 4);
    memcpy(&a[1], A + (row + 8) * k + column, 4);
    memcpy(&a[2], A + row * k + column + k / 2, 4);
    memcpy(&a[3], A + (row + 8) * k + column + k / 2, 4);
    memcpy(&b[0], B + row * k + column, 4);
    memcpy(&b[1], B + row * k + column + k / 2, 4);
}

template <class T>
static __device__ void store_tile(T *C, const T d[4])
{
    int row = static_cast<int>(threadIdx.x) / 4, column = static_cast<int>(threadIdx.x) % 4 * 2;
    for (int i = 0; i < 4; i++) C[(row + i / 2 * 8) * 8 + column + i % 2] = d[i];
}

static __global__ void multiply_halves(const __half *A, const __half *B, float *C)  /* [16][16], [8][16] columns, [16][8] */
{
    unsigned a[4], b[2];
    float d[4] = {0.5f, 0.5f, 0.5f, 0.5f};
    load_fragments(a, b, A, B, 16);
    air_mma_m16n8k16(d, a, b);
    store_tile(C, d);
}

static __global__ void multiply_bytes(const int8_t *A, const int8_t *B, int *C)  /* [16][32], [8][32] columns, [16][8] */
{
    unsigned a[4], b[2];
    int d[4] = {1000, 1000, 1000, 1000};
    load_fragments(a, b, A, B, 32);
    air_mma_m16n8k32_s8(d, a, b);
    store_tile(C, d);
}

/* Half of k alone. */
static __global__ void multiply_few_bytes(const int8_t *A, const int8_t *B, int *C)
{
    unsigned a[4], b[2];
    int d[4] = {1000, 1000, 1000, 1000};
    load_fragments(a, b, A, B, 32);
    air_mma_m16n8k16_s8(d, a, b[0]);
    store_tile(C, d);
}

TEST(mma_multiplies_halves_and_bytes)
{
    air::fake::configure("order=random");
    std::vector<__half> a(16 * 16), b(8 * 16);
    std::vector<int8_t> a8(16 * 32), b8(8 * 32);
    for (__half &v : a) v = __float2half(static_cast<float>(check_random() % 41) - 20.0f);
    for (__half &v : b) v = __float2half(static_cast<float>(check_random() % 41) - 20.0f);
    for (int8_t &v : a8) v = static_cast<int8_t>(check_random());
    for (int8_t &v : b8) v = static_cast<int8_t>(check_random());
    a8[0] = b8[0] = -128;
    DeviceArray<__half> da(a), db(b);
    DeviceArray<int8_t> da8(a8), db8(b8);
    DeviceArray<float> dc(16 * 8);
    DeviceArray<int> dc8(16 * 8), few(16 * 8);
    must(air_launch(multiply_few_bytes, 1, 32, 0, 0, da8.get(), db8.get(), few.get()));
    must(air_launch(multiply_halves, 1, 32, 0, 0, da.get(), db.get(), dc.get()));
    must(air_launch(multiply_bytes, 1, 32, 0, 0, da8.get(), db8.get(), dc8.get()));
    std::vector<float> c = dc.read();
    std::vector<int> c8 = dc8.read(), c8_of_few = few.read();
    for (size_t row = 0; row < 16; row++) {
        for (size_t column = 0; column < 8; column++) {
            float sum = 0.5f;
            int sum8 = 1000, of_few = 1000;
            for (size_t k = 0; k < 16; k++) sum += __half2float(a[row * 16 + k]) * __half2float(b[column * 16 + k]);
            for (size_t k = 0; k < 32; k++) sum8 += a8[row * 32 + k] * b8[column * 32 + k];
            CHECK(c[row * 8 + column] == sum);
            for (size_t k = 0; k < 16; k++) of_few += a8[row * 32 + k] * b8[column * 32 + k];
            CHECK_EQ(c8[row * 8 + column], sum8);
            CHECK_EQ(c8_of_few[row * 8 + column], of_few);
        }
    }
    air::fake::configure("sm=70");
    CHECK_EQ(air_launch(multiply_bytes, 1, 32, 0, 0, da8.get(), db8.get(), dc8.get()), cudaSuccess);
    CHECK_EQ(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
    CHECK(mentions(air::emu::last_error(), "mma.sync needs compute capability 7.5"));
    air::fake::configure("");
}

static __global__ void load_matrices(const unsigned short *in, unsigned *out)  /* [32][8], [4][32] */
{
    AIR_SHARED(unsigned short, s, [32][8]);
    for (int i = 0; i < 8; i++) s[threadIdx.x][i] = in[threadIdx.x * 8 + static_cast<unsigned>(i)];
    __syncwarp();
    unsigned r[4];
    air_ldmatrix_x4(r, s[threadIdx.x]);
    for (unsigned i = 0; i < 4; i++) out[i * 32 + threadIdx.x] = r[i];
}

TEST(ldmatrix_deals_out_rows_as_mma_takes_them)
{
    std::vector<unsigned short> in(32 * 8);
    for (size_t i = 0; i < in.size(); i++) in[i] = static_cast<unsigned short>(i * 257);
    DeviceArray<unsigned short> matrices(in);
    DeviceArray<unsigned> out(4 * 32);
    must(air_launch(load_matrices, 1, 32, 0, 0, matrices.get(), out.get()));
    std::vector<unsigned> got = out.read();
    for (size_t matrix = 0; matrix < 4; matrix++) {
        for (size_t lane = 0; lane < 32; lane++) {
            size_t at = matrix * 64 + lane / 4 * 8 + lane % 4 * 2;
            CHECK_EQ(got[matrix * 32 + lane], in[at] | static_cast<unsigned>(in[at + 1]) << 16);
        }
    }
}

enum { TILE = 512 };
static __global__ void sum_tiles(const int *x, int *sums, int tiles)  /* 128 threads; two tiles in flight */
{
    AIR_SHARED(int, s, [2][TILE]);
    int t = static_cast<int>(threadIdx.x), sum = 0;
    const int *mine = x + static_cast<int>(blockIdx.x) * tiles * TILE + 4 * t;
    air_cp_async16(&s[0][4 * t], mine);
    air_cp_async_commit();
    for (int i = 0; i < tiles; i++) {
        if (i + 1 < tiles) air_cp_async16(&s[(i + 1) & 1][4 * t], mine + (i + 1) * TILE);
        air_cp_async_commit();
        air_cp_async_wait<1>();
        __syncthreads();
        for (int j = 0; j < 4; j++) sum += s[i & 1][j * 128 + t] * (i + 1);
        __syncthreads();
    }
    atomicAdd(&sums[blockIdx.x], sum);
}

TEST(cp_async_in_two_stages_brings_every_tile)
{
    for (const char *order : {"order=forward", "order=reverse", "order=random"}) {
        air::fake::configure(order);
        const size_t blocks = 3, tiles = 5;
        std::vector<int> in(blocks * tiles * TILE);
        for (int &v : in) v = static_cast<int>(check_random() % 2001) - 1000;
        DeviceArray<int> x(in), sums(std::vector<int>(blocks, 0));
        must(air_launch(sum_tiles, blocks, 128, 0, 0, x.get(), sums.get(), static_cast<int>(tiles)));
        std::vector<int> got = sums.read();
        for (size_t block = 0; block < blocks; block++) {
            int want = 0;
            for (size_t i = 0; i < tiles * TILE; i++) want += in[block * tiles * TILE + i] * static_cast<int>(i / TILE + 1);
            CHECK_EQ(got[block], want);
        }
    }
    air::fake::configure("");
}

static __global__ void wait_for_all_but_one(int *x)  /* [8] in; [4] after each wait, of either group's first */
{
    AIR_SHARED(int, s, [8]);
    air_cp_async16(&s[0], x);
    air_cp_async_commit();
    air_cp_async16(&s[4], x + 4);
    air_cp_async_commit();
    air_cp_async_wait<1>();
    int first = s[0], second = s[4];
    air_cp_async_wait<0>();
    x[0] = first;
    x[1] = second;
    x[2] = s[0];
    x[3] = s[4];
}

TEST(cp_async_comes_as_late_as_its_wait_allows)
{
    std::vector<int> out = RUN_ON(wait_for_all_but_one, numbers(8), 1);
    CHECK(out[0] == 0 && out[1] == -1);  /* -1: poison */
    CHECK(out[2] == 0 && out[3] == 4);
}

int main(int argc, char **argv)
{
    if (sanitized_child(argc, argv, planted_case)) return EXIT_SUCCESS;
    check_begin(argc, argv);
    RUN(a_mistake_shows_in_every_order_as_a_wrong_result_or_an_error);
    RUN(thread_sanitizer_finds_races_of_kernels);
    RUN(address_sanitizer_finds_what_leaves_global_and_shared_memory);
    RUN(an_error_says_which_kernel_and_where);
    RUN(a_barrier_after_an_exit_is_an_error_unless_a_test_allows_it);
    RUN(the_engine_goes_on_after_an_error);
    RUN(every_thread_of_every_block_runs_once_in_any_order);
    RUN(dynamic_shared_memory_is_poisoned_and_limited);
    RUN(a_launch_that_no_device_takes_is_refused_and_changes_nothing);
    RUN(shuffles_move_what_the_guide_says);
    RUN(votes_and_reductions_count_the_lanes_of_their_mask);
    RUN(a_lane_outside_the_mask_lends_nan);
    RUN(integer_intrinsics_are_exact);
    RUN(atomics_of_all_blocks_add_up);
    RUN(conversions_to_integers_round_and_saturate_as_on_the_device);
    RUN(halves_round_to_the_nearest_and_to_even_between_two);
    RUN(bfloat16s_round_to_the_nearest_and_to_even_between_two);
    RUN(arithmetic_of_pairs_is_that_of_each);
    RUN(mma_multiplies_halves_and_bytes);
    RUN(ldmatrix_deals_out_rows_as_mma_takes_them);
    RUN(cp_async_in_two_stages_brings_every_tile);
    RUN(cp_async_comes_as_late_as_its_wait_allows);
    return check_end();
}
