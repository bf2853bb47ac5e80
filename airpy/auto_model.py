"""AutoModel: from a path to an open model."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Literal, TypeVar, Unpack

from airpy import _core
from airpy.calibration import DISK_RATES, PROBE_BYTES, Fresh, Machine, calibrate
from airpy.config import ModelConfig
from airpy.device import CPU, Device, Gpu, find_device
from airpy.errors import ArgumentError, ArgumentTypeError, BudgetError, DeviceError, ModelError, OutOfMemoryError, UnsupportedError
from airpy.files import PathLike, find_model
from airpy.measure import MemoryWatch
from airpy.model import Model
from airpy.planning import Plan
from airpy.progress import Progress, check_progress
from airpy.sizes import check_count, check_flag, check_share, format_size, parse_size, parse_sizes
from airpy.sources import SourceArguments, Wanted, find_source
from airpy.tokenizer import Tokenizer
from airpy.tokenizer.vocab import Vocabulary

_T = TypeVar("_T")
IO = Literal["auto", "direct", "mmap"]
KVType = Literal["f16", "f32", "q8_0", "q4_0"]

# Types of torch's that models compute in, or that texts name, and what of it a model here can do differently: its KV cache's type.
_DTYPES: dict[str, KVType | None] = {"auto": None, "float16": None, "bfloat16": None, "half": None, "float32": "f32", "float": "f32"}


class AutoModel:
    """Opens models; see from_pretrained()."""

    def __init__(self) -> None:
        raise ArgumentTypeError("AutoModel has no instances: AutoModel.from_pretrained(path) opens a model")

    @classmethod
    def from_pretrained(
        cls,
        path: PathLike,
        *,
        device: Any = None,
        max_ram: int | str | None = None,
        max_vram: int | str | Sequence[int | str] | None = None,
        cpu_share: float | None = None,
        io: IO | None = None,
        threads: int | None = None,
        n_ctx: int | None = None,
        kv_dtype: KVType | None = None,
        plan: Plan | Mapping[str, Any] | PathLike | None = None,
        progress: Progress = "auto",
        bandwidths: Mapping[str, Any] | None = None,
        device_map: Any = None,
        dtype: Any = None,
        torch_dtype: Any = None,
        max_seq_len: int | None = None,
        profiling_mode: bool = False,
        prefetching: bool = True,
        **more: Unpack[SourceArguments],
    ) -> Model:
        """A model from a .gguf file (any part of a split one) or a directory with one, whose header alone it waits for; or of safetensors
        in a directory or on Hugging Face's hub ("org/name"), converted once and kept (compression=, … : airpy.sources.SourceArguments).

        device: what computes: "auto", the default: the GPUs there are, else, or where they do not compute all of the model, the CPU, with a
        warning where a GPU cannot be used; "cpu", "cuda", "cuda:1" …, "cuda:0,1" for several together; device_map is the same, as in
        transformers. max_ram: what airpy may add to this process, as bytes or "4GiB"; by default most of what the machine has free.
        max_vram: likewise of a GPU's memory, its driver's part included; weights that it does not hold come from RAM and disk in every
        pass; of several GPUs each one's, or a list. cpu_share: of the weights that no GPU holds, what the CPU computes of generated tokens,
        0 to 1; by default as much as takes no longer than the rest takes to reach the GPU. io: "direct" streams past the page cache, "mmap"
        maps the file, "auto" maps it where all of it fits. threads: as many as this process may use. n_ctx: tokens of prompt and answer
        together; min(trained, 4096), less where max_ram asks; what max_vram does not hold of a longer one that is asked for lies in RAM.
        kv_dtype: of the state, "f16" (encoders: "f32"), "f32", or "q8_0" and "q4_0" in about half and a quarter of the memory of "f16".
        plan: one made before, from the same model, for a CPU or for a GPU (of another kind its sizes stay, its speeds are measured).
        progress: of long passes; True, False, "auto" (a terminal, a notebook) or callable(layers_done, layers, passes_done, passes).
        bandwidths: bytes per second instead of probed ones: disk, memory, product {type: …}; of a GPU link, device, device_product.

        As AirLLM has them: dtype (or torch_dtype): what is computed is float32 always; "float32" keeps the KV cache in it too. max_seq_len:
        n_ctx. profiling_mode: generate() prints its profile(), unless one is being taken. prefetching: weights are always read ahead.

        Raises FileIOError (also for the hub), FormatError, ModelError, UnsupportedError for the file, BudgetError if max_ram is too small
        (saying what would fit) or more than there is, ArgumentError for arguments, which TypeError catches where there is no such argument.
        """
        wanted = Wanted.of(more, check_progress(progress))
        _check_modes(profiling_mode, prefetching)
        context = _one_of_two("n_ctx", n_ctx, "max_seq_len", max_seq_len)
        options = {
            "max_ram": None if max_ram is None else parse_size(max_ram, "max_ram"),
            "max_vram": None if max_vram is None else parse_sizes(max_vram, "max_vram"),
            "cpu_share": check_share("cpu_share", cpu_share),
            "io": _one_of("io", io, ("auto", "direct", "mmap")),
            "threads": check_count("threads", threads, _core.MAX_THREADS),
            "n_ctx": check_count("max_seq_len" if n_ctx is None else "n_ctx", context),
            "kv_dtype": _kv_type(kv_dtype, _one_of_two("dtype", dtype, "torch_dtype", torch_dtype)),
        }
        chosen = find_device("from_pretrained", _one_of_two("device", device, "device_map", device_map))
        with find_source(path, wanted) as file:
            model = open_model(file, options, device=chosen, plan=plan, progress=check_progress(progress), bandwidths=bandwidths)
        model.prints_profile = profiling_mode
        return model


def _check_modes(profiling_mode: Any, prefetching: Any) -> None:
    check_flag("profiling_mode", profiling_mode)
    if not check_flag("prefetching", prefetching):
        warnings.warn("prefetching=False does nothing: weights are always read ahead of the compute", UserWarning, stacklevel=3)


def _one_of_two(name: str, value: Any, alias: str, other: Any) -> Any:
    """One argument under two names. Raises ArgumentError where both are given and differ."""
    if value is not None and other is not None and value != other:
        raise ArgumentError(f"{name} is {value!r} and {alias} {other!r}; leave one of them out")
    return other if value is None else value


def _kv_type(kv_dtype: Any, dtype: Any) -> KVType | None:
    """kv_dtype, or where that is not given what dtype asks for."""
    name = None if dtype is None else str(dtype).removeprefix("torch.")
    if name is not None and name not in _DTYPES:
        raise UnsupportedError(
            f"from_pretrained: dtype={dtype!r} is not supported; what is computed is float32: leave it out, or give one of "
            f"{', '.join(_DTYPES)}"
        )
    chosen: KVType | None = _one_of("kv_dtype", kv_dtype, ("f16", "f32", "q8_0", "q4_0"))
    return _DTYPES[name] if chosen is None and name is not None else chosen


def _one_of(name: str, value: Any, choices: tuple[str, ...]) -> Any:
    """None: by default."""
    if value is not None and not (isinstance(value, str) and value in choices):
        raise ArgumentError(f"{name} is {value!r}; expected {', '.join(choices[:-1])} or {choices[-1]}")
    return value


def cpu_tier() -> str:
    """The cap that AIRPY_CPU puts on the kernels; "" for none. Raises ArgumentError for one that this CPU does not have."""
    tier = os.environ.get("AIRPY_CPU", "")
    if tier not in ("", *_core.TIERS):
        raise ArgumentError(f"AIRPY_CPU is {tier!r}, but what this CPU can run is {', '.join(_core.TIERS)}; choose one of them")
    return tier


def machine_for(
    gguf: _core.GGUF, threads: int, tier: str, max_bytes: int, gpus: tuple[Gpu, ...] = (), *, shares: bool = False,
    disk: str = "",
) -> Machine:
    """What a calibration for this file is kept under; max_bytes is what probes may use, of VRAM where GPUs compute; shares: whether the
    CPU may compute some beside them. disk: a file on the disk that it is to be on, where it is a header in memory."""
    types = tuple(sorted({kind for _, kind, shape, *_ in gguf.tensors if len(shape) > 1}))
    matrices = {name for name, _, _, _, use in _core.FORMATS if use == "matrix"}
    # A small file is read from a cache, so its probes are small as well.
    room = max(1 << 20, min(PROBE_BYTES, max_bytes, gguf.bytes))
    return Machine(disk or gguf.paths[0], tuple(kind for kind in types if kind in matrices), threads, tier, room, gpus, shares)


def budget_within_reach(max_ram: int, held: int) -> int:
    """max_ram, or the machine's default for 0. Raises BudgetError where the machine, or what bounds this process, has less: it would
    end in the process being killed. held: bytes of max_ram that are in use already."""
    info = _core.memory_info()
    if not max_ram:
        return info["default_budget"]
    if max_ram <= info["room"] + held:
        return max_ram
    limit, room = info["cgroup_limit"], format_size(info["room"] + held)
    if info["room"] == info["address_space"]:
        where = f"the limit on address space (ulimit -v) leaves this process {room}"
    elif limit != -1 and max(0, limit - info["cgroup_usage"]) < info["available"]:
        where = f"the memory cgroup of this process has {room} left of {format_size(limit)}"
    else:
        where = f"this machine has {room} free"
    default = info["default_budget"]
    advice = f"lower max_ram to {format_size(default)} or leave it out" if default >= 1 << 20 else "free some"
    raise BudgetError(f"max_ram {format_size(max_ram)} (--max-ram) is more than there is: {where}; {advice}")


@contextmanager
def advice_under(plan: object) -> Iterator[None]:
    """Adds to what a BudgetError advises how to follow it where a plan fixes all that is named."""
    try:
        yield
    except BudgetError as error:
        if plan is None:
            raise
        raise BudgetError(f"{error}, in a new plan") from None


def _computes_as(options: Mapping[str, Any], gpus: Sequence[Mapping[str, Any]]) -> tuple[Any, ...]:
    """What rates of compute belong to: threads and kernels, or kinds of GPUs."""
    if gpus:
        return tuple((gpu["name"], gpu["capability"]) for gpu in gpus)
    cpu = _core.cpu_info()
    return options["threads"] or cpu["threads"], options["tier"] or cpu["tier"]


def _options_of(plan: Plan, gguf: _core.GGUF, gpus: Sequence[Gpu]) -> dict[str, Any]:
    """The engine's, from a plan. Raises ArgumentError where something of another sort computes than it is for."""
    if plan.on_device and not gpus:
        raise ArgumentError(f"the plan is for {plan.device_name}, but the CPU computes; choose device 'cuda', or make a new plan")
    if gpus and not plan.on_device:
        raise ArgumentError(f"the plan is for a CPU, but {gpus[0].name} computes; choose device 'cpu', or make a new plan")
    return plan.engine_options(gguf)


def _probe_bytes(options: Mapping[str, Any], budget: int, gpus: Sequence[Gpu]) -> int:
    """What probes may use of the memory of what computes, half of which they leave alone."""
    if not gpus:
        return budget // 2
    return max(0, (_vram(options, gpus)[0] - _core.DEVICE_CONTEXT) // 4)


def _vram(options: Mapping[str, Any], gpus: Sequence[Gpu]) -> tuple[int, ...]:
    """Of each GPU."""
    given = options["max_vram"]
    return given if isinstance(given, tuple) else tuple(given or gpu.free + _core.DEVICE_CONTEXT for gpu in gpus)


def engine_options(
    gguf: _core.GGUF,
    given: Mapping[str, Any],
    plan: Plan | None,
    bandwidths: Mapping[str, Any] | None,
    fresh: Fresh,
    held: int = 0,
    gpus: tuple[Gpu, ...] = (),
    disk: str = "",
) -> tuple[dict[str, Any], Machine]:
    """The engine's options from what was asked for, a plan and calibrations (fresh: probed now, whatever is kept or in the plan);
    and what these belong to. A plan for another kind of CPU or GPU is solved again, with the sizes that it has, under this one's rates.
    held: bytes of max_ram in use. gpus: what computes; none: the CPU. disk: as machine_for() has it."""
    planned = None  # what the plan's rates of compute belong to
    if plan is None:
        defaults: dict[str, Any] = {
            "max_ram": 0, "max_vram": 0, "cpu_share": None, "io": "auto", "threads": 0, "n_ctx": 0, "kv_dtype": "",
        }  # fmt: skip
        options: dict[str, Any] = {name: default if given.get(name) is None else given[name] for name, default in defaults.items()}
        options["tier"] = cpu_tier()
    else:
        options = _options_of(plan, gguf, gpus)
        planned = _computes_as(options, plan.devices)
        options["tier"] = cpu_tier() or options["tier"]
        for name, value in given.items():
            if value is not None and options[name] not in (0, None, "", value):
                raise ArgumentError(f"{name} is {value!r}, but the plan was made for {options[name]!r}; leave one of them out")
        options |= {name: value for name, value in given.items() if value is not None}
    with advice_under(plan):
        budget = budget_within_reach(options["max_ram"], held)
    holds = sum(max(0, vram - _core.DEVICE_CONTEXT) for vram in _vram(options, gpus))
    shares = bool(gpus) and options["cpu_share"] != 0 and gguf.bytes > holds
    machine = machine_for(gguf, options["threads"], options["tier"], _probe_bytes(options, budget, gpus), gpus, shares=shares, disk=disk)
    if plan is not None and bandwidths is not None:
        raise ArgumentError("bandwidths and plan exclude each other: a plan brings its own")
    if plan is None or fresh:
        options["bandwidths"] = calibrate(machine, bandwidths, fresh=fresh)
    elif planned != _computes_as(options, [gpu.kind for gpu in gpus]):
        options["bandwidths"] = calibrate(machine, {name: rate for name, rate in options["bandwidths"].items() if name in DISK_RATES})
    return options, machine


def check_shares(computes: bool, given: Mapping[str, Any]) -> None:
    """Raises ArgumentError for a cpu_share where no GPU computes. None is the default."""
    if not computes and given.get("cpu_share") is not None:
        raise ArgumentError("cpu_share is the CPU's part beside a GPU, but here it computes alone; choose device 'cuda', or leave it out")


def check_vram(device: Device, given: Mapping[str, Any]) -> None:
    """Raises ArgumentError for a max_vram or a cpu_share, asked for or a plan's, that is nobody's. 0 is the default of the first."""
    check_shares(device.kind != "cpu", given)
    if device.kind == "cpu" and given.get("max_vram"):
        why = f" ({device.problem})" if device.problem else ""
        raise ArgumentError(f"max_vram is a GPU's memory, but the CPU computes{why}; choose device 'cuda', or leave max_vram out")
    if isinstance(given.get("max_vram"), tuple) and len(given["max_vram"]) != len(device.numbers):
        raise ArgumentError(f"max_vram names {len(given['max_vram'])} memories, but {device} has {len(device.numbers)}")


INTERPRETER_BYTES = 512 << 10  # what Python's heap grows by beside that: 0.1 to 0.6 MiB, by how full it was


def device_of_plan(device: Device, plan: Plan | None) -> Device:
    """The device; where it was found, not named, what of it the plan is for."""
    if plan is None or not (device.automatic or device.problem):
        return device
    return replace(device, numbers=device.numbers[: plan.n_devices]) if plan.on_device else CPU


def on_what_can(device: Device, given: Mapping[str, Any], do: Callable[[Device], _T], *, stacklevel: int = 4) -> _T:
    """do(device); where GPUs were found, not named, and neither max_vram nor cpu_share asks for one, but it cannot be done there, do(CPU).
    Warns then, and where that is so from the start, with the reason: at whoever called who called this, by default."""
    problem = device.problem
    try:
        done = do(device)
    except (BudgetError, OutOfMemoryError, DeviceError, UnsupportedError) as error:
        if not (device.automatic and device.kind != "cpu") or given.get("max_vram") or given.get("cpu_share") is not None:
            raise
        problem = str(error)
        done = do(CPU)
    if problem:
        warnings.warn(f"the CPU computes: {problem}", UserWarning, stacklevel=stacklevel)
    return done


def open_model(
    path: PathLike,
    given: Mapping[str, Any],
    *,
    device: Device = CPU,
    plan: Plan | Mapping[str, Any] | PathLike | None = None,
    progress: Progress = "auto",
    bandwidths: Mapping[str, Any] | None = None,
    fresh: Fresh = "",
    source: str = "",
    settle: Callable[[_core.GGUF, dict[str, Any]], None] | None = None,
) -> Model:
    """from_pretrained() with checked arguments. fresh: probe bandwidths anew. source: a slow or faulty disk, for tests. settle: may
    change the engine's options once all that a plan depends on is known."""
    chosen = None if plan is None else Plan.of(plan)

    def opened(device: Device) -> Model:
        return _open_on(device, path, given, chosen, progress, bandwidths, fresh, source, settle)

    return on_what_can(device_of_plan(device, chosen), given, opened)


def _open_on(
    device: Device,
    path: PathLike,
    given: Mapping[str, Any],
    plan: Plan | None,
    progress: Progress,
    bandwidths: Mapping[str, Any] | None,
    fresh: Fresh,
    source: str,
    settle: Callable[[_core.GGUF, dict[str, Any]], None] | None,
) -> Model:
    """open_model() on what computes."""
    # Before memory is watched: these bring libraries, which are not the model's. planning hashes with the first.
    import hashlib  # noqa: F401

    from airpy.tokenizer.build import memory_bytes

    check_vram(device, given)
    with ExitStack() as undo:
        memory = MemoryWatch()
        undo.callback(memory.end)
        file = os.path.abspath(find_model(path))  # it is looked at again later, wherever this process may be by then
        # The metadata, large by its vocabulary, is in this first reading only: it goes with it.
        parts, metadata = _read_metadata(file)
        gguf = _core.GGUF(file)
        device = device.that_runs(gguf)
        check_vram(device, given)
        gpus = device.gpus()
        # By their own sizes: what the process has more of now than before may be anybody's.
        fixed = memory_bytes(parts[0]) + gguf.held_bytes + INTERPRETER_BYTES
        options, machine = engine_options(gguf, given, plan, bandwidths, fresh, fixed, gpus)
        check_vram(device, options)
        options["fixed_bytes"] = fixed
        options |= device.engine_options()
        if settle is not None:
            settle(gguf, options)
        with advice_under(plan):
            engine = _core.Engine(gguf, source=source, **options)
        undo.callback(engine.close)
        tokenizer = Tokenizer(*parts)  # meanwhile the engine reads ahead
        if len(tokenizer) > engine.hparams["n_vocab"]:
            raise ModelError(f"{file}: {len(tokenizer)} tokens in the vocabulary, {engine.hparams['n_vocab']} in the model")
        config = ModelConfig.build(engine.hparams, metadata, tokenizer)
        model = Model(
            engine, gguf, tokenizer, config, device=device, metadata=metadata, options=options, memory=memory,
            machine=None if bandwidths or source else machine, gpus=gpus, progress=progress,
        )  # fmt: skip
        undo.pop_all()
        return model


def _read_metadata(file: str) -> tuple[tuple[Vocabulary, dict[str, str], int], dict[str, Any]]:
    """What the tokenizer is made of, and what else is short."""
    metadata = _core.GGUF(file).metadata
    short = {
        key: value for key, value in metadata.items() if isinstance(value, (str, int, float)) and not key.startswith("tokenizer.")
    }
    return Tokenizer.parts(metadata), short
