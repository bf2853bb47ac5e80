"""Decoding several texts together, all weights in memory, beside llama.cpp: python -m tests.bench.batch --peer-python PYTHON

A pass of n texts reads the weights as often as one of a single text, so while reading bounds it the others are free; what is shown
is how many times a pass of one text it takes, and how near it comes to its bound: reading the weights at the memory's speed, probed in
the same process, or computing at 55 % of the multipliers' peak, measured beside it, whichever is longer. Peers run at their best.
"""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from statistics import mean

from tests.bench import common
from tests.bench.common import Json, Round, figure, row

COUNTS = (1, 2, 4, 8, 16)
OF_PEAK = 0.55


def bound(run: Json, peaks: Sequence[Json], n: int) -> float:
    """Seconds of a pass of n texts; 0 where no peak was measured."""
    read = run["plan"]["weight_bytes"] / mean((run["probe_before"]["memory"], run["probe_after"]["memory"]))
    top = common.peak_for(run, peaks)
    return max(read, common.operations(run, n, n) / (OF_PEAK * top)) if top else 0.0


def program(seconds: dict[int, list[float]]) -> Json:
    """Of one program, for every count: seconds of a pass, and how many times a pass of one text that is, in the same round."""
    return {str(n): {"pass_s": common.summary(s), "over_one": common.ratios(s, seconds[1]), "tok_s": common.summary([n / x for x in s])}
            for n, s in seconds.items()}


def figures_of(name: str, rounds: list[Round]) -> Json:
    """Of one model: each program's passes; of airpy's also how many times their bound they take."""
    runs = [r.results[name] for r in rounds]
    figures: Json = {"type": runs[0]["type"], "airpy": program({n: [run["texts"][str(n)]["median_s"] for run in runs] for n in COUNTS})}
    for n in COUNTS:
        bounds = [bound(run, common.peaks_in(rounds), n) for run in runs]
        if all(bounds):
            figures["airpy"][str(n)]["over_bound"] = common.ratios(figures["airpy"][str(n)]["pass_s"]["values"], bounds)
    for peer in common.PEERS:
        if f"{name}: {peer}" in rounds[0].results:
            them = [r.results[f"{name}: {peer}"] for r in rounds]
            figures[peer] = program({n: [t["texts"][str(n)]["pass_s_median"] for t in them] for n in COUNTS})
    return figures


def table(name: str, figures: Json) -> list[Json]:
    rows = []
    for n in COUNTS:
        ours = figures["airpy"][str(n)]
        tok, times = ours["tok_s"], ours["over_one"]["median"]
        text = f"{figure(tok['median'])} tokens/s ({common.spread(tok)}), {times:.2f} × a pass of one"
        goals, met = [], []
        if n == 4:
            goals, met = ["≤ 1.15 × a pass of one"], [times <= 1.15]
        if "over_bound" in ours:
            text += f", {ours['over_bound']['median']:.2f} × its bound"
            goals, met = [*goals, "≤ 1.1 × its bound"], [*met, ours["over_bound"]["median"] <= 1.1]
        for peer in common.PEERS:
            if peer in figures:
                them = figures[peer][str(n)]
                text += f"; {peer} {figure(them['tok_s']['median'])}, {them['over_one']['median']:.2f} ×"
        what = f"{name}: {n} text{'s' if n > 1 else ''} together"
        rows.append(row(what, text, ", ".join(goals), all(met) if met else None, headline=n in (4, 16)))
    return rows


def charts(figures: Json) -> list[Json]:
    """How many times a pass of one text others take: one chart for each program."""
    names, first = list(figures), next(iter(figures.values()))
    return [
        common.chart(f"{program}: a pass over one", names, **{
            f"{n} texts": [f[program][str(n)]["over_one"]["median"] for f in figures.values()] for n in COUNTS})
        for program in ("airpy", *common.PEERS) if program in first
    ]  # fmt: skip


def arguments() -> argparse.Namespace:
    ap = common.parser(__doc__, rounds=3, models="+")
    ap.add_argument("--new", type=int, default=16, metavar="N", help="passes timed for each count in a round")
    return ap.parse_args()


def main() -> int:
    options = arguments()
    models = common.models_of(options)
    turns = common.side_by_side("batch", models, options, {"n_ctx": 512, "prompt": 16, "new": options.new, "texts": COUNTS},
                                {"prompt": 16, "new": options.new + 1, "sequences": COUNTS})
    rounds = common.take_turns(turns, options.rounds, options.seconds)
    figures = {model.stem: figures_of(model.stem, rounds) for model in models}
    settings = {"threads": options.threads, "new": options.new, "io": "mmap", "n_ctx": 512, "peer_repack": options.peer_repack}
    rows = [r for name, f in figures.items() for r in table(name, f)]
    common.write("batch", models, rounds, settings, figures, rows, charts(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
