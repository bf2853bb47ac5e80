"""Matrices that checkpoints keep in a few bits a number, with a scale for each group of columns: integers of compressed-tensors, GPTQ and
AWQ, and NVFP4 of modelopt and compressed-tensors. All become F32 as they are read.

    compressed-tensors, modelopt: packed along a row; GPTQ, AWQ: W turned, [inputs, outputs], packed along the inputs or the outputs

    a word of 4-bit numbers, lowest bits first:   0 1 2 3 4 5 6 7,  of AWQ  0 2 4 6 1 3 5 7
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from airpy._core import convert
from airpy.conversion.safetensors import Checkpoint, Rows, Stored
from airpy.errors import ModelError

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int32]

# E2M1, by its bits (OCP Microscaling formats 5.3.3).
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
_AWQ_PLACES = np.array([0, 4, 1, 5, 2, 6, 3, 7])  # of the eight numbers of a word, where each is in it
NVFP4_GROUP = 16


def e4m3() -> Floats:
    """The numbers of FP8's E4M3 without infinities (arXiv 2209.05433, table 1), by their bits."""
    bits = np.arange(256)
    exponent, fraction = bits >> 3 & 15, bits & 7
    sizes = np.ldexp(np.where(exponent > 0, 8 + fraction, fraction).astype(np.float32), np.maximum(exponent, 1) - 10)
    sizes[bits & 127 == 127] = np.nan
    signed: Floats = np.where(bits < 128, sizes, -sizes).astype(np.float32)
    return signed


E4M3 = e4m3()


def floats(stored: Stored, data: bytes) -> Floats:
    """Of a tensor of scales. Raises UnsupportedError where they are no numbers that GGUF has."""
    found: Floats = np.frombuffer(bytes(convert(stored.type, "F32", data)), np.float32)
    return found


def _item(stored: Stored) -> int:
    return stored.bytes // max(1, math.prod(stored.shape))


def plain_type(scales: Stored) -> str:
    """What weights with such scales were rounded from, and lose little in."""
    return "F16" if scales.dtype == "F16" else "BF16"


@dataclass(frozen=True)
class Nvfp4:
    """values [rows, columns / 2]: E2M1, two in a byte, the first in its low bits. scales: E4M3, one for each 16. whole: one for all of
    them, F32, by which scales are multiplied, or where `divides` divided."""

    name: str
    values: Stored
    scales: Stored
    whole: Stored
    divides: bool
    type = "F32"
    plain = "BF16"

    @property
    def shape(self) -> tuple[int, ...]:
        rows, width = self.values.shape
        return rows, 2 * width

    def check(self) -> Nvfp4:
        """Itself. Raises ModelError where its parts do not fit together."""
        dtypes = self.values.dtype, self.scales.dtype, self.whole.dtype
        fits = len(self.values.shape) == 2 and self.scales.shape == (self.values.shape[0], 2 * self.values.shape[1] / NVFP4_GROUP)
        if dtypes != ("U8", "F8_E4M3", "F32") or not fits or math.prod(self.whole.shape) != 1:
            raise ModelError(
                f"{self.values.name} is {dtypes[0]} {list(self.values.shape)}, with scales {dtypes[1]} {list(self.scales.shape)} and "
                f"{dtypes[2]} {list(self.whole.shape)}; NVFP4 is U8, with an F8_E4M3 for each 8 of them, and one F32"
            )
        return self

    def read(self, files: Checkpoint, rows: Rows) -> memoryview:
        width, groups = self.values.shape[1], self.scales.shape[1]
        bits = np.frombuffer(files.read_rows(self.values, rows, width), np.uint8).reshape(-1, NVFP4_GROUP // 2)
        scales = E4M3[np.frombuffer(files.read_rows(self.scales, rows, groups), np.uint8)]
        whole = floats(self.whole, files.read(self.whole, 0, self.whole.bytes))
        scales = scales / whole if self.divides else scales * whole
        out = np.empty((len(bits), NVFP4_GROUP), np.float32)
        out[:, 0::2], out[:, 1::2] = E2M1[bits & 15], E2M1[bits >> 4]
        out *= scales[:, None]
        return out.data.cast("B")


@dataclass(frozen=True)
class PackedRows:
    """compressed-tensors: words [rows, n] of 32 bits, of `bits` for each of so many columns. scales: one, or one for each row, or for
    each of a row's groups of as many columns each; zeros: what the integers have for 0, packed down the rows, where that is not half of
    their range; order: the group of each column, where groups are not columns side by side."""

    name: str
    words: Stored
    scales: Stored
    zeros: Stored | None
    order: Stored | None
    columns: int
    bits: int
    type = "F32"

    @property
    def plain(self) -> str:
        return plain_type(self.scales)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.words.shape[0], self.columns

    @property
    def _groups(self) -> int:
        return self.scales.shape[1] if len(self.scales.shape) == 2 else 1

    def check(self) -> PackedRows:
        """Itself. Raises ModelError where its parts do not fit together."""
        rows, groups = self.words.shape[0], self._groups
        whole = math.prod(self.scales.shape) == 1
        if self.words.dtype != "I32" or len(self.words.shape) != 2 or self.words.shape[1] != -(-self.columns * self.bits // 32):
            raise ModelError(f"{self.words.name} is {self.words.dtype} {list(self.words.shape)}, which are not {self.columns} columns of "
                             f"{self.bits} bits")  # fmt: skip
        if not whole and (groups < 1 or self.scales.shape not in ((rows,), (rows, groups)) or (not self.order and self.columns % groups)):
            raise ModelError(f"{self.scales.name} is {list(self.scales.shape)}, which is no scale for equal groups of columns")
        if self.zeros and (self.zeros.dtype != "I32" or whole or self.zeros.shape != (-(-rows * self.bits // 32), groups)):
            raise ModelError(f"{self.zeros.name} is {self.zeros.dtype} {list(self.zeros.shape)}, beside scales {list(self.scales.shape)}")
        if self.order and (self.order.dtype != "I32" or self.order.shape != (self.columns,)):
            raise ModelError(f"{self.order.name} is {self.order.dtype} {list(self.order.shape)}; expected a group for each column")
        return self

    def read(self, files: Checkpoint, rows: Rows) -> memoryview:
        packed = np.frombuffer(files.read_rows(self.words, rows, 4 * self.words.shape[1]), np.uint8).reshape(len(rows), -1, 1)
        shifts = np.arange(0, 8, self.bits, dtype=np.uint8)
        values = (packed >> shifts & ((1 << self.bits) - 1)).reshape(len(rows), -1)[:, : self.columns].astype(np.float32)
        if math.prod(self.scales.shape) == 1:
            scales = floats(self.scales, files.read(self.scales, 0, self.scales.bytes)).reshape(1, 1)
        else:
            width = self._groups
            scales = floats(self.scales, files.read_rows(self.scales, rows, width * _item(self.scales))).reshape(len(rows), width)
        of = _groups_of(files, self.order, self.columns, self._groups)
        if self.zeros is None:
            values -= np.float32(1 << (self.bits - 1))
        else:
            values -= self._zeros(files, np.asarray(rows))[:, of]
        values *= scales[:, of] if scales.shape[1] > 1 else scales
        return values.data.cast("B")

    def _zeros(self, files: Checkpoint, rows: npt.NDArray[np.int64]) -> Floats:
        assert self.zeros is not None
        words = np.frombuffer(files.read(self.zeros, 0, self.zeros.bytes), "<u4").reshape(self.zeros.shape)
        found: Floats = (words[rows * self.bits // 32] >> (rows * self.bits % 32)[:, None].astype(np.uint32)
                         & np.uint32((1 << self.bits) - 1)).astype(np.float32)  # fmt: skip
        return found


@dataclass(frozen=True)
class PackedColumns:
    """GPTQ and AWQ: words of the turned matrix, of GPTQ [inputs × bits / 32, outputs], of AWQ (`awq`) [inputs, outputs × bits / 32]; zeros
    [groups, outputs × bits / 32], of GPTQ's first version one less (`offset` 1); scales [groups, outputs]; order: the group of each input,
    where they are not side by side, as many each."""

    name: str
    words: Stored
    zeros: Stored
    scales: Stored
    order: Stored | None
    bits: int
    offset: int
    awq: bool
    type = "F32"

    @property
    def plain(self) -> str:
        return plain_type(self.scales)

    @property
    def shape(self) -> tuple[int, ...]:
        inputs = self.words.shape[0] * (1 if self.awq else 32 // self.bits)
        return self.scales.shape[1], inputs

    def check(self) -> PackedColumns:
        """Itself. Raises ModelError where its parts do not fit together."""
        if any(len(part.shape) != 2 for part in (self.words, self.zeros, self.scales)) or not math.prod(self.scales.shape):
            raise ModelError(f"{self.words.name} is {list(self.words.shape)}, its zeros {list(self.zeros.shape)}, its scales "
                             f"{list(self.scales.shape)}; expected matrices")  # fmt: skip
        (groups, outputs), (_, inputs) = self.scales.shape, self.shape
        wide = outputs * self.bits / 32
        if (self.words.dtype, self.zeros.dtype) != ("I32", "I32") or self.words.shape[1] != (wide if self.awq else outputs):
            raise ModelError(f"{self.words.name} is {self.words.dtype} {list(self.words.shape)}, beside scales {list(self.scales.shape)}")
        if self.zeros.shape != (groups, wide) or (not self.order and inputs % groups):
            raise ModelError(f"{self.zeros.name} is {list(self.zeros.shape)}; {self.bits} bits for each scale {list(self.scales.shape)} of "
                             f"equal groups of {inputs} are expected")  # fmt: skip
        if self.order and (self.order.dtype != "I32" or self.order.shape != (inputs,)):
            raise ModelError(f"{self.order.name} is {self.order.dtype} {list(self.order.shape)}; expected a group for each of {inputs} "
                             f"inputs")  # fmt: skip
        return self

    def read(self, files: Checkpoint, rows: Rows) -> memoryview:
        outputs = np.asarray(rows)
        values = self._across(files, self.words, outputs) if self.awq else self._down(files, outputs)
        zeros = (self._across(files, self.zeros, outputs) + self.offset) & ((1 << self.bits) - 1)
        low, high = int(outputs.min()), int(outputs.max()) + 1
        scales = floats(self.scales, _band(files, self.scales, low, high)).reshape(-1, high - low)[:, outputs - low]
        of = _groups_of(files, self.order, values.shape[0], self.scales.shape[0])
        out = np.ascontiguousarray(((values - zeros[of]).astype(np.float32) * scales[of]).T)
        return out.data.cast("B")

    def _down(self, files: Checkpoint, outputs: npt.NDArray[np.int64]) -> Integers:
        low, high = int(outputs.min()), int(outputs.max()) + 1
        words = np.frombuffer(_band(files, self.words, low, high), "<u4").reshape(-1, high - low)[:, None, outputs - low]
        shifts = np.arange(0, 32, self.bits, dtype=np.uint32)[:, None]
        found: Integers = (words >> shifts & np.uint32((1 << self.bits) - 1)).astype(np.int32).reshape(-1, len(outputs))
        return found

    def _across(self, files: Checkpoint, stored: Stored, outputs: npt.NDArray[np.int64]) -> Integers:
        each = 32 // self.bits
        low, high = int(outputs.min()) // each, int(outputs.max()) // each + 1
        words = np.frombuffer(_band(files, stored, low, high), "<u4").reshape(-1, high - low)[:, outputs // each - low]
        places = _AWQ_PLACES if self.awq else np.arange(each)
        shifts = (places[outputs % each] * self.bits).astype(np.uint32)
        found: Integers = (words >> shifts & np.uint32((1 << self.bits) - 1)).astype(np.int32)
        return found


def _band(files: Checkpoint, stored: Stored, low: int, high: int) -> bytes:
    """Columns [low, high) of all rows."""
    rows, width = stored.shape
    item = _item(stored)
    if high - low == width:
        return files.read(stored, 0, stored.bytes)
    return b"".join(files.read(stored, (row * width + low) * item, (high - low) * item) for row in range(rows))


def _groups_of(files: Checkpoint, order: Stored | None, columns: int, groups: int) -> npt.NDArray[np.int64]:
    """The group of each column. Raises ModelError for one that there is not."""
    if order is None:
        return np.arange(columns, dtype=np.int64) // (columns // groups)
    found = np.frombuffer(files.read(order, 0, order.bytes), "<i4").astype(np.int64)
    if found.min() < 0 or found.max() >= groups:
        raise ModelError(f"{order.name} has groups from {found.min()} to {found.max()}, but there are scales of {groups}")
    return found
