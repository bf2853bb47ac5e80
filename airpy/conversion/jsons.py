"""JSON files of a model's directory, which are hostile until checked."""

from __future__ import annotations

import json
import os
from typing import Any

from airpy.errors import FormatError, system_errors

_MOST_BYTES = 256 << 20  # of a file: the largest tokenizer.json have 30 MiB


def read_text(path: str) -> str:
    """Raises FormatError for what is too large, or is not UTF-8."""
    with system_errors():
        size = os.stat(path).st_size
        if size > _MOST_BYTES:
            raise FormatError(f"{path} has {size} bytes; at most {_MOST_BYTES} are read")
        with open(path, "rb") as file:
            data = file.read()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not UTF-8: {error}") from None


def read_json(path: str) -> dict[str, Any]:
    """A file that holds an object. Raises FormatError."""
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is no JSON: {error}") from None
    return json_object(value, path, "the file")


def read_json_if_any(folder: str, name: str) -> dict[str, Any]:
    """{} where there is no such file."""
    path = os.path.join(folder, name)
    return read_json(path) if os.path.exists(path) else {}


def json_object(value: Any, path: str, what: str) -> dict[str, Any]:
    """Raises FormatError unless it is one."""
    if not isinstance(value, dict):
        raise FormatError(f"{path}: {what} is {type(value).__name__}; expected a JSON object")
    return value
