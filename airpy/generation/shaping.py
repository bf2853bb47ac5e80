"""What changes logits before a token is taken of them, in numpy: transformers' processors by their names and in their order, callables
of the caller, and what of it all is handed out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from airpy.errors import ArgumentError, NumericError
from airpy.generation.tensors import to_host

Logits = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Sample = Callable[[Any, int, Mapping[str, Any]], int]  # as _core.Engine.sample

_FOR_TORCH = ("LogitsProcessor", "StoppingCriteria")  # transformers' base classes, whose code reads tensors
_LEAST = np.finfo(np.float32).min


@dataclass(frozen=True)
class Shaping:
    """Of one call, checked. bias and banned: by the ids that end with the token; the banned have a bias of -inf."""

    no_repeat: int
    bias: Mapping[tuple[int, ...], float]
    banned: tuple[tuple[int, ...], ...]
    suppressed: tuple[int, ...]
    suppressed_first: tuple[int, ...]
    min_length: int
    min_new_tokens: int
    eos: tuple[int, ...]
    allowed: Callable[..., Any] | None
    processors: tuple[Callable[..., Any], ...]
    criteria: tuple[Callable[..., Any], ...]
    scores: bool
    logits: bool
    renormalise: bool

    @property
    def is_needed(self) -> bool:
        """Whether any of it does something: else the engine samples by itself."""
        return bool(
            self.no_repeat or self.bias or self.banned or self.suppressed or self.suppressed_first or self.min_length
            or self.min_new_tokens or self.allowed or self.processors or self.criteria or self.scores or self.logits
        )  # fmt: skip


UNSHAPED = Shaping(0, {}, (), (), (), 0, 0, (), None, (), (), scores=False, logits=False, renormalise=False)


@dataclass(frozen=True)
class Text:
    """One row so far: what the prompt really has, what came after it, and how wide the prompts are with their padding."""

    prompt: npt.NDArray[np.int32]
    new: Sequence[int]
    width: int

    @property
    def ids(self) -> list[int]:
        return [*self.prompt.tolist(), *self.new]


def shape_row(how: Shaping, sampling: Mapping[str, float], text: Text, scores: Logits) -> None:
    """Changes one row's logits in place by everything but callables, in transformers' order."""
    ids = text.ids
    _add_biases(how.bias, ids, scores)
    _penalise(sampling, ids, text.new, scores)
    if how.no_repeat:
        scores[_repeats(ids, how.no_repeat)] = -np.inf
    _add_biases(dict.fromkeys(how.banned, -np.inf), ids, scores)
    if text.width + len(text.new) < how.min_length or len(text.new) < how.min_new_tokens:
        scores[list(how.eos)] = -np.inf


def suppress(how: Shaping, first: bool, scores: Logits) -> None:
    """What shape_row leaves for after prefix_allowed_tokens_fn."""
    scores[list(how.suppressed)] = -np.inf
    if first:
        scores[list(how.suppressed_first)] = -np.inf


def _add_biases(biases: Mapping[tuple[int, ...], float], ids: list[int], scores: Logits) -> None:
    added: dict[int, float] = {}
    for word, bias in biases.items():
        before = len(word) - 1
        if before <= len(ids) and tuple(ids[len(ids) - before :]) == word[:-1]:
            added[word[-1]] = added.get(word[-1], 0.0) + bias
    for token, bias in added.items():
        scores[token] += np.float32(bias)


def _penalise(sampling: Mapping[str, float], ids: list[int], new: Sequence[int], scores: Logits) -> None:
    """As csrc/engine/sample.c does, to the bit."""
    if (factor := np.float32(sampling["repetition_penalty"])) != 1:
        seen = np.unique(ids)
        scores[seen] = np.where(scores[seen] > 0, scores[seen] / factor, scores[seen] * factor)
    frequency, presence = np.float32(sampling["frequency_penalty"]), np.float32(sampling["presence_penalty"])
    if frequency or presence:
        met: set[int] = set()
        for token in new:
            scores[token] -= frequency + (np.float32(0) if token in met else presence)
            met.add(token)


def _repeats(ids: list[int], n: int) -> list[int]:
    """What would complete n ids in a row that are there already."""
    before = tuple(ids[len(ids) - n + 1 :])
    return [ids[i + n - 1] for i in range(len(ids) - n + 1) if tuple(ids[i : i + n - 1]) == before]


def warp(sampling: Mapping[str, float], scores: Logits) -> Logits:
    """One row's scores as a draw sees them: at the temperature, -inf for what is not drawn. At temperature 0 as they are."""
    if not sampling["temperature"]:
        return scores
    warped = scores / np.float32(sampling["temperature"])
    if 0 < (k := int(sampling["top_k"])) < warped.size:
        warped[warped < np.partition(warped, -k)[-k]] = -np.inf
    if sampling["top_p"] < 1:
        order = np.argsort(warped, kind="stable")
        below = np.cumsum(_probabilities(warped[order])) <= 1 - sampling["top_p"]
        below[-1] = False
        warped[order[below]] = -np.inf
    if sampling["min_p"]:
        p = _probabilities(warped)
        warped[p < np.float32(sampling["min_p"]) * p.max()] = -np.inf
    return warped


def _probabilities(logits: Logits) -> Logits:
    e: Logits = np.exp(logits - logits.max())
    e /= e.sum()
    return e


def normalise(scores: Logits) -> Logits:
    """Logarithms of the probabilities of each row."""
    most = scores.max(axis=-1, keepdims=True)
    shifted: Logits = scores - most
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


class Callbacks:
    """The caller's code, called with all rows at once, with torch's tensors where it was given such or is of transformers' classes."""

    def __init__(self, how: Shaping, tensors: bool) -> None:
        """tensors: the prompts came as torch's."""
        self._how, self._tensors = how, tensors

    def process(self, ids: Ids, scores: Logits) -> Logits:
        """Raises ArgumentError where a processor gives something of another shape."""
        for processor in self._how.processors:
            given = to_host(processor(*self._arguments(processor, ids, scores)))
            array = np.asarray(given, dtype=np.float32) if given is not None else None
            if array is None or array.shape != scores.shape:
                what = "None" if array is None else f"shape {array.shape}"
                raise ArgumentError(f"a logits_processor returned {what}; expected scores of shape {scores.shape}")
            scores = array
        return scores

    def allow(self, ids: Ids, at: int, scores: Logits) -> None:
        """Leaves one row what prefix_allowed_tokens_fn gives for it."""
        if (allowed := self._how.allowed) is None:
            return
        tokens = np.asarray(to_host(allowed(at, *self._arguments(allowed, ids[at]))))
        if not tokens.size:
            raise ArgumentError(f"prefix_allowed_tokens_fn returned no token for row {at}; a text cannot go on without one")
        if tokens.dtype.kind not in "iu" or tokens.min() < 0 or tokens.max() >= scores.size:
            raise ArgumentError(f"prefix_allowed_tokens_fn must return token ids, 0 to {scores.size - 1}, for row {at}")
        kept = scores[tokens]
        scores[:] = -np.inf
        scores[tokens] = kept

    def ended(self, ids: Ids, scores: Any) -> npt.NDArray[np.bool_]:
        """Which rows some criterion ends. Raises ArgumentError where one gives neither a truth nor one for each row."""
        done = np.zeros(len(ids), dtype=bool)
        for criterion in self._how.criteria:
            truths = np.asarray(to_host(criterion(*self._arguments(criterion, ids), self._scores(criterion, scores))))
            if truths.shape not in ((), done.shape) or truths.dtype.kind not in "biu":
                raise ArgumentError(f"a stopping_criteria returned {truths!r}; expected True or False, or one for each of {len(ids)} rows")
            done |= truths.astype(bool)
        return done

    def _scores(self, callback: Any, scores: Any) -> Any:
        return scores if scores is None else tuple(self._arguments(callback, *scores))

    def _arguments(self, callback: Any, *arrays: npt.NDArray[Any]) -> list[Any]:
        if not self._tensors and not any(base.__name__ in _FOR_TORCH and "torch" in sys.modules for base in type(callback).__mro__):
            return list(arrays)
        return [sys.modules["torch"].from_numpy(np.ascontiguousarray(array)) for array in arrays]


def take_token(sample: Sample, scores: Logits, n: int, sampling: Mapping[str, Any]) -> int:
    """Of one row's scores, of a text of n tokens. Raises ArgumentError where everything is forbidden, NumericError for NaN and infinity."""
    most = scores.max()
    if most == -np.inf:
        raise ArgumentError("every token is forbidden after what processors and lists of tokens leave; a text cannot go on without one")
    if not np.isfinite(most):
        raise NumericError(f"a score after {n} tokens is not a finite number; logits or what a logits_processor made of them are damaged")
    return sample(np.maximum(scores, _LEAST), n, sampling)
