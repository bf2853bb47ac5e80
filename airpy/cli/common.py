"""What several commands share: options, opening a model, prompts, figures as text."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airpy.command import interruptible, opened
from airpy.errors import ArgumentError, system_errors
from airpy.sizes import format_rate, format_size, format_speed, format_time, parse_size, parse_sizes
from airpy.text import printable

if TYPE_CHECKING:
    from airpy._core import GGUF
    from airpy.calibration import Fresh
    from airpy.conversion import ConvertPlan
    from airpy.model import Model
    from airpy.quantization import QuantizePlan
    from airpy.sources import Header, SourceArguments, Wanted

Commands = Any  # argparse does not name the type that add_subparsers() returns

# Keys of Model.stats() that a JSON answer carries.
STATS = (
    "pass_ms", "tok_s", "bytes_disk_per_token", "bytes_ram_per_token", "peak_ram", "budget", "predicted_tok_s",
    "achieved_over_predicted", "stall_ms", "between_ms", "prompt_ms", "reused_tokens",
)  # fmt: skip

ENGINE_OPTIONS = ("max_ram", "max_vram", "cpu_share", "io", "threads", "n_ctx", "kv_dtype")  # of add_engine()


def command(commands: Commands, name: str, help_text: str, description: str, examples: str) -> argparse.ArgumentParser:
    """A subcommand's parser, with examples under its help."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help_text,
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # what is short for one option today may be short for two tomorrow
    )
    return parser


def size(text: str) -> int:
    """argparse's type for sizes."""
    try:
        return parse_size(text)
    except ArgumentError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def text(value: str) -> str:
    """argparse's type for texts: UTF-8 whatever the locale says, bytes that are none as U+FFFD."""
    return os.fsencode(value).decode("utf-8", "replace")


def sizes(text: str) -> int | tuple[int, ...]:
    """argparse's type for a size of memory, or several with commas between."""
    try:
        return parse_sizes(text)
    except ArgumentError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("size ")) from None


def share(text: str) -> float:
    """argparse's type for a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def whole(text: str) -> int:
    """argparse's type for whole numbers."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def count(text: str) -> int:
    """argparse's type for whole numbers from 1."""
    value = whole(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def threads(text: str) -> int:
    """argparse's type for how many threads."""
    from airpy._core import MAX_THREADS

    value = count(text)
    if value > MAX_THREADS:
        raise argparse.ArgumentTypeError(f"{value} is more than {MAX_THREADS}")
    return value


def seed(text: str) -> int:
    """argparse's type for seeds."""
    value = whole(text)
    if not 0 <= value < 1 << 64:
        raise argparse.ArgumentTypeError(f"{value} is not within 0 to 2**64 - 1")
    return value


def stop(value: str) -> str:
    """argparse's type for texts to end before."""
    if not value:
        raise argparse.ArgumentTypeError("an empty text is everywhere; give some")
    return text(value)


def sampling(name: str) -> Callable[[str], float]:
    """argparse's type for one of generate()'s numbers."""

    def number(text: str) -> float:
        from airpy.generation.config import check_sampling  # which brings numpy

        try:
            return check_sampling(name, whole(text) if name == "top_k" else float(text))
        except ArgumentError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None

    return number


_MODEL = "a .gguf file (any part of a split one), or a directory with one; or with safetensors, or a name on Hugging Face's hub, ORG/NAME"


def add_model(parser: argparse.ArgumentParser, *, optional: str = "") -> None:
    """What find_file() and find_header() take. optional: that it need not be there, and what is taken then, as help says it."""
    parser.add_argument("model", metavar="MODEL", nargs="?" if optional else None, help=f"{_MODEL}{optional}")
    group = parser.add_argument_group("the model's file", "safetensors are converted once, and the file is kept; $HF_TOKEN is the hub's")
    group.add_argument("--compression", metavar="TYPE", help="4bit, 8bit, or another type of airpy quantize; default: weights as stored")
    _add_choices(group)


def add_weights(parser: argparse.ArgumentParser) -> None:
    """What a file is to be made from."""
    parser.add_argument("model", metavar="MODEL", help=_MODEL)
    _add_choices(parser.add_argument_group("the model", "the hub's token is $HF_TOKEN"))


def _add_choices(group: Any) -> None:
    group.add_argument("--revision", metavar="NAME", help="of a name on the hub: a branch, tag or commit")
    group.add_argument("--gguf-file", metavar="NAME", help="one of several in the directory, or on the hub")


def find_file(args: argparse.Namespace) -> str:
    """The .gguf file that the options of add_model() mean, as from_pretrained() finds or makes it; they mean it from then on."""
    from airpy.sources import find_source

    given = _source_of(args)
    if given or not os.path.isfile(args.model):
        with interruptible():
            args.model = find_source(args.model, _wanted(args, given)).path
    for name in given:
        setattr(args, name, None)
    return str(args.model)


@contextmanager
def find_header(args: argparse.Namespace) -> Iterator[Header]:
    """That file's header; the file is not made for that."""
    from airpy.sources import find_header

    with interruptible(), find_header(args.model, _wanted(args, _source_of(args))) as found:
        yield found


def _source_of(args: argparse.Namespace) -> SourceArguments:
    given: SourceArguments = {}
    for name in ("compression", "revision", "gguf_file"):
        if getattr(args, name, None) is not None:
            given[name] = getattr(args, name)
    return given


def _wanted(args: argparse.Namespace, given: SourceArguments) -> Wanted:
    from airpy.sources import Wanted

    return Wanted.of(given, False if args.json else "auto")


def add_types(parser: argparse.ArgumentParser) -> None:
    """What of a mix of types is otherwise; args.tensor_type and args.pure."""
    parser.add_argument(
        "--tensor-type",
        action="append",
        default=[],
        type=_tensor_type,
        metavar="PATTERN=TYPE",
        help="what tensors become in whose names this regular expression is found; may be repeated, the first counts",
    )
    parser.add_argument("--pure", action="store_true", help="one type for all matrices, instead of a mix")


def add_writing(parser: argparse.ArgumentParser) -> None:
    """What commands that write a model have in common; written() obeys it."""
    add_types(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    parser.add_argument("--threads", type=threads, metavar="N", help="default: all that this process may use")
    parser.add_argument("--dry-run", action="store_true", help="print what each tensor would become, and write nothing")
    add_json(parser)


def written(args: argparse.Namespace, plan: QuantizePlan | ConvertPlan, facts: dict[str, Any], what: str = "") -> int:
    """Writes what is planned and says so, with the facts as JSON. what: of the model, before its size."""
    opened()  # from here on Ctrl-C must leave nothing behind, or what can be continued
    start = time.monotonic()
    size = plan.write(threads=args.threads, progress=False if args.json else "auto")
    seconds = time.monotonic() - start
    if args.json:
        print_json({**facts, "bytes": size, "seconds": seconds})
    else:
        rate = format_rate(plan.source_bytes / seconds)
        sizes = f"{what}{format_size(size)}, {plan.bits_per_weight:.2f} bits per weight"
        print(f"{printable(plan.output)}: {sizes}, in {format_time(seconds)} ({rate} read)")
    return 0


def facts_of(plan: QuantizePlan | ConvertPlan) -> dict[str, Any]:
    """What JSON answers say of a model that is to be written."""
    return {
        "output": plan.output,
        "type": plan.mix.name,
        "source_bytes": plan.source_bytes,
        "target_bytes": plan.target_bytes,
        "bits_per_weight": plan.bits_per_weight,
    }


def _tensor_type(text: str) -> tuple[str, str]:
    """argparse's type for --tensor-type."""
    pattern, equals, type = text.rpartition("=")
    if not (pattern and equals and type):
        raise argparse.ArgumentTypeError(f"{text!r} is not PATTERN=TYPE, such as ffn_down=Q8_0")
    return pattern, type


def add_json(parser: argparse.ArgumentParser, what: str = "one JSON object") -> None:
    parser.add_argument("--json", action="store_true", help=f"print {what} instead of text")


def add_trace(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trace", metavar="FILE", help="write what each thread did when, for https://ui.perfetto.dev or chrome://tracing")


@contextmanager
def traced(args: argparse.Namespace, model: Model) -> Iterator[None]:
    """Writes the trace that --trace asks for, of what is done within, also where that fails or is interrupted."""
    if args.trace is None:
        yield
        return
    with system_errors(), open(args.trace, "w"):  # what is wrong with the path is said now, not at the end
        pass
    with model.profile() as profile:
        try:
            yield
        finally:
            profile.end()
            profile.save(args.trace)
            if profile.dropped:
                print(f"airpy: the trace had no room for {profile.dropped} events, which it lacks at its end", file=sys.stderr)


def add_engine(parser: argparse.ArgumentParser, *, max_ram: str = "what is free") -> None:
    """Options of from_pretrained(). max_ram: the default, as help says it."""
    group = parser.add_argument_group("memory and machine")
    names = "cpu, cuda, cuda:1 …, cuda:0,1, or auto: the GPUs there are, else the CPU; default: auto"
    group.add_argument("--device", metavar="NAME", help=names)
    group.add_argument("--max-ram", type=size, metavar="SIZE", help=f"what airpy may use, such as 4GiB; default: {max_ram}")
    group.add_argument("--max-vram", type=sizes, metavar="SIZE", help="likewise of a GPU's memory, or 24GB,8GB of two; default: most of it")
    group.add_argument(
        "--cpu-share", type=share, metavar="X", help="of weights that no GPU holds, what the CPU computes, 0 to 1; default: chosen"
    )
    group.add_argument("--io", choices=("auto", "direct", "mmap"), help="how weights are read; default: auto")
    group.add_argument("--threads", type=threads, metavar="N", help="default: all that this process may use")
    group.add_argument("--n-ctx", type=count, metavar="N", help="tokens of prompt and answer together; default: up to 4096")
    group.add_argument("--kv-dtype", choices=("f16", "f32", "q8_0", "q4_0"), help="type of the KV cache; default: f16, of encoders f32")
    group.add_argument("--plan", metavar="FILE", help="a plan that 'airpy plan --save' wrote, instead of the options above")


def add_sampling(
    parser: argparse.ArgumentParser, *, temperature: float, tokens: int | None = None, seed_default: int | None = None
) -> None:
    """Options of generate(), with a command's own defaults."""
    group = parser.add_argument_group("generation")
    length, seeds = tokens or "256, or what the context has room for", seed_default or "a new one each time"
    group.add_argument("-n", "--max-new-tokens", type=count, default=tokens, metavar="N", help=f"default: {length}")
    greedy = "0: the likeliest token; default: %(default)s"
    group.add_argument("--temp", type=sampling("temperature"), default=temperature, metavar="T", help=greedy)
    group.add_argument("--top-k", type=sampling("top_k"), metavar="K", help="0: off; default: 50")
    group.add_argument("--top-p", type=sampling("top_p"), metavar="P", help="default: 1, off")
    group.add_argument("--min-p", type=sampling("min_p"), metavar="P", help="default: 0, off")
    group.add_argument("--repetition-penalty", type=sampling("repetition_penalty"), metavar="R", help="default: 1, off")
    group.add_argument("--stop", action="append", type=stop, metavar="TEXT", help="end before this text; may be repeated")
    group.add_argument("--seed", type=seed, metavar="N", help=f"same seed, same text; default: {seeds}")
    parser.set_defaults(seed_default=seed_default, usage_error=parser.error)


def open_from(
    args: argparse.Namespace, *, fresh: Fresh = "", settle: Callable[[GGUF, dict[str, Any]], None] | None = None
) -> Model:
    """The model under the options of add_engine(). fresh: probe bandwidths now, whatever is kept or in a plan. settle: as in
    open_model()."""
    from airpy.auto_model import open_model
    from airpy.device import find_device

    given = {name: getattr(args, name) for name in ENGINE_OPTIONS}
    device = find_device("--device", args.device)
    model = open_model(find_file(args), given, device=device, plan=args.plan, fresh=fresh, settle=settle)
    opened()
    return model


def generation_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """generate()'s arguments from the options of add_sampling(). Ends as usage errors do where these contradict each other: to be
    asked before a model is opened."""
    given: dict[str, Any] = {
        "max_new_tokens": args.max_new_tokens, "repetition_penalty": args.repetition_penalty, "stop_strings": args.stop,
        "do_sample": args.temp != 0,
    }  # fmt: skip
    drawing = {"top_k": args.top_k, "top_p": args.top_p, "min_p": args.min_p, "seed": args.seed}
    if args.temp != 0:
        seed = args.seed_default if args.seed is None else args.seed
        return given | drawing | {"temperature": args.temp, "seed": seed}
    if idle := ["--" + name.replace("_", "-") for name, value in drawing.items() if value is not None]:
        what = "do nothing" if len(idle) > 1 else "does nothing"
        args.usage_error(f"{', '.join(idle)} {what} at --temp 0, which takes the likeliest token; give a --temp above 0")
    return given


def read_prompt(args: argparse.Namespace) -> str:
    """-p, or -f, or what is piped in. Raises ArgumentError where there is none."""
    if args.prompt is not None:
        return str(args.prompt)
    if args.file is not None:
        return read_text(args.file)
    if sys.stdin is None or sys.stdin.isatty():
        raise ArgumentError("no prompt: give -p TEXT or -f FILE, or pipe one in")
    return sys.stdin.read()


def read_text(path: str, newline: str | None = None) -> str:
    """A file; bytes that are not UTF-8 as U+FFFD. newline: as open() has it; "" leaves ends of lines as they are."""
    with system_errors(), open(path, encoding="utf-8", errors="replace", newline=newline) as file:
        return file.read()


def add_prompt(parser: argparse.ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group()
    group.add_argument("-p", "--prompt", type=text, metavar="TEXT")
    group.add_argument("-f", "--file", metavar="FILE", help="a file that holds the prompt; without -p and -f, stdin is read")


def print_json(value: Any) -> None:
    plain = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace(
        "-", ""
    ) != "utf8"  # "\u00e9" where "é" would become "?"
    print(json.dumps(value, ensure_ascii=plain, allow_nan=False).encode("utf-8", "replace").decode(), flush=True)


def pick_stats(stats: dict[str, Any]) -> dict[str, Any]:
    return {name: stats[name] for name in STATS}


def figures_line(stats: dict[str, Any]) -> str:
    """The one honest line at the end of a run: first tokens per second by the clock, then what they are made of. What is predicted is
    passes, so passes are what is compared."""
    parts = [f"{stats['new_tokens']} tokens"]
    if stats["tok_s"]:
        between = f" and {format_time(stats['between_ms'] / 1e3)} between them" if stats["between_ms"] is not None else ""
        parts[0] += f" at {format_speed(stats['tok_s'])}"
        parts.append(f"passes of {format_time(stats['pass_ms'] / 1e3)}{between}")
    if stats["bytes_disk_per_token"] is not None:
        disk, ram = (format_size(stats[f"bytes_{where}_per_token"]) for where in ("disk", "ram"))
        parts.append(f"{disk} from disk and {ram} from RAM per token")
    parts.append(f"peak memory {format_size(stats['peak_ram'])} of {format_size(stats['budget'])}")
    if stats["achieved_over_predicted"] is not None:
        share = stats["achieved_over_predicted"]
        parts.append(f"passes at {100 * share:.0f} % of the predicted speed ({format_time(share * stats['pass_ms'] / 1e3)} each)")
    return ", ".join(parts)
