"""Decoding several texts together, all weights in memory, beside llama.cpp: python -m tests.bench.batch --peer-python PYTHON

A pass of n texts reads the weights as often as one of a single text, so while reading bounds it the others are free; what is shown
is how many times a pass of one text it takes. llama.cpp runs at its best, its own order of the weights included (--peer-repack
off: without).
"""
from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from tests.bench import common
from tests.bench.common import Json, Round, percent, row

COUNTS = (1, 2, 4, 8, 16)


def peer_name(n: int) -> str:
    return f"llama.cpp: {n}"


def figures_of(rounds: list[Round]) -> Json:
    """Of both programs and every count: seconds of a pass, and how many times a pass of one text that is, in the same round."""
    seconds = {"airpy": {n: [r.results["airpy"]["texts"][str(n)]["median_s"] for r in rounds] for n in COUNTS}}
    if peer_name(1) in rounds[0].results:
        seconds["llama.cpp"] = {n: [r.results[peer_name(n)]["pass_s_median"] for r in rounds] for n in COUNTS}
    return {
        who: {str(n): {"pass_s": common.summary(s[n]), "over_one": common.ratios(s[n], s[1]),
                       "tok_s": common.summary([n / x for x in s[n]])} for n in COUNTS}
        for who, s in seconds.items()
    }  # fmt: skip


def table(name: str, figures: Json) -> list[Json]:
    rows = []
    for n in COUNTS:
        ours = figures["airpy"][str(n)]
        tok = ours["tok_s"]
        text = f"{tok['median']:.1f} tokens/s (spread {percent(tok['spread'])}), {ours['over_one']['median']:.2f} × a pass of one"
        if "llama.cpp" in figures:
            them = figures["llama.cpp"][str(n)]
            text += f"; llama.cpp {them['tok_s']['median']:.1f}, {them['over_one']['median']:.2f} ×"
        rows.append(row(f"{name}: {n} text{'s' if n > 1 else ''} together", text))
    return rows


def contenders(model: Path, options: argparse.Namespace) -> dict[str, Callable[[], Json]]:
    """llama.cpp takes a process for each count."""
    ours = {"n_ctx": 512, "prompt": 16, "new": options.new, "texts": COUNTS}
    turns = {}
    for n in COUNTS:
        both = common.side_by_side("batch", [model], options, ours, {"prompt": 16, "new": options.new + 1, "sequences": n})
        turns |= {"airpy": both.pop(model.stem)} | {peer_name(n): run for run in both.values()}
    return turns


def arguments() -> argparse.Namespace:
    ap = common.parser(__doc__, rounds=3)
    ap.add_argument("--new", type=int, default=16, metavar="N", help="passes timed for each count in a round")
    return ap.parse_args()


def main() -> int:
    options = arguments()
    model = common.model_file(options.model, "1b", "Q4_K")
    rounds = common.take_turns(contenders(model, options), options.rounds, options.seconds)
    figures = figures_of(rounds)
    settings = {"threads": options.threads, "new": options.new, "io": "mmap", "n_ctx": 512, "peer_repack": options.peer_repack}
    common.write("batch", [model], rounds, settings, figures, table(model.stem, figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
