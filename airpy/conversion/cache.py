"""Files that were made of others, kept to be used again: where they lie, and that two processes make none of them twice.

A name says the model, its type, where it came from and what state that was in: NAME-TYPE-<origin>-<content>.gguf. So a source that changes
is made anew, and one whose weights are gone (delete_original) is still found. Nothing here is ever removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass

from airpy.calibration import cache_dir
from airpy.errors import ArgumentError, system_errors

_FORMAT = "1"  # counts on when the same source would become another file


@dataclass(frozen=True)
class Place:
    """label: the model's name. kind: of types, "" as stored. origin: a path, or a repository on a hub. content: a text that changes when
    what is there does."""

    folder: str
    label: str
    kind: str
    origin: str
    content: str = ""

    def path(self) -> str:
        return f"{self._stem()}-{_short(self.content)}.gguf"

    def latest(self) -> str | None:
        """What was made of this origin last, whatever it was like then."""
        found = glob.glob(f"{glob.escape(self._stem())}-{'[0-9a-f]' * 12}.gguf")
        with system_errors():
            return max(found, key=os.path.getmtime, default=None)

    def _stem(self) -> str:
        name = re.sub(r"[^\w.-]+", "-", self.label)[:100] or "model"
        kind = f"-{self.kind.lower()}" if self.kind else ""
        return os.path.join(self.folder, f"{name}{kind}-{_short(self.origin)}")


def _short(text: str) -> str:
    return hashlib.sha256(f"{_FORMAT} {text}".encode("utf-8", "surrogateescape")).hexdigest()[:12]


def models_folder(chosen: str | None) -> str:
    """Where they lie: chosen, or the models folder of the cache. It is made. Raises ArgumentError where no cache is known."""
    folder = chosen
    if folder is None:
        base = cache_dir()
        if base is None:
            raise ArgumentError("no folder for converted models is known (no home, no AIRPY_CACHE_DIR); name one, layer_shards_saving_path")
        folder = os.path.join(base, "models")
    with system_errors():
        os.makedirs(folder, exist_ok=True)
    return folder


def made_once(path: str, make: Callable[[str], None], holds: Callable[[str], bool] | None = None) -> str:
    """path, after make(path) where it is not there; where it is, but holds(path) says that it is not what it should be, it is made anew.
    Of several processes one makes it, the others wait."""
    if holds is None and os.path.exists(path):
        return path
    lock = f"{path}.lock"
    with system_errors(), open(lock, "a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not os.path.exists(path) or (holds is not None and not holds(path)):
            make(path)
        with contextlib.suppress(OSError):
            os.unlink(lock)
    return path
