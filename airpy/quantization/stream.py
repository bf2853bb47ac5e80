"""Tensors from wherever they are to a GGUF file, some MiB at a time: read, converted and written by several threads, none of them ever
whole in memory."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from typing_extensions import Buffer

from airpy._core import convert
from airpy.errors import AirpyError, FileChangedError, FileIOError, NumericError, system_errors
from airpy.gguf_writer import DEFAULT_ALIGNMENT, Entry, GGUFWriter, TensorInfo, blocks_of
from airpy.quantization.journal import Journal

CHUNK = 1 << 20  # elements at a time: at most 8 MiB as read, and 4 as written, of each task
_AHEAD = 2  # tasks for each thread, so that none waits for the next one
_PATIENCE = 0.05  # seconds between two looks for signals

Report = Callable[[int, int, str], None]  # elements done, of all, the tensor at work
Job = Callable[[int, int, int], tuple[int, str]]  # of a piece (tensor, first element, elements): its elements, the tensor's name


@dataclass(frozen=True)
class SourceTensor:
    """A tensor that can be read in pieces. read(offset, bytes): of its blocks as `info.type` has them; any thread, several at once."""

    info: TensorInfo
    read: Callable[[int, int], Buffer]


def write_model(
    path: str,
    entries: Iterable[Entry],
    tensors: Sequence[SourceTensor],
    types: Sequence[str],
    *,
    threads: int = 0,
    alignment: int = DEFAULT_ALIGNMENT,
    report: Report | None = None,
    partial: str = "",
    source: str = "",
    verify: bool = False,
) -> int:
    """A GGUF file of these tensors as `types`, in their order. Its bytes. threads 0: all that this process may use. Memory: at most
    threads × 12 MiB. However it ends but well, there is no file, or the one there was; Ctrl-C ends it within a piece's time.
    partial: where the file grows, which stays if it ends otherwise, and is written on next time: pieces that a journal beside it has,
    and that are still as it says, are not made again. source: what the tensors are of, by a text that changes when they do. verify, with
    partial: read all of it back from the disk before it takes its place.

    Raises NumericError for what is not finite, or too large for its type, FileIOError where the disk is too small, or does not give back
    what was written."""
    targets = _targets(tensors, types)
    writer = GGUFWriter(path, entries, targets, alignment, partial)
    with Journal(partial, writer.header, source) as journal, writer:
        work = _Work(writer, journal, tensors, targets)
        _run(tensors, lambda index, start, count: _convert(work, index, start, count), threads, report)
        if verify:
            _verify(work)
        writer.commit()
    return writer.bytes


def is_written(
    path: str,
    entries: Iterable[Entry],
    tensors: Sequence[SourceTensor],
    types: Sequence[str],
    *,
    threads: int = 0,
    report: Report | None = None,
) -> bool:
    """Whether the file at path is what write_model() makes of these, as the disk gives it back: all is converted once more. Raises
    FileIOError where it cannot be read, and what converting raises."""
    targets = _targets(tensors, types)
    want = GGUFWriter(path, entries, targets)
    with system_errors(), open(path, "rb") as file:
        fd = file.fileno()
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if os.fstat(fd).st_size != want.bytes or os.pread(fd, len(want.header), 0) != want.header:
            return False

        def compare(index: int, start: int, count: int) -> tuple[int, str]:
            target = targets[index]
            offset, length = _extent(target.type, start, count)
            if os.pread(fd, length, want.position(index, offset)) != bytes(_blocks(tensors[index], target.type, start, count)):
                raise _Differs
            return count, target.name

        try:
            _run(tensors, compare, threads, report)
        except _Differs:
            return False
    return True


class _Differs(Exception):
    """A piece of a file is not what it should be."""


def _targets(tensors: Sequence[SourceTensor], types: Sequence[str]) -> list[TensorInfo]:
    return [TensorInfo(tensor.info.name, type, tensor.info.shape) for tensor, type in zip(tensors, types, strict=True)]


@dataclass(frozen=True)
class _Work:
    writer: GGUFWriter
    journal: Journal
    tensors: Sequence[SourceTensor]
    targets: Sequence[TensorInfo]


def _run(tensors: Sequence[SourceTensor], job: Job, threads: int, report: Report | None) -> None:
    """job of every piece, by so many threads (0: all that this process may use). What one raises ends all."""
    total, done = sum(tensor.info.elements for tensor in tensors), 0
    workers = threads or len(os.sched_getaffinity(0))
    running: set[Future[tuple[int, str]]] = set()
    with ThreadPoolExecutor(workers, thread_name_prefix="airpy-convert") as pool:
        try:
            for piece in _pieces(tensors):
                running.add(pool.submit(job, *piece))
                while len(running) >= workers * _AHEAD:
                    running, done = _collect(running, done, total, report)
            while running:
                running, done = _collect(running, done, total, report)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _pieces(tensors: Sequence[SourceTensor]) -> Iterator[tuple[int, int, int]]:
    """(tensor, first element, elements): blocks of no type are cut, as all of them divide CHUNK."""
    for index, tensor in enumerate(tensors):
        for start in range(0, tensor.info.elements, CHUNK):
            yield index, start, min(CHUNK, tensor.info.elements - start)


def _verify(work: _Work) -> None:
    """Raises FileIOError where a piece is not as it was written."""
    work.writer.drop()
    for index, start, count in _pieces(work.tensors):
        offset, length = _extent(work.targets[index].type, start, count)
        if zlib.crc32(work.writer.read(index, offset, length)) != work.journal.sum_of(index, start):
            name = work.targets[index].name
            raise FileIOError(f"{work.writer.path}: {name} is not on the disk as it was written; the disk may be failing")


def _collect(
    running: set[Future[tuple[int, str]]], done: int, total: int, report: Report | None
) -> tuple[set[Future[tuple[int, str]]], int]:
    """Waits for some of them, no longer than signals may wait."""
    ended, running = wait(running, timeout=_PATIENCE, return_when=FIRST_COMPLETED)
    for future in ended:
        count, name = future.result()
        done += count
        if report is not None:
            report(done, total, name)
    return running, done


def _convert(work: _Work, index: int, start: int, count: int) -> tuple[int, str]:
    tensor, target = work.tensors[index], work.targets[index]
    offset, length = _extent(target.type, start, count)
    before = work.journal.sum_of(index, start)
    if before is not None and zlib.crc32(work.writer.read(index, offset, length)) == before:
        work.writer.keep(length)
        return count, target.name
    blocks = _blocks(tensor, target.type, start, count)
    work.writer.write(index, offset, blocks)
    work.journal.add(index, start, blocks)
    return count, target.name


def _blocks(tensor: SourceTensor, type: str, start: int, count: int) -> Buffer:
    """A piece of the source as `type`. Raises NumericError, which names the tensor."""
    data = tensor.read(*_extent(tensor.info.type, start, count))
    try:
        return convert(tensor.info.type, type, data, start)
    except NumericError as error:
        raise NumericError(f"{tensor.info.name}: {error}") from None


def _extent(type: str, start: int, count: int) -> tuple[int, int]:
    """Elements as offset and length in bytes."""
    block, size = blocks_of(type)
    return start // block * size, count // block * size


class SourceFiles:
    """The files of a GGUF set, held open. Use as a context."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths, self._fds = paths, list[int]()

    def __enter__(self) -> SourceFiles:
        try:
            with system_errors():
                for path in self._paths:
                    self._fds.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except AirpyError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()

    def tensor(self, info: TensorInfo, part: int, offset: int) -> SourceTensor:
        """One that lies at `offset` of file number `part`."""

        def read(at: int, size: int) -> bytes:
            with system_errors():
                data = os.pread(self._fds[part], size, offset + at)
                while len(data) < size and (more := os.pread(self._fds[part], size - len(data), offset + at + len(data))):
                    data += more
            if len(data) < size:
                raise FileChangedError(f"{self._paths[part]} ends within {info.name}; it was longer when its header was read")
            return data

        return SourceTensor(info, read)
