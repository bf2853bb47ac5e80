/* Streams, events and launches. */
#include <algorithm>
#include <cstring>

#include "runtime/state.h"

namespace air::fake {

namespace {

enum : size_t { DEFAULT_SHARED = 48 * 1024 };

template <class T, class Handle>
T *object_of(Handle handle)
{
    return reinterpret_cast<T *>(handle);
}

Event *find_event(cudaEvent_t handle)
{
    Event *event = object_of<Event>(handle);
    return state().events.count(event) ? event : nullptr;
}

template <class Body>
cudaError_t call_with_stream(const char *api, cudaStream_t handle, Body body)
{
    return call(api, Needs::device, [&] {
        Stream *stream = find_stream(handle);
        return stream ? static_cast<cudaError_t>(body(*stream)) : cudaErrorInvalidResourceHandle;
    });
}

template <class Body>
cudaError_t call_with_event(const char *api, cudaEvent_t handle, Body body)
{
    return call(api, Needs::device, [&] {
        Event *event = find_event(handle);
        return event ? static_cast<cudaError_t>(body(*event)) : cudaErrorInvalidResourceHandle;
    });
}

cudaError_t create_stream(cudaStream_t *out)
{
    *out = reinterpret_cast<cudaStream_t>(new_stream(current_device));
    state().stats.live_streams++;
    return cudaSuccess;
}

cudaError_t create_event(cudaEvent_t *out, bool timed)
{
    Event *event = new Event();
    event->device = current_device;
    event->timed = timed;
    state().events.insert(event);
    state().stats.live_events++;
    *out = reinterpret_cast<cudaEvent_t>(event);
    return cudaSuccess;
}

/* --- launches --- */

/* "gemv<4, 2>" of "gemv<4, 2>, dim3(rows), 128, 0, stream, w": up to the first comma outside brackets. */
std::string kernel_name(const char *text)
{
    int depth = 0;
    const char *end = text;
    for (; *end && (depth || *end != ','); end++) depth += *end == '<' || *end == '(' ? 1 : *end == '>' || *end == ')' ? -1 : 0;
    return std::string(text, end);
}

const DeviceConfig &config_of(int device) { return cfg.device[static_cast<size_t>(device)]; }

/* What a block of the kernel may use, dynamic and static: more than 48 KiB only after cudaFuncSetAttribute. */
size_t shared_limit(const Stream &stream, const void *kernel)
{
    const auto &asked = device_of(stream.device).dynamic_shared;
    auto found = asked.find(kernel);
    return found != asked.end() && found->second > DEFAULT_SHARED ? config_of(stream.device).shared_optin : size_t(DEFAULT_SHARED);
}

bool dynamic_shared_fits(const Stream &stream, const void *kernel, size_t bytes)
{
    const auto &asked = device_of(stream.device).dynamic_shared;
    auto found = asked.find(kernel);
    return bytes <= (found == asked.end() ? size_t(DEFAULT_SHARED) : std::max(found->second, size_t(DEFAULT_SHARED)));
}

/* Whether the arguments hold what looks like memory of a device that the stream's cannot reach. */
bool reaches_elsewhere(const Stream &stream, const emu::Words &words, const std::string &name)
{
    for (uintptr_t word : words) {
        const Allocation *memory = find_memory(reinterpret_cast<const void *>(word), 0);
        if (!memory || may_use(stream.device, *memory)) continue;
        note(name + " on device " + std::to_string(stream.device) + " is given memory of device " + std::to_string(memory->device));
        return true;
    }
    return false;
}

cudaError_t run_kernel(const std::string &name, dim3 grid, dim3 block, size_t shared, size_t limit, int capability, const emu::Body &body)
{
    std::chrono::duration<double, std::micro> delay(cfg.kernel_us);
    if (cfg.mode == Mode::threads) std::this_thread::sleep_for(delay);
    return emu::run_grid({name.c_str(), grid, block, shared, limit, capability}, body);
}

}  // namespace

Stream *find_stream(cudaStream_t handle)
{
    State &s = state();
    if (!handle || handle == cudaStreamLegacy) {
        Device &device = device_of(current_device);
        if (!device.null_stream) device.null_stream = new_stream(current_device);
        return device.null_stream;
    }
    auto found = std::find(s.streams.begin(), s.streams.end(), object_of<Stream>(handle));
    return found == s.streams.end() ? nullptr : *found;
}

Stream *new_stream(int device)
{
    Stream *stream = new Stream();
    stream->device = device;
    state().streams.push_back(stream);
    return stream;
}

void delete_stream(Stream *stream)
{
    State &s = state();
    wait_idle(*stream);
    s.streams.erase(std::find(s.streams.begin(), s.streams.end(), stream));
    stream->quit = true;
    if (stream->worker.joinable()) {
        s.gate.notify();
        s.gate.unlock();
        stream->worker.join();
        s.gate.lock();
    }
    delete stream;
}

}  // namespace air::fake

using namespace air::fake;

cudaError_t air::emu::launch(const char *text, const void *kernel, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t handle,
                             Words words, Body body)
{
    return call_with_stream("cudaLaunchKernel", handle, [&](Stream &stream) {
        if (stream.device != current_device) {
            note("a launch on a stream of device " + std::to_string(stream.device) + ", not the current " + std::to_string(current_device));
            return cudaErrorInvalidResourceHandle;
        }
        int capability = config_of(stream.device).capability;
        if (!handle || handle == cudaStreamLegacy) state().stats.null_stream_async++;
        if (capability < cfg.image) return cudaErrorNoKernelImageForDevice;
        if (!valid_grid(grid, block)) return cudaErrorInvalidConfiguration;
        if (!dynamic_shared_fits(stream, kernel, shared_bytes)) return cudaErrorInvalidValue;
        std::string name = kernel_name(text);
        if (reaches_elsewhere(stream, words, name)) return push(stream, [] { return cudaErrorIllegalAddress; });
        size_t limit = shared_limit(stream, kernel);
        return push(stream, [=] { return run_kernel(name, grid, block, shared_bytes, limit, capability, body); });
    });
}

extern "C" {

cudaError_t cudaStreamCreate(cudaStream_t *out)
{
    return call("cudaStreamCreate", Needs::device, [&] { return create_stream(out); });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned)
{
    return call("cudaStreamCreateWithFlags", Needs::device, [&] { return create_stream(out); });
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *out, unsigned, int)
{
    return call("cudaStreamCreateWithPriority", Needs::device, [&] { return create_stream(out); });
}

cudaError_t cudaStreamDestroy(cudaStream_t handle)
{
    return release("cudaStreamDestroy", [&] {
        Stream *stream = handle ? find_stream(handle) : nullptr;
        if (!stream) return cudaErrorInvalidResourceHandle;
        delete_stream(stream);
        state().stats.live_streams--;
        return cudaSuccess;
    });
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle)
{
    return call_with_stream("cudaStreamSynchronize", handle, [&](Stream &stream) {
        if (stream.capture) return refuse_captured(stream);
        state().stats.host_waits++;
        wait_idle(stream);
        return failure_of(stream.device);
    });
}

cudaError_t cudaStreamQuery(cudaStream_t handle)
{
    return call_with_stream("cudaStreamQuery", handle, [&](Stream &stream) {
        if (stream.capture) return refuse_captured(stream);
        if (!is_idle(stream)) return cudaErrorNotReady;
        air::sanitizer::acquire(&stream.order);
        return failure_of(stream.device);
    });
}

cudaError_t cudaDeviceSynchronize(void)
{
    return call("cudaDeviceSynchronize", Needs::device, [] {
        cudaError_t refused = refuse_in_capture();
        if (refused) return refused;
        wait_all_idle(current_device);
        return failure_of(current_device);
    });
}

cudaError_t cudaEventCreate(cudaEvent_t *out)
{
    return call("cudaEventCreate", Needs::device, [&] { return create_event(out, true); });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags)
{
    return call("cudaEventCreateWithFlags", Needs::device, [&] { return create_event(out, !(flags & cudaEventDisableTiming)); });
}

cudaError_t cudaEventDestroy(cudaEvent_t handle)
{
    return release("cudaEventDestroy", [&] {
        Event *event = find_event(handle);
        if (!event) return cudaErrorInvalidResourceHandle;
        state().events.erase(event);
        delete event;
        state().stats.live_events--;
        return cudaSuccess;
    });
}

cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream_handle)
{
    return call_with_event("cudaEventRecord", handle, [&](Event &event) {
        Stream *stream = find_stream(stream_handle);
        if (!stream || stream->device != event.device) return cudaErrorInvalidResourceHandle;
        if (stream->capture) return capture_record(*stream, event);
        event.capture = nullptr;
        event.last = std::make_shared<Completion>();
        return push(*stream, nullptr, nullptr, event.last);
    });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream_handle, cudaEvent_t handle, unsigned)
{
    return call_with_event("cudaStreamWaitEvent", handle, [&](Event &event) {
        Stream *stream = find_stream(stream_handle);
        if (!stream) return cudaErrorInvalidResourceHandle;
        if (stream->capture || event.capture) return capture_wait(*stream, event);
        if (!event.last) {
            state().stats.unrecorded_waits++;  /* CUDA's rule: no wait, and no error */
            return cudaSuccess;
        }
        return push(*stream, nullptr, event.last);
    });
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle)
{
    return call_with_event("cudaEventSynchronize", handle, [&](Event &event) {
        if (event.capture) return cudaErrorStreamCaptureUnsupported;
        CompletionPtr last = event.last;
        int device = event.device;
        state().stats.host_waits++;
        if (last) wait_for(last);
        else state().stats.unrecorded_waits++;
        return failure_of(device);
    });
}

cudaError_t cudaEventQuery(cudaEvent_t handle)
{
    return call_with_event("cudaEventQuery", handle, [&](Event &event) {
        if (event.capture) return cudaErrorStreamCaptureUnsupported;
        if (!event.last) return cudaSuccess;
        if (!event.last->done) return cudaErrorNotReady;
        air::sanitizer::acquire(event.last.get());
        return cudaSuccess;
    });
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, cudaEvent_t to)
{
    return call_with_event("cudaEventElapsedTime", from, [&](Event &first) {
        Event *second = find_event(to);
        if (!second || !first.timed || !second->timed || !first.last || !second->last) return cudaErrorInvalidResourceHandle;
        if (!first.last->done || !second->last->done) return cudaErrorNotReady;
        *milliseconds = std::chrono::duration<float, std::milli>(second->last->at - first.last->at).count();
        return cudaSuccess;
    });
}

cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t function, void *argument)
{
    return call_with_stream("cudaLaunchHostFunc", handle, [&](Stream &stream) {
        return push(stream, [=] {
            function(argument);
            return cudaSuccess;
        });
    });
}

/* Kernels are compiled for every device that is not older than cfg.image. */
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, const void *)
{
    return call("cudaFuncGetAttributes", Needs::device, [&] {
        int capability = cfg.device[static_cast<size_t>(current_device)].capability;
        *attributes = cudaFuncAttributes{};
        if (capability < cfg.image) return cudaErrorNoKernelImageForDevice;
        attributes->ptxVersion = attributes->binaryVersion = capability;
        attributes->maxThreadsPerBlock = 1024;
        return cudaSuccess;
    });
}

cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value)
{
    return call("cudaFuncSetAttribute", Needs::device, [&] {
        if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
        if (value < 0 || static_cast<size_t>(value) > config_of(current_device).shared_optin) return cudaErrorInvalidValue;
        device_of(current_device).dynamic_shared[kernel] = static_cast<size_t>(value);
        return cudaSuccess;
    });
}

/* By threads and dynamic shared memory alone: registers and static shared memory are not known here. */
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *, int threads, size_t shared_bytes)
{
    return call("cudaOccupancyMaxActiveBlocksPerMultiprocessor", Needs::device, [&] {
        enum { MOST_THREADS = 1536, MOST_BLOCKS = 16, RESERVED = 1024 };
        if (threads < 1) return cudaErrorInvalidValue;
        size_t per_processor = config_of(current_device).shared_optin + RESERVED;
        int by_shared = static_cast<int>(per_processor / (shared_bytes + RESERVED));
        *blocks = threads > 1024 ? 0 : std::min({int(MOST_BLOCKS), MOST_THREADS / threads, by_shared});
        return cudaSuccess;
    });
}

}
