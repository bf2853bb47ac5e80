"""Devices by the names that PyTorch has for them, and where the CUDA backend is."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from typing import Any

from airpy import _core
from airpy.errors import AirpyError, UnsupportedError

_PLUGIN = "libairpy_cuda.so"
_CUDA = r"cuda(?::\d{1,3}(?:,\d{1,3})*)?"


@dataclass(frozen=True)
class Gpu:
    """One of this machine's GPUs; its memory is asked for when the record is made."""

    number: int
    name: str
    id: str  # a UUID in hexadecimal
    capability: tuple[int, int]
    driver: int  # 1000 × major + 10 × minor
    processors: int
    total: int
    free: int

    @property
    def kind(self) -> dict[str, Any]:
        """What a plan for it says it is for."""
        return {"name": self.name, "capability": list(self.capability), "driver": self.driver}

    @property
    def key(self) -> str:
        """What its rates belong to: this one of its kind, its driver, this build of the backend."""
        return f"gpu {self.name} {self.id} {self.driver} {_core.file_identity(cuda_plugin()):x}"


@dataclass(frozen=True)
class Device:
    """What computes: "cpu", or "cuda" with the numbers of one device or several, the first of which has the KV cache."""

    kind: str = "cpu"
    numbers: tuple[int, ...] = (0,)
    automatic: bool = field(default=False, compare=False)  # found, not named
    problem: str = field(default="", compare=False)  # why it is the CPU, though there may be a GPU

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{','.join(map(str, self.numbers))}"

    def that_runs(self, gguf: _core.GGUF) -> Device:
        """Itself; the CPU where GPUs were found, not named, and their backend has no kernels for this model."""
        if self.automatic:
            try:
                _core.check_device(cuda_plugin(), gguf)
            except UnsupportedError:
                return CPU
        return self

    def engine_options(self) -> dict[str, Any]:
        if self.kind == "cpu":
            return {}
        return {"plugin": cuda_plugin(), "device": self.numbers}

    def gpus(self) -> tuple[Gpu, ...]:
        """Which GPUs those are now, which makes a context on each. Raises UnsupportedError where one cannot be used."""
        return () if self.kind == "cpu" else tuple(_gpu(cuda_plugin(), number) for number in self.numbers)


CPU = Device()


def cuda_plugin() -> str:
    """The path of the CUDA backend: AIRPY_CUDA_PLUGIN, or the one beside the extension, which need not be there."""
    beside = os.path.join(os.path.dirname(os.path.abspath(_core.__file__)), _PLUGIN)
    return os.environ.get("AIRPY_CUDA_PLUGIN") or beside


def _plugin_there() -> str:
    plugin = cuda_plugin()
    if not os.path.exists(plugin):
        raise UnsupportedError("this build of airpy has no CUDA backend; build it beside an nvcc, or install a wheel that has it")
    return plugin


def _gpu(plugin: str, number: int) -> Gpu:
    return Gpu(number, **_core.device_info(plugin, number))


def find_gpus() -> tuple[list[Gpu], list[str]]:
    """Those that can be used, which makes a context on each, and why the others cannot. Raises UnsupportedError saying why there is none
    at all, DeviceError where CUDA cannot be used."""
    plugin, usable, problems = _plugin_there(), [], []
    for number in range(_core.device_count(plugin)):
        try:
            usable.append(_gpu(plugin, number))
        except AirpyError as error:
            problems.append(str(error))
    return usable, problems


def find_device(where: str, device: Any) -> Device:
    """What a name, or what prints as one (torch.device), stands for; None is "auto": all GPUs that can be used, or the CPU where none can;
    that_runs() says whether they run a model. Raises UnsupportedError for other names, and for a GPU that is not there, saying why, and
    DeviceError where CUDA cannot be used."""
    name = "auto" if device is None else str(device)
    if name in ("cpu", "cpu:0"):
        return CPU
    if name == "auto":
        return _automatic()
    if not re.fullmatch(_CUDA, name):
        raise UnsupportedError(f"{where}: {device!r} is not supported; devices are 'cpu', 'cuda', 'cuda:0', 'cuda:0,1' … and 'auto'")
    numbers = tuple(map(int, (name.partition(":")[2] or "0").split(",")))
    if len(set(numbers)) < len(numbers) or len(numbers) > _core.MAX_DEVICES:
        raise UnsupportedError(f"{where}: {device!r} names a device twice, or more than {_core.MAX_DEVICES} of them")
    count = _core.device_count(_plugin_there())
    for number in numbers:
        if number >= count:
            raise UnsupportedError(f"{where}: there is no cuda:{number}; this machine has {count} of them, counted from 0")
    return Device("cuda", numbers)


def _automatic() -> Device:
    """The GPUs that can be used, else the CPU, which then knows what is the matter with those there are."""
    try:
        usable, problems = find_gpus()
    except UnsupportedError:  # there is none, or no backend
        return CPU
    except AirpyError as error:
        return replace(CPU, problem=str(error))
    if not usable:
        return replace(CPU, problem="; ".join(problems))
    return Device("cuda", tuple(gpu.number for gpu in usable[: _core.MAX_DEVICES]), automatic=True)


def check_name(where: str, device: Any) -> None:
    """Raises UnsupportedError for what names no device."""
    if not re.fullmatch(rf"cpu(:0)?|{_CUDA}", str(device)):
        raise UnsupportedError(f"{where}: {device!r} is not supported; devices are 'cpu', 'cuda', 'cuda:0', 'cuda:0,1' …")


def stay_on(where: str, device: Any, own: str) -> None:
    """Raises UnsupportedError for any device but its own: its name, or what prints as it."""
    check_name(where, device)
    if str(device) not in {own, own.removesuffix(":0"), f"{own}:0"}:
        raise UnsupportedError(f"{where}: this is on {own!r} and stays there; open it with from_pretrained(…, device={str(device)!r})")
