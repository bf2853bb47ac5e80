"""The token loop: one call of the engine per step, for all rows that are not done."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from airpy import _core
from airpy.errors import ArgumentError, ContextOverflowError
from airpy.generation.config import DEFAULT_NEW_TOKENS, Resolved
from airpy.generation.inputs import Ids, Prompts
from airpy.generation.shaper import Shaper
from airpy.generation.shaping import Sample
from airpy.generation.stopping import StopStrings

if TYPE_CHECKING:
    from airpy.adapters import Chosen
    from airpy.sequences import SequencePool
    from airpy.tokenizer import Tokenizer

Item = tuple[_core.Sequence, "array[int] | memoryview", int, "dict[str, Any] | None", int]  # as the engine takes them
Runner = Callable[[list[Item], bool], _core.Result]  # items, and whether their logits are wanted
Part = tuple[int, int]  # of a row: new tokens at most, seed


@dataclass(slots=True)
class Row:
    """One prompt on its way."""

    prompt: Ids
    sampling: dict[str, Any]
    limit: int  # of new tokens
    stops: StopStrings | None
    sequence: _core.Sequence
    new: list[int] = field(default_factory=list)
    done: bool = False

    def item(self, samples: bool = True) -> Item:
        """What the next pass appends: what is not known of the prompt, or the last token. samples: whether the engine takes the next."""
        tokens = array("i", self.new[-1:]) if self.new else self.prompt[self.sequence.length :].data
        return self.sequence, tokens, 1, self.sampling if samples else None, self.prompt.size

    def add(self, token: int, eos: frozenset[int]) -> None:
        self.new.append(token)
        stopped = self.stops is not None and self.stops.push(token)
        self.done = stopped or token in eos or len(self.new) >= self.limit


def parts_of(prompts: Prompts, how: Resolved, n_ctx: int, trained: int) -> list[Part]:
    """What each row may take. trained: the largest n_ctx that the model can be opened with. Raises ArgumentError and
    ContextOverflowError."""
    limits = [_new_tokens(how, row.size, prompts.ids.shape[1], n_ctx, trained) for row in prompts.rows]
    return list(zip(limits, _seeds(how, len(prompts.rows)), strict=True))


class Generation:
    """One call of generate(): makes its rows at once, runs in steps, gives its sequences back at the end. It does not keep who runs
    it, who keeps it."""

    def __init__(
        self,
        prompts: Prompts,
        how: Resolved,
        parts: list[Part],
        adapted: list[Chosen],
        *,
        tokenizer: Tokenizer,
        pool: SequencePool,
        sample: Sample,
    ) -> None:
        """prompts: each how.copies times; a prompt's rows share the first one's sequence until it has been read. adapted: what each has.
        sample: the engine's."""
        self.reused = 0
        self._how, self._pool = how, pool
        self._closed = False
        self.rows: list[Row] = []
        try:
            for prompt, (limit, seed), chosen in zip(prompts.rows, parts, adapted, strict=True):
                stops = StopStrings(tokenizer, prompt.tolist(), how.stop_strings) if how.stop_strings else None
                if len(self.rows) % how.copies:
                    sequence = self.rows[-1].sequence
                else:
                    sequence = pool.take(prompt, chosen) if how.reuse else pool.make(chosen)
                    self.reused += sequence.length
                self.rows.append(Row(prompt, {**how.sampling, "seed": seed}, limit, stops, sequence))
        except BaseException:
            self.close()
            raise
        self.shaper = Shaper(how, prompts, self.rows, sample, pool.floats) if how.shaping or how.copies > 1 else None

    def steps(self, run: Runner) -> Iterator[list[int | None]]:
        """Each step's tokens, one per row; None for rows that were done before."""
        eos, shaper = self._how.eos, self.shaper
        while active := [row for row in self.rows if not row.done]:
            sampled = self._shaped(run, shaper, active) if shaper else run([row.item() for row in active], False).sampled
            tokens = iter(sampled)
            step = [None if row.done else next(tokens) for row in self.rows]
            for row, token in zip(active, sampled, strict=True):
                row.add(token, eos)
            if shaper is not None:
                shaper.end_step(step)
            if self._how.shaping is None:
                shaper = None  # it was for the prompts, of which several rows have one each
            yield step

    def _shaped(self, run: Runner, shaper: Shaper, active: list[Row]) -> list[int]:
        copies = self._how.copies
        if copies == 1 or active[0].new:
            return shaper.tokens(np.asarray(run([row.item(False) for row in active], True).logits))
        logits = np.asarray(run([row.item(False) for row in active[::copies]], True).logits)
        for i, row in enumerate(self.rows):
            if i % copies:
                row.sequence = row.sequence.fork()
        return shaper.tokens(np.repeat(logits, copies, axis=0))

    def close(self) -> None:
        """Gives the sequences back with what they hold, or lets them go where nothing is to be known of them. Idempotent."""
        if not self._closed:
            self._closed = True
            sequences = list(dict.fromkeys(row.sequence for row in self.rows))
            if self._how.reuse:
                self._pool.give(sequences)
            else:
                for sequence in sequences:
                    sequence.close()


def _new_tokens(how: Resolved, length: int, width: int, n_ctx: int, trained: int) -> int:
    """How many tokens a row of `length` may get, of a batch of `width`."""
    wanted = how.max_new_tokens
    if how.max_length is not None:
        wanted = how.max_length - width
        if wanted < 1:
            raise ArgumentError(f"max_length is {how.max_length}, but the prompts have {width} tokens already")
    if length + (wanted or 1) > n_ctx:
        what = f"a prompt of {length} tokens and {wanted or 1} new ones exceed"
        lower = "max_new_tokens" if how.max_length is None else "max_length"
        if 0 < trained <= n_ctx:
            raise ContextOverflowError(
                f"{what} the {n_ctx} positions that the model was trained for; shorten the prompt or lower {lower}"
            )
        raise ContextOverflowError(
            f"{what} the context of {n_ctx}; shorten the prompt, lower {lower}, or open the model with a larger n_ctx, up to "
            f"{trained}"
        )
    return wanted or min(DEFAULT_NEW_TOKENS, n_ctx - length)


def _seeds(how: Resolved, rows: int) -> list[int]:
    if not how.one_seed:
        if len(how.seeds) != rows:
            raise ArgumentError(f"{len(how.seeds)} seeds for {rows} rows; give one int, or one for each row")
        return how.seeds
    if how.seeds:
        return [(how.seeds[0] + i % how.copies) % (1 << 64) for i in range(rows)]
    return [int.from_bytes(os.urandom(8)) for _ in range(rows)]
