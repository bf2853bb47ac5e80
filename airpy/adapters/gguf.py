"""Adapters in GGUF, as llama.cpp's convert_lora_to_gguf.py writes them: X.lora_a and X.lora_b for a weight X."""

from __future__ import annotations

from functools import partial

from airpy import _core
from airpy.adapters.source import LowRank, Pair, read_floats
from airpy.errors import FormatError, ModelError, UnsupportedError

Tensor = tuple[str, str, tuple[int, ...], int, int, int]  # as _core.GGUF has it


def read_gguf(path: str, arch: str) -> list[LowRank]:
    """arch: the model's. Raises FormatError and ModelError for what contradicts itself or is for another architecture, UnsupportedError for
    files that are no LoRA."""
    gguf = _core.GGUF(path)
    metadata = gguf.metadata
    if metadata.get("general.type") != "adapter" or metadata.get("adapter.type") != "lora":
        what = metadata.get("adapter.type", metadata.get("general.type", "model"))
        raise UnsupportedError(f"{path} is {str(what)[:40]!r}, and no adapter of type 'lora'; AutoModel.from_pretrained() opens models")
    if (theirs := metadata.get("general.architecture")) != arch:
        raise ModelError(f"{path} is an adapter of a model of {str(theirs)[:40]!r}, and this one is of {arch!r}")
    alpha = metadata.get("adapter.lora.alpha", 0.0)
    if not isinstance(alpha, (int, float)) or alpha != alpha or abs(alpha) > 1e6:
        raise FormatError(f"{path}: adapter.lora.alpha is {str(alpha)[:40]}; expected a number")
    return [_low_rank(path, gguf.paths, pair, float(alpha)) for pair in _pairs(path, gguf.tensors)]


def _pairs(path: str, tensors: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    found: dict[str, dict[str, Tensor]] = {}
    for tensor in tensors:
        base, _, part = tensor[0].rpartition(".")
        if part not in ("lora_a", "lora_b"):
            raise UnsupportedError(f"{path}: {tensor[0][:80]!r} is neither X.lora_a nor X.lora_b")
        found.setdefault(base, {})[part] = tensor
    for base, parts in found.items():
        if len(parts) < 2:
            raise FormatError(f"{path}: of {base[:80]!r} there is {next(iter(parts))} alone")
    return [(parts["lora_a"], parts["lora_b"]) for parts in found.values()]


def _low_rank(path: str, paths: list[str], pair: tuple[Tensor, Tensor], alpha: float) -> LowRank:
    (name, _, of_a, *_), (_, _, of_b, *_) = pair
    if any(n != 1 for n in (*of_a[2:], *of_b[2:])) or len(of_a) < 2 or len(of_b) < 2 or of_a[1] != of_b[0]:
        raise FormatError(f"{path}: {name[:80]!r} is {list(of_a)} and lora_b {list(of_b)}; expected [columns, rank] and [rank, rows]")
    rank = of_a[1]
    # As llama.cpp has it: an alpha of 0 is none.
    scale = alpha / rank if alpha else 1.0
    return LowRank(name.removesuffix(".lora_a"), rank, of_b[1], of_a[0], partial(_read, paths, pair, scale))


def _read(paths: list[str], pair: tuple[Tensor, Tensor], scale: float) -> Pair:
    (name_a, kind_a, of_a, part_a, at_a, size_a), (name_b, kind_b, of_b, part_b, at_b, size_b) = pair
    a = read_floats(paths[part_a], at_a, size_a, kind_a, (of_a[1], of_a[0]), name_a)
    b = read_floats(paths[part_b], at_b, size_b, kind_b, (of_b[1], of_b[0]), name_b)
    b *= scale
    return a, b
