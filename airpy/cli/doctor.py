"""airpy doctor: what this machine has, what airpy would use of it, and why not the rest."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from typing import Any

from airpy.cli import common
from airpy.sizes import format_rate, format_size
from airpy.text import printable

_EXAMPLES = """\
  airpy doctor
  airpy doctor model.gguf            with the bandwidth of the disk that the model is on
  airpy doctor --json"""


def add(commands: common.Commands) -> None:
    parser = common.command(
        commands, "doctor", "what this machine has, and what would be used",
        "Says which CPU kernels, how much memory, which disk and which GPUs airpy finds, what it would use, and why not the rest. "
        "Measures disk and memory for about a second.", _EXAMPLES,
    )  # fmt: skip
    parser.add_argument("model", metavar="MODEL", nargs="?", help="a .gguf file on the disk to measure; default: the bundled one's")
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    facts = examine(args.model)
    if args.json:
        common.print_json(facts)
    else:
        for line in _lines(facts):
            print(printable(line))
    return 0


def examine(model: str | None) -> dict[str, Any]:
    """All that is printed, sizes in bytes and rates in bytes per second; "gpu_problem" is None where a GPU can be used."""
    from airpy import _core
    from airpy.auto_model import cpu_tier
    from airpy.calibration import probe_disk
    from airpy.device import cuda_devices, cuda_plugin
    from airpy.errors import AirpyError
    from airpy.files import find_model

    file = find_model(model) if model else os.path.join(os.path.dirname(_core.__file__), "assets", "demo-q8_0.gguf")
    gpus: list[dict[str, Any]] = []
    problem = None
    try:
        gpus = cuda_devices()
    except AirpyError as error:
        problem = str(error)
    cpu = _core.cpu_info()
    return {
        "version": _core.VERSION,
        "cpu": {**cpu, "tier": cpu_tier() or cpu["tier"]},
        "memory": _core.memory_info(),
        "memory_rate": _core.probe_compute([], seconds=0.2)["memory"],
        "disk": {"path": file, **probe_disk(file)},
        "cuda_plugin": cuda_plugin() if os.path.exists(cuda_plugin()) else None,
        "gpus": gpus,
        "gpu_problem": problem,
    }


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
    for number, gpu in enumerate(facts["gpus"]):
        major, minor = gpu["capability"]
        yield (
            f"cuda:{number}   {gpu['name']}, compute capability {major}.{minor}, {format_size(gpu['total'])}, "
            f"{format_size(gpu['free'])} free"
        )
    if facts["gpu_problem"]:
        yield f"GPU      none can be used: {facts['gpu_problem']}"
    yield "used     the CPU computes" + ("; device='cuda', or --device cuda, chooses the GPU" if facts["gpus"] else "")
