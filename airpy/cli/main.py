"""Parses, dispatches, and turns exceptions into exit codes: 0, 1 with one line on stderr, 2 for usage, 130 for Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from airpy.cli import bench, chat, convert, demo, doctor, embed, generate, inspect, perplexity, plan, quantize, tokenize
from airpy.errors import AirpyError
from airpy.text import one_line

_EXAMPLES = """\
examples:
  airpy demo                                                  the bundled model, streamed under a tiny RAM budget
  airpy generate model.gguf -p "The meaning of" -n 32         text from a prompt
  airpy generate model.gguf -p "Once" --max-ram 4GiB --json   in 4 GiB, however large the file is
  airpy chat model.gguf                                       a conversation
  airpy embed minilm.gguf -f texts.txt -o vectors.npy         vectors of texts, by how much alike they are
  airpy plan model.gguf --max-ram 8GiB                        what would stay in memory, and how fast it would be
  airpy bench model.gguf                                      how fast it is
  airpy perplexity model.gguf text.txt                        how well it foretells a text
  airpy convert Qwen3-0.6B model.gguf --type 4bit             a file from a directory of Hugging Face's
  airpy quantize model-f16.gguf 4bit                          a file with weights of fewer bits
  airpy doctor                                                what this machine has, and what would be used

'airpy COMMAND --help' says more. Sizes are bytes, or numbers with KiB, MiB, GiB, KB, MB, GB."""


def build_parser() -> argparse.ArgumentParser:
    from airpy._core import VERSION

    parser = argparse.ArgumentParser(
        prog="airpy",
        description="Run GGUF language models larger than memory.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"airpy {VERSION}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (demo, generate, chat, embed, plan, inspect, tokenize, bench, perplexity, convert, quantize, doctor):
        module.add(commands)
    return parser


def _say(message: Warning | str, *where: Any, **more: Any) -> None:
    print(f"airpy: {one_line(Warning(message))}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; its exit code. Usage errors leave by SystemExit(2), as argparse has it."""
    for stream in (sys.stdout, sys.stderr):  # text of a model must not fail on a terminal that knows less
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")  # prompts are UTF-8 whatever the locale says
    args = build_parser().parse_args(argv)
    try:
        with warnings.catch_warnings():  # one line, as errors are; not where in the source
            warnings.showwarning = _say
            code: int = args.run(args)
        if sys.stdout is not None:  # it is where a shell closed it: >&-
            sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # who read our output has had enough
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ImportError as error:  # where memory is bounded tightly; numpy's own words are a page, what they come from is a line
        print(f"airpy: {one_line(error.__cause__ or error)}", file=sys.stderr)
        return 1
    except (AirpyError, OSError, MemoryError, SystemError) as error:  # the last is what Python's own imports may end in without memory
        print(f"airpy: {one_line(error)}", file=sys.stderr)
        return 1
