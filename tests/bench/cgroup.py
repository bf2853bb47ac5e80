"""A control group for one run: a limit of memory, the peak of what was charged, kills; a limit of a disk's rate. Cgroup v1 and v2; making
one needs root."""
from __future__ import annotations

import contextlib
import itertools
import os
import time
from pathlib import Path
from types import TracebackType

V1, V1_DISK, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup/blkio"), Path("/sys/fs/cgroup")
_numbers = itertools.count()


class MemoryGroup:
    """with MemoryGroup(bytes) as group: subprocess.Popen(…, preexec_fn=group.enter); then group.peak and group.kills.

    disk: a path and the bytes a second that its device is held to for these processes."""

    def __init__(self, limit: int, disk: tuple[Path, float] | None = None) -> None:
        self._limit, self._disk = limit, disk
        self._v1 = V1.is_dir()
        name = f"airpy-{os.getpid()}-{next(_numbers)}"
        self._path = (V1 if self._v1 else V2) / name
        self._disk_path = V1_DISK / name if self._v1 else self._path
        self._paths = [self._path, self._disk_path] if self._v1 and disk else [self._path]

    def __enter__(self) -> MemoryGroup:
        for path in self._paths:
            path.mkdir()
        (self._path / ("memory.limit_in_bytes" if self._v1 else "memory.max")).write_text(str(self._limit))
        if not self._v1:
            with contextlib.suppress(OSError):             # no swap on this machine
                (self._path / "memory.swap.max").write_text("0")
        if self._disk:
            file, text = ("blkio.throttle.read_bps_device", "{} {}") if self._v1 else ("io.max", "{} rbps={}")
            (self._disk_path / file).write_text(text.format(_device_of(self._disk[0]), int(self._disk[1])))
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for path in self._paths:
            for _ in range(50):                            # the last process may still be leaving
                try:
                    path.rmdir()
                    break
                except OSError:
                    time.sleep(0.1)

    def enter(self) -> None:
        """Moves the calling process into the group."""
        for path in self._paths:
            (path / "cgroup.procs").write_text(str(os.getpid()))

    @property
    def peak(self) -> int:
        """Most bytes charged at a time, page cache included."""
        return int((self._path / ("memory.max_usage_in_bytes" if self._v1 else "memory.peak")).read_text())

    @property
    def kills(self) -> int:
        events = (self._path / ("memory.oom_control" if self._v1 else "memory.events")).read_text()
        return sum(int(line.split()[1]) for line in events.splitlines() if line.startswith("oom_kill "))


def _device_of(path: Path) -> str:
    """major:minor of the whole disk that a file lies on."""
    number = path.stat().st_dev
    entry = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()
    return ((entry.parent if (entry / "partition").exists() else entry) / "dev").read_text().strip()


def available() -> bool:
    """Whether this process may make memory groups."""
    try:
        with MemoryGroup(64 << 20):
            return True
    except OSError:
        return False
