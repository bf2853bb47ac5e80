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
    targets = [TensorInfo(tensor.info.name, type, tensor.info.shape) for tensor, type in zip(tensors, types, strict=True)]
    workers = threads or len(os.sched_getaffinity(0))
    writer = GGUFWriter(path, entries, targets, alignment, partial)
    with Journal(partial, writer.header, source) as journal, writer:
        work = _Work(writer, journal, tensors, targets)
        with ThreadPoolExecutor(workers, thread_name_prefix="airpy-convert") as pool:
            try:
                _run(pool, work, workers * _AHEAD, report)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        if verify:
            _verify(work)
        writer.commit()
        journal.remove()
    return writer.bytes


@dataclass(frozen=True)
class _Work:
    writer: GGUFWriter
    journal: Journal
    tensors: Sequence[SourceTensor]
    targets: Sequence[TensorInfo]


def _run(pool: ThreadPoolExecutor, work: _Work, most: int, report: Report | None) -> None:
    total, done = sum(tensor.info.elements for tensor in work.tensors), 0
    running: set[Future[tuple[int, str]]] = set()
    for index, start, count in _pieces(work.tensors):
        running.add(pool.submit(_convert, work, index, start, count))
        while len(running) >= most:
            running, done = _collect(running, done, total, report)
    while running:
        running, done = _collect(running, done, total, report)


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
    at, size = _extent(tensor.info.type, start, count)
    data = tensor.read(at, size)
    try:
        blocks = convert(tensor.info.type, target.type, data, start)
    except NumericError as error:
        raise NumericError(f"{tensor.info.name}: {error}") from None
    work.writer.write(index, offset, blocks)
    work.journal.add(index, start, blocks)
    return count, target.name


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
