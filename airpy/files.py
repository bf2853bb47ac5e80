"""From a path as users give it to the file that is meant."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence

from airpy.errors import ArgumentError, ArgumentTypeError, system_errors

PathLike = str | os.PathLike[str]

_PART = re.compile(r"(.*)-\d{5}-of-(\d{5})\.gguf")
_NOT_A_FILE = "; of a name on Hugging Face's hub, org/name, AutoModel.from_pretrained() and airpy convert make a file"
_CHECKPOINT = ", but a checkpoint: make a .gguf file of it (airpy convert), or open it with AutoModel.from_pretrained(), which does"


def checked_path(path: PathLike) -> str:
    """As text. Raises ArgumentError and ArgumentTypeError for what names nothing on any disk."""
    try:
        text = os.fsdecode(path)
        os.fsencode(text)
    except TypeError:
        raise ArgumentTypeError(f"path is {type(path).__name__}; expected a str or an os.PathLike") from None
    except UnicodeEncodeError:
        raise ArgumentError(f"the path {path!r} has a lone surrogate, which no file name has") from None
    if "\0" in text:
        raise ArgumentError(f"the path {text!r} has a NUL character, which no file name has")
    return text


def find_model(path: PathLike) -> str:
    """The file to open for a path: itself, or the one model in a directory (a split one counts as one). Raises ArgumentError, and
    FileIOError where there is none or it may not be read."""
    path = checked_path(path)
    with system_errors(missing="" if path.endswith(".gguf") else _NOT_A_FILE):
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            return os.path.join(path, _model_in(path))
        if stat.S_ISREG(mode):  # the engine opens it again, and says what else a path may be
            os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    return path


def _model_in(folder: str) -> str:
    found: dict[str, str] = {}
    for name in sorted(name for name in os.listdir(folder) if name.endswith(".gguf")):
        match = _PART.fullmatch(name)
        found.setdefault(f"{match[1]} {match[2]}" if match else name, name)
    if not found:
        checkpoint = any(name.endswith(".safetensors") for name in os.listdir(folder))
        raise ArgumentError(f"{folder} holds no .gguf file{_CHECKPOINT if checkpoint else '; airpy opens GGUF files'}")
    if len(found) > 1:
        raise ArgumentError(f"{folder} holds {len(found)} models; choose one: {', '.join(found.values())}")
    return next(iter(found.values()))


def check_output(path: str, overwrite: bool, sources: Sequence[str] = ()) -> None:
    """Of a model that is to be written, which takes its place when it is whole. Raises ArgumentError for what is there and stays (one of
    sources; anything that is no file, such as a device; a file, unless overwrite) and FileIOError where the folder is not there."""
    with system_errors():
        os.stat(os.path.dirname(os.path.abspath(path)))
        try:
            mode = os.stat(path).st_mode
        except FileNotFoundError:
            return
    if stat.S_ISDIR(mode):
        raise ArgumentError(f"{path} is a directory; name the file to write")
    if not stat.S_ISREG(mode):
        raise ArgumentError(f"{path} is no regular file, and a model would take its place; name a file to write")
    if any(os.path.samefile(path, source) for source in sources):
        raise ArgumentError(f"{path} is the model itself; give another output")
    if not overwrite:
        raise ArgumentError(f"{path} exists; give another output, or overwrite it (overwrite=True, --overwrite)")
