"""Runs a command in a memory cgroup of its own (v1 or v2) and says what it cost; tests use it where they may make one."""

from __future__ import annotations

import contextlib
import os
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_V1 = Path("/sys/fs/cgroup/memory")
_V2 = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Outcome:
    returncode: int
    stdout: str
    stderr: str
    peak: int  # bytes charged at most, page cache included
    oom_kills: int


@dataclass(frozen=True)
class _Group:
    path: Path
    limit_file: str
    peak_file: str
    events_file: str


def _group() -> _Group:
    name = f"airpy-test-{uuid.uuid4().hex[:12]}"
    if _V1.is_dir():
        return _Group(_V1 / name, "memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.oom_control")
    return _Group(_V2 / name, "memory.max", "memory.peak", "memory.events")


@contextlib.contextmanager
def _made(limit: int) -> Iterator[_Group]:
    group = _group()
    group.path.mkdir()
    try:
        (group.path / group.limit_file).write_text(str(limit))
        yield group
    finally:
        group.path.rmdir()


def why_not() -> str:
    """Why no group can be made here; "" where one can."""
    try:
        with _made(1 << 30) as group:
            (group.path / group.peak_file).read_text()
        return ""
    except OSError as error:
        return f"no memory cgroup can be made here: {error}"


def evict(path: str | os.PathLike[str]) -> None:
    """Drops a file's pages from the page cache, so that the group pays for what it reads."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def run(limit: int, command: Sequence[str], **kwargs: Any) -> Outcome:
    """The command under a limit of bytes. Raises OSError where why_not() says why."""
    with _made(limit) as group:
        enter = str(group.path / "cgroup.procs")

        def join() -> None:
            with open(enter, "w") as procs:
                procs.write(str(os.getpid()))

        done = subprocess.run(command, preexec_fn=join, capture_output=True, text=True, timeout=240, **kwargs)
        events = (group.path / group.events_file).read_text().splitlines()
        kills = [int(line.split()[1]) for line in events if line.startswith("oom_kill ")]
        peak = int((group.path / group.peak_file).read_text())
        return Outcome(done.returncode, done.stdout, done.stderr, peak, kills[0] if kills else 0)
