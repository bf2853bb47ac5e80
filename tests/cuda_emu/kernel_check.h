/* kernel_check.h: what tests of kernels share: arrays on the device between guards, every order of threads, how far off a result is.
 *
 * The tests' sources are compiled for the emulation and by nvcc for a GPU (tests/gpu). What only the emulation can be asked for stands
 * here; a GPU has one capability and runs threads as it likes. */
#ifndef AIR_CUDA_EMU_KERNEL_CHECK_H
#define AIR_CUDA_EMU_KERNEL_CHECK_H

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "check.h"
#include "device_array.h"
#if defined(AIR_CUDA_EMULATED)
#include "runtime.h"
#endif

/* n elements, NaN or what is given, with 256 bytes before and behind them that must not change. */
template <class T>
class GuardedArray {
public:
    explicit GuardedArray(size_t n) : bytes(n * sizeof(T)), memory(around(nullptr, bytes)) {}
    explicit GuardedArray(const std::vector<T> &values)
        : bytes(values.size() * sizeof(T)), memory(around(values.data(), bytes)) {}

    T *get() const { return (T *)(memory.get() + GUARD); }

    std::vector<T> read() const
    {
        std::vector<uint8_t> all = memory.read();
        std::vector<T> values(bytes / sizeof(T));
        if (bytes) memcpy(values.data(), &all[GUARD], bytes);
        return values;
    }

    bool guarded() const
    {
        std::vector<uint8_t> all = memory.read();
        for (size_t i = 0; i < all.size(); i++)
            if ((i < GUARD || i >= GUARD + bytes) && all[i] != GUARD_BYTE) return false;
        return true;
    }

private:
    enum : size_t { GUARD = 256 };
    enum : uint8_t { GUARD_BYTE = 0xa5, NAN_BYTE = 0xff };

    static std::vector<uint8_t> around(const T *values, size_t bytes)
    {
        std::vector<uint8_t> all(bytes + 2 * GUARD, GUARD_BYTE);
        if (bytes && values) memcpy(&all[GUARD], values, bytes);
        if (bytes && !values) memset(&all[GUARD], NAN_BYTE, bytes);
        return all;
    }

    size_t bytes;
    DeviceArray<uint8_t> memory;
};

#if defined(AIR_CUDA_EMULATED)

static inline void check_emulation() { CHECK_STR_EQ(air::emu::last_error().c_str(), ""); }

/* Calls test in each order that threads may run in. */
template <class F>
static inline void in_every_order(F test)
{
    for (air::emu::Order order : {air::emu::Order::forward, air::emu::Order::reverse, air::emu::Order::random}) {
        air::emu::options.order = order;
        air::emu::options.seed = (unsigned)check_random() | 1u;
        test();
    }
    air::emu::options.order = air::emu::Order::forward;
}

/* The emulation takes longest over tensor cores: while this lives, the device has none. */
struct without_tensor_cores {
    enum { WORKS = 1 };
    without_tensor_cores() { air::fake::cfg.device[0].capability = 70; }
    ~without_tensor_cores() { air::fake::cfg.device[0].capability = 80; }
};

/* While this lives, the device is of an older generation than 8.0, or has the most shared memory that there is, or the least. */
struct older_device {
    older_device() { air::fake::cfg.device[0].capability = 75; }
    ~older_device() { air::fake::cfg.device[0].capability = 80; }
};
struct larger_device {
    const size_t before = air::fake::cfg.device[0].shared_optin;
    larger_device() { air::fake::cfg.device[0].shared_optin = 227 << 10; }
    ~larger_device() { air::fake::cfg.device[0].shared_optin = before; }
};
struct smaller_device { /* as of generation 7.5 */
    const size_t before = air::fake::cfg.device[0].shared_optin;
    smaller_device() { air::fake::cfg.device[0].shared_optin = 64 << 10; }
    ~smaller_device() { air::fake::cfg.device[0].shared_optin = before; }
};

#else

static inline void check_emulation() {}

template <class F>
static inline void in_every_order(F test)
{
    for (int run = 0; run < 2; run++) test();
}

struct without_tensor_cores {
    enum { WORKS = 0 };
    without_tensor_cores() {}
    ~without_tensor_cores() {}
};
struct older_device {
    older_device() {}
};
struct larger_device {
    larger_device() {}
};
struct smaller_device {
    smaller_device() {}
};

#endif

/* Waits, and notes what went wrong in the launch or in the kernel. */
static inline void check_launch(cudaError_t error)
{
    CHECK_EQ(error, cudaSuccess);
    CHECK_EQ(cudaDeviceSynchronize(), cudaSuccess);
    check_emulation();
}

static inline float random_float(float most) { return ((float)(check_random() >> 40) * 0x1p-23f - 1.0f) * most; }

static inline std::vector<float> random_floats(int64_t n, float most)
{
    std::vector<float> x((size_t)n);
    for (float &each : x) each = random_float(most);
    return x;
}

/* Sum of squared differences over that of `want`; what is not finite in one only counts as infinitely far. */
static inline double nmse(const std::vector<float> &got, const std::vector<float> &want)
{
    double off = 0, all = 0;
    if (got.size() != want.size()) return INFINITY;
    for (size_t i = 0; i < got.size(); i++) {
        if (!std::isfinite(got[i]) || !std::isfinite(want[i])) {
            if (std::isfinite(got[i]) != std::isfinite(want[i])) return INFINITY;
            continue;
        }
        off += ((double)got[i] - (double)want[i]) * ((double)got[i] - (double)want[i]);
        all += (double)want[i] * (double)want[i];
    }
    return all == 0 ? off : off / all;
}

static inline void check_near(const std::vector<float> &got, const std::vector<float> &want, double most, const char *what)
{
    double off = nmse(got, want);
    if (!(off <= most)) printf("  %s: NMSE %.3g, at most %.3g\n", what, off, most);
    CHECK(off <= most);
}

template <class T>
static inline bool same_bits(const std::vector<T> &a, const std::vector<T> &b)
{
    return a.size() == b.size() && (a.empty() || memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

template <class T>
static inline std::vector<T> part_of(const std::vector<T> &x, int64_t first, int64_t n)
{
    return std::vector<T>(x.begin() + first, x.begin() + first + n);
}

#endif
