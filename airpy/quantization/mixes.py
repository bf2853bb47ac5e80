"""Which type each tensor of a file becomes: the mixes that people know by name.

A mix has one type for most matrices and more bits where errors cost most: the output, values of attention, the way down of the
feed-forward, in some layers. The rules, and that they depend on a layer's number, are llama.cpp's (src/llama-quant.cpp, without an
importance matrix, and without its exceptions for Falcon and GLM 5), so that a file has the size and the quality that one expects by
its name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airpy._core import ENCODERS, FORMATS
from airpy.errors import ArgumentError
from airpy.gguf_writer import TensorInfo, blocks_of


@dataclass(frozen=True)
class Facts:
    """What rules ask of a model."""

    layers: int
    heads_per_kv: int
    experts: int


@dataclass(frozen=True)
class Place:
    """Tensor number i of n of its kind, by layers."""

    i: int
    n: int
    facts: Facts


Rule = Callable[[Place], str | None]  # a type, or None: the mix's own


def _more_bits(place: Place) -> bool:
    """The first and the last eighth of the layers, and every third between."""
    i, n = place.i, place.n
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2


def _always(type: str) -> Rule:
    return lambda place: type


def _where(test: Callable[[Place], bool], type: str, otherwise: str | None = None) -> Rule:
    return lambda place: type if test(place) else otherwise


def _first(part: int, type: str, otherwise: str | None = None) -> Rule:
    """One of so many parts of the layers, from the first on."""
    return _where(lambda place: place.i < place.n // part, type, otherwise)


_EIGHT_EXPERTS = "Q5_K"  # what attn_output becomes in mixes below Q5, beside its rule


@dataclass(frozen=True)
class Mix:
    """type: of all matrices that no rule names. rules: by kind. file_type: general.file_type (enum llama_ftype)."""

    name: str
    file_type: int
    type: str
    rules: Mapping[str, Rule]


def _mix(name: str, file_type: int, type: str, **rules: Rule) -> Mix:
    return Mix(name, file_type, type, rules)


# fmt: off
MIXES = {mix.name: mix for mix in (
    _mix("F32",    0,  "F32"),
    _mix("F16",    1,  "F16"),
    _mix("BF16",   32, "BF16"),
    _mix("Q8_0",   7,  "Q8_0"),
    _mix("Q6_K",   18, "Q6_K"),
    _mix("Q5_K_M", 17, "Q5_K", attn_v=_where(_more_bits, "Q6_K"), ffn_down=_where(_more_bits, "Q6_K")),
    _mix("Q5_K_S", 16, "Q5_K"),
    _mix("Q5_1",   9,  "Q5_1"),
    _mix("Q5_0",   8,  "Q5_0"),
    _mix("Q4_K_M", 15, "Q4_K", attn_v=_where(_more_bits, "Q6_K"), ffn_down=_where(_more_bits, "Q6_K")),
    _mix("Q4_K_S", 14, "Q4_K", attn_v=_where(lambda place: place.i < 4, "Q5_K"), ffn_down=_first(8, "Q5_K")),
    _mix("Q4_1",   3,  "Q4_1"),
    _mix("Q4_0",   2,  "Q4_0"),
    _mix("Q3_K_L", 13, "Q3_K", attn_v=_always("Q5_K"), ffn_down=_always("Q5_K"), attn_output=_always("Q5_K")),
    _mix("Q3_K_M", 12, "Q3_K", attn_v=_where(lambda place: place.i < 2, "Q5_K", "Q4_K"), ffn_down=_first(16, "Q5_K", "Q4_K"),
         attn_output=_always("Q4_K")),
    _mix("Q3_K_S", 11, "Q3_K"),
    _mix("Q2_K",   10, "Q2_K", ffn_down=_always("Q3_K"), attn_output=_always("Q3_K"),
         attn_v=_where(lambda place: place.facts.heads_per_kv >= 4, "Q4_K", "Q3_K")),
)}
# fmt: on
ALIASES = {"8BIT": "Q8_0", "4BIT": "Q4_K_M", "Q5_K": "Q5_K_M", "Q4_K": "Q4_K_M", "Q3_K": "Q3_K_M"}

# Kinds of matrices, by parts of their names; the first that is found.
_KINDS = (
    ("attn_qkv.weight", "attn_v"), ("attn_kv_b.weight", "attn_v"), ("attn_v.weight", "attn_v"), ("attn_k.weight", "attn_k"),
    ("attn_output.weight", "attn_output"), ("ffn_down", "ffn_down"),
)  # fmt: skip
# What stays as it is beside vectors and norms: small, and read where precision matters, or by position instead of in products.
_KEPT = (
    "_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight", "altup", "laurel", "per_layer_model_proj", "ssm_conv1d",
    "shortconv.conv.weight", "indexer.", "time_mix_first.weight", "time_mix_w", "time_mix_v", "time_mix_a", "time_mix_g",
    "time_mix_decay_w", "time_mix_lerp_fused.weight", "attn_rel_b.weight", "position_embd", "token_types.weight", ".rel_pos",
    ".patch_embd", ".patch_merger",
)  # fmt: skip
# Rows that are no whole blocks of 256 take blocks of 32 with no fewer bits; those that are not even that, halves.
_NARROW = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
_PLAIN = ("F32", "F16", "BF16")
_FLOATS = (*_PLAIN, "F64")


def find_mix(name: str, argument: str = "type") -> Mix:
    """By name or alias, in any case. Raises ArgumentError, which calls it `argument`."""
    key = str(name).upper()
    mix = MIXES.get(ALIASES.get(key, key))
    if mix is None:
        raise ArgumentError(f"{argument} is {name!r}, but must be one of {', '.join(MIXES)}, 8bit (Q8_0), 4bit (Q4_K_M)")
    return mix


def facts_of(metadata: Mapping[str, Any]) -> Facts:
    """From GGUF keys and values; what is missing or odd counts as 1 or none."""
    arch = metadata.get("general.architecture")

    def number(key: str, default: int) -> int:
        value = metadata.get(f"{arch}.{key}", default)
        if not isinstance(value, int):  # one for each layer
            values = [item for item in memoryview(value).tolist() if item] if not isinstance(value, (str, float, list)) else []
            value = max(values, default=default)
        return value if value > 0 else default

    heads = number("attention.head_count", 1)
    return Facts(number("block_count", 1), max(1, heads // number("attention.head_count_kv", heads)), number("expert_count", 0))


def is_quantized(type: str) -> bool:
    return blocks_of(type)[0] > 1


def choose_types(
    mix: Mix, tensors: Sequence[TensorInfo], facts: Facts, *, overrides: Iterable[tuple[str, str]] = (), pure: bool = False,
    exact: bool = False,
) -> list[str]:
    """A type for each tensor, in order. overrides: (regular expression, type), the first that is found in a name; for anything with two
    axes. pure: one type for all matrices. exact: what is quantised already stays, unless the mix has fewer bits. Raises ArgumentError for
    patterns that are none, or match nothing, and types that are not written."""
    patterns = [(_pattern(pattern), pattern, _written(type)) for pattern, type in overrides]
    used: set[str] = set()
    tied = all(tensor.name != "output.weight" for tensor in tensors)
    places = _places(tensors, facts)
    types = []
    for tensor in tensors:
        own = next(((text, type) for found, text, type in patterns if found.search(tensor.name)), None)
        if own is not None and len(tensor.shape) > 1:
            used.add(own[0])
            types.append(_fitting(own[1], tensor))
        elif exact and _stays(mix, tensor):
            types.append(tensor.type)
        elif not _is_matrix(tensor):
            types.append("F32" if tensor.type in _FLOATS else tensor.type)
        elif pure or mix.type in _PLAIN:
            types.append(_fitting(mix.type, tensor))
        else:
            types.append(_fitting(_by_rule(mix, tensor, tied, places.get(tensor.name), facts), tensor))
    if idle := [text for _, text, _ in patterns if text not in used]:
        raise ArgumentError(f"{idle[0]!r} is in no matrix's name, or an earlier pattern is in all; airpy inspect --tensors lists them")
    return types


def _stays(mix: Mix, tensor: TensorInfo) -> bool:
    """More bits would say no more of it; floats are asked for by name."""
    fewer = mix.type not in _PLAIN and _bits(tensor.type) <= _bits(mix.type)
    return is_quantized(tensor.type) and (fewer or mix.name == tensor.type)


def _bits(type: str) -> float:
    block, size = blocks_of(type)
    return 8 * size / block


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise ArgumentError(f"{text!r} is no regular expression: {error}") from None


def _written(type: str) -> str:
    name = type.upper()
    if name not in ENCODERS:
        what = "a type that airpy reads but does not write" if name in (row[0] for row in FORMATS) else "no type of tensors"
        raise ArgumentError(f"{type!r} is {what}; it writes {', '.join(ENCODERS)}")
    return name


def _is_matrix(tensor: TensorInfo) -> bool:
    """What products read, and nobody else."""
    if len(tensor.shape) < 2 or not tensor.name.endswith("weight") or any(part in tensor.name for part in _KEPT):
        return False
    return not tensor.type.startswith("I") or tensor.type.startswith("IQ")


def _places(tensors: Sequence[TensorInfo], facts: Facts) -> dict[str, Place]:
    """Values of attention are counted among themselves, all else by layers."""
    values = sorted((t.name for t in tensors if _kind(t.name) == "attn_v"), key=_layer)
    places = {name: Place(i, len(values), facts) for i, name in enumerate(values)}
    for tensor in tensors:
        places.setdefault(tensor.name, Place(_layer(tensor.name), facts.layers, facts))
    return places


def _layer(name: str) -> int:
    match = re.match(r"blk\.(\d+)\.", name)
    return int(match[1]) if match else 0


def _kind(name: str) -> str:
    return next((kind for part, kind in _KINDS if part in name), "")


def _by_rule(mix: Mix, tensor: TensorInfo, tied: bool, place: Place | None, facts: Facts) -> str:
    if tensor.name == "output.weight" or (tied and tensor.name in ("token_embd.weight", "per_layer_token_embd.weight")):
        return "Q8_0" if mix.type == "Q8_0" else "Q6_K"
    kind = _kind(tensor.name)
    rule = mix.rules.get(kind)
    type = (rule(place) if rule and place else None) or mix.type
    if kind == "attn_v" and facts.layers == 80 and type in ("Q3_K", "Q4_K"):
        type = "Q5_K"  # 70b: eight heads share one, so more bits cost next to nothing
    if facts.experts == 8:
        if kind in ("attn_v", "attn_k"):
            return "Q8_0"  # they are small beside the experts
        if kind == "attn_output" and mix.name in ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M"):
            return _EIGHT_EXPERTS
        if kind == "attn_output":
            return mix.type
    return type


def _fitting(type: str, tensor: TensorInfo) -> str:
    """The type, or what its rows can be instead."""
    columns = tensor.shape[0]
    if columns % blocks_of(type)[0]:
        type = _NARROW.get(type, type)
    return "F16" if columns % blocks_of(type)[0] else type
