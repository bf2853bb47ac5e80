"""airpy convert: a directory of Hugging Face's as one GGUF file."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from airpy.cli import common
from airpy.errors import ArgumentError
from airpy.sizes import format_size
from airpy.text import printable

if TYPE_CHECKING:
    from airpy.conversion import ConvertPlan

_EXAMPLES = """\
  airpy convert Qwen3-0.6B                                  writes Qwen3-0.6B/Qwen3-0.6B-BF16.gguf, weights as they are
  airpy convert Llama-3.1-70B llama.gguf --type 4bit        and in fewer bits at once; nothing large is kept twice
  airpy convert model small.gguf --type Q4_K_M --tensor-type ffn_down=Q6_K
  airpy convert Qwen/Qwen3-0.6B qwen.gguf --type 8bit       from the hub, by way of its cache (HF_HOME, HF_TOKEN)
  airpy convert model --type Q4_K_M --dry-run               what each tensor would become, and the size"""

_DESCRIPTION = """\
Writes one GGUF file from a model's directory as transformers' save_pretrained() makes it, or Hugging Face's hub has it: config.json,
.safetensors files (one or many) and a tokenizer (tokenizer.json, tokenizer.model, or vocab.json and merges.txt). Tokenizer and chat
template are in the file.

Tensors are streamed, converted a million weights at a time: 140 GB take as much memory as 1 GB. Room on the disk is checked first.
Ctrl-C, or whatever else ends it, leaves OUT.part and OUT.part.journal; the same command goes on where it ended, after checking what is
there. Pickles (.bin, .pt) are never opened, as they may run code.

--type is a type of airpy quantize: 8bit, 4bit, Q6_K, Q5_K_M, F16 … ; 'airpy quantize --help' says what they are. Without it weights stay as
they are stored (BF16, F16 or F32; FP8 becomes BF16, MXFP4 stays). To try several types, convert once without --type and use airpy quantize.

What can be converted is in docs/models.md; what cannot is refused before anything is written, with the list."""


def add(commands: common.Commands) -> None:
    parser = common.command(commands, "convert", "a directory of Hugging Face's as one GGUF file", _DESCRIPTION, _EXAMPLES)
    parser.add_argument("folder", metavar="DIR", help="with config.json, .safetensors and a tokenizer; or a name on the hub, ORG/NAME")
    parser.add_argument("output", metavar="OUT", nargs="?", help="default: in DIR, named after it and its type")
    parser.add_argument("--revision", metavar="NAME", help="of a name on the hub: a branch, tag or commit")
    parser.add_argument("--type", metavar="TYPE", help="default: as stored")
    common.add_writing(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from airpy.sources import find_checkpoint, shows_bar

    folder, label = find_checkpoint(args.folder, args.revision, silent=args.json or not shows_bar("auto"))
    with plan_from(args, folder, label, args.type) as plan:
        return run_plan(args, plan)


def plan_from(args: argparse.Namespace, folder: str, label: str, type: str | None) -> ConvertPlan:
    """Under the options of common.add_writing() and args.output. Raises ArgumentError where that is needed and is not given."""
    from airpy.conversion import plan_convert

    if args.output is None and label != os.path.basename(os.path.abspath(folder)):
        raise ArgumentError(f"name the file to write, such as {label}.gguf")
    return plan_convert(
        folder, args.output, type, tensor_types=args.tensor_type, pure=args.pure, overwrite=args.overwrite or args.dry_run, label=label
    )


def run_plan(args: argparse.Namespace, plan: ConvertPlan) -> int:
    """Writes it, or with --dry-run says what it would be."""
    facts = {**common.facts_of(plan), "architecture": plan.arch}
    if args.dry_run:
        _show(plan, facts, as_json=args.json)
        return 0
    return common.written(args, plan, facts, f"{plan.arch}, ")


def _show(plan: ConvertPlan, facts: dict[str, Any], *, as_json: bool) -> None:
    rows = [(t.info.name, t.info.shape, t.info.type, to) for t, to in zip(plan.tensors, plan.types, strict=True)]
    if as_json:
        common.print_json({**facts, "tensors": [{"name": n, "shape": list(s), "from": a, "to": b} for n, s, a, b in rows]})
        return
    for name, shape, stored, to in rows:
        change = stored if stored == to else f"{stored} → {to}"
        print(printable(f"{name:<40} {' x '.join(map(str, shape)):<20} {change}"))
    sizes = f"{format_size(plan.source_bytes)} → {format_size(plan.target_bytes)}, {plan.bits_per_weight:.2f} bits per weight"
    print(f"{plan.arch}, {sizes}: {printable(plan.output)}")
