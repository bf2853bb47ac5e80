"""Progress of long passes: layers and time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from airpy.errors import ArgumentError

if TYPE_CHECKING:
    from tqdm import tqdm  # type: ignore[import-untyped]

ProgressCallback = Callable[[int, int, int, int], None]  # layers done, layers, passes done, passes
Progress = bool | Literal["auto"] | ProgressCallback

_PATIENCE = 1.0  # seconds that a pass may take in silence


class PassBar:
    """A bar over the layers of one call's passes, on stderr, shown once the call has taken a second. Use as a context."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._bar: tqdm[Any] | None = None

    def __call__(self, layers_done: int, n_layers: int, passes_done: int, n_passes: int) -> None:
        if time.monotonic() - self._started < _PATIENCE or not n_passes:
            return
        total = n_layers * n_passes
        done = min(passes_done * n_layers + layers_done, total)
        if self._bar is None:
            from tqdm import tqdm  # only now: most calls never need it

            self._bar = tqdm(total=total, unit="layer", file=sys.stderr, leave=False, dynamic_ncols=True, mininterval=0)
        self._bar.update(done - self._bar.n)

    def __enter__(self) -> PassBar:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.close()


class CallbackProgress:
    """A user's callable in the place of a bar."""

    def __init__(self, callback: ProgressCallback | None) -> None:
        self._callback = callback

    def __call__(self, layers_done: int, n_layers: int, passes_done: int, n_passes: int) -> None:
        if self._callback is not None:
            self._callback(layers_done, n_layers, passes_done, n_passes)

    def __enter__(self) -> CallbackProgress:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


def check_progress(progress: Any) -> Progress:
    """Raises ArgumentError unless it is True, False, "auto" or callable."""
    if progress in (True, False, "auto") or callable(progress):
        checked: Progress = progress
        return checked
    raise ArgumentError(f"progress is {progress!r}; expected True, False, 'auto' or a callable")


def progress_for_call(progress: Progress) -> PassBar | CallbackProgress:
    """What reports on one call of the engine. "auto": a bar where stderr is a terminal."""
    if callable(progress):
        return CallbackProgress(progress)
    if progress == "auto":
        progress = sys.stderr is not None and sys.stderr.isatty()
    return PassBar() if progress else CallbackProgress(None)
