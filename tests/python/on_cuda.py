"""What tests of the CUDA backend share, beside the fixtures cuda and plugin: it is emulated on the CPU (tests/cuda_emu), or with
AIRPY_TEST_GPU=1 the real one."""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path

import numpy as np
import pytest

from airpy import _core

CONTEXT = _core.DEVICE_CONTEXT  # that a device takes for itself, as plans count it
SMALL_RAM = _core.DEVICE_HOST_CONTEXT + (12 << 20)
REAL = os.environ.get("AIRPY_TEST_GPU") == "1"


def only_emulated(words: str) -> None:
    if words:
        pytest.skip("needs the emulation")


def device_budget(megabytes: float) -> int:
    return CONTEXT + int(megabytes * (1 << 20))


def error_of(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.square(got - want, dtype=np.float64).sum() / np.square(want, dtype=np.float64).sum())


def report(plugin: Path) -> dict[str, int]:
    """What the emulation has counted; what is left in it."""
    only_emulated("a report" if REAL else "")
    library = ctypes.CDLL(os.fspath(plugin))
    library.air_emu_report.restype = ctypes.c_char_p
    return {name: int(value) for name, value in re.findall(r"^(\w+) (\d+)$", library.air_emu_report().decode(), re.M)}
