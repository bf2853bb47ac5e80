"""airpy demo: the bundled model, streamed under a budget smaller than its weights."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from airpy.cli import common
from airpy.cli.generate import generate_text
from airpy.errors import BudgetError
from airpy.sizes import format_size

if TYPE_CHECKING:
    from airpy._core import GGUF
    from airpy.model import Model
    from airpy.planning import Plan

_PROMPT = "It is a truth universally acknowledged, that"
_ROOM = 0.9  # of the weights: what the budget may be
_CONTEXTS = range(512, 0, -64)  # the longest, or what the tokenizer of this Python leaves room for beside the weights
_EXAMPLES = """\
  airpy demo
  airpy demo -p "In the beginning" --temp 0
  airpy demo --max-ram 64MiB          everything stays; compare the speed
  airpy demo --json"""


def add(commands: common.Commands) -> None:
    parser = common.command(
        commands, "demo", "a small model, streamed under a tiny budget",
        "Runs the bundled model in less memory than its weights take, where the options below leave the choice: some weights stay, "
        "the rest is read from disk for every token.", _EXAMPLES,
    )  # fmt: skip
    parser.add_argument("-p", "--prompt", type=common.text, default=_PROMPT, metavar="TEXT", help="default: %(default)s")
    common.add_sampling(parser, temperature=0.7, tokens=120, seed_default=1813)
    common.add_engine(parser, max_ram="less than its weights take")
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from importlib.resources import as_file, files  # here: every command imports this module

    arguments = common.generation_arguments(args)
    with as_file(files("airpy") / "assets" / "demo-q8_0.gguf") as path:
        args.model = str(path)
        with open_demo(args) as model:
            return show(model, args, arguments)


def open_demo(args: argparse.Namespace) -> Model:
    """Under --max-ram or --plan, else under a budget that leaves about half of the weights on disk."""
    if args.max_ram is not None or args.plan is not None:
        return common.open_from(args)
    if args.io is None:
        args.io = "direct"  # the point of the demo; "auto" may find the file small enough to map
    if args.io != "direct":
        return common.open_from(args)
    needed = args.max_new_tokens + len(args.prompt.encode()) + 1  # a token is a byte at least
    contexts = [args.n_ctx] if args.n_ctx else [context for context in _CONTEXTS if context >= needed] or [max(_CONTEXTS)]
    args.max_ram = os.path.getsize(args.model)  # until the rest is known; probes keep to it
    return common.open_from(args, settle=lambda gguf, options: settle(gguf, options, contexts))


def settle(gguf: GGUF, options: dict[str, Any], contexts: list[int]) -> None:
    """The budget and the first of the contexts under which at least half of the weights stream, in less memory than they take where
    Python's tokenizer leaves any such."""
    for room in (_ROOM * gguf.bytes, 4.0 * gguf.bytes):
        for context in contexts:
            options["n_ctx"] = context
            options["max_ram"] = _largest_that_streams(gguf, options, int(room))
            if _streams(gguf, options) is not None:
                return


def _largest_that_streams(gguf: GGUF, options: dict[str, Any], most: int) -> int:
    """By halving: a larger budget never streams more. One that is too small for any plan, where `most` is."""
    least = 0
    while most - least > 1 << 12:
        middle = (least + most) // 2
        share = _streams(gguf, {**options, "max_ram": middle})
        if share is None or share >= 0.5:
            least = middle
        else:
            most = middle
    return max(1, least)


def _streams(gguf: GGUF, options: dict[str, Any]) -> float | None:
    """The share of the weights that a pass reads from disk; None under a budget too small to open the model."""
    from airpy import _core

    try:
        plan = _core.solve_plan(gguf, **options)
    except BudgetError:
        return None
    return float(1 - plan["pin_bytes"] / plan["weight_bytes"])


def headline(plan: Plan) -> str:
    """What the demo shows, and where the budget is no smaller than the weights, why."""
    weights, budget = format_size(plan["weight_bytes"]), format_size(plan["budget"])
    if plan["budget"] < plan["weight_bytes"]:
        return f"{weights} of weights in {budget} of RAM, the tokenizer included"
    if not plan.streamed_bytes:
        return f"{weights} of weights, all of them in memory: up to {budget} of RAM may be used"
    return (
        f"{weights} of weights in {budget} of RAM, of which the tokenizer takes {format_size(plan['fixed'])} and a context of "
        f"{plan['n_ctx']} tokens {format_size(plan['state_bytes_full'])}; {format_size(plan.streamed_bytes)} of weights are streamed"
    )


def show(model: Model, args: argparse.Namespace, arguments: dict[str, Any]) -> int:
    head = f"{headline(model.plan)}\n\n{model.plan}\n\n{args.prompt}"
    answer = generate_text(model, args.prompt, arguments, show=not args.json, head=head)
    stats = model.stats()
    if args.json:
        common.print_json({**answer, "stats": common.pick_stats(stats), "plan": model.plan.to_dict()})
    else:
        print(f"\n\n{common.figures_line(stats)}")
    return 0
