"""airpy perplexity: how well a model foretells a text."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from airpy.cli import common
from airpy.sizes import format_speed, format_time

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_EXAMPLES = """\
  airpy perplexity model.gguf wiki.test.raw
  airpy perplexity model-q4_k_m.gguf wiki.test.raw --chunks 20      enough to compare two files of one model
  airpy perplexity model.gguf text.txt --ctx 2048
  airpy perplexity 70b.gguf text.txt --max-ram 16GiB --json"""

_DEFAULT_CONTEXT = 4096  # or less: from_pretrained()'s. No less even where windows are small: a pass has no more rows than it, to share
_DESCRIPTION = """\
Reads a text in windows of --ctx tokens, each by itself, scores the later half of each, and prints exp of the mean negative
log-likelihood: the lower, the better the model foretells the text. Counted as llama-perplexity does, so figures compare; only those of
one text, one --ctx and one vocabulary do. Windows share passes: a model that streams is read once for several."""


def add(commands: common.Commands) -> None:
    parser = common.command(commands, "perplexity", "how well a model foretells a text", _DESCRIPTION, _EXAMPLES)
    common.add_model(parser)
    parser.add_argument("file", metavar="FILE", help="the text, UTF-8")
    parser.add_argument("--ctx", type=common.count, default=512, metavar="N", help="tokens of a window; default: %(default)s")
    stride = "a window every N tokens, whose last N are scored; default: windows do not overlap"
    parser.add_argument("--stride", type=common.count, metavar="N", help=stride)
    parser.add_argument("--chunks", type=common.count, metavar="N", help="no more than the first N windows; default: all")
    common.add_engine(parser)
    common.add_trace(parser)
    common.add_json(parser)
    parser.set_defaults(run=run)


def _ids(model: str, file: str) -> npt.NDArray[np.int32]:
    """Of the text. Before the model is opened: a long text takes a hundred times its size for a moment, of which max_ram knows nothing."""
    import numpy as np

    from airpy.tokenizer import Tokenizer

    text = common.read_text(file, newline="").removesuffix("\n")  # which llama-perplexity drops, too
    return np.array(Tokenizer.from_gguf(model).encode(text, parse_special=False), dtype=np.int32)


def run(args: argparse.Namespace) -> int:
    import time

    ids = _ids(common.find_file(args), args.file)
    if args.n_ctx is None and args.plan is None and args.ctx > _DEFAULT_CONTEXT:
        args.n_ctx = args.ctx
    with common.open_from(args) as model:
        start = time.monotonic()
        with common.traced(args, model):
            found = model.perplexity(ids, ctx=args.ctx, stride=args.stride, chunks=args.chunks)
        seconds = time.monotonic() - start
        stats = model.stats()
    tokens = found.windows * found.ctx
    if args.json:
        keys = ("passes", "peak_ram", "budget", "disk_bytes", "ram_bytes")
        common.print_json({**asdict(found), "seconds": seconds, "stats": {key: stats[key] for key in keys}})
        return 0
    print(f"perplexity = {found}")
    windows = f"{found.windows} windows of {found.ctx} tokens" if found.windows > 1 else f"1 window of {found.ctx} tokens"
    speed = f"{format_time(seconds)}, {format_speed(tokens / seconds)}, {stats['passes']} passes"
    print(f"{found.tokens} tokens scored in {windows}; {speed}", file=sys.stderr)
    return 0
