"""The C engine. Hand-written CPython extension; airpy's facade is the public face of it.

Errors are the classes of airpy.errors, created here from one table. Objects may be shared between threads; a Sequence used by two
threads at once, used after close, or used in a forked child raises StateError. Every blocking call releases the GIL, looks for
signals at least every 50 ms and ends within 250 ms of Ctrl-C, leaving the engine usable.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, final

from typing_extensions import Buffer

VERSION: str
FORMATS: tuple[tuple[str, int, int, int, str], ...]  # name, id, elements per block, bytes per block, "matrix" | "storage"
ARCHITECTURES: tuple[str, ...]
MAX_THREADS: int
MAX_DEVICES: int  # that compute one model together
DEVICE_CONTEXT: int  # bytes that a plan counts for CUDA itself of a device's memory, where nobody measured, and of the host's
DEVICE_HOST_CONTEXT: int
ENCODERS: tuple[str, ...]  # the types that convert() writes
EVENT_KINDS: tuple[str, ...]  # csrc/platform/events.def, which says what each has; the first is none
TIERS: tuple[str, ...]  # kernel tiers this machine can run, worst first: ("ref", "avx2", …) or ("ref", "neon", …)

# One class per row of csrc/base/status.def.
class AirpyError(Exception): ...
class OutOfMemoryError(AirpyError, MemoryError): ...
class BudgetError(AirpyError, MemoryError): ...
class FileIOError(AirpyError, OSError): ...
class FileChangedError(AirpyError, OSError): ...
class FormatError(AirpyError, ValueError): ...
class UnsupportedError(AirpyError, NotImplementedError): ...
class ModelError(AirpyError, ValueError): ...
class ArgumentError(AirpyError, ValueError): ...
class ContextOverflowError(AirpyError, ValueError): ...
class CancelledError(AirpyError, RuntimeError): ...
class StateError(AirpyError, RuntimeError): ...
class ThreadError(AirpyError, RuntimeError): ...
class DeviceError(AirpyError, RuntimeError): ...
class NumericError(AirpyError, ArithmeticError): ...

def dequantize(type: str | int, data: Buffer, /) -> Array: ...  # float32 (elements,)
def convert(source: str | int, target: str | int, data: Buffer, first: int = 0, /) -> Array: ...  # bytes of target's blocks
# first: the number of the first element, for messages. NumericError for what is not finite, or too large for the target.
def memory_info() -> dict[str, int]: ...
# total, available, cgroup_limit (-1: none), cgroup_usage, process_anonymous, room, default_budget
def cpu_info() -> dict[str, Any]: ...  # name, threads, features: list[str], tier: the best of TIERS
def device_count(plugin: str, /) -> int: ...  # touches none of them
def device_info(plugin: str, device: int, /) -> dict[str, Any]: ...
# name, id, total, free (bytes), capability: (major, minor), processors, driver
def check_device(plugin: str, gguf: GGUF, /) -> None: ...  # UnsupportedError where it does not run the model
def file_identity(path: str | os.PathLike[str], /) -> int: ...

# Tests: base/alloc.h's fault injection
def alloc_fail_at(n: int, /) -> None: ...
def alloc_failed() -> bool: ...
def alloc_live() -> int: ...

@final
class Array:
    """C-contiguous memory with the buffer protocol: np.asarray(a) shares it and keeps it alive. Read-only, but for what a Result
    shows, and floats()."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class GGUF:
    """The header of a GGUF file or split set. Reads headers only."""

    def __new__(cls, path: str | os.PathLike[str]) -> GGUF: ...
    @property
    def version(self) -> int: ...
    @property
    def alignment(self) -> int: ...
    @property
    def paths(self) -> list[str]: ...
    @property
    def bytes(self) -> int: ...  # of all parts
    @property
    def held_bytes(self) -> int: ...  # of memory, by the header alone: metadata comes on top once it was asked for
    @property
    def metadata(self) -> Mapping[str, Any]: ...  # read-only, made on first use
    # values: str (surrogateescape), int, float, bool, Array (numeric arrays), list (of str, of arrays)
    @property
    def types(self) -> dict[str, tuple[str, str | None]]: ...  # of metadata: "u32" …, "string", "array", and of an array's elements
    @property
    def tensors(self) -> list[tuple[str, str, tuple[int, ...], int, int, int]]: ...
    # name, type, shape (contiguous axis first), part, offset, bytes

def probe_disk(path: str | os.PathLike[str], seconds: float = 0.5, source: str = "") -> dict[str, Any]: ...
# disk (bytes/s), block_bytes, depth, latency_s (of a small read by itself, beside its bytes)
def probe_compute(
    types: Iterable[str | int], threads: int = 0, tier: str = "", max_bytes: int = 0, seconds: float = 0.5
) -> dict[str, Any]: ...
# memory, op_s (of an op beside its bytes), product: {type: bytes/s}, product_columns: {type: bytes*columns/s}
# max_bytes 0: 512 MiB
def probe_device(
    plugin: str, device: int, types: Iterable[str | int] = (), max_bytes: int = 0, seconds: float = 0.4
) -> dict[str, Any]: ...
# link, link_back, device (its memory), device_op_s, handover_s, device_product, device_product_columns, device_context (bytes)
# max_bytes of its memory, 0: 256 MiB
def probe_links(plugin: str, devices: tuple[int, ...], max_bytes: int = 0, seconds: float = 0.2) -> list[float]: ...
# bytes/s of copies to each while all are busy; max_bytes of each one's memory, 0: 32 MiB

def solve_plan(gguf: GGUF, /, **options: Any) -> dict[str, Any]: ...  # the options of Engine; opens nothing, needs no device

@final
class Engine:
    def __new__(
        cls,
        gguf: GGUF,
        /,
        *,
        max_ram: int = 0,
        fixed_bytes: int = 0,
        max_vram: int | tuple[int, ...] = 0,  # of each device, or each device's
        io: Literal["auto", "direct", "mmap"] = "auto",
        threads: int = 0,
        tier: str = "",
        n_ctx: int = 0,
        kv_dtype: Literal["", "f16", "f32", "q8_0", "q4_0"] = "",  # "": f16, or f32 where the model is bidirectional
        ring_bytes: int = 0,
        tile_bytes: int = 0,
        max_rows: int = 0,
        max_pins: int = -1,
        lookahead: bool = True,
        bandwidths: Mapping[str, Any] | None = None,  # fields of air_bandwidths; product and those of its kind {type: rate}; of the first
        # device as probe_device has them, of others in "helpers": [{…}, …]; what differs for who computes what in "deciding": {…}
        plugin: str = "",  # path of a backend's plugin; "": the CPU computes
        device: int | tuple[int, ...] = 0,  # which of its devices
        cpu_share: float | None = None,  # of products beside devices: 0 to 1; None: chosen
        source: str = "",  # tests: memory/source.h's tampered source
    ) -> Engine: ...
    @property
    def hparams(self) -> dict[str, Any]: ...  # air_hparams by name
    @property
    def plan(self) -> dict[str, Any]: ...
    # air_plan by name, io and bound as str, "weights": [(name, type, bytes, tiles, pinned_tiles, device_tiles)]; vectors are left out,
    # a table that is only gathered by row has no tiles
    def stats(self) -> dict[str, Any]: ...  # air_engine_stats, flattened: pager_disk_bytes …, held_by: {holder: bytes}
    def layer_times(self) -> tuple[list[int], list[int]]: ...  # busy ns, stall ns, of the last pass
    def expert_rows(self) -> list[list[int]]: ...  # of each layer, rows sent to each expert since open; [] where it has none
    def budget_for(self, sequences: int, blocks: int, rows: int, wanted: int, /) -> int: ...
    # a max_ram for such passes, in bytes; 0: none is known
    def sequence(self) -> Sequence: ...
    def adapter(self, matrices: Iterable[tuple[str, int, int, int]], /) -> Adapter: ...
    # (name of a tensor, rank, rows, cols): all zeros, to be set. Counted against the budget, to which weights give way, while it lives.
    def floats(self, rows: int, cols: int, /) -> Array: ...
    # float32 (rows, cols), zeros, writable. Counted against the budget, to which weights give way, while it or what shows it lives.
    def run(
        self,
        items: Iterable[tuple[Sequence, Buffer, int, Mapping[str, Any] | None, int] | tuple[Sequence, Buffer, int, None, int, int]],
        *,
        logits: bool = False,
        hidden: bool = False,
        progress: Callable[[int, int, int, int], None] | None = None,
    ) -> Result: ...
    # progress: (layers_done, n_layers, passes_done, n_passes), about every 50 ms; what it raises ends the call.
    # an item: sequence, int32 tokens to append, want (logits of the last want tokens), sampling or None, n_prompt, n_first (tokens of
    # the first of two texts; 0: there is one).
    # sampling: temperature, top_k, top_p, min_p, repetition_penalty, frequency_penalty, presence_penalty, seed
    # logits, hidden: whether Result shows them; their memory counts against the budget until Result and its arrays are gone.
    def walk(self) -> Result: ...  # a pass with compute left out, for its cost: what bounds a pass that streams
    def sample(self, logits: Buffer, n: int, sampling: Mapping[str, Any], /) -> int: ...  # float32 (n_vocab,), all finite
    # the token that run would draw for a sequence of n tokens from these logits; penalties are the caller's and ignored here
    def timeline_begin(self, max_events: int, /) -> None: ...  # 40 bytes each, of max_ram; one at a time, else StateError
    def timeline_stop(self) -> tuple[Array, dict[str, int]]: ...
    # bytes of air_event (csrc/platform/timeline.h), each lane's in the order that they ended in; begin_ns, end_ns (of time.monotonic_ns),
    # disk_bytes, ram_bytes, stall_ns, read_ns: what came to stats() meanwhile; dropped. Waits for the pass under way.
    @property
    def weight_names(self) -> tuple[str, ...]: ...  # by the numbers that events have
    def cancel(self) -> None: ...  # every call of run now under way or queued raises CancelledError; any thread
    def close(self) -> None: ...  # idempotent; cancels what runs, frees sequences' state; results stay valid
    @property
    def closed(self) -> bool: ...

@final
class Result:
    @property
    def logits(self) -> Array | None: ...  # float32 (sum of want, n_vocab)
    @property
    def hidden(self) -> Array | None: ...  # float32 (sum of want, n_embd)
    @property
    def sampled(self) -> list[int]: ...  # one per item, -1 where not asked for
    @property
    def logprobs(self) -> list[float]: ...
    @property
    def cost(self) -> tuple[int, int, int, int, int, float]: ...
    # passes, pass_ns, disk_bytes, ram_bytes, stall_ns, predicted_s: sums over this call's passes

@final
class Sequence:
    """One timeline of an Engine: token ids and their state."""

    @property
    def length(self) -> int: ...
    @property
    def adapted(self) -> tuple[Adapter, float] | None: ...
    @property
    def bytes(self) -> int: ...
    @property
    def host_bytes(self) -> int: ...
    def tokens(self) -> Array: ...  # int32 (length,), a copy
    def truncate(self, length: int, /) -> None: ...  # may forget more where layers are recurrent: down to reach(length)
    def reach(self, length: int, /) -> int: ...
    def repeat(self, n: int, /) -> None: ...
    def fork(self) -> Sequence: ...
    def adapt(self, adapter: Adapter | None, scale: float = 1.0, /) -> None: ...  # of an empty one: what it and its forks have
    def close(self) -> None: ...  # idempotent

@final
class Adapter:
    """Low-rank additions to some weights of an Engine's model, W + scale b a; lives as long as a sequence has it."""

    def set(self, i: int, a: Buffer, b: Buffer, /) -> None: ...
    # matrix number i: float32 a (rank, cols), b (rows, rank); StateError once a sequence has the adapter
    @property
    def device_bytes(self) -> int: ...  # of max_vram; 0 where the CPU computes
    @property
    def bytes(self) -> int: ...
