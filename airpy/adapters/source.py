"""What an adapter's file says: a pair of matrices for each weight that it changes, read one pair at a time."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from airpy import _core
from airpy.errors import FileChangedError, ModelError, UnsupportedError, system_errors

Floats = npt.NDArray[np.float32]
Pair = tuple[Floats, Floats]  # a [rank, cols], b [rows, rank]; W + b a

_FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class LowRank:
    """For one weight, by its name in GGUF. read: the pair, b with the file's own scale in it."""

    name: str
    rank: int
    rows: int
    cols: int
    read: Callable[[], Pair]


def read_floats(path: str, offset: int, size: int, kind: str, shape: tuple[int, int], name: str) -> Floats:
    """A matrix from a file. Raises UnsupportedError for other types, FileChangedError where the file has become shorter, ModelError for
    numbers that are not finite."""
    if kind not in _FLOATS:
        raise UnsupportedError(f"{path}: {name} is of type {kind}; adapters may have {', '.join(_FLOATS)}")
    with system_errors(), open(path, "rb") as file:
        data = os.pread(file.fileno(), size, offset)
    if len(data) < size:
        raise FileChangedError(f"{path} ends within {name}; it was longer before")
    array = np.array(_core.dequantize(kind, data), dtype=np.float32).reshape(shape)
    if not np.isfinite(array).all():
        raise ModelError(f"{path}: {name} has numbers that are not finite")
    return array
