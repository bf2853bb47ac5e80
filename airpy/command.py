"""Where the command `airpy` begins. Until a model is open there is nothing to save, so Ctrl-C ends the process at once, with 130 and
no word: raised as KeyboardInterrupt amid imports, it would be swallowed, or come with advice on how to install numpy."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

try:
    import signal
except KeyboardInterrupt:
    os._exit(130)


def _leave(*_: object) -> None:
    os._exit(130)


def main() -> int:
    """The exit code of one command line."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where whoever started us wants it ignored
        signal.signal(signal.SIGINT, _leave)
    try:
        from airpy import __version__  # noqa: F401  # which says what to do where the extension is not built
        from airpy.cli import main as run
    except ImportError as error:
        print(f"airpy: {error}", file=sys.stderr)
        return 1
    try:
        return run()
    finally:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # the end of the interpreter is no better a place
            signal.signal(signal.SIGINT, _leave)


@contextmanager
def interruptible() -> Iterator[None]:
    """Within it Ctrl-C is a KeyboardInterrupt: what is being written is left so that it can go on, or goes. Does nothing outside main()."""
    before = signal.getsignal(signal.SIGINT)
    opened()
    try:
        yield
    finally:
        if before is _leave:
            signal.signal(signal.SIGINT, _leave)


def opened() -> None:
    """From here on Ctrl-C is a KeyboardInterrupt, which frees what it finds on its way. Does nothing outside main()."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)
