"""airpy quantize: a model's weights in fewer bits."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from airpy.cli import common, convert
from airpy.sizes import format_size
from airpy.text import printable

if TYPE_CHECKING:
    from airpy.quantization import QuantizePlan

_EXAMPLES = """\
  airpy quantize model-f16.gguf 4bit                           writes model-q4_k_m.gguf beside it
  airpy quantize model-f16.gguf Q6_K -o small.gguf
  airpy quantize Qwen/Qwen3-0.6B 4bit -o small.gguf            from safetensors, as airpy convert --type does, or the hub
  airpy quantize model-f16.gguf Q4_K_M --dry-run               what each tensor would become, and the size
  airpy quantize model-f16.gguf Q4_K_M --tensor-type 'ffn_down=Q8_0' --tensor-type 'blk\\.0\\.=Q6_K'"""

_DESCRIPTION = """\
Writes a GGUF file with weights of fewer bits from one with F16, BF16 or F32 weights, or from a checkpoint's safetensors. Tensors are
streamed: a model of any size takes some MiB of memory for each thread. The file appears when it is whole; Ctrl-C leaves nothing behind,
but of a checkpoint OUT.part, which the same command continues.

types (bits per weight of a 7b model; those with a letter behind have more for values and some layers' way down, and all below Q8_0 have
6.6 for the output):
  F32     32    what training had
  F16     16
  BF16    16    less exact, with the range of F32
  Q8_0    8.5   as good as F16; also "8bit"
  Q6_K    6.6   hardly worse
  Q5_K_M  5.7
  Q5_K_S  5.5
  Q5_1    6     an older format
  Q5_0    5.5   an older format
  Q4_K_M  4.8   what most people take; also "4bit"
  Q4_K_S  4.6
  Q4_1    5     an older format
  Q4_0    4.5   an older format, quick to compute with
  Q3_K_L  4.3
  Q3_K_M  3.9
  Q3_K_S  3.5
  Q2_K    3     for what fits no other way"""


def add(commands: common.Commands) -> None:
    parser = common.command(commands, "quantize", "a model's weights in fewer bits", _DESCRIPTION, _EXAMPLES)
    common.add_weights(parser)
    parser.add_argument("type", metavar="TYPE", help="one of those above")
    parser.add_argument("-o", "--output", metavar="FILE", help="default: beside the model, by its name and TYPE")
    parser.add_argument("--allow-requantize", action="store_true", help="from weights that are quantized already: errors add up")
    common.add_writing(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from airpy.command import interruptible
    from airpy.quantization import find_mix, plan_quantize
    from airpy.sources import Wanted, find_source

    wanted = Wanted(
        find_mix(args.type).name, revision=args.revision, gguf_file=args.gguf_file, progress=False if args.json else "auto", weights=True
    )
    with interruptible():
        source = find_source(args.model, wanted)
    if source.label is not None:
        with convert.plan_from(args, source.path, source.label, args.type) as made:
            return convert.run_plan(args, made)
    plan = plan_quantize(
        source.path,
        args.type,
        args.output,
        tensor_types=args.tensor_type,
        pure=args.pure,
        allow_requantize=args.allow_requantize,
        overwrite=args.overwrite or args.dry_run,
    )
    facts = common.facts_of(plan)
    if args.dry_run:
        _show(plan, facts, as_json=args.json)
        return 0
    return common.written(args, plan, facts)


def _show(plan: QuantizePlan, facts: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        rows = [
            {"name": t.source.name, "shape": list(t.source.shape), "from": t.source.type, "to": t.target.type, "bytes": t.target.bytes}
            for t in plan.tensors
        ]
        common.print_json({**facts, "tensors": rows})
        return
    for t in plan.tensors:
        shape = " x ".join(map(str, t.source.shape))
        change = t.source.type if t.source.type == t.target.type else f"{t.source.type} → {t.target.type}"
        print(printable(f"{t.source.name:<40} {shape:<20} {change:<16} {format_size(t.target.bytes):>10}"))
    sizes = f"{format_size(plan.source_bytes)} → {format_size(plan.target_bytes)}, {plan.bits_per_weight:.2f} bits per weight"
    print(f"{sizes}: {printable(plan.output)}")
