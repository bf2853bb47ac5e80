"""What to generate and when to stop, under Hugging Face's names and with its defaults."""

from __future__ import annotations

import dataclasses
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from airpy.errors import ArgumentError, ArgumentTypeError, UnsupportedError
from airpy.generation.shaping import Shaping

DEFAULT_NEW_TOKENS = 256

# Of transformers' generate() and of its configs: what changes no text here, whatever its value. Prompts are always given, and how
# transformers keeps its cache, compiles, or lets an assistant guess is its own affair.
_WITHOUT_EFFECT = frozenset((
    "_commit_hash", "_from_model_config", "assistant_confidence_threshold", "assistant_early_exit", "assistant_lookbehind",
    "bos_token_id", "cache_config", "compile_config", "decoder_start_token_id", "disable_compile",
    "generation_kwargs", "is_assistant", "low_memory", "max_matching_ngram_size", "num_assistant_tokens",
    "num_assistant_tokens_schedule", "prefill_chunk_size", "prompt_lookup_num_tokens", "return_legacy_cache",
    "target_lookbehind", "tokenizer", "transformers_version", "trust_remote_code",
))  # fmt: skip
# Arguments of transformers' generate() that airpy does not have: the values that change nothing there and are accepted here, and
# what to use instead.
_NEUTRAL: dict[str, tuple[tuple[Any, ...], str]] = {
    "assistant_model": ((None,), "generate() without it: what an assistant guesses changes no text"),
    "use_cache": ((True, False, None), "True or False"),  # of model(), which returns none; generate() has it as a field
    "num_beams": ((1, None), "do_sample=True with num_return_sequences: beam search is not there"),
    "num_beam_groups": ((1, None), "do_sample=True with num_return_sequences: beam search is not there"),
    "penalty_alpha": ((None, 0), "do_sample=True with top_k or min_p: contrastive search is not there"),
    "diversity_penalty": ((None, 0.0), "frequency_penalty or presence_penalty"),
    "length_penalty": ((None, 1.0), "max_new_tokens"),
    "encoder_repetition_penalty": ((None, 1.0), "repetition_penalty"),
    "typical_p": ((None, 1.0), "min_p or top_p"),
    "epsilon_cutoff": ((None, 0.0), "min_p"),
    "eta_cutoff": ((None, 0.0), "min_p"),
    "early_stopping": ((None, False), "stop_strings or eos_token_id"),
    "max_time": ((None,), "a stopping_criteria of your own, model.cancel() from a timer, or model.stream() and a break"),
    "force_words_ids": ((None, []), "a logits_processor of your own"),
    "constraints": ((None, []), "a logits_processor of your own"),
    "forced_bos_token_id": ((None,), "a prompt that ends with the id"),
    "forced_eos_token_id": ((None,), "an id that you append yourself"),
    "forced_decoder_ids": ((None,), "a prompt that ends with the ids"),
    "exponential_decay_length_penalty": ((None,), "max_new_tokens"),
    "encoder_no_repeat_ngram_size": ((None, 0), "repetition_penalty or frequency_penalty"),
    "dola_layers": ((None,), "generate() without it"),
    "watermarking_config": ((None,), "a logits_processor of your own"),
    "guidance_scale": ((None, 1, 1.0), "a logits_processor of your own, with model(other_ids).logits"),
    "negative_prompt_ids": ((None,), "generate() without it"),
    "inputs_embeds": ((None,), "input_ids"),
    "inputs": ((None,), "input_ids or inputs, not both"),
    "past_key_values": ((None,), "the whole text as input_ids: what is known of it is not computed again"),
    "cache_implementation": (
        (None, "dynamic", "static", "hybrid", "hybrid_chunked", "sliding_window", "offloaded", "offloaded_static", "paged"),
        "kv_dtype= of from_pretrained",
    ),
    "output_attentions": ((None, False), "generate() without it: airpy never has them whole"),
    "output_hidden_states": ((None, False), "model(ids).logits"),
    "remove_invalid_values": ((None, False), "generate() without it: values that are not finite raise NumericError"),
    "synced_gpus": ((None, False), "generate() without it"),
    "token_type_ids": ((None,), "input_ids and attention_mask"),
    "position_ids": ((None,), "attention_mask"),
    "labels": ((None,), "model(ids).logits and a loss of your own"),
    "return_dict": ((None, True), "the output's attributes"),
    "token_healing": ((None, False), "generate() without it"),
}


def refuse(where: str, arguments: Mapping[str, Any]) -> None:
    """Arguments that are not ours: what means nothing here passes, other values of known ones raise UnsupportedError, unknown ones
    ArgumentTypeError."""
    for name, value in arguments.items():
        if name in _WITHOUT_EFFECT:
            continue
        if name not in _NEUTRAL:
            raise ArgumentTypeError(f"{where} got an unexpected argument {name!r}")
        neutral, instead = _NEUTRAL[name]
        if not any(_means(value, n) for n in neutral):
            raise UnsupportedError(f"{where}: {name}={value!r} is not supported; use {instead}")


def _means(value: Any, neutral: Any) -> bool:
    """Equal, of whatever class the number or the list is; but True is not 1."""
    if isinstance(value, (int, float, list, str)) and isinstance(value, bool) == isinstance(neutral, bool):
        return bool(value == neutral)
    return value is neutral


@dataclass
class GenerationConfig:
    """Fields that are None follow the model's generation_config, then its file, and then these defaults:

    max_new_tokens: as many as the context has room for, at most 256. max_length: prompt and new tokens together, instead of it.
    do_sample=False takes the most probable token; True draws with temperature 1, top_k 50, top_p 1.
    eos_token_id: the file's end-of-sequence, -turn and -message tokens; [] never stops at one. pad_token_id: the file's.
    stop_strings: a generation ends with the token that completes one. seed: an int, or one for each row; the same seed gives the
    same text, alone or in a batch; None draws a new one for each row. repetition_penalty counts prompt and new tokens as
    transformers does, frequency_penalty and presence_penalty new ones as OpenAI's interface does.
    num_return_sequences: texts for each prompt, which is read once for all of them; of one seed the j-th text has seed + j.
    use_cache=False: what earlier calls have read is read again, and what this one reads is forgotten; within a call state is always
    kept, so the text is the same.
    no_repeat_ngram_size, bad_words_ids, sequence_bias, suppress_tokens, begin_suppress_tokens (in the first new token), min_length
    (prompt included) and min_new_tokens change logits, as transformers' processors of these names do and in their order.
    output_scores, output_logits: the logits of each step, as processed (what a draw leaves out is -inf) and as the model gave them,
    in the output of return_dict_in_generate=True; renormalize_logits makes log-probabilities of the first.

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
    num_return_sequences: int | None = None
    use_cache: bool | None = None
    no_repeat_ngram_size: int | None = None
    bad_words_ids: Sequence[Sequence[int]] | None = None
    sequence_bias: Mapping[tuple[int, ...], float] | Sequence[Any] | None = None
    suppress_tokens: Sequence[int] | None = None
    begin_suppress_tokens: Sequence[int] | None = None
    min_length: int | None = None
    min_new_tokens: int | None = None
    output_scores: bool | None = None
    output_logits: bool | None = None
    renormalize_logits: bool | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name in FIELDS:
            super().__setattr__(name, value)
        elif name in _NEUTRAL or name in _WITHOUT_EFFECT:
            refuse("generation_config", {name: value})
        else:
            raise AttributeError(f"generation_config has no field {name!r}; it has {', '.join(FIELDS)}")

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


def as_config(config: Any) -> GenerationConfig:
    """A config from whatever form generation_config= takes: itself, a dict, transformers' class, or None for an empty one. Raises
    ArgumentTypeError and UnsupportedError as refuse() does."""
    if config is None:
        return GenerationConfig()
    if isinstance(config, GenerationConfig):
        return config
    if isinstance(config, Mapping):
        return from_mapping("generation_config", config)
    to_dict = getattr(config, "to_diff_dict", None)  # transformers' class: what differs from its defaults
    if to_dict is None:
        raise ArgumentTypeError(f"generation_config is {type(config).__name__}; expected airpy.GenerationConfig or a dict")
    known = {name: value for name, value in to_dict().items() if (name, value) != ("pad_token_id", -1)}  # as some files say none
    return from_mapping("generation_config", known)


def merge(where: str, base: GenerationConfig, config: Any, given: Mapping[str, Any]) -> GenerationConfig:
    """The model's config, under the call's config, under the call's arguments. Arguments that are None count as not given, but
    eos_token_id=None, which never stops. where: the call. Raises ArgumentTypeError and UnsupportedError as refuse() does."""
    merged = from_mapping(where, given).over(as_config(config).over(base))
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
    copies: int  # texts for each prompt
    reuse: bool  # of what other calls have read
    shaping: Shaping | None  # None: the engine samples from the model's logits


@dataclass(frozen=True)
class Callables:
    """What changes or ends a generation by code of the caller, in transformers' forms."""

    logits_processor: Sequence[Callable[..., Any]] | None = None
    stopping_criteria: Sequence[Callable[..., Any]] | None = None
    prefix_allowed_tokens_fn: Callable[..., Any] | None = None


def resolve(config: GenerationConfig, n_vocab: int, callables: Callables = Callables()) -> Resolved:
    """Raises ArgumentError for values that make no sense. Warns of those that do nothing, at the caller of whoever calls this."""
    if config.max_new_tokens is not None and config.max_length is not None:
        raise ArgumentError("give max_new_tokens or max_length, not both")
    ends = [_token("eos_token_id", i, n_vocab) for i in _listed(config.eos_token_id)]
    stops = [config.stop_strings] if isinstance(config.stop_strings, str) else _listed(config.stop_strings)
    if not all(isinstance(text, str) and text for text in stops):
        raise ArgumentError(f"stop_strings is {config.stop_strings!r}; expected texts that are not empty")
    seeds = [_seed(seed) for seed in _listed(config.seed)]
    return_dict = _flag("return_dict_in_generate", config.return_dict_in_generate)
    for name in ("output_scores", "output_logits"):
        if _flag(name, getattr(config, name)) and not return_dict:
            warnings.warn(f"{name}=True does nothing without return_dict_in_generate=True", UserWarning, stacklevel=3)
    sampling = _sampling(config)
    copies = _at_least("num_return_sequences", _first(config.num_return_sequences, 1), 1)
    if copies > 1 and not sampling["temperature"]:
        raise ArgumentError(f"num_return_sequences is {copies}, but without do_sample=True they would be the same text")
    return Resolved(
        max_new_tokens=None if config.max_new_tokens is None else _at_least("max_new_tokens", config.max_new_tokens, 1),
        max_length=None if config.max_length is None else _at_least("max_length", config.max_length, 1),
        sampling=sampling,
        eos=frozenset(ends),
        pad=_token("pad_token_id", _first(config.pad_token_id, min(ends, default=0)), n_vocab),
        stop_strings=tuple(stops),
        seeds=seeds,
        one_seed=not _is_list(config.seed),
        return_dict=return_dict,
        copies=copies,
        reuse=config.use_cache is None or _flag("use_cache", config.use_cache),
        shaping=_shaping(config, frozenset(ends), return_dict, n_vocab, callables),
    )


def _shaping(config: GenerationConfig, eos: frozenset[int], return_dict: bool, n_vocab: int, callables: Callables) -> Shaping | None:
    shaping = Shaping(
        no_repeat=_at_least("no_repeat_ngram_size", _first(config.no_repeat_ngram_size, 0), 0),
        bias=_biases(config.sequence_bias, n_vocab),
        banned=tuple(word for word in _words("bad_words_ids", config.bad_words_ids, n_vocab) if word not in {(i,) for i in eos}),
        suppressed=tuple(_token("suppress_tokens", i, n_vocab) for i in _listed(config.suppress_tokens)),
        suppressed_first=tuple(_token("begin_suppress_tokens", i, n_vocab) for i in _listed(config.begin_suppress_tokens)),
        min_length=_at_least("min_length", _first(config.min_length, 0), 0),
        min_new_tokens=_at_least("min_new_tokens", _first(config.min_new_tokens, 0), 0),
        eos=tuple(sorted(eos)),
        allowed=_callable("prefix_allowed_tokens_fn", callables.prefix_allowed_tokens_fn),
        processors=_callable_list("logits_processor", callables.logits_processor),
        criteria=_callable_list("stopping_criteria", callables.stopping_criteria),
        scores=return_dict and bool(config.output_scores),
        logits=return_dict and bool(config.output_logits),
        renormalise=_flag("renormalize_logits", config.renormalize_logits),
    )
    return shaping if shaping.is_needed else None


# By name: the default, and what is in range, as csrc/engine/sample.c has it; written so that NaN is not.
_RANGES: dict[str, tuple[float, Callable[[float], bool], str]] = {
    "temperature": (1.0, lambda x: 0 <= x <= 1e6, "0 to 1e6"),
    "top_k": (50, lambda x: 0 <= x < 1 << 31, "0 (off) or more"),
    "top_p": (1.0, lambda x: 0 < x <= 1, "above 0, at most 1"),
    "min_p": (0.0, lambda x: 0 <= x <= 1, "0 to 1"),
    "repetition_penalty": (1.0, lambda x: 0 < x <= 1e6, "above 0, at most 1e6"),
    "frequency_penalty": (0.0, lambda x: -1e6 <= x <= 1e6, "-1e6 to 1e6"),
    "presence_penalty": (0.0, lambda x: -1e6 <= x <= 1e6, "-1e6 to 1e6"),
}
# Of drawing: values that nobody misses where nothing is drawn.
_IDLE: dict[str, tuple[float | None, ...]] = {
    "temperature": (None, 0, 1), "top_k": (None, 0, 1, 50), "top_p": (None, 1), "min_p": (None, 0),
}  # fmt: skip


def check_sampling(name: str, value: Any) -> float:
    """One of sampling's numbers. Raises ArgumentError for what is none, or out of range."""
    number = _sampling_number(name, value)
    _, in_range, expected = _RANGES[name]
    if not in_range(number):
        raise ArgumentError(f"{name} is {number:g}; it must be {expected}")
    return number


def _sampling_number(name: str, value: Any) -> float:
    return _whole(name, value, "a whole number") if name == "top_k" else _number(name, value)


def _sampling(config: GenerationConfig) -> dict[str, float]:
    given = {name: _sampling_number(name, _first(getattr(config, name), default)) for name, (default, *_) in _RANGES.items()}
    draws = _flag("do_sample", config.do_sample)
    checked = {name: check_sampling(name, value) for name, value in given.items() if draws or name not in _IDLE}
    if draws and checked["temperature"] > 0:
        return checked
    why = "at temperature=0, which takes the most probable token" if draws else "without do_sample=True"
    idle = [name for name, values in _IDLE.items() if getattr(config, name) not in values]
    for name in idle if config.seed is None else [*idle, "seed"]:
        warnings.warn(f"{name}={getattr(config, name)} does nothing {why}", UserWarning, stacklevel=4)
    return {"temperature": 0.0} | {name: value for name, value in checked.items() if name not in _IDLE}


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


def _at_least(name: str, value: Any, least: int) -> int:
    number = _whole(name, value, "a whole number")
    if number < least:
        raise ArgumentError(f"{name} is {number}; expected {least} or more")
    return number


def _words(name: str, value: Any, n_vocab: int) -> list[tuple[int, ...]]:
    """Rows of token ids."""
    words = _listed(value)
    if any(not _is_list(word) or not len(word) for word in words):
        raise ArgumentError(f"{name} is {value!r}; expected lists of token ids, such as [[5], [7, 8]]")
    return [tuple(_token(name, i, n_vocab) for i in word) for word in words]


def _biases(value: Any, n_vocab: int) -> dict[tuple[int, ...], float]:
    """sequence_bias in either of transformers' forms: {(5,): -1.0} or [[[5], -1.0]]."""
    if value is None:
        return {}
    try:
        pairs = [(key, bias) for key, bias in (value.items() if isinstance(value, Mapping) else value)]
    except (TypeError, ValueError):
        raise ArgumentError(f"sequence_bias is {value!r}; expected {{(5, 7): -1.0}} or [[[5, 7], -1.0]]") from None
    words = _words("sequence_bias", [key for key, _ in pairs], n_vocab)
    biases = {word: _number("sequence_bias", bias) for word, (_, bias) in zip(words, pairs, strict=True)}
    if any(bias != bias or bias == float("inf") for bias in biases.values()):
        raise ArgumentError("sequence_bias has a bias that is not a number below infinity")
    return biases


def _callable_list(name: str, value: Any) -> tuple[Any, ...]:
    if value is not None and not _is_list(value):
        raise ArgumentError(f"{name} is {type(value).__name__}; expected a list of what can be called")
    return tuple(_callable(name, each) for each in _listed(value))


def _callable(name: str, value: Any) -> Any:
    if value is not None and not callable(value):
        raise ArgumentError(f"{name} holds {type(value).__name__}; expected what can be called, as transformers calls it")
    return value


def _seed(value: Any) -> int:
    number = _whole("seed", value, "a whole number, or one for each row")
    if not 0 <= number < 1 << 64:
        raise ArgumentError(f"seed is {number}; expected 0 to 2**64 - 1")
    return number
