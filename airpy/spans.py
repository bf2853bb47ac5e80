"""Calls of Python that a profile has beside what the engine's threads note."""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager, nullcontext

Row = tuple[str, int, int, int]  # name, begin and end by time.monotonic_ns(), which is the engine's clock, and the thread


class Spans:
    """What has been noted so far. Any number of threads may add to it; `limit` bounds what it takes, beyond it spans are counted."""

    def __init__(self, limit: int) -> None:
        self.rows: list[Row] = []
        self.threads: dict[int, str] = {}
        self.dropped, self._limit = 0, limit

    def add(self, name: str, begin: int) -> None:
        """One that ends now."""
        if len(self.rows) >= self._limit:
            self.dropped += 1
            return
        thread = threading.get_ident()
        if thread not in self.threads:
            self.threads[thread] = threading.current_thread().name
        self.rows.append((name, begin, time.monotonic_ns(), thread))


class _Span:
    __slots__ = ("_begin", "_name", "_spans")

    def __init__(self, spans: Spans, name: str) -> None:
        self._spans, self._name = spans, name

    def __enter__(self) -> None:
        self._begin = time.monotonic_ns()

    def __exit__(self, *exc: object) -> None:
        self._spans.add(self._name, self._begin)


def span(spans: Spans | None, name: str) -> AbstractContextManager[None]:
    """A context whose time is noted, where something notes."""
    return nullcontext() if spans is None else _Span(spans, name)
