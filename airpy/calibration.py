"""The machine's bandwidths: probed once, kept, and corrected by what runs achieve.

One small JSON file per disk, per CPU and way of using it, per GPU and per set of GPUs, under $AIRPY_CACHE_DIR, else $XDG_CACHE_HOME/airpy,
else ~/.cache/airpy. A file that is missing, damaged or not writable costs a new probe, never an error, as does a home that is not known.
It keeps the rates, which runs correct and plans predict with, and beside them what was probed first ("probed"): who computes what, of
several devices and the CPU, is decided by that, so that what runs teach changes no bits. `airpy plan --probe` decides anew.

AIRPY_BANDWIDTHS, a JSON object or the path of a file with one, and the argument bandwidths= stand above all: what they name is not
probed.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from airpy import _core
from airpy.device import Gpu, cuda_plugin
from airpy.errors import AirpyError, ArgumentError
from airpy.sizes import parse_size

# disk, block_bytes, depth, latency_s, memory, op_s, product {type: B/s}, product_columns {type: B·columns/s}; of a device link, link_back,
# link_together (while all devices' are busy), device (its memory), device_op_s, handover_s, device_product, device_product_columns,
# device_context (bytes); helpers [{the same} of each device beside the first]; deciding {those of them that differ for who computes what}
Rates = dict[str, Any]
Fresh = Literal["", "rates", "decisions"]  # measured now, whatever is kept; "decisions": who computes what is decided anew by it as well

PROBE_BYTES = 512 << 20  # several times the last cache of most machines
DISK_SECONDS, COMPUTE_SECONDS, GPU_SECONDS, LINKS_SECONDS = 0.3, 0.4, 0.4, 0.2
GPU_PROBE_BYTES = 256 << 20  # of VRAM
# From and to, besides 0 for what is not known: what the engine takes, and what gives times that a plan can name.
_RATE = (1.0, 1e18, "bytes per second")
_RANGES = {
    "block_bytes": (1, 1 << 40, "bytes"), "depth": (1, 1024, "reads in flight"), "latency_s": (0.0, 1e3, "s"), "op_s": (0.0, 1e3, "s"),
    "device_op_s": (0.0, 1e3, "s"), "handover_s": (0.0, 1e3, "s"), "device_context": (1, 1 << 40, "bytes"),
}  # fmt: skip
DISK_RATES = ("disk", "block_bytes", "depth", "latency_s")
_TABLES = ("product", "product_columns", "device_product", "device_product_columns")
_WHOLE = ("block_bytes", "depth", "device_context")
_DEVICE_KEYS = (
    "link", "link_back", "link_together", "device", "device_op_s", "handover_s", "device_context", "device_product",
    "device_product_columns",
)  # fmt: skip
_KEYS = (*DISK_RATES, "memory", "op_s", "product", "product_columns", *_DEVICE_KEYS)
_LEARN = 0.3  # weight of what a run has just achieved
_LEARN_SLOWER = 0.05  # of compute that took longer than predicted: others were at work, or it was attention, which is not predicted
_LEARN_BYTES, _LEARN_SECONDS = 64 << 20, 0.25  # shorter passes say little about a disk


@dataclass(frozen=True)
class Machine:
    """What the figures of a calibration belong to."""

    path: str
    types: tuple[str, ...]
    threads: int
    tier: str
    max_bytes: int
    gpus: tuple[Gpu, ...] = ()  # which compute then, and not the CPU,
    shares: bool = False  # unless that may compute a share beside them

    @property
    def disk_key(self) -> str:
        return f"disk {_device(self.path)}"

    @property
    def compute_key(self) -> str:
        cpu = _core.cpu_info()
        threads = self.threads or cpu["threads"]
        # What fits a cache is faster than memory: probes over buffers of different magnitude are different things.
        return f"cpu {cpu['name']} {threads} {self.tier or cpu['tier']} {self.max_bytes.bit_length()}"

    @property
    def gpu_bytes(self) -> int:
        """Of VRAM, for probes."""
        return min(self.max_bytes, GPU_PROBE_BYTES)

    @property
    def gpu_keys(self) -> list[str]:
        return [f"{gpu.key} {self.gpu_bytes.bit_length()}" for gpu in self.gpus]

    @property
    def links_key(self) -> str:
        return f"links {' '.join(gpu.key for gpu in self.gpus)}"


def _device(path: str) -> str:
    """The file system a file lies on: what was mounted, its kind and number."""
    try:
        number = os.stat(path).st_dev
        wanted = f"{os.major(number)}:{os.minor(number)}"
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            for line in mounts:
                before, _, after = line.partition(" - ")
                if before.split()[2] == wanted:
                    kind, source = after.split()[:2]
                    return f"{source} {kind} {wanted}"
        return wanted
    except (OSError, IndexError, ValueError):
        return "unknown"


def cache_dir() -> str | None:
    """Where calibrations are kept, which may not exist; None: nowhere."""
    if chosen := os.environ.get("AIRPY_CACHE_DIR"):
        return chosen
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # "should consider the path invalid and ignore it", says the XDG base directory specification
        base = os.path.join(os.path.expanduser("~"), ".cache")
    # Still "~" for a user without a home, and as relative as HOME is: the current directory is no place for a cache.
    return os.path.join(base, "airpy") if os.path.isabs(base) else None


def _file(key: str) -> str | None:
    """The key is in the file, too: two that share one cost each other a probe."""
    name = f"{key.partition(' ')[0]}-{zlib.crc32(key.encode('utf-8', 'replace')):08x}.json"
    return None if (folder := cache_dir()) is None else os.path.join(folder, name)


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def _load(key: str, what: Literal["rates", "probed"] = "rates") -> Rates:
    if (file := _file(key)) is None:
        return {}
    try:
        stored = json.loads(_read(file))
        return check_rates(stored[what]) if stored["key"] == key else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # ArgumentError is a ValueError
        return {}


def _store(key: str, rates: Rates, probed: Rates | None = None) -> None:
    """probed: None keeps what there is, or else the rates there are, which nothing has corrected yet."""
    if (target := _file(key)) is None:
        return
    if probed is None:
        probed = _load(key, "probed") or _load(key) or rates
    import tempfile  # here: it takes longer than most starts have to store anything

    folder = os.path.dirname(target)
    with contextlib.suppress(OSError):
        os.makedirs(folder, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=".calibration-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as out:
                json.dump({"key": key, "rates": rates, "probed": probed}, out)
            os.replace(temporary, target)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _number(name: str, value: Any) -> float:
    least, most, unit = _RANGES.get(name, _RATE)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (value == 0 or least <= value <= most):  # nor NaN
        raise ArgumentError(f"bandwidths: {name} is {value!r}; expected {least:g} to {most:g} {unit}, or 0 where it is not known")
    return float(value)


def _products(name: str, rates: Any) -> dict[str, float]:
    if not isinstance(rates, Mapping):
        raise ArgumentError(f"bandwidths: {name} is {rates!r}; expected a rate for each type")
    if unknown := rates.keys() - {kind for kind, *_ in _core.FORMATS}:
        raise ArgumentError(f"bandwidths: {name} has {min(map(repr, unknown))}, which is no type of tensors")
    return {kind: _number(f"{name}[{kind}]", rate) for kind, rate in rates.items()}


def _helpers(rates: Any) -> list[Rates]:
    if not isinstance(rates, (list, tuple)) or len(rates) >= _core.MAX_DEVICES:
        raise ArgumentError(f"bandwidths: helpers is {rates!r}; expected a list of rates of {_core.MAX_DEVICES - 1} devices at most")
    return [check_rates(each, _DEVICE_KEYS) for each in rates]


def check_rates(rates: Any, known: tuple[str, ...] = (*_KEYS, "helpers", "deciding")) -> Rates:
    """A copy of rates with nothing but known keys and sane values. Raises ArgumentError naming what is wrong."""
    if not isinstance(rates, Mapping):
        raise ArgumentError(f"bandwidths are {type(rates).__name__}; expected an object with some of {', '.join(known)}")
    checked: Rates = {}
    for name, value in rates.items():
        if name not in known:
            raise ArgumentError(f"bandwidths: unknown {name!r}; known are {', '.join(known)}")
        if name == "helpers":
            checked[name] = _helpers(value)
        elif name == "deciding":
            checked[name] = check_rates(value, (*_KEYS, "helpers"))
        elif name in _TABLES:
            checked[name] = _products(name, value)
        else:
            checked[name] = int(_number(name, value)) if name in _WHOLE else _number(name, value)
    return checked


def _figure(name: str, value: str) -> float | int:
    if name not in _RANGES or name in ("block_bytes", "device_context"):
        return parse_size(value.removesuffix("/s"), name)
    try:
        return float(value)
    except ValueError:
        raise ArgumentError(f"bandwidths: {name} is {value!r}; expected a number") from None


def parse_rates(text: str) -> Rates:
    """Of a text such as "disk=3GB/s,link=25GB/s,device=900GB/s,device_op_s=5e-6"; of several devices "link=25GB/s+12GB/s", which are else
    as the first. Raises ArgumentError."""
    rates: Rates = {}
    others: list[Rates] = []
    for item in text.split(","):
        name, _, value = (part.strip() for part in item.partition("="))
        if name in _TABLES or name not in _KEYS:
            raise ArgumentError(f"bandwidths {item!r} should be one of {', '.join(k for k in _KEYS if k not in _TABLES)}, = and a figure")
        first, *rest = value.split("+") if name in _DEVICE_KEYS else [value]
        rates[name] = _figure(name, first)
        others += [{} for _ in range(len(rest) - len(others))]
        for other, figure in zip(others, rest, strict=False):
            other[name] = _figure(name, figure)
    if others:
        first_one = {name: rate for name, rate in rates.items() if name in _DEVICE_KEYS}
        rates["helpers"] = [first_one | other for other in others]
    return check_rates(rates)


def given_rates(bandwidths: Mapping[str, Any] | None) -> Rates:
    """What the environment and then the caller say."""
    rates: Rates = {}
    if text := os.environ.get("AIRPY_BANDWIDTHS"):
        try:
            data = json.loads(text if text.lstrip().startswith("{") else _read(text))
        except OSError as error:
            raise ArgumentError(f"AIRPY_BANDWIDTHS is {text!r}, neither JSON nor a file with it: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise ArgumentError(f"AIRPY_BANDWIDTHS is no JSON: {error}") from None
        rates = check_rates(data)
    return rates | check_rates(bandwidths or {})


def probe_disk(path: str, seconds: float = DISK_SECONDS) -> Rates:
    """{disk, block_bytes, depth, latency_s} of the file's disk, or {} where it cannot be read that way."""
    try:
        return dict(_core.probe_disk(path, seconds))
    except AirpyError:
        return {}  # opening the model will say what is wrong with the file


def probe_compute(machine: Machine, seconds: float = COMPUTE_SECONDS) -> Rates:
    """{memory, op_s, product, product_columns} of the machine's threads, in at most machine.max_bytes of memory."""
    try:
        return dict(_core.probe_compute(list(machine.types), machine.threads, machine.tier, machine.max_bytes, seconds))
    except AirpyError:
        return {}


def probe_gpu(machine: Machine, which: int = 0, seconds: float = GPU_SECONDS) -> Rates:
    """{link, link_back, device, device_op_s, handover_s, device_product, device_product_columns, device_context} of one of the machine's
    GPUs, in at most machine.gpu_bytes of its memory. Raises AirpyError where it cannot be measured."""
    return check_rates(_core.probe_device(cuda_plugin(), machine.gpus[which].number, list(machine.types), machine.gpu_bytes, seconds))


def probe_links(machine: Machine, seconds: float = LINKS_SECONDS) -> Rates:
    """{link_together, helpers [{link_together}]} of the machine's GPUs, while all are copied to. Raises as probe_gpu() does."""
    return check_rates(_links(_core.probe_links(cuda_plugin(), tuple(gpu.number for gpu in machine.gpus), 0, seconds)))


def _links(rates: list[float]) -> Rates:
    """As bandwidths have those of several devices."""
    first, *others = ({"link_together": rate} for rate in rates)
    return first | {"helpers": others}


def _lacks_types(rates: Rates, types: Iterable[str]) -> bool:
    return not rates.get("memory") or not set(types) <= rates.get("product", {}).keys()


def _with_types(kept: Rates, probed: Rates, *tables: str) -> Rates:
    """What was probed; types of other models stay known."""
    return probed | {name: {**kept.get(name, {}), **probed.get(name, {})} for name in tables}


def _keep(key: str, rates: Rates, probed: Rates, fresh: Fresh, *tables: str) -> None:
    """Stores rates, and of what was probed now all, or what was never probed before."""
    before = {} if fresh == "decisions" else _load(key, "probed")
    _store(key, rates, _with_types(probed, {**probed, **before}, *tables))


def _disk_rates(machine: Machine, fresh: Fresh) -> Rates:
    disk = {} if fresh else _load(machine.disk_key)
    if not disk and (disk := probe_disk(machine.path)):
        _keep(machine.disk_key, disk, disk, fresh)
    return disk


def _compute_rates(machine: Machine, fresh: Fresh) -> Rates:
    compute = {} if fresh else _load(machine.compute_key)
    if (_lacks_types(compute, machine.types) or "op_s" not in compute) and (probed := probe_compute(machine)):
        compute = _with_types(compute, probed, "product", "product_columns")
        _keep(machine.compute_key, compute, probed, fresh, "product", "product_columns")
    return compute


def measure_gpu(machine: Machine, which: int = 0, *, fresh: Fresh = "rates") -> Rates:
    """Of one of the machine's GPUs, measured now, and kept. Raises as probe_gpu() does."""
    key = machine.gpu_keys[which]
    kept, probed = _load(key), probe_gpu(machine, which)
    rates = _with_types(kept, probed, "device_product", "device_product_columns")
    # Others' memory may be in it, and a model that is open hides it. It decides what VRAM holds, and so whose the rest is.
    contexts = [found for found in (kept.get("device_context"), probed.get("device_context")) if found]
    rates["device_context"] = min(contexts, default=0) if fresh == "decisions" else next(iter(contexts), 0)
    _keep(key, rates, probed, fresh, "device_product", "device_product_columns")
    return rates


def gpu_rates(machine: Machine, which: int = 0, *, fresh: Fresh = "") -> Rates:
    """Of one of the machine's GPUs: kept ones, unless `fresh` or a type is not known, else measured ones, where it can be."""
    kept = _load(machine.gpu_keys[which])
    if kept.get("link") and kept.get("device") and set(machine.types) <= kept.get("device_product", {}).keys() and not fresh:
        return kept
    with contextlib.suppress(AirpyError):  # opening the model will say what is wrong with the device
        return measure_gpu(machine, which, fresh=fresh)
    return kept


def measure_links(machine: Machine, *, fresh: Fresh = "rates") -> Rates:
    """Of the links to the machine's GPUs while all are busy, measured now, and kept. Raises as probe_links() does."""
    probed = probe_links(machine)
    _keep(machine.links_key, probed, probed, fresh)
    return probed


def links_rates(machine: Machine, *, fresh: Fresh = "") -> Rates:
    """Of the links to the machine's GPUs while all are busy, where there are several: kept or measured, as gpu_rates() are."""
    if len(machine.gpus) < 2:
        return {}
    kept = _load(machine.links_key)
    if kept and not fresh:
        return kept
    with contextlib.suppress(AirpyError):
        return measure_links(machine, fresh=fresh)
    return kept


def _of_all(first: Rates, others: list[Rates], links: Rates) -> Rates:
    """Rates of several devices, as bandwidths have them."""
    if not others:
        return first
    together = links.get("helpers", [])
    if len(together) != len(others):  # an edited file's, or none
        links, together = {}, [{} for _ in others]
    first = first | {name: rate for name, rate in links.items() if name != "helpers"}
    return first | {"helpers": [other | link for other, link in zip(others, together, strict=True)]}


def _gpus_rates(machine: Machine, fresh: Fresh) -> Rates:
    first, *others = (gpu_rates(machine, which, fresh=fresh) for which in range(len(machine.gpus)))
    return _of_all(first, others, links_rates(machine, fresh=fresh))


def _deciding(machine: Machine, rates: Rates) -> Rates:
    """Of rates those that were others when they were probed."""
    first, *others = (_load(key, "probed") for key in machine.gpu_keys)
    probed = _load(machine.disk_key, "probed") | (_load(machine.compute_key, "probed") if machine.shares else {})
    probed |= _of_all(first, others, _load(machine.links_key, "probed") if others else {})
    return {name: rate for name, rate in probed.items() if name in rates and rate != rates[name]}


def calibrate(machine: Machine, bandwidths: Mapping[str, Any] | None = None, *, fresh: Fresh = "") -> Rates:
    """All rates a plan needs, of the disk and of what computes: given ones, then kept ones (unless `fresh`), then probed ones, which are
    kept; and what differs of those that decide who computes what. Takes about a second. Raises ArgumentError for given ones that make no
    sense."""
    given = given_rates(bandwidths)
    rates = {} if "disk" in given else _disk_rates(machine, fresh)
    if not machine.gpus:
        return rates | (_compute_rates(machine, fresh) if _lacks_types(given, machine.types) else {}) | given
    if not given.keys() >= {"link", "device"}:
        found = _gpus_rates(machine, fresh)
        rates |= {name: rate for name, rate in found.items() if "device" not in given or name != "device_product"}
        if machine.shares and _lacks_types(given, machine.types):
            rates |= _compute_rates(machine, fresh)
    if (machine.shares or len(machine.gpus) > 1) and (deciding := _deciding(machine, {k: v for k, v in rates.items() if k not in given})):
        rates["deciding"] = deciding
    return rates | given


def learn_disk(machine: Machine, disk_bytes: int, seconds: float) -> bool:
    """Moves the kept disk bandwidth towards what disk-bound passes achieved; False where they were too short to teach anything."""
    if disk_bytes < _LEARN_BYTES or seconds < _LEARN_SECONDS:
        return False
    kept = _load(machine.disk_key)
    if rate := kept.get("disk"):
        kept["disk"] = (1 - _LEARN) * rate + _LEARN * disk_bytes / seconds
        _store(machine.disk_key, kept)
    return True


def learn_link(machine: Machine, link_bytes: int, used: Mapping[str, Any], predicted_s: float, seconds: float) -> bool:
    """Moves the kept rate of the link towards what passes achieved that it bound; of several links that of all, which took predicted_s by
    the rates `used`. False where they were too short to teach anything."""
    if link_bytes < _LEARN_BYTES or seconds < _LEARN_SECONDS:
        return False
    several = len(machine.gpus) > 1
    key = machine.links_key if several else machine.gpu_keys[0]
    kept = _load(key)
    if several and "link_together" in kept:
        for rates, by in zip((kept, *kept.get("helpers", ())), (used, *used.get("helpers", ())), strict=False):
            if by.get("link_together"):
                rates["link_together"] += _LEARN * (by["link_together"] * predicted_s / seconds - rates["link_together"])
        _store(key, kept)
    elif not several and (rate := kept.get("link")):
        kept["link"] = (1 - _LEARN) * rate + _LEARN * link_bytes / seconds
        _store(key, kept)
    return True


Compute = Literal["steps", "prompts"]
# Rates of the CPU by the names that those of a device have.
_OF_GPU = {"product": "device_product", "product_columns": "device_product_columns", "op_s": "device_op_s", "memory": "device"}


def learn_compute(
    machine: Machine, what: Compute, used: Mapping[str, Any], predicted_s: float, seconds: float, which: int = 0
) -> bool:
    """Moves the kept compute rates towards what passes achieved that only compute bound: "steps" of one token teach the products of
    one column and the cost of an op, "prompts" those of many columns. `used` are the rates that predicted_s comes from; which: of several
    GPUs the one that took it. A probe at a bad moment is soon forgotten, a busy moment hardly remembered. False where they were too short
    to teach anything."""
    if seconds < _LEARN_SECONDS or predicted_s <= 0:
        return False
    key, names = (machine.gpu_keys[which], _OF_GPU) if machine.gpus else (machine.compute_key, {name: name for name in _OF_GPU})
    if which:
        helpers = used.get("helpers", ())
        used = helpers[which - 1] if which <= len(helpers) else {}
    kept, faster = _load(key), predicted_s / seconds
    name, op_s, memory = names["product" if what == "steps" else "product_columns"], names["op_s"], names["memory"]
    rates = kept.get(name, {})
    for kind in rates.keys() & used.get(name, {}).keys() & set(machine.types):
        rates[kind] = _learned(rates[kind], used[name][kind] * faster)
    if what == "steps":
        if kept.get(op_s) and used.get(op_s):
            kept[op_s] = 1 / _learned(1 / kept[op_s], faster / used[op_s])
        if kept.get(memory):
            kept[memory] = max([kept[memory], *rates.values()])  # the bound of them all
    if rates:
        _store(key, kept)
    return True


def _learned(kept: float, achieved: float) -> float:
    weight = _LEARN if achieved > kept else _LEARN_SLOWER
    return (1 - weight) * kept + weight * achieved
