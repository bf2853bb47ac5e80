"""A memory control group for one run: a limit, the peak of what was charged, kills. Cgroup v1 and v2; making one needs root."""
from __future__ import annotations

import contextlib
import itertools
import os
import time
from pathlib import Path
from types import TracebackType

V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
_numbers = itertools.count()


class MemoryGroup:
    """with MemoryGroup(bytes) as group: subprocess.Popen(…, preexec_fn=group.enter); then group.peak and group.kills."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._v1 = V1.is_dir()
        self._path = (V1 if self._v1 else V2) / f"airpy-{os.getpid()}-{next(_numbers)}"

    def __enter__(self) -> MemoryGroup:
        self._path.mkdir()
        (self._path / ("memory.limit_in_bytes" if self._v1 else "memory.max")).write_text(str(self.limit))
        if not self._v1:
            with contextlib.suppress(OSError):             # no swap on this machine
                (self._path / "memory.swap.max").write_text("0")
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for _ in range(50):                                # the last process may still be leaving
            try:
                self._path.rmdir()
                return
            except OSError:
                time.sleep(0.1)

    def enter(self) -> None:
        """Moves the calling process into the group."""
        (self._path / "cgroup.procs").write_text(str(os.getpid()))

    @property
    def peak(self) -> int:
        """Most bytes charged at a time, page cache included."""
        return int((self._path / ("memory.max_usage_in_bytes" if self._v1 else "memory.peak")).read_text())

    @property
    def kills(self) -> int:
        events = (self._path / ("memory.oom_control" if self._v1 else "memory.events")).read_text()
        return sum(int(line.split()[1]) for line in events.splitlines() if line.startswith("oom_kill "))


def available() -> bool:
    """Whether this process may make memory groups."""
    try:
        with MemoryGroup(64 << 20):
            return True
    except OSError:
        return False
