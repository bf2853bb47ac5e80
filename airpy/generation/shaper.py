"""Tokens from logits that are changed first: by lists of tokens, by the caller's code; and what of it all is handed out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from airpy.generation.shaping import (
    UNSHAPED,
    Callbacks,
    Ids,
    Logits,
    Sample,
    Text,
    normalise,
    shape_row,
    suppress,
    take_token,
    warp,
)

if TYPE_CHECKING:
    from airpy.generation.config import Resolved
    from airpy.generation.inputs import Prompts
    from airpy.generation.loop import Row


Room = Callable[[int, int], Logits]


class Shaper:
    """Of one generation, step by step. scores, logits: float32 [rows, vocab] of each step, where asked for; 0 where a row was done."""

    def __init__(self, how: Resolved, prompts: Prompts, rows: list[Row], sample: Sample, room: Room) -> None:
        """sample: the engine's. room: memory for what is handed out."""
        self._how, self._shaping, self._rows, self._sample, self._room = how, how.shaping or UNSHAPED, rows, sample, room
        self._width = prompts.ids.shape[1]
        self._ids = np.full((len(rows), self._width + max(row.limit for row in rows)), how.pad, dtype=np.int64)
        self._ids[:, : self._width] = prompts.ids
        self._steps = 0
        self._callbacks = Callbacks(self._shaping, tensors=prompts.tensor is not None)
        self.scores: list[Logits] = []
        self.logits: list[Logits] = []

    @property
    def _so_far(self) -> Ids:
        return self._ids[:, : self._width + self._steps]

    def tokens(self, logits: Logits) -> list[int]:
        """Of the rows that are not done, from their logits, which are written to."""
        at, scores = [i for i, row in enumerate(self._rows) if not row.done], logits
        if len(at) < len(self._rows):
            scores = np.zeros((len(self._rows), logits.shape[1]), dtype=np.float32)
            scores[at] = logits
        if self._shaping.logits:
            self.logits.append(self._copy(scores))
        for i in at:
            self._shape(i, scores[i])
        scores = self._callbacks.process(self._so_far, scores)
        rows = self._rows
        taken = [take_token(self._sample, scores[i], rows[i].prompt.size + len(rows[i].new), rows[i].sampling) for i in at]
        if self._shaping.scores:
            self.scores.append(self._handed_out(scores, at))
        return taken

    def _shape(self, i: int, scores: Logits) -> None:
        row = self._rows[i]
        shape_row(self._shaping, self._how.sampling, Text(row.prompt, row.new, self._width), scores)
        self._callbacks.allow(self._so_far, i, scores)
        suppress(self._shaping, not row.new, scores)

    def _handed_out(self, scores: Logits, at: list[int]) -> Logits:
        kept = self._copy(scores)  # a processor may have kept its own, and the engine has its own
        for i in at:
            kept[i] = warp(self._how.sampling, scores[i])
        if self._shaping.renormalise:
            kept[at] = normalise(kept[at])
        return kept

    def _copy(self, scores: Logits) -> Logits:
        kept = self._room(*scores.shape)
        kept[:] = scores
        return kept

    def end_step(self, step: list[int | None]) -> None:
        """After the rows have got their tokens: criteria may end some."""
        self._ids[:, self._width + self._steps] = [self._how.pad if token is None else token for token in step]
        self._steps += 1
        if self._shaping.criteria:
            ended = self._callbacks.ended(self._so_far, tuple(self.scores) if self._shaping.scores else None)
            for row, done in zip(self._rows, ended, strict=True):
                row.done = row.done or bool(done)
