"""airpy doctor: what this machine has, what airpy would use of it, and why not the rest."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from airpy.cli import common
from airpy.progress import progress_for_call
from airpy.sizes import format_rate, format_size, format_time
from airpy.text import printable

if TYPE_CHECKING:
    from airpy.device import Gpu

_PATIENCE = 2.0  # seconds without a bar

_EXAMPLES = """\
  airpy doctor
  airpy doctor model.gguf            with the bandwidth of the disk that the model is on
  airpy doctor --json"""


def add(commands: common.Commands) -> None:
    parser = common.command(
        commands, "doctor", "what this machine has, and what would be used",
        "Says which CPU kernels, how much memory, which disk and which GPUs airpy finds, what it would use, and why not the rest. "
        "Measures disk, memory and GPUs, for a second or two each.", _EXAMPLES,
    )  # fmt: skip
    common.add_model(parser, optional=", on the disk to measure; default: the bundled one's")
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.model is None:
        facts = examine(None)
    else:
        with common.find_header(args) as header:
            facts = examine(header.disk)
    if args.json:
        common.print_json(facts)
    else:
        for line in _lines(facts):
            print(printable(line))
    return 0


def examine(file: str | None) -> dict[str, Any]:
    """All that is printed, sizes in bytes and rates in bytes per second; "gpu_problem" is None where a GPU can be used, "gpus_left_out"
    says why others cannot. What GPUs do is kept for plans. file: on the disk to measure; None: the bundled model."""
    from airpy import _core
    from airpy.auto_model import cpu_tier
    from airpy.calibration import probe_disk
    from airpy.device import cuda_plugin, find_gpus
    from airpy.errors import AirpyError

    file = file or os.path.join(os.path.dirname(_core.__file__), "assets", "demo-q8_0.gguf")
    found: list[Gpu] = []
    left_out: list[str] = []
    problem = None
    cpu = _core.cpu_info()
    with progress_for_call("auto", "step", _PATIENCE) as report:
        report(0, 3, 0, 1)
        try:
            found, left_out = find_gpus()  # contexts take a while to make
            problem = None if found else "; ".join(left_out)
        except AirpyError as error:
            problem = str(error)
        steps = 4 + len(found)
        report(1, steps, 0, 1)
        memory_rate = _core.probe_compute([], seconds=0.2)["memory"]
        report(2, steps, 0, 1)
        disk = probe_disk(file)
        rates = []
        for number, gpu in enumerate(found):
            report(3 + number, steps, 0, 1)
            rates.append(_rates(gpu, file))
        report(steps - 1, steps, 0, 1)
        together = _together(found, file)
    return {
        "version": _core.VERSION,
        "cpu": {**cpu, "tier": cpu_tier() or cpu["tier"]},
        "memory": _core.memory_info(),
        "memory_rate": memory_rate,
        "disk": {"path": file, **disk},
        "cuda_plugin": cuda_plugin() if os.path.exists(cuda_plugin()) else None,
        "gpus": [{**asdict(gpu), **did} for gpu, did in zip(found, rates, strict=True)],
        "links_together": together,
        "gpu_problem": problem,
        "gpus_left_out": left_out if found else [],
    }


def _rates(gpu: Gpu, file: str) -> dict[str, Any]:
    """Measured now, but for products: which ones a model needs is not known; {"problem"} where it cannot be."""
    from airpy.calibration import GPU_PROBE_BYTES, Machine, measure_gpu
    from airpy.errors import AirpyError

    try:
        rates = measure_gpu(Machine(file, (), 0, "", min(GPU_PROBE_BYTES, gpu.free // 4), (gpu,)))
    except AirpyError as error:
        return {"problem": str(error)}
    return {name: rates[name] for name in ("link", "link_back", "device", "device_op_s", "handover_s")}


def _together(found: list[Gpu], file: str) -> dict[str, Any]:
    """{"rates"}: what their links give while all are busy, [] where there is one, or more than are used together; {"problem"} where it
    cannot be measured."""
    from airpy._core import MAX_DEVICES
    from airpy.calibration import Machine, measure_links
    from airpy.errors import AirpyError

    if not 1 < len(found) <= MAX_DEVICES:
        return {"rates": []}
    try:
        rates = measure_links(Machine(file, (), 0, "", 0, tuple(found)))
    except AirpyError as error:
        return {"rates": [], "problem": str(error)}
    return {"rates": [rates["link_together"], *(other["link_together"] for other in rates["helpers"])]}


def _gpu_text(gpu: dict[str, Any]) -> str:
    if gpu.get("problem"):
        return f"could not be measured: {gpu['problem']}"
    return (
        f"link {format_rate(gpu['link'])} to it, {format_rate(gpu['link_back'])} back; its memory {format_rate(gpu['device'])}; "
        f"a launch {format_time(gpu['device_op_s'])}, a hand-over {format_time(gpu['handover_s'])}"
    )


def _lines(facts: dict[str, Any]) -> Iterator[str]:
    cpu, memory, disk = facts["cpu"], facts["memory"], facts["disk"]
    yield f"airpy {facts['version']}"
    yield f"CPU      {cpu['name']}, {cpu['threads']} threads; kernels {cpu['tier']} (it has {', '.join(cpu['features']) or 'no more'})"
    limit = "" if memory["cgroup_limit"] == -1 else f", {format_size(memory['cgroup_limit'])} the limit of its cgroup"
    yield (
        f"memory   {format_size(memory['total'])}, {format_size(memory['available'])} free{limit}; max_ram would be "
        f"{format_size(memory['default_budget'])}; {format_rate(facts['memory_rate'])}"
    )
    if disk.get("disk"):
        yield f"disk     {format_rate(disk['disk'])}, {disk['depth']} reads of {format_size(disk['block_bytes'])}: {disk['path']}"
    else:
        yield f"disk     could not be measured with {disk['path']}"
    for gpu in facts["gpus"]:
        major, minor = gpu["capability"]
        yield (
            f"cuda:{gpu['number']}   {gpu['name']}, compute capability {major}.{minor}, {format_size(gpu['total'])}, "
            f"{format_size(gpu['free'])} free, driver for CUDA {gpu['driver'] // 1000}.{gpu['driver'] % 1000 // 10}"
        )
        yield f"         {_gpu_text(gpu)}"
    together = facts["links_together"]
    if together["rates"]:
        yield f"links    {' + '.join(map(format_rate, together['rates']))} to all of them at once"
    elif together.get("problem"):
        yield f"links    to all of them at once could not be measured: {together['problem']}"
    if facts["gpu_problem"]:
        yield f"GPU      none can be used: {facts['gpu_problem']}"
    for why in facts["gpus_left_out"]:
        yield f"GPU      not used: {why}"
    numbers = [gpu["number"] for gpu in facts["gpus"]]
    if not numbers:
        yield "used     the CPU computes"
        return
    from airpy._core import MAX_DEVICES

    names = ",".join(map(str, numbers[:MAX_DEVICES]))
    yield f"used     cuda:{names}, for models that it runs; device='cpu', or --device cpu, chooses the CPU"
