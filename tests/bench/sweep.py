"""How fast a file can be read past the page cache, by nothing but preadv in a few threads: what streaming is held against.

    python -m tests.bench.sweep FILE
"""
from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import sys
import threading
import time
from typing import Any

MIB = 1 << 20
BLOCKS, DEPTHS = (1 * MIB, 2 * MIB, 4 * MIB, 8 * MIB), (2, 4, 8)
FINALISTS = 3


def rate(path: str, block: int, depth: int, seconds: float, start: int) -> float:
    """Bytes per second of `depth` threads that each read the file's next block into memory of its own, from block `start` on. On huge
    pages where there are any: a direct read pins every page that it fills, and small ones halved the rate."""
    blocks = max(1, os.stat(path).st_size // block)
    numbers = itertools.count(start)
    file = os.open(path, os.O_RDONLY | os.O_DIRECT)
    pages = mmap.mmap(-1, depth * block, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):
        pages.madvise(mmap.MADV_HUGEPAGE)
    memory = memoryview(pages)
    for at in range(0, len(pages), 4096):
        memory[at] = 1                                # memory that was never touched costs time too
    began = time.perf_counter()
    read = [0] * depth

    def reader(i: int) -> None:
        mine = memory[i * block:(i + 1) * block]
        while time.perf_counter() - began < seconds:
            read[i] += os.preadv(file, [mine], next(numbers) % blocks * block)

    threads = [threading.Thread(target=reader, args=(i,)) for i in range(depth)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    os.close(file)
    return sum(read) / took


def best(path: str, seconds: float) -> dict[str, Any]:
    """The best of all blocks and depths: a short look at each, then the rest of the time for the best three, each from another place."""
    choices = [(block, depth) for block in BLOCKS for depth in DEPTHS]
    starts = itertools.count(0, 97)
    looks = {c: rate(path, *c, 0.5 * seconds / len(choices), next(starts)) for c in choices}
    finalists = sorted(looks, key=lambda c: -looks[c])[:FINALISTS]
    found = {c: rate(path, *c, 0.5 * seconds / FINALISTS, next(starts)) for c in finalists}
    block, depth = max(found, key=lambda c: found[c])
    return {"rate": found[block, depth], "block_bytes": block, "depth": depth}


if __name__ == "__main__":
    print(best(sys.argv[1], 4.0))
