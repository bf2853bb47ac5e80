"""airpy generate: text from a prompt."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from airpy.cli import common
from airpy.errors import ArgumentError

if TYPE_CHECKING:
    from airpy.model import Model

_EXAMPLES = """\
  airpy generate model.gguf -p "The meaning of" -n 32
  airpy generate model.gguf -p "Once upon a time" --temp 0.8 --seed 7
  airpy generate 70b.gguf --max-ram 8GiB -p "Dear" -n 16 --stats
  airpy generate 70b.gguf -p "Dear" -n 4 --trace trace.json     where the time goes, for ui.perfetto.dev
  airpy generate model.gguf -f prompt.txt --stop $'\\n\\n' --json"""


def add(commands: common.Commands) -> None:
    parser = common.command(
        commands, "generate", "text from a prompt", "Prints the text that follows a prompt, as it comes.", _EXAMPLES
    )
    common.add_model(parser)
    common.add_prompt(parser)
    common.add_sampling(parser, temperature=0.0)
    common.add_engine(parser)
    parser.add_argument("--stats", action="store_true", help="a line of figures on stderr at the end")
    common.add_trace(parser)
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    arguments = common.generation_arguments(args)
    prompt = common.read_prompt(args)
    with common.open_from(args) as model:
        with common.traced(args, model):
            answer = generate_text(model, prompt, arguments, show=not args.json)
        stats = model.stats()
        if args.json:
            common.print_json({**answer, "stats": common.pick_stats(stats)})
        else:
            print(flush=True)
        if args.stats:
            print(common.figures_line(stats), file=sys.stderr)
    return 0


def generate_text(model: Model, prompt: str, arguments: dict[str, Any], *, show: bool, head: str = "") -> dict[str, Any]:
    """{text, ids, prompt_tokens, new_tokens} of what follows the prompt, printed meanwhile where `show`, after head, which waits until
    there is something: what is wrong with the call has been found by then. text ends before a stop string, ids hold all that was
    generated."""
    ids = model.tokenizer.encode(prompt)
    if not ids:
        raise ArgumentError("the prompt is empty, and this model has no token to begin with; give some text, such as -p TEXT")
    pieces: list[str] = []
    new: list[int] = []
    for piece in model.stream(ids, on_tokens=new.extend, **arguments):
        if show:
            print(piece if pieces else head + piece, end="", flush=True)
        pieces.append(piece)
    if show and not pieces:
        print(head, end="")
    return {"text": "".join(pieces), "ids": new, "prompt_tokens": len(ids), "new_tokens": len(new)}
