"""The NVIDIA driver, asked through its own library: which GPUs there are, and how much of their memory is free, whoever uses it."""
from __future__ import annotations

import ctypes
import threading
import time
from typing import Any

Json = dict[str, Any]
NO_GPU = 3                          # exit status of the tools where there is none


class NoGpuError(Exception):
    """Why there is no GPU to be used."""


def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise NoGpuError("no NVIDIA driver was found (libcuda.so.1)") from None
    if code := library.cuInit(0):
        raise NoGpuError(f"the NVIDIA driver finds no GPU that can be used (cuInit returned {code})")
    return library


def _checked(code: int, what: str) -> None:
    if code:
        raise NoGpuError(f"the NVIDIA driver refuses {what} (error {code})")


def facts(device: int = 0) -> Json:
    """Name, capability, memory and the CUDA version that the driver is for. Raises NoGpuError."""
    cuda, count, version = _library(), ctypes.c_int(), ctypes.c_int()
    _checked(cuda.cuDeviceGetCount(ctypes.byref(count)), "a count of devices")
    if device >= count.value:
        raise NoGpuError(f"there is no GPU {device}; the driver shows {count.value} (CUDA_VISIBLE_DEVICES hides them?)")
    _checked(cuda.cuDriverGetVersion(ctypes.byref(version)), "its version")
    name, handle, total = ctypes.create_string_buffer(256), ctypes.c_int(), ctypes.c_size_t()
    _checked(cuda.cuDeviceGet(ctypes.byref(handle), device), "the device")
    cuda.cuDeviceGetName(name, len(name), handle)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(total), handle)
    numbers = {}
    for key, attribute in (("major", 75), ("minor", 76), ("processors", 16), ("l2_bytes", 38), ("copy_engines", 40)):
        value = ctypes.c_int()
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, handle)
        numbers[key] = value.value
    cuda_version = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return {"name": name.value.decode(), "memory_bytes": total.value, "cuda_of_driver": cuda_version, **numbers}


class Watch:
    """How much of a GPU's memory other processes take while the block runs: the least that is free, asked for every few
    milliseconds, against what was free before. Holds a context of its own; one of these at a time."""

    def __init__(self, device: int = 0) -> None:
        self._cuda, self._device, self._context = _library(), ctypes.c_int(), ctypes.c_void_p()
        _checked(self._cuda.cuDeviceGet(ctypes.byref(self._device), device), "the device")
        _checked(self._cuda.cuDevicePrimaryCtxRetain(ctypes.byref(self._context), self._device), "a context")

    def free(self) -> int:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        _checked(self._cuda.cuCtxSetCurrent(self._context), "its context")
        _checked(self._cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)), "how much is free")
        return free.value

    def __enter__(self) -> Watch:
        self._before = self._least = self.free()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._stop.is_set():
            self._least = min(self._least, self.free())
            time.sleep(0.002)

    def __exit__(self, *unused: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def taken(self) -> int:
        return self._before - self._least

    def close(self) -> None:
        self._cuda.cuDevicePrimaryCtxRelease_v2(self._device)
