"""airpy embed: a vector for each text, or a reranker's scores."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from airpy.cli import common
from airpy.errors import ArgumentError, system_errors

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_EXAMPLES = """\
  airpy embed minilm.gguf "A man is eating food." "Someone eats a meal."
  airpy embed nomic-embed.gguf "search_query: what do people eat?"      what goes before a text is the model's wish
  airpy embed bge.gguf -f texts.txt -o vectors.npy                      a text a line; numpy.load() reads the vectors
  airpy embed 70b.gguf --pooling mean --max-ram 16GiB -f texts.txt      of any model, streamed: read once for many texts
  airpy embed reranker.gguf --query "how tall is it?" -f answers.txt    how well each text answers"""

_DESCRIPTION = """\
Prints a line for each text: its vector as a JSON array, of length 1 unless --no-normalize says otherwise, so that the product of two is
how much alike two texts are; or what a reranker gives it, a number. How the states of a text's tokens become one vector is in the file
(pooling_type), or --pooling's. Of a model that generates, vectors are of its last hidden states."""


def add(commands: common.Commands) -> None:
    parser = common.command(commands, "embed", "a vector for each text", _DESCRIPTION, _EXAMPLES)
    common.add_model(parser)
    parser.add_argument("texts", nargs="*", type=common.text, metavar="TEXT")
    parser.add_argument("-f", "--file", metavar="FILE", help="a file with a text in each line; without it and texts, stdin is read")
    parser.add_argument("--query", type=common.text, metavar="TEXT", help="reads each text as what may answer this one, with a reranker")
    how = "mean, cls (the first token's), last, none (all tokens'), rank (scores); default: the file's"
    parser.add_argument("--pooling", choices=("mean", "cls", "last", "none", "rank"), metavar="NAME", help=how)
    parser.add_argument("--no-normalize", action="store_true", help="vectors as they are, of any length")
    parser.add_argument("--truncate", action="store_true", help="leave out what of a text is beyond the context; else it is refused")
    parser.add_argument("--batch-size", type=common.count, metavar="N", help="texts of a pass; default: as many as there is room for")
    parser.add_argument("-o", "--output", metavar="FILE", help="write the vectors as a float32 array in NumPy's format, and print none")
    common.add_engine(parser)
    common.add_json(parser)
    _take_texts_anywhere(parser)
    parser.set_defaults(run=run)


def _take_texts_anywhere(parser: argparse.ArgumentParser) -> None:
    """Else argparse takes none behind an option that is behind the model."""
    plain = parser.parse_known_args

    def intermixed(args: Any = None, namespace: Any = None) -> tuple[argparse.Namespace, list[str]]:
        parser.parse_known_args = plain  # type: ignore[method-assign]  # which this calls itself
        try:
            return parser.parse_known_intermixed_args(args, namespace)
        finally:
            parser.parse_known_args = intermixed  # type: ignore[method-assign, assignment]

    parser.parse_known_args = intermixed  # type: ignore[method-assign, assignment]


def run(args: argparse.Namespace) -> int:
    texts: list[Any] = _texts(args)
    if args.query is not None:
        texts = [(args.query, text) for text in texts]
    if args.output is not None:
        with system_errors(), open(args.output, "ab"):  # what is wrong with the path is said now, not at the end
            pass
    with common.open_from(args) as model:
        found = model.embed(texts, args.pooling, not args.no_normalize, truncate=args.truncate, batch_size=args.batch_size)
        stats = model.stats()
    if args.output is not None:
        _save(args.output, found)
    if args.json:
        shown = {} if args.output is not None else {"embeddings": [_numbers(vector) for vector in found]}
        keys = ("passes", "peak_ram", "budget", "disk_bytes", "ram_bytes")
        common.print_json({"texts": len(texts), **shown, "stats": {key: stats[key] for key in keys}})
    elif args.output is None:
        for vector in found:
            common.print_json(_numbers(vector))
    return 0


def _texts(args: argparse.Namespace) -> list[str]:
    if args.texts and args.file is not None:
        raise ArgumentError("texts are given, and a file of them (-f); leave one of them out")
    if args.texts:
        return list(args.texts)
    if args.file is not None:
        lines = _lines(common.read_text(args.file))
    elif sys.stdin is None or sys.stdin.isatty():
        raise ArgumentError("no texts: give some, or -f FILE, or pipe them in, a text a line")
    else:
        lines = _lines(sys.stdin.read())
    if not lines:
        raise ArgumentError("there is no text in what was to hold one a line")
    return lines


def _lines(text: str) -> list[str]:
    """As a file has them: str.splitlines() also cuts at form feeds, U+2028 and others that texts have inside."""
    return text.removesuffix("\n").split("\n") if text else []


def _numbers(vector: npt.NDArray[np.float32] | np.float32) -> Any:
    """As JSON has them, in as many digits as a float32 needs."""
    if getattr(vector, "ndim", 0):
        return [_numbers(value) for value in vector]  # type: ignore[union-attr]
    return float(f"{vector:.9g}")


def _save(path: str, found: Any) -> None:
    import numpy as np

    if isinstance(found, list):  # --pooling none
        if len({len(states) for states in found}) > 1:
            raise ArgumentError("--pooling none gives each text as many vectors as it has tokens, which are no array; leave --output out")
        found = np.stack(found)
    with system_errors(), open(path, "wb") as file:
        np.save(file, found)
