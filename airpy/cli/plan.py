"""airpy plan: what would stay in memory, what would stream, how fast it would be."""

from __future__ import annotations

import argparse

from airpy.cli import common

_EXAMPLES = """\
  airpy plan model.gguf --max-ram 8GiB
  airpy plan model.gguf --max-ram 8GiB --save plan.json
  airpy generate model.gguf --plan plan.json -p "The meaning of"
  airpy plan model.gguf --n-ctx 512 --json
  airpy plan model.gguf --probe"""


def add(commands: common.Commands) -> None:
    parser = common.command(
        commands, "plan", "what stays, what streams, how fast",
        "Probes disk and CPU (or takes what was probed before) and prints the plan of a model. Reads no weights.", _EXAMPLES,
    )  # fmt: skip
    common.add_model(parser)
    common.add_engine(parser)
    parser.add_argument("--probe", action="store_true", help="measure anew, such as after other programs slowed the last probe")
    parser.add_argument("--save", metavar="FILE", help="write the plan as JSON, for --plan of other commands")
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    with common.open_from(args, fresh=args.probe) as model:  # which reads little more than a plan needs
        plan = model.plan
    if args.save:
        plan.save(args.save)
    if args.json:
        common.print_json(plan.to_dict())
    else:
        print(plan)
    return 0
