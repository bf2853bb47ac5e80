"""What calls cost: bytes, time, the plan's prediction beside it, memory above the value at open."""

from __future__ import annotations

import threading
import time
import weakref
from dataclasses import dataclass
from typing import Any, ClassVar

from airpy import _core

Cost = tuple[int, int, int, int, int, float]  # as _core.Result has it

_SAMPLE_SECONDS = 0.1  # asking the system takes about a millisecond


class MemoryWatch:
    """The largest anonymous memory of this process above what it was at the start, as sampled after and during passes. Two watches at
    once, one a model, see each other's: from then on neither says anything new."""

    _running: ClassVar[weakref.WeakSet[MemoryWatch]] = weakref.WeakSet()
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        self._base = anonymous_bytes()
        self._next = 0.0
        self.peak = 0
        with self._lock:
            self._alone = not self._running
            for other in self._running:
                other._alone = False
            self._running.add(self)

    def sample(self, *, now: bool = False) -> None:
        """At most every tenth of a second, unless `now`."""
        clock = time.monotonic()
        if self._alone and (now or clock >= self._next):
            self._next = clock + _SAMPLE_SECONDS
            self.peak = max(self.peak, anonymous_bytes() - self._base)

    def end(self) -> None:
        with self._lock:
            self._running.discard(self)


def anonymous_bytes() -> int:
    return _core.memory_info()["process_anonymous"]


@dataclass
class Phase:
    """Sums over some passes."""

    passes: int = 0
    tokens: int = 0
    seconds: float = 0.0
    disk_bytes: int = 0
    ram_bytes: int = 0
    stall_s: float = 0.0
    predicted_s: float = 0.0
    wall_s: float = 0.0  # of the passes and of all that comes before each, as whoever waits for tokens has it

    def add(self, cost: Cost, tokens: int) -> None:
        passes, pass_ns, disk_bytes, ram_bytes, stall_ns, predicted_s = cost
        self.passes += passes
        self.tokens += tokens
        self.seconds += pass_ns / 1e9
        self.disk_bytes += disk_bytes
        self.ram_bytes += ram_bytes
        self.stall_s += stall_ns / 1e9
        self.predicted_s += predicted_s

    def figures(self) -> dict[str, Any]:
        """Per token and per pass; None where nothing ran or nothing was predicted. tok_s is by the clock; what is predicted is passes,
        so predicted_tok_s and achieved_over_predicted are of passes alone."""
        tokens, passes = self.tokens, self.passes
        predicted = tokens / self.predicted_s if tokens and self.predicted_s > 0 else None
        return {
            "pass_ms": 1e3 * self.seconds / passes if passes else None,
            "tok_s": tokens / self.wall_s if tokens and self.wall_s > 0 else None,
            "bytes_disk_per_token": self.disk_bytes / tokens if tokens else None,
            "bytes_ram_per_token": self.ram_bytes / tokens if tokens else None,
            "predicted_tok_s": predicted,
            "achieved_over_predicted": self.predicted_s / self.seconds if predicted and self.seconds > 0 else None,
            "stall_ms": 1e3 * self.stall_s / passes if passes else None,
        }


class CallMeter:
    """One call of generate(): its prompt passes apart from its decode passes."""

    def __init__(self) -> None:
        self.prompt, self.decode = Phase(), Phase()
        self.prompt_tokens = self.reused_tokens = self.new_tokens = 0

    def figures(self) -> dict[str, Any]:
        """The decode passes' figures (the prompt's, where one token was all), and counts."""
        decode = self.decode
        main = decode if decode.passes else self.prompt
        return {
            **main.figures(),
            "between_ms": 1e3 * (decode.wall_s - decode.seconds) / decode.passes if decode.passes else None,
            "prompt_tokens": self.prompt_tokens,
            "reused_tokens": self.reused_tokens,
            "new_tokens": self.new_tokens,
            "prompt_ms": 1e3 * self.prompt.seconds,
            "prompt_disk_bytes": self.prompt.disk_bytes,
        }
