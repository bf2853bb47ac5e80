"""Devices by the names that PyTorch has for them, and where the CUDA backend is."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

from airpy import _core
from airpy.errors import AirpyError, UnsupportedError

_PLUGIN = "libairpy_cuda.so"
_CUDA = r"cuda(?::\d{1,3}(?:,\d{1,3})*)?"


@dataclass(frozen=True)
class Device:
    """What computes: "cpu", or "cuda" with the numbers of one device or several, the first of which has the KV cache."""

    kind: str = "cpu"
    numbers: tuple[int, ...] = (0,)

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{','.join(map(str, self.numbers))}"

    def engine_options(self) -> dict[str, Any]:
        return {} if self.kind == "cpu" else {"plugin": cuda_plugin(), "device": self.numbers}


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


def cuda_devices() -> list[dict[str, Any]]:
    """Name, total and free memory, capability and processors of each, which makes a context on each of them. Raises UnsupportedError
    saying why there is none that could be used."""
    return _core.devices(_plugin_there())


def find_device(where: str, device: Any) -> Device:
    """What a name, or what prints as one (torch.device), stands for; None: the CPU. "auto" is all GPUs where one can be used.
    Raises UnsupportedError for others, and for a GPU that cannot be used, saying why."""
    name = "cpu" if device is None else str(device)
    if name in ("cpu", "cpu:0"):
        return CPU
    if name == "auto":
        try:
            return Device("cuda", tuple(range(min(_core.device_count(_plugin_there()), _core.MAX_DEVICES))))
        except AirpyError:
            return CPU
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


def check_name(where: str, device: Any) -> None:
    """Raises UnsupportedError for what names no device."""
    if not re.fullmatch(rf"cpu(:0)?|{_CUDA}", str(device)):
        raise UnsupportedError(f"{where}: {device!r} is not supported; devices are 'cpu', 'cuda', 'cuda:0', 'cuda:0,1' …")


def stay_on(where: str, device: Any, own: str) -> None:
    """Raises UnsupportedError for any device but its own: its name, or what prints as it."""
    check_name(where, device)
    if str(device) not in {own, own.removesuffix(":0"), f"{own}:0"}:
        raise UnsupportedError(f"{where}: this is on {own!r} and stays there; open it with from_pretrained(…, device={str(device)!r})")
