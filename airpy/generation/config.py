"""What to generate and when to stop, under Hugging Face's names and with its defaults."""

from __future__ import annotations

import dataclasses
import operator
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from airpy.errors import ArgumentError, UnsupportedError

DEFAULT_NEW_TOKENS = 256

# Arguments of transformers' generate() that airpy does not have: the values that change nothing there and are accepted here, and
# what to do instead.
_NEUTRAL: dict[str, tuple[tuple[Any, ...], str]] = {
    "use_cache": ((True, None), "model.forget() before the call: what the model knows of a text is then read again"),
    "num_beams": ((1, None), "sampling with do_sample=True, or several seeds"),
    "num_beam_groups": ((1, None), "sampling with do_sample=True"),
    "num_return_sequences": ((1, None), "one row for each, with a list of seeds"),
    "penalty_alpha": ((None, 0), "do_sample=True with top_k or min_p"),
    "diversity_penalty": ((None, 0.0), "frequency_penalty or presence_penalty"),
    "length_penalty": ((None, 1.0), "max_new_tokens"),
    "encoder_repetition_penalty": ((None, 1.0), "repetition_penalty"),
    "no_repeat_ngram_size": ((None, 0), "repetition_penalty or frequency_penalty"),
    "typical_p": ((None, 1.0), "min_p or top_p"),
    "epsilon_cutoff": ((None, 0.0), "min_p"),
    "eta_cutoff": ((None, 0.0), "min_p"),
    "early_stopping": ((None, False), "stop_strings or eos_token_id"),
    "min_length": ((None, 0), "leaving eos_token_id=[] to turn the end of sequence off"),
    "min_new_tokens": ((None, 0), "leaving eos_token_id=[] to turn the end of sequence off"),
    "max_time": ((None,), "model.cancel() from a timer, or model.stream() and a break"),
    "bad_words_ids": ((None, []), "sampling on your own from model(ids).logits"),
    "force_words_ids": ((None, []), "sampling on your own from model(ids).logits"),
    "constraints": ((None, []), "sampling on your own from model(ids).logits"),
    "suppress_tokens": ((None, []), "sampling on your own from model(ids).logits"),
    "begin_suppress_tokens": ((None, []), "sampling on your own from model(ids).logits"),
    "sequence_bias": ((None,), "sampling on your own from model(ids).logits"),
    "forced_bos_token_id": ((None,), "putting the id at the end of the prompt"),
    "forced_eos_token_id": ((None,), "appending the id yourself"),
    "guidance_scale": ((None, 1, 1.0), "sampling on your own from model(ids).logits"),
    "logits_processor": ((None, []), "sampling on your own from model(ids).logits"),
    "stopping_criteria": ((None, []), "stop_strings, or model.stream() and a break"),
    "prefix_allowed_tokens_fn": ((None,), "sampling on your own from model(ids).logits"),
    "assistant_model": ((None,), "generate() without it: the text is the same"),
    "prompt_lookup_num_tokens": ((None,), "generate() without it: the text is the same"),
    "negative_prompt_ids": ((None,), "generate() without it"),
    "inputs_embeds": ((None,), "input_ids"),
    "inputs": ((None,), "input_ids"),
    "past_key_values": ((None,), "the whole text as input_ids: what is known of it is not computed again"),
    "cache_implementation": ((None,), "kv_dtype= of from_pretrained"),
    "output_scores": ((None, False), "model(ids).logits"),
    "output_logits": ((None, False), "model(ids).logits"),
    "output_attentions": ((None, False), "nothing: airpy never has them whole"),
    "output_hidden_states": ((None, False), "model(ids).logits"),
    "renormalize_logits": ((None, False), "generate() without it"),
    "remove_invalid_values": ((None, False), "generate() without it: values that are not finite raise NumericError"),
    "synced_gpus": ((None, False), "generate() without it"),
    "tokenizer": ((None,), "stop_strings alone: the model knows its tokenizer"),
    "bos_token_id": ((None,), "input_ids that begin with it"),
    "decoder_start_token_id": ((None,), "input_ids that begin with it"),
    "token_type_ids": ((None,), "input_ids and attention_mask"),
    "position_ids": ((None,), "attention_mask"),
    "labels": ((None,), "model(ids).logits and a loss of your own"),
    "return_dict": ((None, True), "the output's attributes"),
    "token_healing": ((None, False), "generate() without it"),
}


def refuse(where: str, arguments: Mapping[str, Any]) -> None:
    """Arguments that are not ours: neutral values of known ones pass, others raise UnsupportedError, unknown ones TypeError."""
    for name, value in arguments.items():
        if name not in _NEUTRAL:
            raise TypeError(f"{where} got an unexpected argument {name!r}")
        neutral, instead = _NEUTRAL[name]
        if name == "tokenizer" or any(_means(value, n) for n in neutral):
            continue  # a tokenizer is what transformers wants beside stop_strings; the model's own is used and is the same
        raise UnsupportedError(f"{where}: {name}={value!r} is not supported; use {instead}")


def _means(value: Any, neutral: Any) -> bool:
    """Equal, of whatever class the number or the list is; but True is not 1."""
    if isinstance(value, (int, float, list)) and isinstance(value, bool) == isinstance(neutral, bool):
        return bool(value == neutral)
    return value is neutral


@dataclass
class GenerationConfig:
    """Fields that are None follow the model's own generation_config, and then these defaults:

    max_new_tokens: as many as the context has room for, at most 256. max_length: prompt and new tokens together, instead of it.
    do_sample=False takes the most probable token; True draws with temperature 1, top_k 50, top_p 1.
    eos_token_id: the file's end-of-sequence, -turn and -message tokens; [] never stops at one.
    stop_strings: a generation ends with the token that completes one. seed: an int, or one for each row; the same seed gives the
    same text, alone or in a batch; None draws a new one for each row. repetition_penalty counts prompt and new tokens as
    transformers does, frequency_penalty and presence_penalty new ones as OpenAI's interface does.

    Fields are checked by the call that uses them. Assigning to a name that is none raises AttributeError, or UnsupportedError where
    transformers has it.
    """

    max_new_tokens: int | None = None
    max_length: int | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    eos_token_id: int | Sequence[int] | None = None
    pad_token_id: int | None = None
    stop_strings: str | Sequence[str] | None = None
    return_dict_in_generate: bool | None = None
    seed: int | Sequence[int] | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _NEUTRAL:
            refuse("generation_config", {name: value})
        elif name not in FIELDS:
            raise AttributeError(f"generation_config has no field {name!r}; it has {', '.join(FIELDS)}")
        else:
            super().__setattr__(name, value)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def over(self, base: GenerationConfig) -> GenerationConfig:
        """This one, with base's values where it has none."""
        merged = GenerationConfig(**{name: _first(value, getattr(base, name)) for name, value in self.to_dict().items()})
        if self.max_new_tokens is not None and self.max_length is None:
            merged.max_length = None  # the length chosen here, not both
        if self.max_length is not None and self.max_new_tokens is None:
            merged.max_new_tokens = None
        return merged


FIELDS = tuple(field.name for field in dataclasses.fields(GenerationConfig))


def _first(value: Any, other: Any) -> Any:
    return other if value is None else value


def merge(
    base: GenerationConfig, config: GenerationConfig | Mapping[str, Any] | None, given: Mapping[str, Any]
) -> GenerationConfig:
    """The model's config, under the call's config, under the call's arguments. Arguments that are None count as not given, but
    eos_token_id=None and pad_token_id=None. Raises TypeError and UnsupportedError as refuse() does."""
    if isinstance(config, Mapping):
        config = from_mapping("generation_config", config)
    elif config is not None and not isinstance(config, GenerationConfig):
        to_dict = getattr(config, "to_diff_dict", None)  # transformers' class: what differs from its defaults
        if to_dict is None:
            raise TypeError(f"generation_config is {type(config).__name__}; expected airpy.GenerationConfig or a dict")
        known = {name: value for name, value in to_dict().items() if name not in ("transformers_version", "_from_model_config")}
        config = from_mapping("generation_config", known)
    merged = from_mapping("generate()", given).over((config or GenerationConfig()).over(base))
    if "eos_token_id" in given and given["eos_token_id"] is None:
        merged.eos_token_id = []
    return merged


def from_mapping(where: str, values: Mapping[str, Any]) -> GenerationConfig:
    refuse(where, {name: value for name, value in values.items() if name not in FIELDS})
    return GenerationConfig(**{name: value for name, value in values.items() if name in FIELDS})


@dataclass(frozen=True)
class Resolved:
    """A config as the token loop needs it: everything decided, everything checked."""

    max_new_tokens: int | None
    max_length: int | None
    sampling: dict[str, float]  # without the seed
    eos: frozenset[int]
    pad: int
    stop_strings: tuple[str, ...]
    seeds: list[int]
    one_seed: bool  # or none: not one for each row
    return_dict: bool


def resolve(config: GenerationConfig, n_vocab: int) -> Resolved:
    """Raises ArgumentError for values that make no sense; the engine checks the ranges of sampling's."""
    if config.max_new_tokens is not None and config.max_length is not None:
        raise ArgumentError("give max_new_tokens or max_length, not both")
    ends = [_token("eos_token_id", i, n_vocab) for i in _listed(config.eos_token_id)]
    stops = [config.stop_strings] if isinstance(config.stop_strings, str) else _listed(config.stop_strings)
    if not all(isinstance(text, str) and text for text in stops):
        raise ArgumentError(f"stop_strings is {config.stop_strings!r}; expected texts that are not empty")
    seeds = [_seed(seed) for seed in _listed(config.seed)]
    return Resolved(
        max_new_tokens=_at_least_one("max_new_tokens", config.max_new_tokens),
        max_length=_at_least_one("max_length", config.max_length),
        sampling=_sampling(config),
        eos=frozenset(ends),
        pad=_token("pad_token_id", _first(config.pad_token_id, min(ends, default=0)), n_vocab),
        stop_strings=tuple(stops),
        seeds=seeds,
        one_seed=not _is_list(config.seed),
        return_dict=_flag("return_dict_in_generate", config.return_dict_in_generate),
    )


def _sampling(config: GenerationConfig) -> dict[str, float]:
    penalties = {
        "repetition_penalty": _number("repetition_penalty", _first(config.repetition_penalty, 1.0)),
        "frequency_penalty": _number("frequency_penalty", _first(config.frequency_penalty, 0.0)),
        "presence_penalty": _number("presence_penalty", _first(config.presence_penalty, 0.0)),
    }
    drawing = {
        "temperature": _number("temperature", _first(config.temperature, 1.0)),
        "top_k": _whole("top_k", _first(config.top_k, 50), "a whole number"),
        "top_p": _number("top_p", _first(config.top_p, 1.0)),
        "min_p": _number("min_p", _first(config.min_p, 0.0)),
    }
    neutral = {"temperature": (None, 0, 1), "top_k": (None, 0, 1, 50), "top_p": (None, 1), "min_p": (None, 0)}
    if not _flag("do_sample", config.do_sample):
        for name, values in neutral.items():
            if getattr(config, name) not in values:
                warnings.warn(f"{name}={getattr(config, name)} does nothing without do_sample=True", UserWarning, stacklevel=4)
        return {"temperature": 0.0, **penalties}
    return {**drawing, **penalties}


def _is_list(value: Any) -> bool:
    return hasattr(value, "__iter__") and getattr(value, "shape", None) != ()


def _listed(value: Any) -> list[Any]:
    return [] if value is None else list(value) if _is_list(value) else [value]


def _flag(name: str, value: Any) -> bool:
    """None counts as False."""
    if value is not None and not isinstance(value, (bool, np.bool_)):
        raise ArgumentError(f"{name} is {value!r}; expected True or False")
    return bool(value)


def _number(name: str, value: Any) -> float:
    try:
        if isinstance(value, (str, bytes, bool, np.bool_)):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise ArgumentError(f"{name} is {value!r}; expected a number") from None


def _whole(name: str, value: Any, expected: str) -> int:
    """True and False are ints to Python, and hardly ever meant as such."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise ArgumentError(f"{name} is {value!r}; expected {expected}") from None


def _token(name: str, value: Any, n_vocab: int) -> int:
    number = _whole(name, value, "a token id")
    if not 0 <= number < n_vocab:
        raise ArgumentError(f"{name} is {number}; expected a token id, 0 to {n_vocab - 1}")
    return number


def _at_least_one(name: str, value: Any) -> int | None:
    if value is None:
        return None
    number = _whole(name, value, "a whole number")
    if number < 1:
        raise ArgumentError(f"{name} is {number}; expected 1 or more")
    return number


def _seed(value: Any) -> int:
    number = _whole("seed", value, "a whole number, or one for each row")
    if not 0 <= number < 1 << 64:
        raise ArgumentError(f"seed is {number}; expected 0 to 2**64 - 1")
    return number
