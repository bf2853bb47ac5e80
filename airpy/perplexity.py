"""Perplexity of a text: how well a model foretells it, window by window, as llama-perplexity counts it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from airpy.errors import ArgumentError, BudgetError
from airpy.generation.inputs import read_prompts
from airpy.sizes import check_count

if TYPE_CHECKING:
    from airpy import _core
    from airpy.generation.loop import Item
    from airpy.model import Model

Ids = npt.NDArray[np.int32]
Runner = Callable[[list["Item"]], "_core.Result"]

DEFAULT_CTX = 512
_LOGITS_SHARE = 8  # of max_ram: what the logits of one pass may take is one of so many parts
_SLICE = 1 << 20  # logits that become probabilities at a time


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean negative log-likelihood of the scored tokens, each given what came before it in its window."""

    perplexity: float
    error: float  # one standard error, as if tokens were independent
    nll: float  # nats per token
    tokens: int  # scored
    windows: int
    ctx: int  # tokens of a window
    stride: int  # from one window to the next

    def __str__(self) -> str:
        return f"{self.perplexity:.4f} ± {self.error:.4f}"


@dataclass(frozen=True)
class Windows:
    """Which tokens are read together, and of each window the last `scored` ones that are foretold."""

    rows: list[Ids]
    scored: int
    ctx: int
    stride: int


class _Sums:
    """Of what has been scored so far."""

    def __init__(self) -> None:
        self.count, self.windows, self.sum, self.squares = 0, 0, 0.0, 0.0

    def add(self, nll: npt.NDArray[np.float64]) -> None:
        self.count += nll.size
        self.sum += float(nll.sum())
        self.squares += float((nll * nll).sum())

    def figures(self, windows: Windows) -> Perplexity:
        mean = self.sum / self.count
        variance = max(0.0, self.squares / self.count - mean * mean)
        value = _exp(mean)
        error = value * math.sqrt(variance / max(1, self.count - 1))
        return Perplexity(value, error, mean, self.count, self.windows, windows.ctx, windows.stride)


def _exp(mean: float) -> float:
    return math.exp(mean) if mean < 700 else math.inf


def cut(model: Model, text: Any, ctx: int | None, stride: int | None, chunks: int | None) -> Windows:
    """The windows of a text or of ids. Raises ArgumentError and what tokenising raises."""
    ctx = check_count("ctx", ctx) or DEFAULT_CTX
    stride, chunks = check_count("stride", stride), check_count("chunks", chunks)
    if ctx < 4:
        raise ArgumentError(f"ctx is {ctx}; a window has at least 4 tokens")
    if ctx > model.n_ctx:
        trained = model.config.max_position_embeddings
        if ctx > trained:
            raise ArgumentError(f"ctx is {ctx}, but the model was trained for {trained} positions; lower ctx")
        raise ArgumentError(f"ctx is {ctx}, but the model is open with a context of {model.n_ctx}; lower ctx, or give a larger n_ctx")
    if stride is not None and stride >= ctx:
        raise ArgumentError(f"stride is {stride}, but must be less than ctx, {ctx}: what is scored needs something before it")
    tokenizer = model.tokenizer
    given = tokenizer.encode(text, parse_special=False) if isinstance(text, str) else text
    if isinstance(given, (list, np.ndarray)) and not len(given):
        raise ArgumentError("the text is empty")
    rows = read_prompts(given, None, 0, model.config.vocab_size).rows
    if len(rows) != 1:
        raise ArgumentError(f"ids have {len(rows)} rows; expected one text")
    ids = rows[0]
    if ids.size < ctx:
        raise ArgumentError(f"the text has {ids.size} tokens, less than one window of {ctx}; give a longer one, or lower ctx")
    step = stride or ctx
    count = max(1, -(-(ids.size - ctx) // step)) if stride else ids.size // ctx
    windows = [ids[at : at + ctx].copy() for at in range(0, count * step, step)[:chunks]]
    bos = tokenizer.bos_token_id if tokenizer.add_bos_token and not stride else None
    if bos is not None:
        for window in windows:
            window[0] = bos
    return Windows(windows, stride or ctx - ctx // 2 - 1, ctx, step)


def score(
    windows: Windows, *, engine: _core.Engine, make: Callable[[], _core.Sequence], run: Runner, done: Callable[[Perplexity], None]
) -> Perplexity:
    """As many windows together as a pass has rows, and as the logits of their scored tokens take a small part of the budget: each weight is
    read once for all of them. Where the logits of one window do not fit, they come in several passes over it. make: an
    empty sequence. run: raises BudgetError where something does not fit. done: gets the figures so far after each group of windows."""
    sums = _Sums()
    plan, logit_bytes = engine.plan, 4 * engine.hparams["n_vocab"] * windows.scored
    together = max(1, min(plan["max_rows"] // (windows.ctx - 1), plan["budget"] // _LOGITS_SHARE // logit_bytes))
    piece, at = windows.scored, 0
    while at < len(windows.rows):
        group = windows.rows[at : at + together]
        try:
            losses = list(_group(group, windows.scored, piece, make, run))
        except BudgetError:
            if together > 1:
                together = max(1, min(together, len(group)) // 2)
            elif piece > 1:
                piece = -(-piece // 2)
            else:
                raise
            continue
        for loss in losses:
            sums.add(loss)
        at += len(group)
        sums.windows = at
        done(sums.figures(windows))
    return sums.figures(windows)


def _group(
    group: list[Ids], scored: int, piece: int, make: Callable[[], _core.Sequence], run: Runner
) -> Iterator[npt.NDArray[np.float64]]:
    """Negative log-likelihoods of the last `scored` tokens of each window, `piece` tokens of each at a time. The last token of a window is
    foretold but not read."""
    sequences = [make() for _ in group]
    try:
        start, length = 0, len(group[0]) - 1
        for first in range(length - scored, length, piece):
            end = min(first + piece, length)
            wanted = end - first
            items: list[Item] = [(s, w[start:end].data, wanted, None, end) for s, w in zip(sequences, group, strict=True)]
            logits = np.asarray(run(items).logits)
            for i, window in enumerate(group):
                yield _losses(logits[i * wanted : (i + 1) * wanted], window[first + 1 : end + 1])
            start = end
    finally:
        for sequence in sequences:
            sequence.close()


def _losses(logits: npt.NDArray[np.float32], ids: Ids) -> npt.NDArray[np.float64]:
    """-log softmax(logits)[ids], row by row; the logits are overwritten, some at a time. Sums are double."""
    out = np.empty(len(ids))
    rows = max(1, _SLICE // logits.shape[1])
    for at in range(0, len(ids), rows):
        part, own = logits[at : at + rows], ids[at : at + rows]
        chosen = part[np.arange(len(own)), own].astype(np.float64)
        peak = part.max(-1, keepdims=True)
        part -= peak
        np.exp(part, out=part)
        out[at : at + rows] = np.log(part.sum(-1, dtype=np.float64)) + peak[:, 0] - chosen
    return out
