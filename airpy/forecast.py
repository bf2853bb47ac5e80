"""The plan of a model, on this machine or another: nothing is opened for use, nothing but a header is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airpy import _core
from airpy.auto_model import (
    INTERPRETER_BYTES,
    _read_metadata,
    advice_under,
    check_shares,
    check_vram,
    cpu_tier,
    device_of_plan,
    engine_options,
    machine_for,
    on_what_can,
)
from airpy.calibration import Fresh, calibrate, given_rates
from airpy.device import Device
from airpy.files import PathLike, find_model
from airpy.planning import Plan
from airpy.tokenizer.vocab import Vocabulary

_DEFAULTS: dict[str, Any] = {"max_ram": 0, "max_vram": 0, "cpu_share": None, "io": "auto", "threads": 0, "n_ctx": 0, "kv_dtype": ""}


def _held(parts: tuple[Vocabulary, dict[str, str], int], gguf: _core.GGUF) -> int:
    """What tokenizer and header will take of max_ram."""
    from airpy.tokenizer.build import memory_bytes

    return memory_bytes(parts[0]) + gguf.held_bytes + INTERPRETER_BYTES


def forecast(
    path: PathLike, given: Mapping[str, Any], bandwidths: Mapping[str, Any] | None = None, *, fresh: Fresh = "", disk: str = ""
) -> Plan:
    """Under from_pretrained()'s options and max_vram, a device's memory, which no device need be there for; None is the default.
    bandwidths: the other machine's; what they do not name bounds nothing. None: this machine's, as probed (fresh: now; with the file
    `disk`, where path is a header that is on none). Raises what from_pretrained() raises for the file, BudgetError, and ArgumentError for
    a cpu_share without max_vram."""
    check_shares(bool(given.get("max_vram")), given)
    file = find_model(path)
    parts, metadata = _read_metadata(file)
    gguf = _core.GGUF(file)
    options: dict[str, Any] = {
        name: default if given.get(name) is None else given[name] for name, default in _DEFAULTS.items()
    } | {"tier": cpu_tier(), "fixed_bytes": _held(parts, gguf)}
    if bandwidths is None:
        room = _core.memory_info()["default_budget"] // 2
        options["bandwidths"] = calibrate(machine_for(gguf, options["threads"], options["tier"], room, disk=disk), fresh=fresh)
    else:
        options["bandwidths"] = given_rates(bandwidths)
    solved = _core.solve_plan(gguf, **options)
    return Plan.build(gguf, metadata, solved, options)


def plan_on(
    device: Device, path: PathLike, given: Mapping[str, Any], plan: PathLike | None = None, *, fresh: Fresh = "", disk: str = ""
) -> Plan:
    """What from_pretrained(path, device=…) would plan on this machine's device, with its rates as kept or probed (fresh: now; with the
    file `disk`, where path is a header that is on none). Raises what that raises, and warns as it does."""
    chosen = None if plan is None else Plan.of(plan)
    return on_what_can(device_of_plan(device, chosen), given, lambda on: _plan_on(on, path, given, chosen, fresh, disk))


def _plan_on(device: Device, path: PathLike, given: Mapping[str, Any], plan: Plan | None, fresh: Fresh, disk: str) -> Plan:
    check_vram(device, given)
    file = find_model(path)
    parts, metadata = _read_metadata(file)
    gguf = _core.GGUF(file)
    device = device.that_runs(gguf)
    check_vram(device, given)
    gpus = device.gpus()
    fixed = _held(parts, gguf)
    options, _ = engine_options(gguf, given, plan, None, fresh, fixed, gpus, disk)
    check_vram(device, options)
    options |= {"fixed_bytes": fixed, **device.engine_options()}
    with advice_under(plan):
        return Plan.build(gguf, metadata, _core.solve_plan(gguf, **options), options, gpus)
