"""Weights that checkpoints keep in fewer bits, as one tensor again: FP8 and integers with scales (DeepSeek V3, Qwen3-FP8, Llama's, vLLM's
and NVIDIA's), the MXFP4 of gpt-oss, and what grouped.py has.

What has scales becomes F32 as it is read, each number times its scale. MXFP4 stays what it is: GGUF's blocks hold the same bits in another
order.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from airpy.conversion.config import Config
from airpy.conversion.grouped import E4M3, Nvfp4, PackedColumns, PackedRows, floats, plain_type
from airpy.conversion.jsons import read_json
from airpy.conversion.safetensors import Checkpoint, Rows, Stored
from airpy.errors import ModelError, UnsupportedError

_SCALES = ("weight_scale_inv", "weight_scale")  # beside "weight": both are what its numbers are multiplied by
_PARTS = (*_SCALES, "weight_scale_2", "weight_global_scale", "weight_zero_point", "weight_shape", "weight_g_idx")  # of a matrix
_OF_ACTIVATIONS = (
    ".input_scale", ".activation_scale", ".input_scale_ub", ".k_scale", ".v_scale", ".output_scale", ".input_global_scale",
    ".input_zero_point", ".output_zero_point", ".q_scale", ".prob_output_scale",
)  # fmt: skip
_FORMATS = ("float-quantized", "naive-quantized", "int-quantized", "pack-quantized", "nvfp4-pack-quantized", "mixed-precision")
_KINDS = (("float", 8), ("float", 4), ("int", 8), ("int", 4), ("int", 2))  # of weights of compressed-tensors
_ALGORITHMS = ("FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO", "NVFP4", "W4A16_NVFP4", "MIXED_PRECISION")  # of modelopt
_MODELOPT_BLOCK = (128, 128)
_MODELOPT_FILE = "hf_quant_config.json"  # where older checkpoints of it say what config.json does not
_ADVICE = {"bitsandbytes": "load it with transformers and save it plain (model.dequantize(), model.save_pretrained())"}


@dataclass(frozen=True)
class Scaled:
    """values: a matrix of FP8, or of integers. scales: one for each block of `block` rows and columns, those at the ends smaller. zeros: as
    many, of integers, what is 0 there; None: 0."""

    values: Stored
    scales: Stored
    block: tuple[int, int]
    zeros: Stored | None = None
    type = "F32"

    @property
    def plain(self) -> str:
        return "BF16" if self.values.dtype == "F8_E4M3" else plain_type(self.scales)

    @property
    def name(self) -> str:
        return self.values.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def read(self, files: Checkpoint, rows: Rows) -> memoryview:
        width = self.values.shape[1]
        data = files.read_rows(self.values, rows, width)
        blocks, across = np.asarray(rows) // self.block[0], -(-width // self.block[1])
        if self.values.dtype == "F8_E4M3":
            numbers = E4M3[np.frombuffer(data, np.uint8)].reshape(len(rows), width)
        else:
            numbers = np.frombuffer(data, np.int8).astype(np.float32).reshape(len(rows), width)
        if self.zeros is not None:
            zeros = np.frombuffer(files.read(self.zeros, 0, self.zeros.bytes), np.int8).astype(np.float32).reshape(-1, across)
            numbers -= np.repeat(zeros[blocks], self.block[1], axis=1)[:, :width]
        scales = floats(self.scales, files.read(self.scales, 0, self.scales.bytes)).reshape(-1, across)
        numbers *= np.repeat(scales[blocks], self.block[1], axis=1)[:, :width]
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


Packed = Scaled | Microscaled | Nvfp4 | PackedRows | PackedColumns


def weights(config: Config, files: Checkpoint) -> Iterator[Stored | Packed]:
    """The checkpoint's tensors. Raises UnsupportedError for ways to quantise that are not known, ModelError for tensors that do not fit
    together."""
    given = _given(config)
    method = _method(given)
    if not method:
        yield from files.tensors.values()
    elif method == "mxfp4":
        yield from _microscaled(files)
    elif method in ("gptq", "awq"):
        yield from _turned(files, given, method)
    else:
        yield from _scaled(files, _block(given, method), given.path)


def _given(config: Config) -> Config:
    """How the weights are quantised, as config.json says, or modelopt beside it."""
    beside = os.path.join(os.path.dirname(config.path), _MODELOPT_FILE)
    if config.first("quantization_config") is None and os.path.exists(beside):
        whole = Config(read_json(beside), beside)
        return Config({"quant_method": "modelopt", **whole.part("quantization").values}, beside)
    return config.part("quantization_config")


def _method(given: Config) -> str:
    """What quantised the weights; "" for nothing."""
    if not given.values:
        return ""
    method = str(given.first("quant_method", "quant_algo") or "unknown").lower()
    kind = method
    if method == "compressed-tensors":
        kind = f"{method}, {given.first('format')}"
        known = given.first("format") in _FORMATS
    elif method == "modelopt":
        algorithms = [str(found) for found in _algorithms(given)]
        kind = f"{method}, {', '.join(sorted(set(algorithms)))}"
        known = bool(algorithms) and set(algorithms) <= set(_ALGORITHMS)
    else:
        known = method in ("fp8", "fbgemm_fp8", "mxfp4", "gptq", "awq")
    if not known:
        raise UnsupportedError(
            f"{given.path}: the weights are quantised ({kind[:80]}); {_ADVICE.get(method, 'convert the model that they were made from')}"
        )
    return method


def _algorithms(given: Config) -> Iterator[Any]:
    """Of all layers, and of single ones."""
    yield given.first("quant_algo")
    layers = given.part("quantized_layers")
    for name in layers.values:
        yield layers.part(name).first("quant_algo")


def _block(given: Config, method: str) -> tuple[int, int] | None:
    """Rows and columns that share a scale, where the configuration says so."""
    name = "weight_block_size"
    if method == "modelopt":
        return _MODELOPT_BLOCK
    if method == "compressed-tensors":
        given.part("sparsity_config").require("format", "dense")
        if given.part("transform_config").part("config_groups").values:
            raise UnsupportedError(f"{given.path}: transform_config turns what goes into a layer as it is computed; convert the model that "
                                   f"it was made from")  # fmt: skip
        groups = given.part("config_groups")
        kinds = [groups.part(name).part("weights") for name in groups.values]
        for kind in kinds:
            if (kind.first("type"), kind.first("num_bits")) not in _KINDS:
                raise UnsupportedError(
                    f"{kind.path}: {str(kind.first('type'))[:40]} of {str(kind.first('num_bits'))[:40]} bits; what can be converted are "
                    f"{', '.join(f'{name} of {bits}' for name, bits in _KINDS)}"
                )
        given, name = next((kind for kind in kinds if kind.first("block_structure") is not None), given), "block_structure"
    sizes: list[Any] | None = given.list_of(name, int, 2)
    return None if sizes is None else (max(1, sizes[0]), max(1, sizes[1]))


def _scaled(files: Checkpoint, block: tuple[int, int] | None, path: str) -> Iterator[Stored | Packed]:
    for stored in files.tensors.values():
        stem, _, kind = stored.name.rpartition(".")
        if kind == "pre_quant_scale":
            raise UnsupportedError(f"{path}: {stored.name} scales what goes into a layer; convert the model that it was made from")
        if kind in _PARTS:
            if not files.tensors.keys() & {f"{stem}.weight", f"{stem}.weight_packed"}:
                raise ModelError(f"{stored.name} is there, but not {stem}.weight")
        elif kind == "weight_packed":
            yield _packed(files, stem, stored)
        elif kind == "weight" and stored.dtype == "U8" and f"{stem}.weight_scale_2" in files.tensors:
            whole = files.tensors[f"{stem}.weight_scale_2"]
            yield Nvfp4(stored.name, stored, _beside(files, stored, f"{stem}.weight_scale"), whole, divides=False).check()
        elif stored.dtype in ("F8_E4M3", "I8"):
            yield _blocks(files, stem, kind, stored, block)
        elif not stored.name.endswith(_OF_ACTIVATIONS):
            yield stored


def _beside(files: Checkpoint, stored: Stored, name: str) -> Stored:
    if name not in files.tensors:
        raise ModelError(f"{stored.name} is {stored.dtype} {list(stored.shape)}, but there is no {name}")
    return files.tensors[name]


def _blocks(files: Checkpoint, stem: str, kind: str, stored: Stored, block: tuple[int, int] | None) -> Scaled:
    scales = next((files.tensors[name] for suffix in _SCALES if (name := f"{stem}.{suffix}") in files.tensors), None)
    if kind != "weight" or scales is None or len(stored.shape) != 2:
        raise ModelError(f"{stored.name} is {stored.dtype} {list(stored.shape)}; what can be converted are matrices beside a "
                         f"{_SCALES[0]} or {_SCALES[1]}")  # fmt: skip
    zeros = files.tensors.get(f"{stem}.weight_zero_point")
    if zeros and (zeros.dtype, zeros.shape) != ("I8", scales.shape):
        raise ModelError(f"{zeros.name} is {zeros.dtype} {list(zeros.shape)}, beside {scales.name} of {list(scales.shape)}")
    return Scaled(stored, scales, _shared(stored, scales, block), zeros)


def _packed(files: Checkpoint, stem: str, stored: Stored) -> Packed:
    """compressed-tensors'. How many bits an integer has follows from how many words a row has."""
    name, scales = f"{stem}.weight", _beside(files, stored, f"{stem}.weight_scale")
    if stored.dtype == "U8":
        return Nvfp4(name, stored, scales, _beside(files, stored, f"{name}_global_scale"), divides=True).check()
    given = _beside(files, stored, f"{name}_shape")
    if given.dtype not in ("I64", "I32") or given.shape != (2,) or len(stored.shape) != 2:
        raise ModelError(f"{given.name} is {given.dtype} {list(given.shape)}; expected rows and columns of a matrix")
    rows, columns = np.frombuffer(files.read(given, 0, given.bytes), "<i8" if given.dtype == "I64" else "<i4").tolist()
    bits = next((bits for kind, bits in _KINDS if kind == "int" and columns > 0 and -(-columns * bits // 32) == stored.shape[1]), 0)
    if rows != stored.shape[0] or not bits:
        raise ModelError(f"{stored.name} is {list(stored.shape)}, which is no [{rows}, {columns}] of 2, 4 or 8 bits")
    zeros, order = (files.tensors.get(f"{name}_{part}") for part in ("zero_point", "g_idx"))
    return PackedRows(name, stored, scales, zeros, order, columns, bits).check()


def _turned(files: Checkpoint, given: Config, method: str) -> Iterator[Stored | Packed]:
    """GPTQ's and AWQ's."""
    bits = given.integer("bits", "w_bit")
    given.require("pack_dtype", "int32")
    if bits not in ((4,) if method == "awq" else (2, 4, 8)):
        raise UnsupportedError(f"{given.path}: {bits} bits of {method}; convert the model that they were made from")
    if method == "awq":
        given.require("version", "gemm", "GEMM")
        given.require("zero_point", True)
    else:
        given.require("checkpoint_format", "gptq", "gptq_v2")
        given.require("is_marlin_format", False)
        if others := [name for name in given.part("dynamic").values if not name.startswith("-")]:
            raise UnsupportedError(f"{given.path}: {others[0][:80]!r} is quantised otherwise; convert the model that it was made from")
    offset = int(method == "gptq" and given.first("checkpoint_format") != "gptq_v2")
    for stored in files.tensors.values():
        stem, _, kind = stored.name.rpartition(".")
        if kind == "qweight":
            zeros, scales = (_beside(files, stored, f"{stem}.{part}") for part in ("qzeros", "scales"))
            order = files.tensors.get(f"{stem}.g_idx")
            if order is None and given.flag("desc_act", default=False) and scales.shape[:1] != (1,):
                raise ModelError(f"{stored.name} has groups in another order (desc_act), but there is no {stem}.g_idx")
            yield PackedColumns(f"{stem}.weight", stored, zeros, scales, order, bits, offset, method == "awq").check()
        elif kind in ("qzeros", "scales", "g_idx"):
            if f"{stem}.qweight" not in files.tensors:
                raise ModelError(f"{stored.name} is there, but not {stem}.qweight")
        else:
            yield stored


def _shared(values: Stored, scales: Stored, block: tuple[int, int] | None) -> tuple[int, int]:
    """Rows and columns that share a scale: all, a row's, a row's group, or a block's."""
    rows, columns = values.shape
    shape = scales.shape[::2] if len(scales.shape) == 4 and scales.shape[1::2] == (1, 1) else scales.shape  # of modelopt's blocks
    if math.prod(shape) == 1:
        return rows, columns
    if shape in ((rows,), (rows, 1)):
        return 1, columns
    if block is not None and shape == (-(-rows // block[0]), -(-columns // block[1])):
        return block
    if len(shape) == 2 and shape[0] == rows and shape[1] and columns % shape[1] == 0:
        return 1, columns // shape[1]
    raise ModelError(f"{scales.name} is {list(scales.shape)}, which is one scale neither for all of {list(values.shape)}, nor for each "
                     f"row, nor for each block{f' of {list(block)}' if block else ''}")  # fmt: skip


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
