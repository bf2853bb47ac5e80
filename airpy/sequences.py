"""Sequences that wait for their next call, so that a text that begins as an earlier one did is not read again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from airpy import _core
from airpy.adapters import Chosen
from airpy.errors import BudgetError

Ids = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]
_T = TypeVar("_T")

MOST_IDLE = 8
IDLE_SHARE = 0.05  # of max_ram: what idle state beyond the last sequence's may keep from weights; in VRAM it keeps nothing from them


class SequencePool:
    """Hands out sequences, each to one caller at a time, and keeps the most recently used ones with their state. Thread-safe."""

    def __init__(self, engine: _core.Engine, budget: int) -> None:
        self._engine = engine
        self._idle_bytes = int(budget * IDLE_SHARE)
        self._idle: list[_core.Sequence] = []  # the last used last
        self._lock = threading.Lock()

    def make(self, adapted: Chosen = None) -> _core.Sequence:
        """One that nobody knows, which is its caller's to close."""
        sequence = self._engine.sequence()
        if adapted is not None:
            sequence.adapt(*adapted)
        return sequence

    def take(self, ids: Ids, adapted: Chosen = None, recompute: int = 1) -> _core.Sequence:
        """A sequence that holds the longest known beginning of ids, computed with that adapter, but for the last `recompute` at least;
        its length says how much. An idle sequence that goes on differently is forked, not cut, and stays. One of a model
        with recurrent layers can be cut to few lengths: what counts is what it would then hold."""
        with self._lock:
            best, common = None, 0
            for sequence in reversed(self._idle):
                if sequence.adapted != adapted:
                    continue
                shared = sequence.reach(_common(np.asarray(sequence.tokens()), ids[: max(0, ids.size - recompute)]))
                if shared > common:
                    best, common = sequence, shared
            if best is None:
                return self.make(adapted)
            if best.length > ids.size or _common(np.asarray(best.tokens()), ids) < best.length:
                best = best.fork()
            else:
                self._idle.remove(best)
        if common < best.length:
            best.truncate(common)
        return best

    def give(self, sequences: list[_core.Sequence]) -> None:
        """Takes them back; the last one is kept for sure, older ones while they are few and small."""
        with self._lock:
            self._idle += [sequence for sequence in sequences if sequence.length]
            dropped = [sequence for sequence in sequences if not sequence.length]
            kept = 0
            for i, sequence in enumerate(reversed(self._idle)):
                kept += sequence.host_bytes if i else 0
                if i >= MOST_IDLE or kept > self._idle_bytes:
                    cut = len(self._idle) - i
                    dropped += self._idle[:cut]
                    del self._idle[:cut]
                    break
        for sequence in dropped:
            sequence.close()

    def drop(self, adapter: _core.Adapter | None = None) -> bool:
        """Gives the memory of all idle sequences back, or of those with that adapter; whether there were any."""
        with self._lock:
            dropped = [sequence for sequence in self._idle if adapter is None or (sequence.adapted or (None,))[0] is adapter]
            self._idle = [sequence for sequence in self._idle if sequence not in dropped]
        for sequence in dropped:
            sequence.close()
        return bool(dropped)


    def in_budget(self, call: Callable[[], _T]) -> _T:
        """call(), and where the budget refuses, once more without idle sequences."""
        try:
            return call()
        except BudgetError:
            if not self.drop():
                raise
            return call()

    def floats(self, rows: int, cols: int) -> Floats:
        """Zeros, float32 [rows, cols], that callers get: in max_ram while they or views of them live. Raises BudgetError."""
        return np.asarray(self.in_budget(lambda: self._engine.floats(rows, cols))) if rows else np.zeros((0, cols), np.float32)


def _common(a: Ids, b: Ids) -> int:
    """How many ids two rows have in common from the start."""
    n = min(a.size, b.size)
    differ = np.flatnonzero(a[:n] != b[:n])
    return int(differ[0]) if differ.size else n
