"""Adapters as PEFT saves them: a directory with adapter_config.json and adapter_model.safetensors."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from airpy.adapters.source import LowRank, Pair, read_floats
from airpy.conversion import layouts
from airpy.conversion.families import FAMILIES
from airpy.conversion.jsons import read_json
from airpy.conversion.names import Names, gguf_name, stem_of
from airpy.conversion.safetensors import Stored, read_header
from airpy.errors import FormatError, MissingFileError, ModelError, UnsupportedError, system_errors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_MATRIX = re.compile(r"(.+)\.lora_([AB])(?:\.[^.]+)?\.weight")
_PLAIN = re.compile(r"[\w.]+")
# Of PEFT's LoraConfig: what would compute something else, unless it is one of these.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "bias": ("none", None), "fan_in_fan_out": (False, None), "use_dora": (False, None), "lora_bias": (False, None),
    "layer_replication": (None,), "modules_to_save": (None, []), "target_parameters": (None, []), "trainable_token_indices": (None, [], {}),
    "use_qalora": (False, None), "alora_invocation_tokens": (None,), "use_bdlora": (False, None), "arrow_config": (None,),
    "kasa_config": (None,), "monteclora_config": (None,), "velora_config": (None,),
}  # fmt: skip


@dataclass(frozen=True)
class Config:
    """What of adapter_config.json decides what is computed. ranks, alphas: of modules by name, where they are not rank and alpha."""

    path: str
    rank: int
    alpha: float
    by_root: bool  # alpha / sqrt(rank), instead of alpha / rank
    ranks: Mapping[str, Any]
    alphas: Mapping[str, Any]

    @classmethod
    def read(cls, path: str) -> Config:
        """Raises FormatError for what is malformed, UnsupportedError for adapters of other kinds."""
        values = read_json(path)
        if values.get("peft_type") != "LORA":
            raise UnsupportedError(f"{path}: peft_type is {str(values.get('peft_type'))[:40]!r}; only 'LORA' is supported")
        for name, neutral in _NEUTRAL.items():
            if values.get(name) not in neutral:
                raise UnsupportedError(f"{path}: {name}={str(values[name])[:80]} is not supported; merge the adapter into its model")
        patterns = [values.get(name) or {} for name in ("rank_pattern", "alpha_pattern")]
        for pattern in patterns:
            if not isinstance(pattern, dict) or not all(_PLAIN.fullmatch(key) for key in pattern):
                raise UnsupportedError(f"{path}: rank_pattern and alpha_pattern may name modules, but hold no expressions")
        rank = values.get("r")
        if type(rank) is not int or rank < 1:
            raise FormatError(f"{path}: r is {str(rank)[:40]}; expected a rank of 1 or more")
        alpha = _number(path, "lora_alpha", values.get("lora_alpha", 8))
        return cls(path, rank, alpha, values.get("use_rslora") is True, *patterns)

    def scale(self, module: str, rank: int) -> float:
        """What B A is multiplied by in a module of that rank. Raises FormatError where the rank is not what the configuration says."""
        if (said := _of_module(self.ranks, module, self.rank)) != rank:
            raise FormatError(f"{self.path}: {module[:80]} has rank {rank}, and {str(said)[:40]} by the configuration")
        alpha = _number(self.path, "alpha_pattern", _of_module(self.alphas, module, self.alpha))
        return alpha / math.sqrt(rank) if self.by_root else alpha / rank


def _of_module(pattern: Mapping[str, Any], module: str, default: Any) -> Any:
    """As PEFT matches: a key is all of a module's name, or its end from a dot on."""
    return next((value for key, value in pattern.items() if module == key or module.endswith(f".{key}")), default)


def _number(path: str, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= 1e6:
        raise FormatError(f"{path}: {name} has {str(value)[:40]}; expected a number up to a million")
    return float(value)


def read_peft(folder: str, arch: str, heads: tuple[int, int]) -> list[LowRank]:
    """arch: the model's, of GGUF; heads: of queries and of keys. Raises what Config.read() raises; FormatError for a damaged file,
    MissingFileError where one is not there, UnsupportedError for an architecture whose weights GGUF has in another order."""
    config = Config.read(os.path.join(folder, CONFIG))
    names, interleaved = _order_of(arch, folder)
    path = os.path.join(folder, WEIGHTS)
    if not os.path.exists(path) and (pickles := [name for name in os.listdir(folder) if name.endswith((".bin", ".pt"))]):
        raise UnsupportedError(f"{folder} has {pickles[0]}; airpy loads no pickles, which may run code: save the adapter as safetensors")
    with system_errors(f"; PEFT writes it beside {CONFIG}"), open(path, "rb") as file:
        stored = list(read_header(file.fileno(), path))
    modules: dict[str, dict[str, Stored]] = {}
    for tensor in stored:
        match = _MATRIX.fullmatch(tensor.name)
        if match is None:
            raise UnsupportedError(f"{path}: {tensor.name[:120]!r} is no matrix of a LoRA")
        parts = modules.setdefault(match[1].removeprefix(_PREFIX), {})
        if match[2] in parts:
            raise FormatError(f"{path}: {match[1][:120]!r} has lora_{match[2]} twice")
        parts[match[2]] = tensor
    if not modules:
        raise FormatError(f"{path} holds no tensors")
    return [_low_rank(config, module, parts, names, heads if interleaved else None) for module, parts in modules.items()]


def _order_of(arch: str, folder: str) -> tuple[Names, bool]:
    """What names the architecture's models have of their own, and whether queries and keys are interleaved in GGUF."""
    families = [family for family in FAMILIES.values() if family.arch == arch]
    plain = {layouts.interleaved, layouts.one_more}  # the latter is of norms
    if not families or any(set(f.layouts) - plain or f.joint not in (None, layouts.stacked_norms) for f in families):
        raise UnsupportedError(
            f"{folder}: models of {arch!r} have their weights in another order than PEFT has; convert the adapter to GGUF with "
            f"llama.cpp's convert_lora_to_gguf.py"
        )
    return families[0].names or {}, any(layouts.interleaved in family.layouts for family in families)


def _low_rank(config: Config, module: str, parts: dict[str, Stored], names: Names, heads: tuple[int, int] | None) -> LowRank:
    if len(parts) < 2:
        raise FormatError(f"{config.path}: of {module[:80]!r} there is lora_{next(iter(parts))} alone")
    a, b = parts["A"], parts["B"]
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1] or not a.shape[0]:
        raise FormatError(f"{a.file}: {module[:80]!r} has {list(a.shape)} and {list(b.shape)}; expected [rank, columns] and [rows, rank]")
    layer, rest = stem_of(f"{module}.weight")
    name = gguf_name(layer, rest, names)
    if name is None:
        raise ModelError(f"{a.file}: {module[:80]!r} is nothing that this model has")
    count = 0
    if heads is not None:
        count = {"self_attn.q_proj.weight": heads[0], "self_attn.k_proj.weight": heads[1]}.get(rest, 0)
    if count and b.shape[0] % (2 * count):
        raise ModelError(f"{a.file}: {module[:80]!r} has {b.shape[0]} rows, which {count} heads do not divide")
    return LowRank(name, a.shape[0], b.shape[0], a.shape[1], partial(_read, a, b, config.scale(module, a.shape[0]), count))


def _read(a: Stored, b: Stored, scale: float, heads: int) -> Pair:
    of_a = read_floats(a.file, a.offset, a.bytes, a.dtype, _two(a.shape), a.name)
    of_b = read_floats(b.file, b.offset, b.bytes, b.dtype, _two(b.shape), b.name)
    if heads:
        of_b = of_b[interleaved_rows(len(of_b), heads)]
    of_b *= np.float32(scale)
    return of_a, of_b


def interleaved_rows(rows: int, heads: int) -> npt.NDArray[np.int64]:
    """Where GGUF's rows are in transformers': conversion.layouts.interleave."""
    return np.arange(rows).reshape(heads, 2, -1).swapaxes(1, 2).ravel()


def _two(shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[0], shape[1]


def is_peft(path: str) -> bool:
    """Whether a directory is PEFT's. Raises MissingFileError for one that has no configuration."""
    if not os.path.isdir(path):
        return False
    if not os.path.exists(os.path.join(path, CONFIG)):
        raise MissingFileError(2, f"there is no {CONFIG} in this directory; an adapter is one of PEFT's directories, or a .gguf file", path)
    return True
