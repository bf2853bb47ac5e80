"""The C engine. Hand-written CPython extension; airpy's facade is the public face of it.

Errors are the classes of airpy.errors, created here from one table. Objects may be shared between threads; a Sequence used by two
threads at once, used after close, or used in a forked child raises StateError. Every blocking call releases the GIL, looks for
signals at least every 50 ms and ends within 250 ms of Ctrl-C, leaving the engine usable.
"""

from collections.abc import Buffer, Callable, Mapping, Sequence as Seq
from typing import Any, Literal

VERSION: str
FORMATS: tuple[tuple[str, int, int, int, str], ...]  # name, id, elements per block, bytes per block, "matrix" | "storage"
ARCHITECTURES: tuple[str, ...]
TIERS: tuple[str, ...]  # kernel tiers this machine can run, worst first: ("ref", "avx2", "avx512")

class AirpyError(Exception): ...
# and one class per row of csrc/base/status.def: OutOfMemoryError, BudgetError, FileIOError, …

def dequantize(type: str | int, data: Buffer, /) -> "Array": ...  # float32 (elements,)
def memory_info() -> dict[str, int]: ...  # total, available, cgroup_limit (-1: none), cgroup_usage, process_anonymous, default_budget
def cpu_info() -> dict[str, Any]: ...  # name, threads, features, best tier
def file_identity(path: str) -> int: ...

# Tests: base/alloc.h's fault injection
def alloc_fail_at(n: int, /) -> None: ...
def alloc_failed() -> bool: ...
def alloc_live() -> int: ...

class Array:
    """Read-only C-contiguous memory with the buffer protocol: np.asarray(a) shares it and keeps it alive."""

    shape: tuple[int, ...]
    def __buffer__(self, flags: int, /) -> memoryview: ...

class GGUF:
    """The header of a GGUF file or split set. Reads headers only."""

    def __init__(self, path: str) -> None: ...
    version: int
    alignment: int
    paths: list[str]
    bytes: int  # of all parts
    metadata: Mapping[str, Any]  # a dict made on first use: str (surrogateescape), int, float, bool, Array (numeric), list
    tensors: list[tuple[str, str, tuple[int, ...], int, int, int]]  # name, type, shape (contiguous first), part, offset, bytes

def probe_disk(path: str, seconds: float = 0.5, source: str = "") -> dict[str, Any]: ...  # disk, block_bytes, depth
def probe_compute(types: Seq[str], threads: int = 0, tier: str = "", max_bytes: int = 0, seconds: float = 0.5) -> dict[str, Any]: ...
# memory, product: {type: bytes/s}, product_columns: {type: bytes*columns/s}

def solve_plan(gguf: GGUF, /, **options: Any) -> dict[str, Any]: ...  # the options of Engine; opens nothing

class Engine:
    def __init__(
        self,
        gguf: GGUF,
        *,
        max_ram: int = 0,
        fixed_bytes: int = 0,
        io: Literal["auto", "direct", "mmap"] = "auto",
        threads: int = 0,
        tier: str = "",
        n_ctx: int = 0,
        kv_dtype: Literal["f16", "f32"] = "f16",
        ring_bytes: int = 0,
        tile_bytes: int = 0,
        max_rows: int = 0,
        max_pins: int = -1,
        bandwidths: Mapping[str, Any] | None = None,  # disk, block_bytes, depth, memory, product, product_columns
        source: str = "",  # tests: memory/source.h's tampered source
    ) -> None: ...
    hparams: dict[str, Any]  # air_hparams by name
    plan: dict[str, Any]  # air_plan by name, io as str, and "weights": [(name, type, bytes, tiles, pinned_tiles)], "bound": "disk"|"compute"
    def stats(self) -> dict[str, Any]: ...  # air_engine_stats, flattened: pager_disk_bytes …, held_by: {holder: bytes}
    def layer_times(self) -> tuple[list[int], list[int]]: ...  # busy ns, stall ns
    def sequence(self) -> "Sequence": ...
    def run(
        self,
        items: Seq[tuple["Sequence", Buffer, int, Mapping[str, Any] | None, int]],
        *,
        logits: bool = False,
        hidden: bool = False,
        progress: Callable[[int, int, int, int], None] | None = None,  # layers_done, n_layers, passes_done, n_passes; about every 50 ms
    ) -> "Result": ...
    # an item: sequence, int32 tokens to append, want (logits of the last want tokens), sampling or None, n_prompt.
    # sampling: temperature, top_k, top_p, min_p, repetition_penalty, frequency_penalty, presence_penalty, seed
    def cancel(self) -> None: ...  # every call of run now under way or queued raises CancelledError; any thread
    def close(self) -> None: ...  # idempotent
    closed: bool

class Result:
    logits: Array | None  # float32 (sum of want, n_vocab)
    hidden: Array | None
    sampled: list[int]  # one per item, -1 where not asked for
    logprobs: list[float]

class Sequence:
    """One timeline of an Engine: token ids and their state."""

    length: int
    bytes: int
    def tokens(self) -> Array: ...  # int32 (length,), a copy
    def truncate(self, length: int, /) -> None: ...
    def fork(self) -> "Sequence": ...
    def close(self) -> None: ...  # idempotent
