"""Text from files and errors, as a terminal may have it."""

from __future__ import annotations

import os


def printable(text: str) -> str:
    """text with what a terminal would obey, or hide, as Python escapes it: \\x1b, \\u202e. Letters of any script stay."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def one_line(error: BaseException) -> str:
    """What an error says; where the system had a reason, that, after the path."""
    reason, path = getattr(error, "strerror", None), getattr(error, "filename", None)
    text = str(error) if not reason else f"{os.fsdecode(path) or repr(path)}: {reason}" if isinstance(path, (str, bytes)) else str(reason)
    text = text or type(error).__name__  # MemoryError has nothing to say
    return printable(" ".join(text.split()))
