"""Writes a GGUF file (version 3) tensor by tensor, in any order and in pieces, from any thread; the file appears when it is whole."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import struct
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airpy._core import FORMATS
from airpy.errors import ArgumentError, FileIOError, system_errors
from airpy.sizes import format_size

Type = tuple[str, str | None]  # of a value, and of an array's elements; as _core.GGUF.types has them
Entry = tuple[str, Type, Any]  # key, type, value

DEFAULT_ALIGNMENT = 32
_VERSION = 3
_SYNC_BYTES = 256 << 20  # after so many what was written is waited for, so that the end is not one long wait that nothing interrupts
_CODES = {name: code for code, name in enumerate(
    ("u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64")
)}  # fmt: skip
_PACKED = {
    "u8": "B", "i8": "b", "u16": "H", "i16": "h", "u32": "I", "i32": "i", "f32": "f", "bool": "?", "u64": "Q", "i64": "q", "f64": "d",
}  # fmt: skip
_NAMED = {letter: name for name, letter in _PACKED.items()}  # by a buffer's format
_SHAPES = {name: (code, block, size) for name, code, block, size, _ in FORMATS}


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as a file's directory has it. shape: the contiguous axis first. Raises ArgumentError for rows that are not whole blocks."""

    name: str
    type: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        block = _SHAPES[self.type][1]
        if self.shape[0] % block:
            raise ArgumentError(f"{self.name}: rows of {self.shape[0]} are not whole blocks of {self.type}, {block} each")

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        _, block, size = _SHAPES[self.type]
        return self.elements // block * size


def blocks_of(type: str) -> tuple[int, int]:
    """Elements and bytes of a block."""
    return _SHAPES[type][1:]


class GGUFWriter:
    """with GGUFWriter(path, entries, tensors) as writer: write() all of them, then commit(). Until then there is a temporary file beside
    path, which goes if the block is left otherwise. partial: the temporary file's name, which is kept then, and written on in when it is
    there already: read() tells what is in it, keep() says that it is as it should be.

    Raises ArgumentError for values that a type does not hold, FileIOError where there is no room for all of it (before anything is
    written) and whatever else the system refuses."""

    def __init__(
        self, path: str, entries: Iterable[Entry], tensors: Sequence[TensorInfo], alignment: int = DEFAULT_ALIGNMENT,
        partial: str = "",
    ) -> None:
        self.path, self._partial = path, partial
        self._tensors = tensors
        self._lock, self._written = threading.Lock(), 0
        self._offsets: list[int] = []
        at = 0
        for tensor in tensors:
            self._offsets.append(at)
            at += tensor.bytes + -tensor.bytes % alignment
        header = _header(list(entries), tensors, self._offsets)
        self._header = header + bytes(-len(header) % alignment)
        self.bytes = len(self._header) + at
        self._fd, self._temporary = -1, ""

    @property
    def header(self) -> bytes:
        """All that is before the tensors."""
        return self._header

    def position(self, index: int, offset: int) -> int:
        """Where in the file byte `offset` of tensor number `index` is."""
        return len(self._header) + self._offsets[index] + offset

    def __enter__(self) -> GGUFWriter:
        folder, name = os.path.split(os.path.abspath(self.path))
        with system_errors():
            there = os.stat(self._partial).st_blocks * 512 if self._partial and os.path.exists(self._partial) else 0
            free = shutil.disk_usage(folder).free + there
            if self.bytes > free:
                raise FileIOError(f"{self.path} takes {format_size(self.bytes)}, but {format_size(free)} are free there")
            if self._partial:
                self._fd = os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            else:
                self._fd, self._temporary = tempfile.mkstemp(prefix=f".{name[:200]}.", suffix=".part", dir=folder)
            try:
                if not self._partial:
                    os.fchmod(self._fd, 0o666 & ~_umask())
                os.truncate(self._fd, self.bytes)
                _write_all(self._fd, self._header, 0)
            except BaseException:
                self.__exit__()
                raise
        return self

    def write(self, index: int, offset: int, data: Any) -> None:
        """Bytes of tensor number `index` from `offset` on. Any thread."""
        view = memoryview(data).cast("B")
        if offset < 0 or offset + view.nbytes > self._tensors[index].bytes:
            raise ArgumentError(f"{self._tensors[index].name}: {view.nbytes} bytes at {offset} of {self._tensors[index].bytes}")
        with system_errors():
            _write_all(self._fd, view, self.position(index, offset))
        with self._lock:
            before, self._written = self._written, self._written + view.nbytes
        if before // _SYNC_BYTES != (before + view.nbytes) // _SYNC_BYTES:
            with system_errors():
                os.fdatasync(self._fd)

    def read(self, index: int, offset: int, size: int) -> bytes:
        """Bytes of tensor number `index` as they are in the file."""
        with system_errors():
            return os.pread(self._fd, size, self.position(index, offset))

    def drop(self) -> None:
        """What is written goes to the disk, and what is read again comes from there."""
        with system_errors():
            os.fsync(self._fd)
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def keep(self, size: int) -> None:
        """So many bytes are in the file already."""
        with self._lock:
            self._written += size

    def commit(self) -> None:
        """Puts the file in its place, on disk for good. Raises ArgumentError where not all of it was written."""
        want = sum(tensor.bytes for tensor in self._tensors)
        if self._written != want:
            raise ArgumentError(f"{self.path}: {self._written} bytes of tensors were written, of {want}")
        folder = os.path.dirname(os.path.abspath(self.path))
        with system_errors():
            os.fsync(self._fd)
            os.replace(self._partial or self._temporary, self.path)
            self._temporary = ""
            directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def __exit__(self, *exc: object) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        if self._temporary:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)
            self._temporary = ""


def entries_of(metadata: Mapping[str, Any], types: Mapping[str, Type], changes: Mapping[str, tuple[Type, Any] | None]) -> Iterator[Entry]:
    """A file's own metadata in its order, but for changes: None leaves a key out, a new one comes last."""
    for key, value in metadata.items():
        if key not in changes:
            yield key, types[key], value
        elif change := changes[key]:
            yield key, *change
    for key, change in changes.items():
        if change and key not in metadata:
            yield key, *change


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _write_all(fd: int, data: Any, offset: int) -> None:
    view = memoryview(data).cast("B")
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done


def _header(entries: list[Entry], tensors: Sequence[TensorInfo], offsets: list[int]) -> bytes:
    out = bytearray(struct.pack("<4sIQQ", b"GGUF", _VERSION, len(tensors), len(entries)))
    for key, type, value in entries:
        out += _string(key) + struct.pack("<I", _CODES[type[0]])
        try:
            out += _value(type, value)
        except (struct.error, TypeError, AttributeError) as error:
            raise ArgumentError(f"{key} is {type[0]} in the file, which does not hold {str(value)[:100]!r}: {error}") from None
    for tensor, offset in zip(tensors, offsets, strict=True):
        out += _string(tensor.name) + struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        out += struct.pack("<IQ", _SHAPES[tensor.type][0], offset)
    return bytes(out)


def _string(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(data)) + data


def _value(type: Type, value: Any) -> bytes:
    if type[0] == "string":
        return _string(value)
    if type[0] != "array":
        return struct.pack(f"<{_PACKED[type[0]]}", value)
    element = type[1] or "string"
    head = struct.pack("<IQ", _CODES[element], len(value if isinstance(value, (list, tuple)) else memoryview(value)))
    if element == "string":
        return head + b"".join(map(_string, value))
    if element == "array":
        return head + b"".join(_nested(item) for item in value)
    if isinstance(value, (list, tuple)):
        return head + struct.pack(f"<{len(value)}{_PACKED[element]}", *value)
    if _NAMED.get(memoryview(value).format or "") != element:
        raise TypeError(f"an array of format {memoryview(value).format!r}")
    return head + bytes(value)


def _nested(value: Any) -> bytes:
    """An array in an array, whose own type is what it holds."""
    if not isinstance(value, list):
        element = _NAMED[memoryview(value).format or ""]
    else:
        element = "array" if value and not isinstance(value[0], str) else "string"
    return _value(("array", element), value)
