"""Weights that checkpoints keep in fewer bits, as one tensor again: FP8 with scales (DeepSeek V3, Qwen3-FP8, Llama's and vLLM's), and the
MXFP4 of gpt-oss.

FP8 becomes F32 as it is read, each number times its scale. MXFP4 stays what it is: GGUF's blocks hold the same bits in another order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from airpy._core import convert
from airpy.conversion.config import Config
from airpy.conversion.safetensors import Checkpoint, Rows, Stored
from airpy.errors import ModelError, UnsupportedError

Floats = npt.NDArray[np.float32]

_SCALES = ("weight_scale_inv", "weight_scale")  # beside "weight": both are what its numbers are multiplied by
_OF_ACTIVATIONS = (".input_scale", ".activation_scale", ".input_scale_ub", ".k_scale", ".v_scale", ".output_scale")
_FLOAT8 = ("float-quantized", "naive-quantized")  # formats of compressed-tensors
_ADVICE = {
    "bitsandbytes": "load it with transformers and save it plain (model.dequantize(), model.save_pretrained())",
    "gptq": "GGUF has no such blocks: convert the model that it was made from, with --type 4bit (compression='4bit')",
    "awq": "GGUF has no such blocks: convert the model that it was made from, with --type 4bit (compression='4bit')",
}


def _e4m3() -> Floats:
    """The numbers of FP8's E4M3 without infinities (arXiv 2209.05433, table 1), by their bits."""
    bits = np.arange(256)
    exponent, fraction = bits >> 3 & 15, bits & 7
    sizes = np.ldexp(np.where(exponent > 0, 8 + fraction, fraction).astype(np.float32), np.maximum(exponent, 1) - 10)
    sizes[bits & 127 == 127] = np.nan
    signed: Floats = np.where(bits < 128, sizes, -sizes).astype(np.float32)
    return signed


_E4M3 = _e4m3()


@dataclass(frozen=True)
class Scaled:
    """values: a matrix of FP8. scales: one for each block of `block` rows and columns, those at the ends smaller."""

    values: Stored
    scales: Stored
    block: tuple[int, int]
    type = "F32"

    @property
    def name(self) -> str:
        return self.values.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def read(self, files: Checkpoint, rows: Rows) -> memoryview:
        width = self.values.shape[1]
        bits = np.frombuffer(files.read_rows(self.values, rows, width), np.uint8)
        stored = files.read(self.scales, 0, self.scales.bytes)
        scales = np.frombuffer(bytes(convert(self.scales.type, "F32", stored)), np.float32).reshape(-1, -(-width // self.block[1]))
        numbers = _E4M3[bits].reshape(len(rows), width)
        numbers *= np.repeat(scales[np.asarray(rows) // self.block[0]], self.block[1], axis=1)[:, :width]
        return numbers.data.cast("B")


@dataclass(frozen=True)
class Microscaled:
    """blocks [..., n, 16]: of 32 numbers two in a byte, the first in its low bits. scales [..., n]: an exponent for each (OCP
    Microscaling)."""

    blocks: Stored
    scales: Stored
    type = "MXFP4"

    @property
    def name(self) -> str:
        return self.blocks.name

    @property
    def shape(self) -> tuple[int, ...]:
        *rows, count = self.scales.shape
        return (*rows, 32 * count)

    def read(self, files: Checkpoint, rows: Rows) -> memoryview:
        """GGUF has in a byte's low bits one of the first sixteen, in its high bits one of the others, and the scale before them."""
        count = self.scales.shape[-1]
        pairs = np.frombuffer(files.read_rows(self.blocks, rows, 16 * count), np.uint8).reshape(-1, 2, 8)
        out = np.empty((len(rows) * count, 17), np.uint8)
        out[:, 0] = np.frombuffer(files.read_rows(self.scales, rows, count), np.uint8)
        low, high = pairs & 15, pairs >> 4
        out[:, 1::2] = low[:, 0] | low[:, 1] << 4
        out[:, 2::2] = high[:, 0] | high[:, 1] << 4
        return out.data.cast("B")


Packed = Scaled | Microscaled


def weights(config: Config, files: Checkpoint) -> Iterator[Stored | Packed]:
    """The checkpoint's tensors. Raises UnsupportedError for ways to quantise that are not known, ModelError for tensors that do not fit
    together."""
    method = _method(config)
    if not method:
        yield from files.tensors.values()
    elif method == "mxfp4":
        yield from _microscaled(files)
    else:
        yield from _scaled(files, _block(config, method))


def _method(config: Config) -> str:
    """What quantised the weights; "" for nothing."""
    if config.first("quantization_config") is None:
        return ""
    given = config.part("quantization_config")
    method = str(given.first("quant_method", "quant_algo") or "unknown").lower()
    if method in ("fp8", "fbgemm_fp8", "mxfp4") or (method == "compressed-tensors" and given.first("format") in _FLOAT8):
        return method
    kind = f"{method}, {given.first('format')}" if given.first("format") is not None else method
    advice = _ADVICE.get(method, "convert the model that they were made from")
    raise UnsupportedError(f"{config.path}: the weights are quantised ({kind[:80]}); {advice}")


def _block(config: Config, method: str) -> tuple[int, int] | None:
    """Rows and columns that share a scale, where the configuration says so."""
    given = config.part("quantization_config")
    if method == "compressed-tensors":
        groups = given.part("config_groups")
        kinds = [groups.part(name).part("weights") for name in groups.values]
        for kind in kinds:
            if (kind.first("type"), kind.first("num_bits")) != ("float", 8):
                raise UnsupportedError(
                    f"{kind.path}: {str(kind.first('type'))[:40]} of {str(kind.first('num_bits'))[:40]} bits; float of 8 can be converted"
                )
        given, name = next((kind for kind in kinds if kind.first("block_structure") is not None), given), "block_structure"
    else:
        name = "weight_block_size"
    sizes: list[Any] | None = given.list_of(name, int, 2)
    return None if sizes is None else (max(1, sizes[0]), max(1, sizes[1]))


def _scaled(files: Checkpoint, block: tuple[int, int] | None) -> Iterator[Stored | Packed]:
    for stored in files.tensors.values():
        stem, _, kind = stored.name.rpartition(".")
        if kind in _SCALES:
            if f"{stem}.weight" not in files.tensors:
                raise ModelError(f"{stored.name} is there, but not {stem}.weight")
        elif stored.dtype == "F8_E4M3":
            scales = next((files.tensors[name] for suffix in _SCALES if (name := f"{stem}.{suffix}") in files.tensors), None)
            if kind != "weight" or scales is None or len(stored.shape) != 2:
                raise ModelError(f"{stored.name} is {stored.dtype} {list(stored.shape)}; what can be converted are matrices beside a "
                                 f"{_SCALES[0]} or {_SCALES[1]}")  # fmt: skip
            yield Scaled(stored, scales, _shared(stored, scales, block))
        elif not stored.name.endswith(_OF_ACTIVATIONS):
            yield stored


def _shared(values: Stored, scales: Stored, block: tuple[int, int] | None) -> tuple[int, int]:
    """Rows and columns that share a scale: all, a row's, or a block's."""
    rows, columns = values.shape
    if math.prod(scales.shape) == 1:
        return rows, columns
    if scales.shape in ((rows,), (rows, 1)):
        return 1, columns
    if block is None or scales.shape != (-(-rows // block[0]), -(-columns // block[1])):
        raise ModelError(f"{scales.name} is {list(scales.shape)}, which is one scale neither for all of {list(values.shape)}, nor for each "
                         f"row, nor for each block{f' of {list(block)}' if block else ''}")  # fmt: skip
    return block


def _microscaled(files: Checkpoint) -> Iterator[Stored | Packed]:
    for stored in files.tensors.values():
        stem, _, kind = stored.name.rpartition("_")
        if kind == "blocks":
            scales = files.tensors.get(f"{stem}_scales")
            if scales is None or (stored.dtype, scales.dtype) != ("U8", "U8") or stored.shape != (*scales.shape, 16):
                beside = f"{stem}_scales is {scales.dtype} {list(scales.shape)}" if scales else f"there is no {stem}_scales"
                raise ModelError(f"{stored.name} is {stored.dtype} {list(stored.shape)}, but {beside}")
            yield Microscaled(stored, scales)
        elif kind == "scales":
            if f"{stem}_blocks" not in files.tensors:
                raise ModelError(f"{stored.name} is there, but not {stem}_blocks")
        else:
            yield stored
