/* Device and page-locked memory, and copies between them. All of it is memory of this process; the map says whose it is meant to be. */
#include <cstdlib>
#include <cstring>

#include <unistd.h>

#include "runtime/state.h"

namespace air::fake {

namespace {

enum : size_t { GRAIN = 512, PAGE = 4096 };  /* what device memory is charged in multiples of */
enum Direction { TO_DEVICE, FROM_DEVICE, NO_DIRECTION };

char *bytes_of(const void *p) { return const_cast<char *>(static_cast<const char *>(p)); }

size_t left_of(size_t limit, size_t used) { return used < limit ? limit - used : 0; }

/* The allocation that p itself lies in. */
Allocation *allocation_at(const void *p)
{
    auto next = state().memory.upper_bound(bytes_of(p));
    if (next == state().memory.begin()) return nullptr;
    --next;
    size_t bytes = next->second.bytes ? next->second.bytes : 1;
    return bytes_of(p) < next->first + bytes ? &next->second : nullptr;
}

bool on_device(const Allocation *memory) { return memory && memory->device != HOST; }

/* Forgets an allocation once no stream can be using it. */
void forget(char *memory)
{
    State &s = state();
    wait_all_idle(s.memory[memory].device);
    Allocation gone = s.memory[memory];
    s.memory.erase(memory);
    if (gone.device != HOST) {
        device_of(gone.device).used -= gone.charged;
        s.stats.live_device--;
    } else {
        s.stats.page_locked -= gone.bytes;
        if (gone.registered) s.registered_bytes -= gone.bytes;
        (gone.registered ? s.stats.live_registered : s.stats.live_host)--;
    }
    if (!gone.registered) free(memory);
}

cudaError_t allocate_on_device(void **out, size_t bytes)
{
    State &s = state();
    Device &device = device_of(current_device);
    size_t charged = (bytes + GRAIN - 1) / GRAIN * GRAIN;
    void *memory = nullptr;
    *out = nullptr;
    if (charged > left_of(cfg.device[static_cast<size_t>(current_device)].vram, device.used)) return cudaErrorMemoryAllocation;
    if (posix_memalign(&memory, 256, bytes ? bytes : 1)) return cudaErrorMemoryAllocation;
    if (cfg.poison) memset(memory, 0xFF, bytes);
    s.memory[bytes_of(memory)] = {bytes, charged, current_device, false};
    device.used += charged;
    if (device.used > device.peak) device.peak = device.used;
    size_t total = 0;
    for (const Device &each : s.device) total += each.used;
    if (total > s.stats.vram_peak) s.stats.vram_peak = total;
    s.stats.live_device++;
    *out = memory;
    return cudaSuccess;
}

cudaError_t allocate_on_host(void **out, size_t bytes)
{
    State &s = state();
    void *memory = nullptr;
    *out = nullptr;
    if (bytes > left_of(cfg.page_locked_limit, s.stats.page_locked)) return cudaErrorMemoryAllocation;
    if (posix_memalign(&memory, PAGE, bytes ? bytes : 1)) return cudaErrorMemoryAllocation;
    if (cfg.poison) memset(memory, 0xFF, bytes);
    s.memory[bytes_of(memory)] = {bytes, 0, HOST, false};
    s.stats.page_locked += bytes;
    s.stats.live_host++;
    *out = memory;
    return cudaSuccess;
}

/* --- copies; run with the gate open --- */

/* Of a copy that begins now, of 10^9 bytes per second; 0: not modelled. What all links come from is shared by those that are busy then. */
double rate_of(int device, Direction direction)
{
    if (direction != TO_DEVICE) return direction == FROM_DEVICE ? cfg.d2h_gbs : 0;
    double own = cfg.device[static_cast<size_t>(device)].link_gbs > 0 ? cfg.device[static_cast<size_t>(device)].link_gbs : cfg.h2d_gbs;
    int busy = 1;
    for (int i = 0; i < cfg.devices; i++) busy += i != device && device_of(i).copying[TO_DEVICE];
    double share = cfg.root_gbs / busy;
    return share > 0 && (share < own || own <= 0) ? share : own;
}

/* Copies, or takes as long over it as the modelled bus does, one copy at a time per device and direction. */
void copy(char *to, const char *from, size_t n, int device, Direction direction)
{
    sanitizer::reads(from, n);
    sanitizer::writes(to, n);
    if (direction == FROM_DEVICE) state().downloaded += static_cast<long>(n);
    if (cfg.mode != Mode::threads || !(rate_of(device, direction) > 0)) {
        memmove(to, from, n);
        return;
    }
    std::atomic<int> &engine = device_of(device).copying[direction];
    while (engine.exchange(1)) usleep(20);
    double gbs = rate_of(device, direction);
    Clock::time_point begin = Clock::now();
    auto until = [&](double part) {
        std::chrono::duration<double> time(static_cast<double>(n) / (gbs * 1e9) * part);
        std::this_thread::sleep_until(begin + std::chrono::duration_cast<Clock::duration>(time));
    };
    if (cfg.poison) memset(to, 0xFF, n);  /* who reads before the end gets NaN */
    enum { PIECES = 16 };
    if (cfg.copy == Copy::early) memcpy(to, from, n);
    for (size_t i = 0; cfg.copy == Copy::spread && i < PIECES; i++) {
        size_t begins = n * i / PIECES, ends = n * (i + 1) / PIECES;
        memcpy(to + begins, from + begins, ends - begins);
        until(static_cast<double>(i + 1) / PIECES);
    }
    until(1);
    if (cfg.copy == Copy::late) memcpy(to, from, n);
    engine = 0;
}

/* --- checks --- */

/* What a copy's side may be: in one allocation as a whole, of the stream's device or a peer, or memory of the host. */
cudaError_t check_side(const void *p, size_t n, int device)
{
    const Allocation *memory = allocation_at(p);
    if (!memory || !n) return cudaSuccess;
    if (!find_memory(p, n)) {
        note("a copy or memset runs over the end of its allocation");
        return cudaErrorInvalidValue;
    }
    if (may_use(device, *memory)) return cudaSuccess;
    note("a copy or memset on device " + std::to_string(device) + " of memory of device " + std::to_string(memory->device));
    return cudaErrorInvalidValue;
}

bool kind_fits(cudaMemcpyKind kind, bool to_device, bool from_device)
{
    switch (kind) {
    case cudaMemcpyHostToHost: return !to_device && !from_device;
    case cudaMemcpyHostToDevice: return to_device && !from_device;
    case cudaMemcpyDeviceToHost: return !to_device && from_device;
    case cudaMemcpyDeviceToDevice: return to_device && from_device;
    default: return kind == cudaMemcpyDefault;
    }
}

cudaError_t check_copy(const void *to, const void *from, size_t n, cudaMemcpyKind kind, int device)
{
    if (!kind_fits(kind, on_device(allocation_at(to)), on_device(allocation_at(from)))) return cudaErrorInvalidValue;
    cudaError_t error = check_side(to, n, device);
    return error ? error : check_side(from, n, device);
}

Direction direction_of(const void *to, const void *from)
{
    bool to_device = on_device(allocation_at(to)), from_device = on_device(allocation_at(from));
    return to_device == from_device ? NO_DIRECTION : to_device ? TO_DEVICE : FROM_DEVICE;
}

/* From memory that is not page-locked: staged before the call returns, so the caller may change it at once. */
cudaError_t copy_staged(Stream &stream, char *to, const char *from, size_t n)
{
    state().gate.unlock();
    sanitizer::reads(from, n);
    state().gate.lock();
    auto staged = std::make_shared<std::vector<char>>(from, from + n);
    int device = stream.device;
    return push(stream, [=] {
        copy(to, staged->data(), n, device, TO_DEVICE);
        return cudaSuccess;
    });
}

cudaError_t copy_async(Stream &stream, void *to, const void *from, size_t n, cudaMemcpyKind kind)
{
    cudaError_t error = check_copy(to, from, n, kind, stream.device);
    if (error || !n) return error;
    Direction direction = direction_of(to, from);
    bool pageable = !allocation_at(direction == FROM_DEVICE ? to : from);
    if (pageable && stream.capture) return refuse_captured(stream);
    if (pageable) state().stats.pageable_async++;
    char *target = bytes_of(to);
    const char *source = bytes_of(from);
    if (pageable && direction == TO_DEVICE) return copy_staged(stream, target, source, n);
    int device = stream.device;
    error = push(stream, [=] {
        copy(target, source, n, device, direction);
        return cudaSuccess;
    });
    if (!error && pageable) wait_idle(stream);  /* into memory that is not page-locked: synchronous */
    return error;
}

cudaError_t set_async(Stream &stream, void *memory, int value, size_t n)
{
    if (!n) return cudaSuccess;
    if (!allocation_at(memory)) return cudaErrorInvalidValue;
    cudaError_t error = check_side(memory, n, stream.device);
    if (error) return error;
    return push(stream, [=] {
        sanitizer::writes(memory, n);
        memset(memory, value, n);
        return cudaSuccess;
    });
}

template <class Body>
cudaError_t call_on_stream(const char *api, cudaStream_t handle, Body body)
{
    return call(api, Needs::device, [&] {
        Stream *stream = find_stream(handle);
        if (!stream) return cudaErrorInvalidResourceHandle;
        if (!handle || handle == cudaStreamLegacy) state().stats.null_stream_async++;
        cudaError_t failed = failure_of(stream->device);
        return failed ? failed : static_cast<cudaError_t>(body(*stream));
    });
}

}  // namespace

Allocation *find_memory(const void *p, size_t bytes)
{
    Allocation *memory = allocation_at(p);
    if (!memory) return nullptr;
    auto begin = --state().memory.upper_bound(bytes_of(p));
    return bytes <= static_cast<size_t>(begin->first + memory->bytes - bytes_of(p)) ? memory : nullptr;
}

bool may_use(int device, const Allocation &memory)
{
    return memory.device == HOST || memory.device == device || device_of(device).peers.count(memory.device);
}

}  // namespace air::fake

using namespace air::fake;

extern "C" {

cudaError_t cudaMalloc(void **out, size_t bytes)
{
    return call("cudaMalloc", Needs::device, [&] {
        cudaError_t refused = refuse_in_capture();
        return refused ? refused : allocate_on_device(out, bytes);
    });
}

cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned)
{
    return call("cudaHostAlloc", Needs::device, [&] {
        cudaError_t refused = refuse_in_capture();
        return refused ? refused : allocate_on_host(out, bytes);
    });
}

cudaError_t cudaMallocHost(void **out, size_t bytes)
{
    return call("cudaMallocHost", Needs::device, [&] { return allocate_on_host(out, bytes); });
}

cudaError_t cudaFree(void *memory)
{
    if (!memory) return cudaSuccess;
    return release("cudaFree", [&] {
        auto found = state().memory.find(bytes_of(memory));
        if (found == state().memory.end() || found->second.device == HOST) return cudaErrorInvalidValue;
        forget(bytes_of(memory));
        return cudaSuccess;
    });
}

cudaError_t cudaFreeHost(void *memory)
{
    if (!memory) return cudaSuccess;
    return release("cudaFreeHost", [&] {
        auto found = state().memory.find(bytes_of(memory));
        if (found == state().memory.end() || found->second.device != HOST || found->second.registered) return cudaErrorInvalidValue;
        forget(bytes_of(memory));
        return cudaSuccess;
    });
}

cudaError_t cudaHostRegister(void *memory, size_t bytes, unsigned)
{
    return call("cudaHostRegister", Needs::device, [&] {
        State &s = state();
        if (!memory || !bytes) return cudaErrorInvalidValue;
        auto next = s.memory.lower_bound(bytes_of(memory));
        bool overlaps = next != s.memory.end() && next->first < bytes_of(memory) + bytes;
        if (overlaps || allocation_at(memory)) return cudaErrorHostMemoryAlreadyRegistered;
        if (bytes > left_of(cfg.register_limit, s.registered_bytes)) return cudaErrorMemoryAllocation;
        if (bytes > left_of(cfg.page_locked_limit, s.stats.page_locked)) return cudaErrorMemoryAllocation;
        s.memory[bytes_of(memory)] = {bytes, 0, HOST, true};
        s.registered_bytes += bytes;
        s.stats.page_locked += bytes;
        s.stats.live_registered++;
        return cudaSuccess;
    });
}

cudaError_t cudaHostUnregister(void *memory)
{
    return release("cudaHostUnregister", [&] {
        auto found = state().memory.find(bytes_of(memory));
        if (found == state().memory.end() || !found->second.registered) return cudaErrorHostMemoryNotRegistered;
        forget(bytes_of(memory));
        return cudaSuccess;
    });
}

cudaError_t cudaHostGetDevicePointer(void **device, void *host, unsigned)
{
    return call("cudaHostGetDevicePointer", Needs::device, [&] {
        const Allocation *memory = allocation_at(host);
        if (!memory || memory->device != HOST) return cudaErrorInvalidValue;
        *device = host;
        return cudaSuccess;
    });
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    return call("cudaMemGetInfo", Needs::device, [&] {
        *total = cfg.device[static_cast<size_t>(current_device)].vram;
        *free_bytes = left_of(*total, device_of(current_device).used);
        return cudaSuccess;
    });
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t handle)
{
    return call_on_stream("cudaMemcpyAsync", handle, [&](Stream &stream) { return copy_async(stream, to, from, bytes, kind); });
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height,
                              cudaMemcpyKind kind, cudaStream_t handle)
{
    return call_on_stream("cudaMemcpy2DAsync", handle, [&](Stream &stream) {
        cudaError_t error = width > to_pitch || width > from_pitch ? cudaErrorInvalidPitchValue : cudaSuccess;
        for (size_t row = 0; row < height && !error; row++)
            error = copy_async(stream, bytes_of(to) + row * to_pitch, bytes_of(from) + row * from_pitch, width, kind);
        return error;
    });
}

cudaError_t cudaMemcpyPeerAsync(void *to, int to_device, const void *from, int from_device, size_t bytes, cudaStream_t handle)
{
    return call_on_stream("cudaMemcpyPeerAsync", handle, [&](Stream &stream) {
        const Allocation *target = find_memory(to, bytes), *source = find_memory(from, bytes);
        if (to_device < 0 || to_device >= cfg.devices || from_device < 0 || from_device >= cfg.devices) return cudaErrorInvalidDevice;
        if (!target || !source || target->device != to_device || source->device != from_device) return cudaErrorInvalidValue;
        for (int device : {to_device, from_device})
            if (failure_of(device)) return failure_of(device);
        return push(stream, [=] {
            copy(bytes_of(to), bytes_of(from), bytes, to_device, NO_DIRECTION);
            return cudaSuccess;
        });
    });
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind)
{
    return call("cudaMemcpy", Needs::device, [&] {
        cudaError_t error = refuse_in_capture();
        if (!error) error = check_copy(to, from, bytes, kind, current_device);
        if (error) return error;
        wait_idle(*find_stream(nullptr));
        state().gate.unlock();
        copy(bytes_of(to), bytes_of(from), bytes, current_device, NO_DIRECTION);
        state().gate.lock();
        return failure_of(current_device);
    });
}

cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t handle)
{
    return call_on_stream("cudaMemsetAsync", handle, [&](Stream &stream) { return set_async(stream, memory, value, bytes); });
}

cudaError_t cudaMemset(void *memory, int value, size_t bytes)
{
    return call("cudaMemset", Needs::device, [&] {
        cudaError_t error = refuse_in_capture();
        if (error) return error;
        Stream &stream = *find_stream(nullptr);
        error = set_async(stream, memory, value, bytes);
        wait_idle(stream);
        return error ? error : failure_of(current_device);
    });
}

}
