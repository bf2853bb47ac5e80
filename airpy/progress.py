"""Progress of long passes: layers and time left."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any, Literal

from airpy.errors import ArgumentError

ProgressCallback = Callable[[int, int, int, int], None]  # layers done, layers, passes done, passes
Progress = bool | Literal["auto"] | ProgressCallback

_PATIENCE = 1.0  # seconds that a pass may take in silence
_EVERY = 0.1  # seconds between two drawings
# A terminal's cursor may stand behind text that is being streamed, so the bar takes the line below and leaves the cursor alone:
# make sure that there is such a line, remember the cursor, go there, draw, come back.
_BELOW, _BACK = "\x1bD\x1b[A\x1b7\r\n", "\x1b[K\x1b8"


class PassBar:
    """A bar over the layers of one call's passes, on stderr, shown once the call has taken a second, or over other units after other
    times. Use as a context, for one call after the other."""

    def __init__(self, unit: str = "layer", patience: float = _PATIENCE) -> None:
        self._unit, self._patience = unit, patience
        self.note = ""  # behind the figures
        self._started = self._drawn = 0.0

    def __call__(self, layers_done: int, n_layers: int, passes_done: int, n_passes: int) -> None:
        now = time.monotonic()
        if now - self._started < self._patience or now - self._drawn < _EVERY or not n_passes:
            return
        total = n_layers * n_passes
        self._drawn = now
        self._show(min(passes_done * n_layers + layers_done, total), total, now - self._started)

    def _show(self, done: int, total: int, seconds: float) -> None:
        import shutil  # only now: most calls never need them

        from tqdm import tqdm  # type: ignore[import-untyped]

        columns = shutil.get_terminal_size().columns - 1
        self._draw(tqdm.format_meter(done, total, seconds, ncols=columns, unit=self._unit, postfix=self.note))

    def _draw(self, bar: str) -> None:
        """ "" takes the bar away, or ends its line where there is nothing to take back."""
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            sys.stderr.write(f"{_BELOW}{bar}{_BACK}")
        else:
            sys.stderr.write(f"\r{bar}" if bar else "\n")
        sys.stderr.flush()

    def __enter__(self) -> PassBar:
        self._started, self._drawn = time.monotonic(), 0.0
        return self

    def __exit__(self, *exc: object) -> None:
        if self._drawn:
            self._draw("")


class NotebookBar(PassBar):
    """The same in a notebook, which has no cursor to move: tqdm's widget, or its text where ipywidgets is not there."""

    _bar: Any = None

    def _show(self, done: int, total: int, seconds: float) -> None:
        if self._bar is None:
            from tqdm.auto import tqdm  # type: ignore[import-untyped]

            self._bar = tqdm(total=total, unit=self._unit, leave=False)
            self._bar.start_t -= seconds  # which is when the work began
        self._bar.total, self._bar.n = total, done
        self._bar.set_postfix_str(self.note, refresh=False)
        self._bar.refresh()

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class CallbackProgress:
    """A user's callable in the place of a bar."""

    def __init__(self, callback: ProgressCallback | None) -> None:
        self._callback = callback
        self.note = ""  # a bar's

    def __call__(self, layers_done: int, n_layers: int, passes_done: int, n_passes: int) -> None:
        if self._callback is not None:
            self._callback(layers_done, n_layers, passes_done, n_passes)

    def __enter__(self) -> CallbackProgress:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


class PartProgress:
    """A call of the engine as a part of something larger: `amount` of `total` units, of which `done` are. Use as a context, any number of
    times, within that of the report it passes on to."""

    def __init__(self, report: PassBar | CallbackProgress, total: int) -> None:
        self._report, self._total = report, total
        self.done = self.amount = 0

    def __call__(self, layers_done: int, n_layers: int, passes_done: int, n_passes: int) -> None:
        share = (passes_done + layers_done / max(1, n_layers)) / n_passes if n_passes else 0.0
        self._report(self.done + int(share * self.amount), self._total, 0, 1)

    def __enter__(self) -> PartProgress:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


def check_progress(progress: Any) -> Progress:
    """Raises ArgumentError unless it is True, False, "auto" or callable."""
    if isinstance(progress, bool) or callable(progress) or (isinstance(progress, str) and progress == "auto"):
        checked: Progress = progress
        return checked
    raise ArgumentError(f"progress is {progress!r}; expected True, False, 'auto' or a callable")


def _in_notebook() -> bool:
    """Whether this process is the kernel of one, as tqdm finds it out."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in shell.config


def progress_for_call(progress: Progress, unit: str = "layer", patience: float = _PATIENCE) -> PassBar | CallbackProgress:
    """What reports on calls of the engine, one at a time, or on other work. "auto": a bar where stderr is a terminal, or in a
    notebook."""
    if callable(progress):
        return CallbackProgress(progress)
    notebook = _in_notebook()
    if progress == "auto":
        progress = notebook or (sys.stderr is not None and sys.stderr.isatty())
    if not progress:
        return CallbackProgress(None)
    return NotebookBar(unit, patience) if notebook else PassBar(unit, patience)
