"""What of a file that is being written is there: pieces and their sums, in a text file beside it, so that a later run need not make them
again. A line that is damaged, or of a piece that is, costs that piece's work, never a wrong file."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import threading
import zlib
from typing import Any

from airpy.errors import FileIOError, system_errors

_EVERY = 64 << 20  # bytes of pieces after which what the journal says is given to the system


class Journal:
    """partial: the file that grows, which goes where it is not what the journal is about; "": there is no journal. header and source:
    what the pieces belong to; a journal of others is begun anew. Use as a context. add() from any thread."""

    def __init__(self, partial: str, header: bytes, source: str) -> None:
        self._partial, self._path = partial, f"{partial}.journal" if partial else ""
        self._key = hashlib.sha256(header + source.encode("utf-8", "surrogateescape")).hexdigest()
        self._sums: dict[tuple[int, int], int] = {}
        self._file: Any = None
        self._lock, self._unsaid = threading.Lock(), 0

    def __enter__(self) -> Journal:
        if not self._path:
            return self
        with system_errors():
            self._file = open(self._path, "a+", encoding="ascii", errors="replace")
        try:
            with system_errors():
                self._take()
        except BaseException:
            self._file.close()
            raise
        return self

    def _take(self) -> None:
        """Raises FileIOError where another process is at the same file."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileIOError(f"another process is writing {self._partial}; wait for it, or name another file") from None
        self._file.seek(0)
        key, *lines = self._file.read().split("\n")
        rows = [line.split() for line in lines[:-1]] if key == self._key else []
        self._sums = {(int(row[0]), int(row[1])): int(row[2]) for row in rows if len(row) == 3 and all(map(str.isdecimal, row))}
        if not self._sums:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._partial)
            self._file.truncate(0)
        self._file.write("\n" if self._sums else f"{self._key}\n")  # behind a line that was cut short

    def __exit__(self, *exc: object) -> None:
        """What it is about is whole, or was never begun, where there is no partial file: then it goes, too."""
        if self._file is None:
            return
        if not os.path.exists(self._partial):
            with contextlib.suppress(OSError):
                os.unlink(self._path)
        with contextlib.suppress(OSError):  # of the last lines, for which the disk has no room: their pieces are made again
            self._file.close()

    def sum_of(self, index: int, start: int) -> int | None:
        """Of the piece of tensor number `index` that begins there; None where it was not written."""
        return self._sums.get((index, start))

    def add(self, index: int, start: int, data: Any) -> None:
        """These bytes are that piece, and written."""
        if self._file is None:
            return
        crc, size = zlib.crc32(data), memoryview(data).nbytes
        with system_errors(), self._lock:
            self._sums[index, start] = crc
            self._file.write(f"{index} {start} {crc}\n")
            self._unsaid += size
            if self._unsaid >= _EVERY:
                self._file.flush()
                self._unsaid = 0
