"""Embeddings of texts, and scores of classifiers: what comes of the hidden states of a text's tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from airpy import _core
from airpy.errors import ArgumentError, ArgumentTypeError, BudgetError, ContextOverflowError, UnsupportedError

if TYPE_CHECKING:
    from airpy.model import Model
    from airpy.tokenizer import Tokenizer

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int32]
Pooling = Literal["mean", "cls", "last", "rank", "none"]
Text = str | tuple[str, str] | Sequence[int] | npt.NDArray[Any]

TextItem = tuple[_core.Sequence, memoryview, int, None, int, int]  # as the engine takes them
Runner = Callable[[list[TextItem]], _core.Result]

_TEMPLATE = "rerank"  # of a file's chat templates, the text around a pair
POOLINGS = ("none", "mean", "cls", "last", "rank")  # by the pooling_type of files


@dataclass(frozen=True)
class Encoded:
    """A text as the engine takes it. first: tokens of the first of two texts; 0: it is one."""

    ids: Ids
    first: int = 0


@dataclass(frozen=True)
class Pooler:
    """How the states of a text's tokens become a vector."""

    pooling: Pooling
    normalize: bool
    width: int
    at_end: bool  # whether only the last token's state is needed
    share: bool  # a classifier's scores become shares of all labels, as those of one that reads as decoders do

    @property
    def scores(self) -> bool:
        return self.pooling == "rank"

    def wanted(self, text: Encoded) -> int:
        return 1 if self.at_end else len(text.ids)

    def vector(self, states: Floats) -> Floats:
        """Of the wanted tokens' states [wanted, width]: [width], or for each token."""
        if self.pooling == "mean":
            found = states.mean(0, dtype=np.float64)
        else:
            found = states.astype(np.float64) if self.pooling == "none" else states[-1 if self.at_end else 0].astype(np.float64)
        if self.scores:
            found = _shares(found) if self.share else found
        elif self.normalize:
            found = found / np.maximum(np.linalg.norm(found, axis=-1, keepdims=True), 1e-12)
        vector: Floats = found.astype(np.float32)
        return vector


def _shares(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    powers = np.exp(scores - scores.max())
    shares: npt.NDArray[np.float64] = powers / powers.sum()
    return shares


def choose(hparams: Mapping[str, Any], pooling: Pooling | None, normalize: bool) -> Pooler:
    """The file's pooling for None; where it has none, the mean for an encoder, the last token for a decoder. Raises ArgumentError for
    words that are none of these, UnsupportedError for scores of a model without a classifier."""
    if not isinstance(normalize, (bool, np.bool_)):
        raise ArgumentTypeError(f"normalize is {normalize!r}; expected True or False")
    both_ways, of_file = hparams["bidirectional"], hparams["pooling"]
    if pooling is None:
        pooling = POOLINGS[of_file] if of_file >= 0 else "mean" if both_ways else "last"  # type: ignore[assignment]
    if not isinstance(pooling, str) or pooling not in POOLINGS:
        raise ArgumentError(f"pooling is {pooling!r}; expected {', '.join(POOLINGS[1:])}, none, or None for the file's own")
    if pooling == "rank" and not hparams["n_labels"]:
        raise UnsupportedError("pooling 'rank' needs a classifier (cls.output.weight), which the file does not have; give another pooling")
    at_end = pooling == "last" or (pooling == "rank" and not both_ways)
    width = hparams["n_labels"] if pooling == "rank" else hparams["n_embd"]
    return Pooler(pooling, bool(normalize), width, at_end, not both_ways)


# -- texts to ids ---------------------------------------------------------------------------------------------------------


def encode(model: Model, texts: Text | Iterable[Text], truncate: bool, pooler: Pooler) -> list[Encoded]:
    """Of each text, a pair of them, or ids; for scores a pair is put into the file's own text, where it has one. Raises ArgumentError and
    ContextOverflowError, which name the text."""
    if not isinstance(truncate, bool):
        raise ArgumentTypeError(f"truncate is {truncate!r}; expected True or False")
    if isinstance(texts, (str, bytes, Mapping)) or not isinstance(texts, Iterable):
        raise ArgumentTypeError(f"texts is {type(texts).__name__}; expected a list of texts")
    template = model.tokenizer.chat_templates.get(_TEMPLATE) if pooler.scores else None
    return [_encode(model, text, i, truncate, template) for i, text in enumerate(texts)]


def _encode(model: Model, text: Any, i: int, truncate: bool, template: str | None) -> Encoded:
    most, tokenizer, first = model.n_ctx, model.tokenizer, 0
    if isinstance(text, str):
        ids = tokenizer.encode(text)
        if len(ids) > most and truncate:
            ids = tokenizer(text, truncation=True, max_length=most)["input_ids"]
    elif isinstance(text, (tuple, list)) and len(text) == 2 and all(isinstance(part, str) for part in text):
        if template is None:
            ids, first = tokenizer.encode_pair(*text, max_length=most if truncate else None)
        else:
            ids = _in_template(model.tokenizer, template, *text, most=most if truncate else None)
    else:
        ids = _own_ids(text, i, model.config.vocab_size)
        ids = ids[:most] if truncate else ids
    if not len(ids):
        raise ArgumentError(f"text {i} has no tokens; leave it out")
    if len(ids) > most:
        raise ContextOverflowError(_too_long(model, i, len(ids)))
    return Encoded(np.asarray(ids, dtype=np.int32), first)


def _in_template(tokenizer: Tokenizer, template: str, query: str, document: str, *, most: int | None) -> list[int]:
    """The two texts where the template has {query} and {document}. most: ids, at the cost of the document's end; a few more where even all
    of it is too much."""

    def put(document: str) -> list[int]:
        texts = {"{query}": query, "{document}": document}
        whole = re.sub(r"\{query\}|\{document\}", lambda found: texts[found[0]], template)
        ids: list[int] = tokenizer.encode(whole, add_special_tokens=False)
        return ids

    ids = put(document)
    while most is not None and len(ids) > most and document:
        own = tokenizer.encode(document, add_special_tokens=False)
        document = tokenizer.decode(own[: max(0, len(own) - (len(ids) - most))]).rstrip("\ufffd")  # of a character that was cut
        ids = put(document)
    return ids


def _own_ids(text: Any, i: int, n_vocab: int) -> Any:
    try:
        ids = np.asarray(text)
    except (TypeError, ValueError):
        ids = None
    if ids is None or ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise ArgumentTypeError(f"text {i} is {type(text).__name__}; expected a str, a pair of them, or a row of token ids")
    if ids.size and (ids.min() < 0 or ids.max() >= n_vocab):
        raise ArgumentError(f"text {i} has ids from {ids.min()} to {ids.max()}; expected token ids, 0 to {n_vocab - 1}")
    return ids


def _too_long(model: Model, i: int, tokens: int) -> str:
    trained = model.config.max_position_embeddings
    larger = f", or open the model with a larger n_ctx (up to {trained})" if trained > model.n_ctx else ""
    return (
        f"text {i} has {tokens} tokens, but {model.n_ctx} is the most that the model reads at once; shorten it, give truncate=True, which "
        f"leaves out what is beyond{larger}"
    )


# -- passes ---------------------------------------------------------------------------------------------------------------


def embed(
    texts: Sequence[Encoded],
    pooler: Pooler,
    batch_size: int | None,
    *,
    most_rows: int,
    make: Callable[[int], _core.Sequence],
    run: Runner,
    done: Callable[[int], None],
) -> Iterator[Floats]:
    """The vector of each text, in order. As many texts together as a pass has rows for: each weight is read once for all of them; fewer
    where max_ram says so. make: an empty sequence for a text's number. run: raises BudgetError where something does not fit. done: gets how
    many texts are."""
    most_texts, at = batch_size or len(texts), 0
    while at < len(texts):
        group = list(_together(texts[at : at + most_texts], most_rows))
        try:
            states = _states(group, pooler, [make(at + i) for i in range(len(group))], run)
        except BudgetError:
            if len(group) == 1:
                raise
            most_texts = len(group) // 2
            continue
        start = 0
        for text in group:
            yield pooler.vector(states[start : start + pooler.wanted(text)])
            start += pooler.wanted(text)
        at += len(group)
        done(at)


def _together(texts: Sequence[Encoded], most_rows: int) -> Iterator[Encoded]:
    rows = 0
    for i, text in enumerate(texts):
        rows += len(text.ids)
        if i and rows > most_rows:
            return
        yield text


def _states(group: list[Encoded], pooler: Pooler, sequences: list[_core.Sequence], run: Runner) -> Floats:
    try:
        items: list[TextItem] = [
            (s, text.ids.data, pooler.wanted(text), None, len(text.ids), text.first) for s, text in zip(sequences, group, strict=True)
        ]
        result = run(items)
        return np.asarray(result.logits if pooler.scores else result.hidden)
    finally:
        for sequence in sequences:
            sequence.close()
