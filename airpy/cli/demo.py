"""airpy demo: the bundled model, streamed under a budget smaller than its weights."""

from __future__ import annotations

import argparse
import os
from importlib.resources import as_file, files
from typing import TYPE_CHECKING

from airpy.cli import common
from airpy.cli.generate import generate_text
from airpy.errors import BudgetError
from airpy.sizes import format_size

if TYPE_CHECKING:
    from airpy.model import Model

_PROMPT = "It is a truth universally acknowledged, that"
_SHARES = (0.9, 1.2, 1.6, 2.4)  # of the weights: the first that holds this Python's tokenizer as well
_CONTEXT = 512  # of the model; left to the plan, it would be less, and the answer too, where the tokenizer takes more
_EXAMPLES = """\
  airpy demo
  airpy demo -p "In the beginning" --temp 0
  airpy demo --max-ram 64MiB          everything stays; compare the speed
  airpy demo --json"""


def add(commands: common.Commands) -> None:
    parser = common.command(
        commands, "demo", "a small model, streamed under a tiny budget",
        "Runs the bundled model in less memory than its weights take: some stay, the rest is read from disk for every token.",
        _EXAMPLES,
    )  # fmt: skip
    parser.add_argument("-p", "--prompt", type=common.text, default=_PROMPT, metavar="TEXT", help="default: %(default)s")
    common.add_sampling(parser, temperature=0.7, tokens=120, seed_default=1813)
    common.add_engine(parser, max_ram="less than its weights take")
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    with as_file(files("airpy") / "assets" / "demo-q8_0.gguf") as path:
        args.model = str(path)
        with open_demo(args) as model:
            return show(model, args)


def open_demo(args: argparse.Namespace) -> Model:
    """Under --max-ram or --plan, else under the smallest of our shares that is enough."""
    if args.max_ram is not None or args.plan is not None:
        return common.open_from(args)
    args.n_ctx = args.n_ctx or _CONTEXT
    if args.io is None:
        args.io = "direct"  # the point of the demo; "auto" may find the file small enough to map
    for share in _SHARES:
        args.max_ram = int(share * os.path.getsize(args.model))
        try:
            return common.open_from(args)
        except BudgetError:
            if share == _SHARES[-1]:
                raise
    raise AssertionError("unreachable")


def show(model: Model, args: argparse.Namespace) -> int:
    if not args.json:
        weights, budget = format_size(model.plan["weight_bytes"]), format_size(model.plan["budget"])
        print(f"{weights} of weights in {budget} of RAM, the tokenizer included\n\n{model.plan}\n")
        print(args.prompt, end="", flush=True)
    answer = generate_text(model, args.prompt, common.generation_arguments(args), show=not args.json)
    stats = model.stats()
    if args.json:
        common.print_json({**answer, "stats": common.pick_stats(stats), "plan": model.plan.to_dict()})
    else:
        print(f"\n\n{common.figures_line(stats)}")
    return 0
