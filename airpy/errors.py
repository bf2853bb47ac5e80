"""Every exception that airpy raises on purpose, but for those that Python's own protocols ask for: AttributeError and KeyError for a
name that is not there, ImportError for a library that is not.

Each derives from AirpyError and from the builtin a caller would expect, so both `except AirpyError` and `except MemoryError` work.
The extension makes the classes from csrc/base/status.def, the one list of ways a call can end; what only Python can find wrong
is added here.
"""

import contextlib
import errno
from collections.abc import Iterator

from ._core import (
    AirpyError,
    ArgumentError,
    BudgetError,
    CancelledError,
    ContextOverflowError,
    DeviceError,
    FileChangedError,
    FileIOError,
    FormatError,
    ModelError,
    NumericError,
    OutOfMemoryError,
    StateError,
    ThreadError,
    UnsupportedError,
)

__all__ = [
    "AirpyError",
    "ArgumentError",
    "ArgumentTypeError",
    "BudgetError",
    "CancelledError",
    "ContextOverflowError",
    "DeviceError",
    "FileChangedError",
    "FileIOError",
    "FormatError",
    "MissingFileError",
    "ModelError",
    "NumericError",
    "OutOfMemoryError",
    "StateError",
    "TemplateError",
    "ThreadError",
    "UnsupportedError",
]


class ArgumentTypeError(ArgumentError, TypeError):
    """An argument that a call does not have, or one of a class that it does not take."""


class MissingFileError(FileIOError, FileNotFoundError):
    """There is no file where one should be; errno and filename say which."""


class TemplateError(AirpyError, ValueError):
    """A chat template is malformed, refuses the messages, or exceeds its bounds."""


_HELP = {errno.EMFILE: "; close some, or raise the limit (ulimit -n)"}


@contextlib.contextmanager
def system_errors(missing: str = "") -> Iterator[None]:
    """What the system refuses within becomes FileIOError, MissingFileError where there is no file, with errno and filename as the
    system gave them. missing: what to add to that one's message."""
    try:
        yield
    except AirpyError:
        raise
    except OSError as error:
        kind, advice = (MissingFileError, missing) if isinstance(error, FileNotFoundError) else (FileIOError, "")
        reason = f"{error.strerror}{_HELP.get(error.errno or 0, advice)}"
        raise kind(error.errno, reason, error.filename) from None
