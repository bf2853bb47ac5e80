/* Configuration, faults, counters, errors: everything a test sets or asks. */
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <unistd.h>

#include "runtime/state.h"

namespace air::fake {

Config cfg;
thread_local int current_device = 0;

namespace {

thread_local cudaError_t last_error = cudaSuccess;

/* --- words of configure() --- */

bool parse_number(const std::string &text, double *value)
{
    char *end;
    *value = strtod(text.c_str(), &end);
    return !text.empty() && !*end && *value >= 0;
}

bool parse_size(const std::string &text, size_t *value)
{
    static const struct { const char *name; double bytes; } units[] = {
        {"", 1}, {"K", 0x1p10}, {"KiB", 0x1p10}, {"M", 0x1p20}, {"MiB", 0x1p20}, {"G", 0x1p30}, {"GiB", 0x1p30}};
    char *end;
    double number = strtod(text.c_str(), &end);
    if (end == text.c_str() || number < 0) return false;
    for (const auto &unit : units) {
        if (strcmp(end, unit.name)) continue;
        *value = static_cast<size_t>(number * unit.bytes);
        return true;
    }
    return false;
}

std::vector<std::string> split(const std::string &text, char at)
{
    std::vector<std::string> parts(1);
    for (char c : text) {
        if (c == at) parts.emplace_back();
        else parts.back() += c;
    }
    return parts;
}

template <class T>
bool parse_one_of(const std::string &text, std::initializer_list<std::pair<const char *, T>> names, T *value)
{
    for (const auto &name : names) {
        if (text != name.first) continue;
        *value = name.second;
        return true;
    }
    return false;
}

template <class T>
bool parse_into(const std::string &text, T *value)
{
    double number;
    if (!parse_number(text, &number)) return false;
    *value = static_cast<T>(number);
    return true;
}

template <class Set>
bool for_all_devices(const std::string &text, Set set)
{
    double number;
    if (!parse_number(text, &number)) return false;
    for (DeviceConfig &device : cfg.device) set(device, static_cast<int>(number));
    return true;
}

bool parse_sizes_of_devices(const std::string &text, size_t DeviceConfig::*field)
{
    std::vector<std::string> sizes = split(text, '/');
    for (size_t i = 0; i < MAX_DEVICES; i++)
        if (!parse_size(sizes[i < sizes.size() ? i : sizes.size() - 1], &(cfg.device[i].*field))) return false;
    return true;
}

template <class T>
bool parse_of_devices(const std::string &text, T DeviceConfig::*field)
{
    std::vector<std::string> numbers = split(text, '/');
    for (size_t i = 0; i < MAX_DEVICES; i++)
        if (!parse_into(numbers[i < numbers.size() ? i : numbers.size() - 1], &(cfg.device[i].*field))) return false;
    return true;
}

cudaError_t usual_error(const std::string &api)
{
    bool allocates = api == "cudaMalloc" || api == "cudaHostAlloc" || api == "cudaMallocHost" || api == "cudaHostRegister";
    return allocates ? cudaErrorMemoryAllocation : cudaErrorLaunchFailure;
}

/* Faults are applied after reset(), which forgets them. */
bool parse_fault(const std::string &key, const std::string &text, std::vector<std::function<void()>> *later)
{
    std::vector<std::string> parts = split(text, ':');
    bool named = key != "fail_op";
    size_t at = named ? 1 : 0;
    long nth;
    int code = usual_error(parts[0]);
    if (parts.size() < at + 1 || parts.size() > at + 2 || !parse_into(parts[at], &nth)) return false;
    if (parts.size() == at + 2 && !parse_into(parts[at + 1], &code)) return false;
    auto error = static_cast<cudaError_t>(code);
    std::string name = parts[0];
    int device = 0;
    if (key == "lose" && (!parse_into(name, &device) || device >= MAX_DEVICES)) return false;
    if (key == "lose") later->push_back([=] { lose_device(device, nth); });
    else if (key == "fail") later->push_back([=] { fault(name, nth, error); });
    else later->push_back([=] { fault_op(nth, error); });
    return true;
}

bool set_word(const std::string &key, const std::string &value, std::vector<std::function<void()>> *later)
{
    emu::Options &options = emu::options;
    if (key == "devices") return parse_into(value, &cfg.devices) && cfg.devices <= MAX_DEVICES;
    if (key == "vram") return parse_sizes_of_devices(value, &DeviceConfig::vram);
    if (key == "optin") return parse_sizes_of_devices(value, &DeviceConfig::shared_optin);
    if (key == "sm") return parse_of_devices(value, &DeviceConfig::capability);
    if (key == "sms") return for_all_devices(value, [](DeviceConfig &device, int n) { device.multiprocessors = n; });
    if (key == "driver") return parse_into(value, &cfg.driver);
    if (key == "runtime") return parse_into(value, &cfg.runtime);
    if (key == "image") return parse_into(value, &cfg.image);
    if (key == "peer") return parse_into(value, &cfg.peer);
    if (key == "pinned") return parse_size(value, &cfg.page_locked_limit);
    if (key == "register") return parse_size(value, &cfg.register_limit);
    if (key == "mode")
        return parse_one_of<Mode>(value, {{"sync", Mode::sync}, {"threads", Mode::threads}, {"sched", Mode::sched}}, &cfg.mode);
    if (key == "seed") return parse_into(value, &cfg.seed);
    if (key == "copy")
        return parse_one_of<Copy>(value, {{"early", Copy::early}, {"late", Copy::late}, {"spread", Copy::spread}}, &cfg.copy);
    if (key == "links") return parse_of_devices(value, &DeviceConfig::link_gbs);
    if (key == "root") return parse_into(value, &cfg.root_gbs);
    if (key == "h2d") return parse_into(value, &cfg.h2d_gbs);
    if (key == "d2h") return parse_into(value, &cfg.d2h_gbs);
    if (key == "kernel_us") return parse_into(value, &cfg.kernel_us);
    if (key == "poison") return parse_into(value, &cfg.poison);
    using emu::Order;
    if (key == "order")
        return parse_one_of<Order>(
            value, {{"forward", Order::forward}, {"reverse", Order::reverse}, {"random", Order::random}}, &options.order);
    if (key == "order_seed") return parse_into(value, &options.seed);
    if (key == "tsan_coarse") return parse_into(value, &options.tsan_coarse);
    if (key == "strict_exit") return parse_into(value, &options.strict_exit);
    if (key == "fail" || key == "fail_op" || key == "lose") return parse_fault(key, value, later);
    return false;
}

/* After cfg, which it sets. A typing error must not pass for a test that ran. */
struct FromEnvironment {
    FromEnvironment()
    {
        const char *words = getenv("AIRPY_EMU");
        if (!words) return;
        std::string wrong = configure(words);
        if (wrong.empty()) return;
        fprintf(stderr, "AIRPY_EMU: %s\n", wrong.c_str());
        abort();
    }
} from_environment;

}  // namespace

State &state()
{
    static State *only = new State;  /* never freed: workers may outlive main */
    return *only;
}

unsigned next_random()
{
    State &s = state();
    s.random = s.random * 1664525u + 1013904223u;
    return s.random >> 8;
}

void note(const std::string &complaint)
{
    std::string &log = state().log;
    if (log.find(complaint) == std::string::npos) log += complaint + "\n";
}

cudaError_t remember(cudaError_t error)
{
    if (error && error != cudaErrorNotReady) last_error = error;
    return error;
}

cudaError_t enter(const char *api, Needs needs)
{
    State &s = state();
    s.stats.calls++;
    long nth = ++s.calls[api];
    for (const Fault &fault : s.faults)
        if (fault.api == "*" ? fault.nth == s.stats.calls : fault.api == api && fault.nth == nth) return fault.error;
    if (needs == Needs::nothing) return cudaSuccess;
    if (!s.process) s.process = getpid();
    if (s.process != getpid()) return cudaErrorInitializationError; /* forked after it was used */
    if (cfg.driver / 1000 < cfg.runtime / 1000) return cudaErrorInsufficientDriver;
    if (cfg.devices == 0) return cudaErrorNoDevice;
    return needs == Needs::device ? failure_of(current_device) : cudaSuccess;
}

Stats stats()
{
    Lock lock;
    Stats now = state().stats;
    now.vram_used = 0;
    now.downloaded = state().downloaded;
    for (size_t i = 0; i < MAX_DEVICES; i++) {
        const Device &device = state().device[i];
        now.device[i] = {device.used, device.peak, device.ops};
        now.vram_used += device.used;
    }
    return now;
}

void reset()
{
    Lock lock;
    State &s = state();
    s.faults.clear();
    s.calls.clear();
    s.fault_op = -1;
    s.random = cfg.seed * 7919u + 1;
    s.log.clear();
    Stats &st = s.stats;
    st.calls = st.ops = st.host_waits = st.graph_launches = st.pageable_async = st.null_stream_async = st.unrecorded_waits = 0;
    st.vram_peak = 0;
    s.downloaded = 0;
    for (Device &device : s.device) {
        device.failed = cudaSuccess;
        device.lost = false;
        device.ops = 0;
        device.lose_at = -1;
        device.peak = device.used;
        device.peers.clear();
        device.dynamic_shared.clear();
        st.vram_peak += device.used;
    }
    current_device = 0;
    last_error = cudaSuccess;
    emu::clear_error();
}

std::string configure(const std::string &words)
{
    cfg = Config();
    emu::options = emu::Options();
    std::vector<std::function<void()>> later;
    for (const std::string &word : split(words, ',')) {
        size_t equals = word.find('=');
        if (word.empty()) continue;
        if (equals == std::string::npos || !set_word(word.substr(0, equals), word.substr(equals + 1), &later))
            return "\"" + word + "\" is not understood; runtime.h lists the words";
    }
    reset();
    for (const auto &act : later) act();
    return "";
}

void fault(const std::string &api, long nth, cudaError_t error)
{
    Lock lock;
    state().faults.push_back({api, nth, error});
}

void fault_op(long nth, cudaError_t error)
{
    Lock lock;
    state().fault_op = nth;
    state().fault_op_error = error;
}

void lose_device(int device, long nth)
{
    Lock lock;
    Device &lost = device_of(device);
    if (nth > 0) {
        lost.lose_at = lost.ops + nth;
    } else {
        lost.lost = true;
        lost.failed = cudaErrorDevicesUnavailable;
    }
}

std::string log()
{
    Lock lock;
    return state().log;
}

}  // namespace air::fake

using namespace air::fake;

extern "C" {

const char *air_emu_configure(const char *words)
{
    static thread_local std::string wrong;
    wrong = air::fake::configure(words);
    return wrong.c_str();
}

const char *air_emu_report(void)
{
    static thread_local std::string text;
    Stats s = stats();
    char numbers[1024];
    snprintf(numbers, sizeof numbers,
             "live_device %ld\nlive_host %ld\nlive_registered %ld\nlive_streams %ld\nlive_events %ld\nlive_graphs %ld\ncalls %ld\nops %ld\n"
             "pageable_async %ld\nnull_stream_async %ld\nunrecorded_waits %ld\npage_locked %zu\nvram_used %zu\nvram_peak %zu\n",
             s.live_device, s.live_host, s.live_registered, s.live_streams, s.live_events, s.live_graphs, s.calls, s.ops, s.pageable_async,
             s.null_stream_async, s.unrecorded_waits, s.page_locked, s.vram_used, s.vram_peak);
    text = numbers + std::string("log ") + log();
    if (!air::emu::last_error().empty()) text += air::emu::last_error() + "\n";
    return text.c_str();
}

cudaError_t cudaPeekAtLastError(void)
{
    Lock lock;
    cudaError_t sticky = failure_of(current_device);
    return sticky ? sticky : last_error;
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t error = cudaPeekAtLastError();
    last_error = cudaSuccess;
    return error;
}

}
