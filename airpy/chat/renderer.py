"""Renders templates in a helper process with limits: started at the first use, kept warm, killed and replaced on overrun.

worker.py says why a process and what it speaks. This side owns the process and its pipes. Threads take turns; a forked child
starts a process of its own.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from airpy.errors import ArgumentTypeError, TemplateError

_WORKER = Path(__file__).with_name("worker.py")
_START_SECONDS = 60.0  # importing Jinja2 on a busy machine


@dataclass(frozen=True)
class Limits:
    """What one rendering may use. The longest real templates take milliseconds and a few MiB."""

    seconds: float = 10.0
    memory_bytes: int = 512 << 20
    output_chars: int = 16 << 20


class _Overrun(Exception):
    """The worker did not answer in time."""


class Renderer:
    """One warm worker. render() may be called from any thread; close() ends the worker, a later render() starts another."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._forget)
        atexit.register(self.close)

    def render(self, template: str, variables: Mapping[str, Any]) -> str:
        """The text of `template`. Raises TemplateError where it is malformed, refuses, fails or passes the limits;
        ArgumentTypeError for variables that are not made of str, numbers, bool, None, lists and dicts."""
        limits = {"cpu_seconds": self._limits.seconds, "output_chars": self._limits.output_chars}
        request = _to_json({"template": template, "variables": dict(variables), "limits": limits})
        with self._lock:
            try:
                reply = self._ask(request)
            except _Overrun:
                raise TemplateError(f"the chat template took longer than {self._limits.seconds:g} s") from None
        if "error" in reply:
            raise TemplateError(str(reply["error"]))
        return str(reply["text"])

    def close(self) -> None:
        with self._lock:
            self._stop()

    def _ask(self, request: bytes) -> dict[str, Any]:
        process = self._process
        if process is None or process.poll() is not None:
            self._stop()
            process = self._process = _start(self._limits)
        try:
            deadline = time.monotonic() + self._limits.seconds
            reply: dict[str, Any] = _exchange(process, request, deadline, self._limits)
        except EOFError:
            self._stop()
            raise TemplateError(
                f"the chat template crashed its process ({_ending(process)}); it may be nested too deeply or too large"
            ) from None
        except BaseException:  # whatever it was, Ctrl-C included: the pipes may hold half a message
            self._stop()
            raise
        if reply["last"]:
            self._stop()
        return reply

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            _end(process)

    def _forget(self) -> None:
        # After fork() the worker and its pipes are the parent's, and so may be the lock.
        self._process = None
        self._lock = threading.Lock()


def _start(limits: Limits) -> subprocess.Popen[bytes]:
    if not sys.executable:
        raise TemplateError("chat templates need a Python interpreter to run in; sys.executable names none")
    settings = {"path": _package_folders("jinja2", "markupsafe"), "memory_bytes": limits.memory_bytes}
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(_WORKER), json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        _exchange(process, b"", time.monotonic() + _START_SECONDS, limits)
    except EOFError:
        _end(process)
        raise TemplateError(f"the process for chat templates did not start ({_ending(process)})") from None
    except BaseException:
        _end(process)
        raise
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # an unwritten rest for a process that is gone
                pipe.close()


def _ending(process: subprocess.Popen[bytes]) -> str:
    code = process.wait()
    return f"signal {-code}" if code < 0 else f"exit status {code}"


def _package_folders(*names: str) -> list[str]:
    """Where the packages lie: the worker starts without site-packages, which saves it half its time."""
    folders = []
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise TemplateError(f"chat templates need the package {name}")
        folders.append(str(Path(spec.origin).parent.parent))
    return list(dict.fromkeys(folders))


def _to_json(value: Mapping[str, Any]) -> bytes:
    def refuse(x: Any) -> Any:
        hint = "; give tools as JSON schemas" if callable(x) else ""
        raise ArgumentTypeError(f"chat templates take str, numbers, bool, None, lists and dicts, not {type(x).__name__}{hint}")

    try:
        return json.dumps(value, default=refuse).encode()
    except ArgumentTypeError:
        raise
    except TypeError as error:
        raise ArgumentTypeError(f"chat templates take dicts with text for keys: {error}") from None
    except RecursionError:
        raise TemplateError("the messages are nested too deeply") from None
    except ValueError as error:
        raise TemplateError(f"the messages cannot be given to a template: {error}") from None


def _exchange(process: subprocess.Popen[bytes], request: bytes, deadline: float, limits: Limits) -> Any:
    """Sends one request, if any, and reads one reply. Raises _Overrun, or EOFError where the process ended."""
    assert process.stdin is not None and process.stdout is not None
    if request:
        _send(process.stdin, len(request).to_bytes(8, "little") + request, deadline)
    size = int.from_bytes(_receive(process.stdout, 8, deadline), "little")
    if size > 12 * limits.output_chars + 4096:  # JSON spells a character with at most twelve
        raise EOFError
    return json.loads(_receive(process.stdout, size, deadline))


def _wait(fd: int, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(fd, event)
    left = deadline - time.monotonic()
    if left <= 0 or not poll.poll(left * 1000):
        raise _Overrun


def _send(pipe: IO[bytes], data: bytes, deadline: float) -> None:
    fd = pipe.fileno()
    os.set_blocking(fd, False)
    view = memoryview(data)
    while view:
        _wait(fd, select.POLLOUT, deadline)
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            continue
        except BrokenPipeError:
            raise EOFError from None


def _receive(pipe: IO[bytes], n: int, deadline: float) -> bytes:
    fd, parts = pipe.fileno(), []
    while n:
        _wait(fd, select.POLLIN, deadline)
        part = os.read(fd, min(n, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        n -= len(part)
    return b"".join(parts)
