"""Every exception that airpy raises on purpose.

Each derives from AirpyError and from the builtin a caller would expect, so both `except AirpyError` and `except MemoryError` work.
The extension makes the classes from csrc/base/status.def, the one list of ways a call can end; what only Python can find wrong
is added here.
"""

from ._core import (
    AirpyError,
    ArgumentError,
    BudgetError,
    CancelledError,
    ContextOverflowError,
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
    "BudgetError",
    "CancelledError",
    "ContextOverflowError",
    "FileChangedError",
    "FileIOError",
    "FormatError",
    "ModelError",
    "NumericError",
    "OutOfMemoryError",
    "StateError",
    "TemplateError",
    "ThreadError",
    "UnsupportedError",
]


class TemplateError(AirpyError, ValueError):
    """A chat template is malformed, refuses the messages, or exceeds its bounds."""
