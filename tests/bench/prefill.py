"""Reading a prompt, all weights in memory, beside llama.cpp: python -m tests.bench.prefill --peer-python PYTHON --ik-python PYTHON

Arithmetic bounds a prompt: the peak of the multipliers is measured beside every run, integers for quantised weights and floats for
others, and a prompt's multiply-adds (of weights: attention comes on top) are held against it. Peers run at their best, an order of the
weights of their own included where that is quicker.
"""
from __future__ import annotations

import argparse
from statistics import mean

from tests.bench import common
from tests.bench.common import Json, Round, figure, percent, row

GOALS = {"Q4_0": (1.35, 0.55), "Q8_0": (1.35, 0.55), "Q4_K": (1.2, 0.5), "Q6_K": (1.2, 0.5), "F16": (0, 0.8)}  # over peers, of the peak


def predicted(run: Json) -> float:
    """Seconds by the plan, with bandwidths probed before and after. The plan had the first."""
    return float(run["prompt"]["predicted_s"]) * mean((1.0, run["replanned"]["prompt_s"]))


def figures_of(name: str, rounds: list[Round]) -> Json:
    runs = [r.results[name] for r in rounds]
    prompts = [run["prompt"] for run in runs]
    speeds = [p["tokens"] / p["median_s"] for p in prompts]
    rates = [common.operations(run, p["tokens"]) / p["median_s"] for run, p in zip(runs, prompts, strict=True)]
    figures: Json = {
        "type": runs[0]["type"], "tokens": prompts[0]["tokens"], "kernels": runs[0]["kernels"], "tok_s": common.summary(speeds),
        "operations_s": common.summary(rates), "of_predicted": common.summary([predicted(r) / r["prompt"]["median_s"] for r in runs]),
        "peers": common.versus(name, rounds, speeds, lambda peer: float(peer["prefill_tok_s"])),
    }  # fmt: skip
    if peak := common.peak_for(runs[0], common.peaks_in(rounds)):
        figures |= {"peak": peak, "of_peak": common.summary([rate / peak for rate in rates])}
    return figures


def goal(f: Json) -> tuple[str, bool | None]:
    """What is asked of a format, and whether that is reached; None where what it is held against did not run."""
    if f["type"] not in GOALS or "of_peak" not in f:
        return "", None
    over, share = GOALS[f["type"]]
    ratios = [p["ratio"]["median"] for p in f["peers"].values()]
    near = f["of_peak"]["median"] >= share
    if not over:
        return f"≥ {percent(share)} of the peak", near
    return f"≥ {over} × any peer, ≥ {percent(share)} of the peak", near and min(ratios) >= over if ratios else None


def table(name: str, f: Json) -> list[Json]:
    tok = f["tok_s"]
    text = f"{figure(tok['median'])} tokens/s ({common.spread(tok)})"
    if "of_peak" in f:
        text += f", {percent(f['of_peak']['median'])} of the peak"
    plan = f["of_predicted"]["median"]
    return [
        row(f"{name}: a prompt of {f['tokens']}", text + common.versus_text(f["peers"]), *goal(f), headline=True),
        row(f"{name}: share of the plan's speed", percent(plan), "90 to 110 %", 0.9 <= plan <= 1.1),
    ]


def charts(figures: Json) -> list[Json]:
    names = list(figures)
    peers = {p: [f["peers"][p]["tok_s"]["median"] for f in figures.values()] for p in figures[names[0]]["peers"]}
    found = [common.chart("tokens/s", names, airpy=[f["tok_s"]["median"] for f in figures.values()], **peers)]
    if all("peak" in f for f in figures.values()):
        found.append(common.chart("Gop/s", names, airpy=[f["operations_s"]["median"] / 1e9 for f in figures.values()],
                                  peak=[f["peak"] / 1e9 for f in figures.values()]))
    return found


def arguments() -> argparse.Namespace:
    ap = common.parser(__doc__, rounds=3, models="+")
    ap.add_argument("--prompt", type=int, default=512, metavar="N", help="tokens")
    ap.add_argument("--times", type=int, default=1, metavar="N", help="prompts read in a round")
    return ap.parse_args()


def main() -> int:
    options = arguments()
    models = common.models_of(options)
    turns = common.side_by_side("prefill", models, options, {"n_ctx": 2 * options.prompt, "prompt": options.prompt, "times": options.times},
                                {"prompt": options.prompt, "new": 1})
    rounds = common.take_turns(turns, options.rounds, options.seconds)
    figures = {model.stem: figures_of(model.stem, rounds) for model in models}
    settings = {"threads": options.threads, "prompt": options.prompt, "times": options.times, "io": "mmap",
                "peer_repack": options.peer_repack}
    rows = [r for name, f in figures.items() for r in table(name, f)]
    common.write("prefill", models, rounds, settings, figures, rows, charts(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
