"""airpy plan: what would stay in memory, what would stream, how fast it would be."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from airpy.cli import common
from airpy.errors import ArgumentError

if TYPE_CHECKING:
    from airpy.planning import Plan

_EXAMPLES = """\
  airpy plan model.gguf --max-ram 8GiB
  airpy plan model.gguf --max-ram 8GiB --save plan.json
  airpy generate model.gguf --plan plan.json -p "The meaning of"
  airpy plan model.gguf --n-ctx 512 --json
  airpy plan model.gguf --probe
  airpy plan model.gguf --max-vram 24GB --max-ram 64GB --bandwidths disk=3GB/s,link=25GB/s,device=900GB/s

The last asks what another machine would do, here one with a GPU: that machine need not be this one, and the file may be a header
alone. Bandwidths: disk; link, from RAM to the device, and link_back; device, its memory; memory, of the CPU; and seconds: latency_s of a
read, op_s and device_op_s of an operation beside its bytes, handover_s from the device to the host and back. What is not named bounds
nothing, and the plan says so; of several devices link=25GB/s+12GB/s, and link_together what each link gives while all are busy. GB are
10^9 bytes, GiB 2^30."""


def add(commands: common.Commands) -> None:
    parser = common.command(
        commands, "plan", "what stays, what streams, how fast",
        "Probes disk and what computes, or takes what was probed before, and prints the plan of a model, also for another machine. Reads "
        "no weights.",
        _EXAMPLES,
    )  # fmt: skip
    common.add_model(parser)
    common.add_engine(parser)
    parser.add_argument("--probe", action="store_true", help="measure anew, as when others slowed the last probe, and share by it")
    parser.add_argument(
        "--bandwidths", type=_rates, metavar="NAME=RATE,…", help="of a machine to plan for; nothing is probed (see below)"
    )
    parser.add_argument("--save", metavar="FILE", help="write the plan as JSON, for --plan of other commands")
    common.add_json(parser)
    parser.set_defaults(run=run, usage_error=parser.error)


def _rates(text: str) -> dict[str, Any]:
    """argparse's type for bandwidths."""
    from airpy.calibration import parse_rates

    try:
        return parse_rates(text)
    except ArgumentError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run(args: argparse.Namespace) -> int:
    if args.device not in (None, "cpu") and args.bandwidths is not None:
        args.usage_error("--bandwidths describes a machine, with --max-vram one that has a GPU; leave out --device")
    plan = _here(args) if args.bandwidths is None else _elsewhere(args)
    if args.save:
        plan.save(args.save)
    if args.json:
        common.print_json(plan.to_dict())
    else:
        print(plan)
    return 0


def _here(args: argparse.Namespace) -> Plan:
    """For this machine; with --max-vram, where it has no GPU and --device names none, for one with its disk and memory that has."""
    from airpy.device import find_device
    from airpy.forecast import plan_on

    device = find_device("--device", args.device)
    if args.device is None and args.max_vram is not None and device.kind == "cpu":
        return _elsewhere(args)
    given = {name: getattr(args, name) for name in common.ENGINE_OPTIONS}
    with common.find_header(args) as header:
        return plan_on(device, header.path, given, args.plan, fresh="decisions" if args.probe else "", disk=header.disk)


def _elsewhere(args: argparse.Namespace) -> Plan:
    """For a machine that is described, not here."""
    from airpy.forecast import forecast

    if args.plan is not None:
        args.usage_error("--plan has budgets and bandwidths of its own; leave out --max-vram and --bandwidths")
    if args.probe and args.bandwidths is not None:
        args.usage_error("--probe measures what --bandwidths assumes; leave out one of them")
    given = {name: getattr(args, name) for name in common.ENGINE_OPTIONS}
    with common.find_header(args) as header:
        return forecast(header.path, given, args.bandwidths, fresh="decisions" if args.probe else "", disk=header.disk)
