"""airpy bench: prompts, tokens and batches per second, beside bandwidths probed in the same run."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from airpy.cli import common
from airpy.errors import ArgumentError, BudgetError
from airpy.sizes import format_number, format_rate

if TYPE_CHECKING:
    from airpy.measure import Phase
    from airpy.model import Model

_BATCH = 8
_EXAMPLES = """\
  airpy bench model.gguf
  airpy bench model.gguf --max-ram 4GiB --tokens 16
  airpy bench model.gguf --json"""


def add(commands: common.Commands) -> None:
    parser = common.command(
        commands, "bench", "how fast a model is",
        "Measures a prompt (prefill), one sequence (decode) and eight (batch), and beside each how fast its weights moved (gb_s) "
        "from where the bound is, and what that was probed at just before (probe_gb_s).", _EXAMPLES,
    )  # fmt: skip
    common.add_model(parser)
    parser.add_argument("--prompt-tokens", type=common.count, metavar="N", help="of the prompt; default: up to 256")
    parser.add_argument("--tokens", type=_tokens, metavar="N", help="of each sequence, 2 or more; default: up to 32")
    parser.add_argument("--seed", type=common.seed, default=1, metavar="N", help="of the prompt's random ids; default: %(default)s")
    common.add_engine(parser)
    common.add_trace(parser)
    common.add_json(parser, "a JSON array, one object for each test,")
    parser.set_defaults(run=run)


def _tokens(text: str) -> int:
    """argparse's type for new tokens."""
    if common.count(text) == 1:
        raise argparse.ArgumentTypeError("1 has nothing to time: the first token comes with the prompt; give 2 or more")
    return common.count(text)


def run(args: argparse.Namespace) -> int:
    with common.open_from(args, fresh="rates") as model:
        how = lengths(model, args.prompt_tokens, args.tokens)
        with common.traced(args, model):
            rows = bench(model, *how, args.seed)
        stats = model.stats()
    if args.json:
        common.print_json(rows)
        return 0
    print(f"{'test':<9}{'tokens':>7}{'tokens/s':>11}{'predicted':>11}{'moved':>13}{'probed':>13}")
    for row in rows:
        if row["reason"]:
            print(f"{row['test']:<9}not measured: {row['reason']}")
            continue
        predicted = format_number(row["predicted_tok_s"]) if row["predicted_tok_s"] else "-"
        moved, probed = (format_rate(1e9 * row[name]) if row[name] else "-" for name in ("gb_s", "probe_gb_s"))
        print(f"{row['test']:<9}{row['tokens']:>7}{format_number(row['tok_s']):>11}{predicted:>11}{moved:>13}{probed:>13}")
    print(f"io {stats['io']}, {stats['threads']} threads, {stats['kernels']} kernels")
    return 0


def lengths(model: Model, prompt_tokens: int | None, tokens: int | None) -> tuple[int, int]:
    """Of prompt and sequences: as asked for, or what the context has room for. Raises ArgumentError where it has not."""
    more = tokens or max(2, min(32, model.n_ctx // 2, model.n_ctx - (prompt_tokens or 1)))
    length = prompt_tokens or max(1, min(256, model.n_ctx - more))
    if length + more > model.n_ctx:
        trained = model.config.max_position_embeddings
        given = [f"--{name} {value}" for name, value in (("prompt-tokens", prompt_tokens), ("tokens", tokens)) if value]
        what = f"a prompt of {length} and {more} new tokens exceed the context of {model.n_ctx}"
        advice = [f"lower {' or '.join(given)}"] if given else []
        if model.n_ctx < trained:
            raise ArgumentError(f"{what}; {', or '.join([*advice, f'give a larger --n-ctx, up to {trained}'])}")
        raise ArgumentError(f"{what} that the model was trained for{'; ' if advice else ''}{''.join(advice)}")
    return length, more


def bench(model: Model, length: int, tokens: int, seed: int) -> list[dict[str, Any]]:
    """Rows {test, tokens, tok_s, gb_s, probe_gb_s, predicted_tok_s, bound, passes, reason}: None but for the first and the last where
    a test could not be, and why."""
    import numpy as np

    ids = np.random.default_rng(seed).integers(0, len(model.tokenizer), (_BATCH, length))
    model.generate(ids[:1, :1], max_new_tokens=2, eos_token_id=[])  # pins and page cache are filled
    rows: list[dict[str, Any]] = []
    for test, prompts in (("prefill", ids[:1]), ("decode", ids[:1]), ("batch", ids[:, : min(length, 8)])):
        model.forget()
        try:
            model.generate(prompts, max_new_tokens=2 if test == "prefill" else tokens, eos_token_id=[])
        except BudgetError as error:
            if test != "batch":
                raise
            rows.append({**dict.fromkeys(rows[0]), "test": test, "reason": str(error)})
            continue
        meter = model.last_call
        if test == "prefill":
            meter.prompt.tokens = length
            rows.append(_row(model, test, meter.prompt))
        else:
            rows.append(_row(model, test, meter.decode))
    return rows


def _row(model: Model, test: str, phase: Phase) -> dict[str, Any]:
    figures = phase.figures()
    bound, moved, probed = _bound_of(model, phase)
    return {
        "test": test,
        "tokens": phase.tokens,
        "tok_s": figures["tok_s"],
        "gb_s": moved / phase.seconds / 1e9 if phase.seconds else None,
        "probe_gb_s": probed / 1e9 if probed else None,
        "predicted_tok_s": figures["predicted_tok_s"],
        "bound": bound,
        "passes": phase.passes,
        "reason": None,
    }


def _bound_of(model: Model, phase: Phase) -> tuple[str, float, float]:
    """What bounds passes of one token, the bytes that came from there or went through it, and the rate that it was probed at: of products,
    what the plan says all of a pass go at, one column."""
    plan = model.plan
    if phase.disk_bytes and plan.bound == "disk":
        return "disk", phase.disk_bytes, plan.bandwidths.get("disk", 0.0)
    if plan.bound == "link":
        return "link", phase.passes * plan.linked_bytes, plan.bandwidths.get("link", 0.0)
    name, moved = ("device", phase.passes * plan["weight_bytes"]) if plan.on_device else ("compute", phase.disk_bytes + phase.ram_bytes)
    seconds = plan[f"{name}_s"]
    return name, moved, plan["weight_bytes"] / seconds if seconds else 0.0
