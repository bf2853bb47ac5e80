"""airpy tokenize: text to ids."""

from __future__ import annotations

import argparse

from airpy.cli import common

_EXAMPLES = """\
  airpy tokenize model.gguf -p "Hello, world"
  airpy tokenize model.gguf --no-special -p "Hello, world" --json
  echo "Hello" | airpy tokenize model.gguf"""


def add(commands: common.Commands) -> None:
    parser = common.command(
        commands, "tokenize", "text to ids",
        "Prints the token ids of a text; a file with nothing but a vocabulary will do.", _EXAMPLES,
    )  # fmt: skip
    common.add_model(parser)
    common.add_prompt(parser)
    parser.add_argument("--no-special", action="store_true", help="without the begin and end tokens that the model wants")
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from airpy.tokenizer import Tokenizer

    text = common.read_prompt(args)
    with common.find_header(args) as header:
        tokenizer = Tokenizer.from_gguf(header.path)
    ids = tokenizer.encode(text, add_special_tokens=not args.no_special)
    pieces = tokenizer.pieces(ids)
    if args.json:
        common.print_json({"ids": ids, "pieces": pieces})
    else:
        for i, piece in zip(ids, pieces, strict=True):
            print(f"{i:>8}  {piece!r}")
    return 0
