"""Checkpoints in safetensors files: what a header says, checked, and bytes of tensors, read in pieces.

A file is 8 bytes of length, a JSON object of that length, and data: name → dtype, shape, [begin, end) of the data
(https://github.com/huggingface/safetensors, "Format"). Whatever a header says is hostile until it is checked against the file; nothing
here runs code of a checkpoint, and files that would (pickles) are refused by name.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from airpy.conversion.jsons import json_object, read_json
from airpy.errors import AirpyError, FileChangedError, FormatError, MissingFileError, UnsupportedError, system_errors
from airpy.sizes import format_size

INDEX = "model.safetensors.index.json"
_MOST_HEADER = 100_000_000  # of a file, as the format's own library has it
_MOST_TENSORS = 1_000_000
_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
         "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8}  # fmt: skip
_FLOATS = ("F64", "F32", "F16", "BF16")  # dtypes that are types of GGUF as well, under the same names
_LONG_RUN = 64 << 10  # bytes of neighbouring rows above which each run is read by itself
_SPREAD = 4  # times the bytes wanted that one read may bring instead
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5")

Rows = range | npt.NDArray[np.int64]  # a range's steps are 1


@dataclass(frozen=True)
class Stored:
    """A tensor in a file. shape: as PyTorch has it, the contiguous axis last. offset: of its first byte in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    offset: int
    bytes: int

    @property
    def type(self) -> str:
        """GGUF's name for the dtype. Raises UnsupportedError for what is no plain number."""
        if self.dtype not in _FLOATS:
            raise UnsupportedError(f"{self.name} has dtype {self.dtype}; weights that can be converted are {', '.join(_FLOATS)}")
        return self.dtype


class Checkpoint:
    """The tensors of a directory's safetensors files, by name, and the files, held open. parts: folders in it whose tensors are there as
    well, as FOLDER/NAME. Use as a context. Reads from any thread.

    Raises UnsupportedError where there are pickles instead, FormatError for what a header or the index claims wrongly, MissingFileError
    for a file that the index names."""

    def __init__(self, folder: str, parts: Iterable[str] = ()) -> None:
        self.files = find_files(folder)
        self.tensors: dict[str, Stored] = {}
        self._fds: dict[str, int] = {}
        try:
            for file in self.files:
                self._add(file)
            _check_index(folder, self.tensors)
            for part in parts:
                for file in find_files(os.path.join(folder, part)):
                    self.files.append(file)
                    self._add(file, f"{part}/")
        except BaseException:
            self.__exit__()
            raise

    def _add(self, file: str, prefix: str = "") -> None:
        with system_errors():
            self._fds[file] = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        for tensor in read_header(self._fds[file], file):
            tensor = replace(tensor, name=prefix + tensor.name)
            if tensor.name in self.tensors:
                raise FormatError(f"{tensor.name} is in {self.tensors[tensor.name].file} and in {file}")
            self.tensors[tensor.name] = tensor

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *exc: object) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    def read(self, tensor: Stored, offset: int, size: int) -> bytes:
        """So many bytes of a tensor. Raises FileChangedError where its file has become shorter."""
        return _read(self._fds[tensor.file], tensor.file, tensor.offset + offset, size, tensor.name)

    def read_rows(self, tensor: Stored, rows: Rows, width: int) -> bytes:
        """Rows of `width` bytes, in that order: run by run where these are long, else what lies around all of them in one go."""
        if isinstance(rows, range):
            return self.read(tensor, rows.start * width, len(rows) * width)
        low, high = int(rows.min()), int(rows.max()) + 1
        cuts = np.flatnonzero(np.diff(rows) != 1) + 1
        if len(rows) * width < _LONG_RUN * (len(cuts) + 1) and high - low <= _SPREAD * len(rows):
            around = np.frombuffer(self.read(tensor, low * width, (high - low) * width), np.uint8).reshape(-1, width)
            return around[rows - low].tobytes()
        return b"".join(self.read(tensor, int(run[0]) * width, len(run) * width) for run in np.split(rows, cuts))


def find_files(folder: str) -> list[str]:
    """The safetensors files that a checkpoint consists of: those that its index names, or model.safetensors, or all there are."""
    with system_errors():
        names = sorted(os.listdir(folder))
    found = [name for name in names if name.endswith(".safetensors")]
    if INDEX in names:
        found = sorted(set(index_of(folder).values()))
        if missing := [name for name in found if name not in names]:
            raise MissingFileError(2, f"{len(missing)} of {len(found)} files that {INDEX} names are not there, such as this", missing[0])
    elif "model.safetensors" in found:
        found = ["model.safetensors"]
    elif not found:
        pickles = [name for name in names if name.endswith(_PICKLES)]
        if pickles:
            raise UnsupportedError(
                f"{folder} has its weights in {pickles[0]}, but not in safetensors; airpy loads no pickles, which may run code: save the "
                f"model again with transformers' save_pretrained(), or take a revision or repository with .safetensors files"
            )
        raise UnsupportedError(f"{folder} holds no .safetensors file")
    elif len(found) > 1 and any(name.startswith("model") for name in found):
        found = [name for name in found if name.startswith("model")]  # beside "consolidated", the same weights once more
    return [os.path.join(folder, name) for name in found]


def index_of(folder: str) -> dict[str, str]:
    """File by tensor, as a checkpoint of several says. Raises FormatError."""
    path = os.path.join(folder, INDEX)
    names = json_object(read_json(path).get("weight_map"), path, "weight_map")
    for tensor, name in names.items():
        if not isinstance(name, str) or not name.endswith(".safetensors") or os.path.basename(name) != name:
            raise FormatError(f"{path}: {tensor[:200]!r} is in {str(name)[:200]!r}, which is no name of a safetensors file beside it")
    return names


def _check_index(folder: str, tensors: Mapping[str, Stored]) -> None:
    if not os.path.exists(os.path.join(folder, INDEX)):
        return
    for tensor, name in index_of(folder).items():
        if tensor not in tensors:
            raise FormatError(f"{INDEX} has {tensor[:200]!r} in {name}, which does not hold it")


def read_header(fd: int, path: str) -> Iterator[Stored]:
    """A file's tensors, in the order of their data. Raises FormatError."""
    with system_errors():
        size = os.fstat(fd).st_size
    if size < 8:
        raise FormatError(f"{path} has {size} bytes; a safetensors file has 8 and a header")
    (length,) = struct.unpack("<Q", _read(fd, path, 0, 8, "the header"))
    if not 2 <= length <= min(_MOST_HEADER, size - 8):
        raise FormatError(f"{path}: a header of {length} bytes does not fit the file's {size}; it is damaged, or no safetensors file")
    header = _parse(_read(fd, path, 8, length, "the header"), path)
    if len(header) > _MOST_TENSORS:
        raise FormatError(f"{path} has {len(header)} tensors")
    found = sorted((_entry(name, value, path, 8 + length) for name, value in header.items()), key=lambda t: (t.offset, t.bytes))
    at = 8 + length
    for tensor in found:
        if tensor.offset != at:
            what = "overlaps the one before it" if tensor.offset < at else f"leaves {tensor.offset - at} bytes before it to nobody"
            raise FormatError(f"{path}: {tensor.name} {what}")
        at += tensor.bytes
    if at != size:
        raise FormatError(
            f"{path} has {format_size(size)}, but its tensors take {format_size(at)} ({at - size:+} bytes)"
            + ("; the file is cut short: copy or download it again" if at > size else "")
        )
    return iter(found)


def _parse(text: bytes, path: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(pairs)
        if len(out) != len(pairs):
            raise FormatError(f"{path}: the header has a name twice")
        return out

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except AirpyError:
        raise
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: the header is no JSON: {error}") from None
    if not isinstance(header, dict):
        raise FormatError(f"{path}: the header is no JSON object")
    header.pop("__metadata__", None)
    return header


def _entry(name: str, value: Any, path: str, start: int) -> Stored:
    where = f"{path}: {name[:200]!r}"
    if not isinstance(value, dict):
        raise FormatError(f"{where} is no JSON object")
    dtype, shape, offsets = value.get("dtype"), value.get("shape"), value.get("data_offsets")
    bits = _BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        raise UnsupportedError(f"{where} has dtype {str(dtype)[:40]!r}; known are {', '.join(_BITS)}")
    if not (_naturals(shape) and len(shape) <= 8):
        raise FormatError(f"{where} has the shape {str(shape)[:80]}")
    if not (_naturals(offsets) and len(offsets) == 2 and offsets[0] <= offsets[1]):
        raise FormatError(f"{where} has the data_offsets {str(offsets)[:80]}")
    size, bits_more = divmod(math.prod(shape) * bits, 8)
    if bits_more or size != offsets[1] - offsets[0]:
        raise FormatError(f"{where} is {dtype} {shape}, {size} bytes, but has {offsets[1] - offsets[0]} in the file")
    return Stored(name, str(dtype), tuple(shape), path, start + offsets[0], size)


def _naturals(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 62 for value in values)


def _read(fd: int, path: str, offset: int, size: int, what: str) -> bytes:
    with system_errors():
        data = os.pread(fd, size, offset)
        while len(data) < size and (more := os.pread(fd, size - len(data), offset + len(data))):
            data += more
    if len(data) < size:
        raise FileChangedError(f"{path} ends within {what}; it was longer before")
    return data
