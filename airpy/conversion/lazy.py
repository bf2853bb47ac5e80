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
from airpy.conversion.packed import Packed
from airpy.conversion.safetensors import Checkpoint, Rows, Stored
from airpy.errors import ModelError, UnsupportedError
from airpy.gguf_writer import TensorInfo, blocks_of
from airpy.quantization.stream import SourceTensor

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Part:
    """rows: of the stored tensor, seen as a matrix whose columns are its last axis, or one for a vector. Where `turned` says how many
    rows from `base` on, rows are columns of those instead. factor: what all of it is multiplied by. order: of columns, where it is
    another."""

    stored: Stored | Packed
    rows: Rows
    turned: int = 0
    base: int = 0
    factor: float = 1.0
    order: npt.NDArray[np.int64] | None = None

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
    def of(cls, stored: Stored | Packed) -> LazyTensor:
        """Raises ModelError for an empty one."""
        if not stored.shape or 0 in stored.shape:
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
        return replace(self, shape=shape or (len(rows), *self.shape[1:]), parts=(replace(part, rows=chosen),))

    def take_columns(self, order: npt.NDArray[np.int64]) -> LazyTensor:
        """All of its columns in this order. Raises UnsupportedError for quantised ones."""
        (part,) = self.parts
        if blocks_of(part.stored.type)[0] != 1:
            raise UnsupportedError(f"{self.name} is quantised, and its columns would have to be reordered; convert the model that it was "
                                   "made from")  # fmt: skip
        return replace(self, parts=(replace(part, order=order),))

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
        """Each matrix of it turned; of [a, b, c] there are a. columns: of each, those that are taken; all. Raises
        ModelError for a vector, UnsupportedError for quantised ones."""
        (part,) = self.parts
        if not isinstance(part.stored, Stored):
            raise UnsupportedError(f"{self.name} is quantised, and would have to be transposed; convert the model that it was made from")
        if len(self.shape) < 2:
            raise ModelError(f"{self.name} is {list(self.shape)}; expected matrices")
        *stack, rows, width = self.shape
        chosen = columns or range(width)
        count = math.prod(stack)
        turned = tuple(_Part(part.stored, chosen, rows, i * rows, part.factor) for i in range(count))
        return replace(self, shape=(*stack, len(chosen), rows), parts=turned)

    def map(self, change: Callable[[Floats], Floats], shape: tuple[int, ...] | None = None) -> LazyTensor:
        """change: of all values, flat. shape: another one, of as many."""
        return replace(self.reshape(*shape) if shape else self, change=change)

    def times(self, factor: float) -> LazyTensor:
        """All of it multiplied; then it is F32."""
        return replace(self, parts=tuple(replace(part, factor=part.factor * factor) for part in self.parts))

    def source(self, name: str, files: Checkpoint) -> SourceTensor:
        """As write_model() takes it, under GGUF's name."""
        kinds = {part.stored.type if part.factor == 1 else "F32" for part in self.parts}
        type = kinds.pop() if len(kinds) == 1 and self.change is None else "F32"
        info = TensorInfo(name, type, tuple(reversed(self.shape)))

        def read(offset: int, size: int) -> Any:
            block, item = blocks_of(type)
            if self.change is not None:
                whole = self.change(np.frombuffer(self._read(files, type, 0, math.prod(self.shape)), np.float32))
                return np.ascontiguousarray(whole, np.float32).reshape(-1).view(np.uint8)[offset : offset + size]
            return self._read(files, type, offset // item * block, size // item * block)

        return SourceTensor(info, read)

    def _read(self, files: Checkpoint, type: str, start: int, count: int) -> bytes | memoryview:
        """Elements from `start` on, as that type."""
        out: list[bytes | memoryview] = []
        at = 0
        for part in self.parts:
            size = len(part.rows) * part.columns
            first, last = max(start - at, 0), min(start + count - at, size)
            if first < last:
                data = _read_elements(files, part, first, last)
                if part.stored.type != type:
                    data = bytes(convert(part.stored.type, type, data))
                if part.factor != 1:
                    data = (np.frombuffer(data, np.float32) * np.float32(part.factor)).tobytes()
                out.append(data)
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


def _read_elements(files: Checkpoint, part: _Part, first: int, last: int) -> bytes | memoryview:
    """Elements [first, last) of the rows that are chosen; whole blocks."""
    if part.turned:
        return _read_columns(files, part, first, last)
    block, item = blocks_of(part.stored.type)
    width = part.columns // block * item
    if isinstance(part.stored, Stored) and isinstance(part.rows, range) and part.order is None:
        return files.read(part.stored, part.rows.start * width + first * item, (last - first) * item)
    begin, end = first // part.columns, -(-last // part.columns)
    rows = part.rows[begin:end]
    data: bytes | memoryview = (
        files.read_rows(part.stored, rows, width) if isinstance(part.stored, Stored) else part.stored.read(files, rows)
    )
    if part.order is not None:
        data = np.frombuffer(data, f"V{item}").reshape(-1, part.columns)[:, part.order].tobytes()
    skip = (first - begin * part.columns) // block * item
    return data[skip : skip + (last - first) // block * item]


def _read_columns(files: Checkpoint, part: _Part, first: int, last: int) -> bytes:
    """Elements [first, last) of columns as rows."""
    stored, height = part.stored, part.turned
    assert isinstance(stored, Stored)
    item, width = blocks_of(stored.type)[1], stored.shape[-1]
    begin, end = first // height, -(-last // height)
    columns = part.rows[begin:end]
    low, high = int(columns[0]), int(columns[-1]) + 1
    band = b"".join(files.read(stored, ((part.base + row) * width + low) * item, (high - low) * item) for row in range(height))
    step = int(columns[1] - columns[0]) if len(columns) > 1 else 1
    turned = np.frombuffer(band, f"V{item}").reshape(height, high - low)[:, ::step].T.tobytes()
    skip = (first - begin * height) * item
    return turned[skip : skip + (last - first) * item]
