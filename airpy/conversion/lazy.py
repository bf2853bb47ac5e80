"""Tensors that are rows of stored ones: chosen, reordered, joined, and read in pieces when they are written.

Nearly all that GGUF keeps otherwise than checkpoints do is another order of rows, so a tensor here is a list of rows of stored tensors;
what else there is (transposed matrices, 1 + weight) is a flag or a function of what was read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from airpy._core import convert
from airpy.conversion.safetensors import Checkpoint, Stored
from airpy.errors import ModelError, UnsupportedError
from airpy.gguf_writer import TensorInfo, blocks_of
from airpy.quantization.stream import SourceTensor

Floats = npt.NDArray[np.float32]
Rows = range | npt.NDArray[np.int64]
_FLOATS = ("F64", "F32", "F16", "BF16")  # dtypes that are types of GGUF as well, under the same names
_LONG_RUN = 64 << 10  # bytes of neighbouring rows above which each run is read by itself
_SPREAD = 4  # times the bytes wanted that one read may bring instead


@dataclass(frozen=True)
class _Part:
    """rows: of the stored tensor, seen as a matrix whose columns are its last axis, or one for a vector. Where `turned` says how many
    rows from `base` on, rows are columns of those instead."""

    stored: Stored
    rows: Rows
    turned: int = 0
    base: int = 0

    @property
    def columns(self) -> int:
        return self.turned or (self.stored.shape[-1] if len(self.stored.shape) > 1 else 1)


@dataclass(frozen=True)
class LazyTensor:
    """shape: as PyTorch has it. change: what becomes of its values, of all at once, in the order they are read in; for small ones
    only."""

    shape: tuple[int, ...]
    parts: tuple[_Part, ...]
    change: Callable[[Floats], Floats] | None = None

    @classmethod
    def of(cls, stored: Stored) -> LazyTensor:
        """Raises UnsupportedError for what is no plain number."""
        if stored.dtype not in _FLOATS:
            raise UnsupportedError(f"{stored.name} has dtype {stored.dtype}; weights that can be converted are {', '.join(_FLOATS)}")
        if not stored.shape or not stored.bytes:
            raise ModelError(f"{stored.name} has the shape {list(stored.shape)}, without anything in it")
        return cls(stored.shape, (_Part(stored, range(_rows(stored.shape))),))

    @property
    def name(self) -> str:
        """In the checkpoint; of the first, where several were joined."""
        return self.parts[0].stored.name

    @property
    def rows(self) -> int:
        return _rows(self.shape)

    def take(self, rows: Sequence[int] | npt.NDArray[np.int64], shape: tuple[int, ...] | None = None) -> LazyTensor:
        """These rows, in this order; shape: another one than so many rows."""
        (part,) = self.parts
        taken = rows if isinstance(part.rows, range) and part.rows.start == 0 else np.asarray(part.rows)[np.asarray(rows)]
        chosen: Rows = taken if isinstance(taken, range) else np.asarray(taken, np.int64)
        return replace(self, shape=shape or (len(rows), *self.shape[1:]), parts=(_Part(part.stored, chosen),))

    def split(self, sizes: Sequence[int]) -> list[LazyTensor]:
        """So many rows each. Raises ModelError where these are not all."""
        if sum(sizes) != self.shape[0] or len(self.shape) > 2:
            raise ModelError(f"{self.name} is {list(self.shape)}, but parts of {list(sizes)} rows are expected in it")
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        return [self.take(range(start, start + size)) for start, size in zip(starts, sizes, strict=True)]

    def reshape(self, *shape: int) -> LazyTensor:
        if math.prod(shape) != math.prod(self.shape):
            raise ModelError(f"{self.name} is {list(self.shape)}, but {list(shape)} is expected")
        return replace(self, shape=shape)

    def transpose(self, columns: range | None = None) -> LazyTensor:
        """Each matrix of it turned; of [a, b, c] there are a. columns: of each, those that are taken; all."""
        (part,) = self.parts
        *stack, rows, width = self.shape
        chosen = columns or range(width)
        count = math.prod(stack)
        turned = tuple(_Part(part.stored, chosen, rows, i * rows) for i in range(count))
        return replace(self, shape=(*stack, len(chosen), rows), parts=turned)

    def map(self, change: Callable[[Floats], Floats], shape: tuple[int, ...] | None = None) -> LazyTensor:
        """change: of all values, flat. shape: another one, of as many."""
        return replace(self.reshape(*shape) if shape else self, change=change)

    def source(self, name: str, files: Checkpoint) -> SourceTensor:
        """As write_model() takes it, under GGUF's name."""
        kinds = {part.stored.dtype for part in self.parts}
        type = kinds.pop() if len(kinds) == 1 and self.change is None else "F32"
        info = TensorInfo(name, type, tuple(reversed(self.shape)))

        def read(offset: int, size: int) -> Any:
            item = blocks_of(type)[1]
            if self.change is not None:
                whole = self.change(np.frombuffer(self._read(files, type, 0, math.prod(self.shape)), np.float32))
                return np.ascontiguousarray(whole, np.float32).reshape(-1).view(np.uint8)[offset : offset + size]
            return self._read(files, type, offset // item, size // item)

        return SourceTensor(info, read)

    def _read(self, files: Checkpoint, type: str, start: int, count: int) -> bytes:
        """Elements from `start` on, as that type."""
        out, at = [], 0
        for part in self.parts:
            size = len(part.rows) * part.columns
            first, last = max(start - at, 0), min(start + count - at, size)
            if first < last:
                data = _read_elements(files, part, first, last)
                out.append(data if part.stored.dtype == type else bytes(convert(part.stored.dtype, type, data)))
            at += size
        return out[0] if len(out) == 1 else b"".join(out)


def join(tensors: Sequence[LazyTensor], shape: tuple[int, ...] | None = None) -> LazyTensor:
    """One below the other; shape: another one than that. Raises ModelError where they are not equally wide."""
    first = tensors[0]
    if odd := [t for t in tensors if t.shape[1:] != first.shape[1:]]:
        raise ModelError(f"{odd[0].name} is {list(odd[0].shape)}, beside {first.name} of {list(first.shape)}")
    joined = LazyTensor((sum(t.shape[0] for t in tensors), *first.shape[1:]), tuple(part for t in tensors for part in t.parts))
    return joined.reshape(*shape) if shape else joined


def _rows(shape: tuple[int, ...]) -> int:
    return math.prod(shape[:-1]) if len(shape) > 1 else shape[0]


def _read_elements(files: Checkpoint, part: _Part, first: int, last: int) -> bytes:
    """Elements [first, last) of the rows that are chosen."""
    item = blocks_of(part.stored.dtype)[1]
    if part.turned:
        return _read_columns(files, part, first, last)
    if isinstance(part.rows, range):
        return files.read(part.stored, (part.rows.start * part.columns + first) * item, (last - first) * item)
    width = part.columns * item
    begin, end = first // part.columns, -(-last // part.columns)
    data = _read_rows(files, part.stored, part.rows[begin:end], width)
    skip = (first - begin * part.columns) * item
    return data[skip : skip + (last - first) * item]


def _read_rows(files: Checkpoint, stored: Stored, rows: npt.NDArray[np.int64], width: int) -> bytes:
    """Rows of `width` bytes, in that order: run by run where these are long, else what lies around all of them in one go."""
    low, high = int(rows.min()), int(rows.max()) + 1
    cuts = np.flatnonzero(np.diff(rows) != 1) + 1
    if len(rows) * width < _LONG_RUN * (len(cuts) + 1) and high - low <= _SPREAD * len(rows):
        around = np.frombuffer(files.read(stored, low * width, (high - low) * width), np.uint8).reshape(-1, width)
        return around[rows - low].tobytes()
    return b"".join(files.read(stored, int(run[0]) * width, len(run) * width) for run in np.split(rows, cuts))


def _read_columns(files: Checkpoint, part: _Part, first: int, last: int) -> bytes:
    """Elements [first, last) of columns as rows."""
    stored, height = part.stored, part.turned
    item, width = blocks_of(stored.dtype)[1], stored.shape[-1]
    begin, end = first // height, -(-last // height)
    columns = part.rows[begin:end]
    low, high = int(columns[0]), int(columns[-1]) + 1
    band = b"".join(files.read(stored, ((part.base + row) * width + low) * item, (high - low) * item) for row in range(height))
    step = int(columns[1] - columns[0]) if len(columns) > 1 else 1
    turned = np.frombuffer(band, f"V{item}").reshape(height, high - low)[:, ::step].T.tobytes()
    skip = (first - begin * height) * item
    return turned[skip : skip + (last - first) * item]
