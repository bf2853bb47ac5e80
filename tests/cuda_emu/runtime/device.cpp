/* Which devices there are and what they say of themselves. */
#include <cstdio>
#include <cstring>

#include "runtime/state.h"

namespace air::fake {

namespace {

enum { THREADS_PER_PROCESSOR = 1536, BLOCKS_PER_PROCESSOR = 16, REGISTERS = 65536, L2_BYTES = 4 << 20, CLOCK_KHZ = 1500000 };

bool is_device(int device) { return device >= 0 && device < cfg.devices; }

void describe(cudaDeviceProp *p, const DeviceConfig &config)
{
    memset(static_cast<void *>(p), 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "%s", config.name.c_str());
    p->totalGlobalMem = config.vram;
    p->sharedMemPerBlock = 48 * 1024;
    p->sharedMemPerBlockOptin = config.shared_optin;
    p->sharedMemPerMultiprocessor = config.shared_optin + 1024;
    p->regsPerBlock = REGISTERS;
    p->warpSize = 32;
    p->maxThreadsPerBlock = 1024;
    p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 0x7fffffff;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->major = config.capability / 10;
    p->minor = config.capability % 10;
    p->multiProcessorCount = config.multiprocessors;
    p->maxThreadsPerMultiProcessor = THREADS_PER_PROCESSOR;
    p->maxBlocksPerMultiProcessor = BLOCKS_PER_PROCESSOR;
    p->memoryBusWidth = config.bus_bits;
    p->l2CacheSize = L2_BYTES;
    p->unifiedAddressing = p->canMapHostMemory = p->concurrentKernels = p->hostRegisterSupported = 1;
    p->asyncEngineCount = 2;
}

/* -1: an attribute that nothing here has asked for yet. */
int attribute_of(cudaDeviceAttr attribute, const DeviceConfig &config)
{
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: return 1024;
    case cudaDevAttrMaxSharedMemoryPerBlock: return 48 * 1024;
    case cudaDevAttrWarpSize: return 32;
    case cudaDevAttrMaxRegistersPerBlock: return REGISTERS;
    case cudaDevAttrClockRate: return CLOCK_KHZ;
    case cudaDevAttrMultiProcessorCount: return config.multiprocessors;
    case cudaDevAttrIntegrated: return 0;
    case cudaDevAttrMemoryClockRate: return config.memory_clock_khz;
    case cudaDevAttrGlobalMemoryBusWidth: return config.bus_bits;
    case cudaDevAttrL2CacheSize: return L2_BYTES;
    case cudaDevAttrMaxThreadsPerMultiProcessor: return THREADS_PER_PROCESSOR;
    case cudaDevAttrAsyncEngineCount: return 2;
    case cudaDevAttrUnifiedAddressing: return 1;
    case cudaDevAttrComputeCapabilityMajor: return config.capability / 10;
    case cudaDevAttrComputeCapabilityMinor: return config.capability % 10;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: return static_cast<int>(config.shared_optin) + 1024;
    case cudaDevAttrPageableMemoryAccess: return 0;
    case cudaDevAttrCanUseHostPointerForRegisteredMem: return 1;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: return static_cast<int>(config.shared_optin);
    case cudaDevAttrHostRegisterSupported: return cfg.register_limit > 0;
    case cudaDevAttrMaxBlocksPerMultiprocessor: return BLOCKS_PER_PROCESSOR;
    case cudaDevAttrHostRegisterReadOnlySupported: return 1;
    default: return -1;
    }
}

struct ErrorName {
    cudaError_t error;
    const char *name, *text;
};

#define ERROR(name, text) {name, #name, text}
const ErrorName error_names[] = {
    ERROR(cudaSuccess, "no error"),
    ERROR(cudaErrorInvalidValue, "invalid argument"),
    ERROR(cudaErrorMemoryAllocation, "out of memory"),
    ERROR(cudaErrorInitializationError, "initialization error"),
    ERROR(cudaErrorInvalidConfiguration, "invalid configuration argument"),
    ERROR(cudaErrorInvalidPitchValue, "invalid pitch argument"),
    ERROR(cudaErrorInsufficientDriver, "CUDA driver version is insufficient for CUDA runtime version"),
    ERROR(cudaErrorDevicesUnavailable, "CUDA-capable device(s) is/are busy or unavailable"),
    ERROR(cudaErrorNoDevice, "no CUDA-capable device is detected"),
    ERROR(cudaErrorInvalidDevice, "invalid device ordinal"),
    ERROR(cudaErrorNoKernelImageForDevice, "no kernel image is available for execution on the device"),
    ERROR(cudaErrorECCUncorrectable, "uncorrectable ECC error encountered"),
    ERROR(cudaErrorPeerAccessUnsupported, "peer access is not supported between these two devices"),
    ERROR(cudaErrorInvalidResourceHandle, "invalid resource handle"),
    ERROR(cudaErrorNotReady, "device not ready"),
    ERROR(cudaErrorIllegalAddress, "an illegal memory access was encountered"),
    ERROR(cudaErrorPeerAccessAlreadyEnabled, "peer access is already enabled"),
    ERROR(cudaErrorPeerAccessNotEnabled, "peer access has not been enabled"),
    ERROR(cudaErrorHostMemoryAlreadyRegistered, "part or all of the requested memory range is already mapped"),
    ERROR(cudaErrorHostMemoryNotRegistered, "pointer does not correspond to a registered memory region"),
    ERROR(cudaErrorMisalignedAddress, "misaligned address"),
    ERROR(cudaErrorLaunchFailure, "unspecified launch failure"),
    ERROR(cudaErrorNotSupported, "operation not supported"),
    ERROR(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing"),
    ERROR(cudaErrorStreamCaptureInvalidated, "operation failed due to a previous error during capture"),
    ERROR(cudaErrorStreamCaptureUnmatched, "capture was not initiated in this stream"),
    ERROR(cudaErrorStreamCaptureUnjoined, "capturing stream has unjoined work"),
    ERROR(cudaErrorStreamCaptureIsolation, "dependency created on uncaptured work in another stream"),
    ERROR(cudaErrorUnknown, "unknown error"),
};
#undef ERROR

const ErrorName &name_of(cudaError_t error)
{
    static const ErrorName unknown = {cudaErrorUnknown, "cudaError, a number that tests/cuda_emu does not name", "unrecognized error code"};
    for (const ErrorName &each : error_names)
        if (each.error == error) return each;
    return unknown;
}

}  // namespace

}  // namespace air::fake

using namespace air::fake;

extern "C" {

cudaError_t cudaDriverGetVersion(int *version)
{
    return call("cudaDriverGetVersion", Needs::nothing, [&] {
        *version = cfg.driver;
        return cudaSuccess;
    });
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    return call("cudaRuntimeGetVersion", Needs::nothing, [&] {
        *version = cfg.runtime;
        return cudaSuccess;
    });
}

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = 0;
    return call("cudaGetDeviceCount", Needs::driver, [&] {
        *count = cfg.devices;
        return cudaSuccess;
    });
}

cudaError_t cudaSetDevice(int device)
{
    return call("cudaSetDevice", Needs::driver, [&] {
        if (!is_device(device)) return cudaErrorInvalidDevice;
        current_device = device;
        return device_of(device).lost ? failure_of(device) : cudaSuccess;
    });
}

cudaError_t cudaGetDevice(int *device)
{
    return call("cudaGetDevice", Needs::driver, [&] {
        *device = current_device;
        return cudaSuccess;
    });
}

cudaError_t cudaSetDeviceFlags(unsigned)
{
    return call("cudaSetDeviceFlags", Needs::driver, [] { return cudaSuccess; });
}

/* Ends what is pending and clears a sticky error, but for that of a lost device. Memory, streams and events stay, to be counted. */
cudaError_t cudaDeviceReset(void)
{
    return release("cudaDeviceReset", [] {
        Device &device = device_of(current_device);
        wait_all_idle(current_device);
        if (device.lost) return device.failed;
        device.failed = cudaSuccess;
        return cudaSuccess;
    });
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device)
{
    return call("cudaGetDeviceProperties", Needs::driver, [&] {
        if (!is_device(device)) return cudaErrorInvalidDevice;
        describe(properties, cfg.device[static_cast<size_t>(device)]);
        properties->uuid.bytes[15] = static_cast<char>(device + 1);
        return cudaSuccess;
    });
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device)
{
    return call("cudaDeviceGetAttribute", Needs::driver, [&] {
        if (!is_device(device)) return cudaErrorInvalidDevice;
        *value = attribute_of(attribute, cfg.device[static_cast<size_t>(device)]);
        return *value < 0 ? cudaErrorInvalidValue : cudaSuccess;
    });
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    return call("cudaDeviceGetStreamPriorityRange", Needs::device, [&] {
        *least = 0;
        *greatest = -5;
        return cudaSuccess;
    });
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer)
{
    return call("cudaDeviceCanAccessPeer", Needs::driver, [&] {
        if (!is_device(device) || !is_device(peer)) return cudaErrorInvalidDevice;
        *can = cfg.peer && device != peer;
        return cudaSuccess;
    });
}

cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned)
{
    return call("cudaDeviceEnablePeerAccess", Needs::device, [&] {
        if (!is_device(peer) || peer == current_device) return cudaErrorInvalidDevice;
        if (!cfg.peer) return cudaErrorPeerAccessUnsupported;
        return device_of(current_device).peers.insert(peer).second ? cudaSuccess : cudaErrorPeerAccessAlreadyEnabled;
    });
}

cudaError_t cudaDeviceDisablePeerAccess(int peer)
{
    return call("cudaDeviceDisablePeerAccess", Needs::device, [&] {
        return device_of(current_device).peers.erase(peer) ? cudaSuccess : cudaErrorPeerAccessNotEnabled;
    });
}

const char *cudaGetErrorName(cudaError_t error) { return name_of(error).name; }
const char *cudaGetErrorString(cudaError_t error) { return name_of(error).text; }

}
