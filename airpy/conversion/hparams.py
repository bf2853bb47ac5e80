"""From a configuration to the keys of a GGUF file that say what the model is, and the factors of its rotary positions."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from airpy.conversion import sentence
from airpy.conversion.config import CONTEXT, EXPERTS_USED, LAYER_EPS, RMS_EPS, ROPE_BASE, ROTARY_PART, Config
from airpy.conversion.families import Family
from airpy.errors import FormatError, UnsupportedError
from airpy.gguf_writer import Entry, Type

Floats = npt.NDArray[np.float32]

_TYPES: dict[str, Type] = {name: (name, None) for name in ("u32", "f32", "bool", "string")} | {
    "bools": ("array", "bool"), "integers": ("array", "i32"), "strings": ("array", "string")}  # fmt: skip
_DEFAULT_CONTEXT = 2048  # of BLOOM and Falcon, whose configurations do not say


def model_entries(family: Family, config: Config) -> Iterator[Entry]:
    """Without the architecture's own general.* keys. Raises FormatError and UnsupportedError."""
    found = {suffix: (type, value) for suffix, type, value in _values(family, config)}  # a family's own come last
    for suffix, (type, value) in found.items():
        if value is not None:
            yield f"{family.arch}.{suffix}", _TYPES[type], value


def _values(family: Family, config: Config) -> Iterator[tuple[str, str, Any]]:
    rope = Rope(config) if family.rotated else None
    yield "context_length", "u32", _context(family, config)
    yield "embedding_length", "u32", config.hidden
    yield "block_count", "u32", config.layers
    yield "feed_forward_length", "u32", config.feed_forward
    yield "attention.head_count", "u32", config.heads if family.attends else 0
    if family.attends:
        yield "attention.head_count_kv", "u32", config.kv_heads
        yield "attention.key_length", "u32", config.head
        yield "attention.value_length", "u32", config.head
    if family.layer_norm:
        yield "attention.layer_norm_epsilon", "f32", config.number(*LAYER_EPS, *RMS_EPS, default=1e-5)
    else:
        yield "attention.layer_norm_rms_epsilon", "f32", config.number(*RMS_EPS, default=1e-6)
    yield "vocab_size", "u32", config.integer("vocab_size")
    if rope is not None:
        yield from rope.values()
    yield from _windows(family, config)
    yield from _experts(config)
    folder = os.path.dirname(config.path)
    yield "pooling_type", "u32", sentence.pooling(folder)
    for module in sentence.dense(folder):
        yield from module.entries()
    for suffix, type, value in family.keys:
        yield suffix, type, value(config)


def _window(config: Config) -> int | None:
    """Positions that layers with a window see; None where all see everything."""
    used = config.flag("use_sliding_window", default=True)
    return (config.integer_or_none("sliding_window") or None) if used else None


def _context(family: Family, config: Config) -> int:
    """Where an architecture has no windows in GGUF, its model is used up to the length where there is nothing outside of them."""
    context, window = config.integer(*CONTEXT, default=_DEFAULT_CONTEXT), _window(config)
    return context if family.windows or window is None else min(context, window)


def _windows(family: Family, config: Config) -> Iterator[tuple[str, str, Any]]:
    window = _window(config) if family.windows else None
    if window is None:
        return
    yield "attention.sliding_window", "u32", window
    kinds = config.list_of("layer_types", str, config.layers)
    period = config.first("sliding_window_pattern", "_sliding_window_pattern")
    if kinds is not None:
        if odd := set(kinds) - {"sliding_attention", "full_attention"}:
            raise UnsupportedError(f"{config.path}: layer_types has {odd.pop()[:40]!r}; known are sliding_attention and full_attention")
        yield "attention.sliding_window_pattern", "bools", [kind == "sliding_attention" for kind in kinds]
    elif isinstance(period, str) and period:  # "LLLG"
        yield "attention.sliding_window_pattern", "bools", [period[i % len(period)] == "L" for i in range(config.layers)]
    elif period is not None:
        every = config.integer("sliding_window_pattern", "_sliding_window_pattern")
        yield "attention.sliding_window_pattern", "bools", [(i + 1) % every != 0 for i in range(config.layers)]


def _one_of_all(config: Config, *names: str) -> int:
    """A number, or a list with the same one for each layer."""
    value = config.first(*names)
    if isinstance(value, list) and value and all(item == value[0] for item in value):
        return Config({names[0]: value[0]}, config.path).integer(names[0], least=0)
    return config.integer(*names, least=0)


def _experts(config: Config) -> Iterator[tuple[str, str, Any]]:
    if not config.experts:
        return
    ff = config.expert_feed_forward if not isinstance(config.first("moe_intermediate_size"), list) else _one_of_all(
        config, "moe_intermediate_size")  # fmt: skip
    yield "expert_count", "u32", config.experts
    yield "expert_used_count", "u32", _one_of_all(config, *EXPERTS_USED)
    yield "expert_feed_forward_length", "u32", ff
    shared = config.integer("shared_expert_intermediate_size", default=0, least=0)
    shared = shared or config.integer("moe_num_shared_experts", default=0, least=0) * ff
    if config.first("moe_topk") is not None:  # Hunyuan's shared expert is there always
        many = _one_of_all(config, "num_shared_expert") if config.first("num_shared_expert") is not None else 1
        shared = many * config.feed_forward
    yield "expert_shared_feed_forward_length", "u32", shared or None


class Rope:
    """Rotary positions of the layers that see everything. Old configurations spread over several keys what new ones have in
    rope_parameters. Raises UnsupportedError for ways to stretch them that GGUF does not know."""

    def __init__(self, config: Config) -> None:
        given = config.part("rope_parameters" if config.first("rope_parameters") is not None else "rope_scaling")
        of_windows = given.first("sliding_attention")
        self._config = config
        self._given = given.part("full_attention") if isinstance(given.first("full_attention"), dict) else given
        self.kind = str(self._given.first("rope_type", "type") or "default").lower()
        known = ("default", "none", "linear", "yarn", "llama3", "longrope", "su", "dynamic")
        if self.kind not in known:
            raise UnsupportedError(f"{given.path}: rope_type is {self.kind[:40]!r}; known are {', '.join(known)}")
        self.base = self._given.number("rope_theta", default=config.number(*ROPE_BASE, default=10000.0))
        self.base_of_windows = config.number("rope_local_base_freq", "local_rope_theta", default=0.0)
        if isinstance(of_windows, dict):
            self.base_of_windows = Config(of_windows, given.path).number("rope_theta", default=10000.0)
        part = self._given.number("partial_rotary_factor", default=config.number(*ROTARY_PART, default=1.0))
        self.dims = config.integer("qk_rope_head_dim", "rotary_dim", default=int(part * config.head))
        self.original = self._given.integer("original_max_position_embeddings", default=config.integer(
            "original_max_position_embeddings", default=config.integer(*CONTEXT, default=_DEFAULT_CONTEXT)))  # fmt: skip
        if self.kind == "dynamic":
            self._fix_dynamic()

    def _fix_dynamic(self) -> None:
        """Hunyuan's is another base, for all lengths; others' changes with the length of the text."""
        alpha = self._given.first("alpha")
        if alpha is None:
            raise UnsupportedError(f"{self._given.path}: rope_type is 'dynamic', without alpha; GGUF has no such rope")
        self.base *= self._given.number("alpha") ** (self.dims / (self.dims - 2))

    def values(self) -> Iterator[tuple[str, str, Any]]:
        yield "rope.dimension_count", "u32", self.dims
        yield "rope.freq_base", "f32", self.base
        if self.base_of_windows:
            yield "rope.freq_base_swa", "f32", self.base_of_windows
        given = self._given
        if self.kind in ("linear", "yarn"):
            yield "rope.scaling.type", "string", self.kind
            yield "rope.scaling.factor", "f32", given.number("factor")
        if self.kind in ("yarn", "longrope", "su"):
            yield "rope.scaling.original_context_length", "u32", self.original
        if self.kind == "yarn":
            for name in ("beta_fast", "beta_slow"):
                if given.first(name) is not None:
                    yield f"rope.scaling.yarn_{name}", "f32", given.number(name)
            yield "rope.scaling.attn_factor", "f32", self._yarn_attention()
            if given.first("mscale_all_dim") is not None:  # DeepSeek's, as llama.cpp's converter writes it
                yield "rope.scaling.yarn_log_multiplier", "f32", 0.1 * given.number("mscale_all_dim")
        if self.kind in ("longrope", "su"):
            yield "rope.scaling.attn_factor", "f32", self._longrope_attention()

    def _yarn_attention(self) -> float | None:
        """GGUF's is beside the paper's 1 + 0.1 log(factor) (arXiv 2309.00071, 3.4), transformers' instead of it."""
        if self._given.first("mscale") != self._given.first("mscale_all_dim"):
            raise UnsupportedError(f"{self._given.path}: yarn's mscale is not its mscale_all_dim, which GGUF has one number for")
        if self._given.first("attention_factor") is None:
            return None
        return self._given.number("attention_factor") / (1 + 0.1 * math.log(self._given.number("factor")))

    def _longrope_attention(self) -> float:
        """By how much queries and keys grow (arXiv 2402.13753)."""
        context = self._config.integer(*CONTEXT, default=_DEFAULT_CONTEXT)
        factor = self._given.number("factor", default=context / self.original)
        grown = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(self.original))
        return self._given.number("attention_factor", default=grown)

    def factors(self) -> Iterator[tuple[str, Floats]]:
        """Tensors that each pair's frequency is divided by."""
        if self.kind == "llama3":
            yield "rope_freqs.weight", self._llama3()
        if self.kind in ("longrope", "su"):
            for name in ("long", "short"):
                values = self._given.first(f"{name}_factor")
                if not (isinstance(values, list) and len(values) == self.dims // 2 and all(isinstance(v, (int, float)) for v in values)):
                    raise FormatError(f"{self._given.path}: {name}_factor is not a list of {self.dims // 2} numbers")
                yield f"rope_factors_{name}.weight", np.array(values, np.float32)

    def _llama3(self) -> Floats:
        """Llama 3.1's: long waves by factor, short ones by 1, between by what lies between."""
        given = self._given
        low, high = given.number("low_freq_factor"), given.number("high_freq_factor")
        if not high > low > 0:
            raise FormatError(f"{given.path}: low_freq_factor is {low} and high_freq_factor {high}")
        wavelength = 2 * math.pi * self.base ** (np.arange(0, self.dims, 2) / self.dims)
        smooth = np.clip((self.original / wavelength - low) / (high - low), 0, 1)
        factors: Floats = (1 / ((1 - smooth) / given.number("factor") + smooth)).astype(np.float32)
        return factors
