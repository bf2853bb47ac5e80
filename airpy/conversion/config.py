"""config.json: what a model is, in the names that transformers' classes give it, old and new."""

from __future__ import annotations

import os
from typing import Any

from airpy.conversion.jsons import json_object, read_json
from airpy.errors import FormatError, UnsupportedError

_LARGEST = 1 << 30
_MOST_LAYERS = 4096  # as the engine has it (csrc/model/hparams.c)
_TEXT = ("text_config", "llm_config")  # where models of several media keep what is about text

# Names of the same, the first that is there counts.
HIDDEN = ("hidden_size", "n_embd", "d_model", "n_embed")
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
HEADS = ("num_attention_heads", "n_head", "n_heads")
KV_HEADS = ("num_kv_heads", "num_key_value_heads", "n_head_kv", "kv_n_heads")
FEED_FORWARD = ("intermediate_size_mlp", "intermediate_size", "ffn_hidden_size", "n_inner")
CONTEXT = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx", "max_sequence_length")
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
EXPERTS_USED = ("num_experts_per_tok", "moe_k", "moe_topk")
RMS_EPS = ("rms_norm_eps", "norm_eps", "layernorm_epsilon")
LAYER_EPS = ("layer_norm_epsilon", "layer_norm_eps", "norm_epsilon", "norm_eps", "layernorm_epsilon")
ROPE_BASE = ("rope_theta", "rotary_emb_base", "rope_base", "global_rope_theta")
ROTARY_PART = ("partial_rotary_factor", "rotary_pct", "rope_pct", "rotary_emb_fraction")


class Config:
    """The values of a config.json, or of the part of it that is about text. Numbers are checked as they are asked for; null is as if it
    were not there."""

    def __init__(self, values: dict[str, Any], path: str) -> None:
        self.values, self.path = values, path

    @classmethod
    def read(cls, folder: str) -> Config:
        path = os.path.join(folder, "config.json")
        values = read_json(path)
        for name in _TEXT:
            if isinstance(values.get(name), dict):
                inner = values[name]
                values = {**values, **inner, "architectures": values.get("architectures")}
        return cls(values, path)

    @property
    def architecture(self) -> str:
        """The class that transformers would take. Raises FormatError."""
        names = self.values.get("architectures")
        if not (isinstance(names, list) and names and isinstance(names[0], str)):
            raise FormatError(f"{self.path}: architectures is {str(names)[:80]}; expected a list with the name of a class")
        return names[0]

    def first(self, *names: str) -> Any:
        """The first of these that is there; None."""
        return next((self.values[name] for name in names if self.values.get(name) is not None), None)

    def integer(self, *names: str, default: int | None = None, least: int = 1, most: int = _LARGEST) -> int:
        """Raises FormatError where it is missing and has no default, or is no integer of [least, most]."""
        value = self.first(*names)
        if value is None and default is not None:
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not int or not least <= value <= most:
            raise FormatError(f"{self.path}: {names[0]} is {str(value)[:80]}; expected an integer of {least} to {most}")
        return value

    def integer_or_none(self, *names: str) -> int | None:
        return None if self.first(*names) is None else self.integer(*names, least=0)

    def number(self, *names: str, default: float | None = None) -> float:
        """Raises FormatError where it is missing and has no default, or is no finite number."""
        value = self.first(*names)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= 1e12:
            raise FormatError(f"{self.path}: {names[0]} is {str(value)[:80]}; expected a finite number")
        return float(value)

    def flag(self, *names: str, default: bool) -> bool:
        value = self.first(*names)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise FormatError(f"{self.path}: {names[0]} is {str(value)[:80]}; expected true or false")
        return value

    def list_of(self, name: str, kind: type | tuple[type, ...], length: int) -> list[Any] | None:
        """None where it is not there. Raises FormatError for other lists."""
        value, called = self.first(name), kind.__name__ if isinstance(kind, type) else "numbers"
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != length or not all(isinstance(item, kind) for item in value):
            raise FormatError(f"{self.path}: {name} is {str(value)[:80]}; expected a list of {length} {called}")
        return value

    def numbers(self, name: str, length: int) -> list[float]:
        """So many; ones where it is not there. Raises FormatError for other lists."""
        given = self.list_of(name, (int, float), length) or [1.0] * length
        return [Config({name: value}, self.path).number(name) for value in given]

    def part(self, name: str) -> Config:
        """An object in it; an empty one where it is not there."""
        value = self.first(name)
        return Config({} if value is None else json_object(value, self.path, name), f"{self.path}: {name}")

    def require(self, name: str, *allowed: Any) -> None:
        """Raises UnsupportedError where a value that is there is none of these; null is what is not there."""
        value = self.first(name)
        if value is not None and value not in allowed:
            expected = " or ".join(repr(a) for a in allowed if a is not None) or "nothing"
            raise UnsupportedError(f"{self.path}: {name} is {str(value)[:80]!r}; the model can be converted only with {expected}")

    # ---- what several keys say together ----

    @property
    def layers(self) -> int:
        kinds = self.first("layers_block_type")  # Nemotron's, which may not say how many
        several = isinstance(kinds, list) and kinds
        return len(kinds) if several else self.integer(*LAYERS, most=_MOST_LAYERS)

    @property
    def hidden(self) -> int:
        return self.integer(*HIDDEN)

    @property
    def heads(self) -> int:
        return self.integer(*HEADS)

    @property
    def kv_heads(self) -> int:
        """As many as queries have where nothing is said. multi_query of Falcon and StarCoder: one for all."""
        if self.flag("multi_query", default=False) and not self.flag("new_decoder_architecture", default=False):
            return 1
        return self.integer(*KV_HEADS, default=self.heads)

    @property
    def head(self) -> int:
        return self.integer("head_dim", default=max(1, self.hidden // self.heads))

    @property
    def feed_forward(self) -> int:
        return self.integer(*FEED_FORWARD, default=self.hidden * self.integer("expansion_ratio", default=4))

    @property
    def experts(self) -> int:
        return self.integer(*EXPERTS, default=0, least=0)

    @property
    def expert_feed_forward(self) -> int:
        return self.integer("moe_intermediate_size", default=self.feed_forward)
