"""Decoding models that are all in memory, beside llama.cpp: python -m tests.bench.resident --peer-python PYTHON --ik-python PYTHON

All read every weight once for a token, so the bound is the speed of memory: it is probed in the process of airpy, before the model
opens and after its last pass. Peers run at their best, an order of the weights of their own included where that is quicker.
"""
from __future__ import annotations

import argparse
from statistics import mean

from tests.bench import common
from tests.bench.common import Json, Round, figure, percent, row


def predicted(run: Json, passes: Json) -> float:
    """Seconds of a pass by the plan, with bandwidths probed before and after. The plan had the first."""
    return mean(passes["predicted_s"]) * mean((1.0, run["replanned"]["pass_s"]))


def figures_of(name: str, rounds: list[Round]) -> Json:
    """Of one model: speeds in tokens/s and bytes/s, the share of the memory's speed, and what the peers do."""
    runs = [r.results[name] for r in rounds]
    weights = runs[0]["plan"]["weight_bytes"]
    seconds = [r["one"]["median_s"] for r in runs]
    speeds, rates = [1 / s for s in seconds], [weights / s for s in seconds]
    probed = [mean((r["probe_before"]["memory"], r["probe_after"]["memory"])) for r in runs]
    return {
        "type": runs[0]["type"], "weight_bytes": weights, "kernels": runs[0]["kernels"], "tok_s": common.summary(speeds),
        "bytes_s": common.summary(rates), "probed": common.summary(probed), "of_probed": common.ratios(rates, probed),
        "of_predicted": common.summary([predicted(r, r["one"]) / s for r, s in zip(runs, seconds, strict=True)]),
        "peers": common.versus(name, rounds, speeds, lambda peer: 1 / peer["pass_s_median"]),
    }  # fmt: skip


def reached(f: Json) -> bool | None:
    """Over llama.cpp, or near the memory's speed where that is less; and no peer is quicker."""
    ratios = [p["ratio"]["median"] for p in f["peers"].values()]
    if "llama.cpp" not in f["peers"]:
        return None
    return (f["peers"]["llama.cpp"]["ratio"]["median"] >= 1.25 or f["of_probed"]["median"] >= 0.92) and min(ratios) >= 1


def table(name: str, f: Json) -> list[Json]:
    tok, share, plan = f["tok_s"], f["of_probed"]["median"], f["of_predicted"]["median"]
    text = f"{figure(tok['median'])} tokens/s ({common.spread(tok)})" + common.versus_text(f["peers"])
    return [
        row(f"{name}: decode", text, "≥ 1.25 × llama.cpp or 92 % of memory; no peer quicker", reached(f), headline=True),
        row(f"{name}: share of the memory's speed", f"{percent(share)}: {f['bytes_s']['median'] / 1e9:.1f} of "
            f"{f['probed']['median'] / 1e9:.1f} GB/s", "≥ 60 %", share >= 0.6),
        row(f"{name}: share of the plan's speed", percent(plan), "90 to 110 %", 0.9 <= plan <= 1.1),
    ]  # fmt: skip


def charts(figures: Json) -> list[Json]:
    names = list(figures)
    peers = {p: [f["peers"][p]["tok_s"]["median"] for f in figures.values()] for p in figures[names[0]]["peers"]}
    return [
        common.chart("tokens/s", names, airpy=[f["tok_s"]["median"] for f in figures.values()], **peers),
        common.chart("GB/s", names, airpy=[f["bytes_s"]["median"] / 1e9 for f in figures.values()],
                     memory=[f["probed"]["median"] / 1e9 for f in figures.values()]),
    ]  # fmt: skip


def arguments() -> argparse.Namespace:
    ap = common.parser(__doc__, rounds=5, models="+")
    ap.add_argument("--new", type=int, default=60, metavar="N", help="passes timed in a round")
    return ap.parse_args()


def main() -> int:
    options = arguments()
    models = common.models_of(options)
    turns = common.side_by_side("resident", models, options, {"n_ctx": 512, "prompt": 16, "new": options.new},
                                {"prompt": 16, "new": options.new + 1})
    rounds = common.take_turns(turns, options.rounds, options.seconds)
    figures = {model.stem: figures_of(model.stem, rounds) for model in models}
    settings = {"threads": options.threads, "new": options.new, "io": "mmap", "n_ctx": 512, "peer_repack": options.peer_repack}
    rows = [r for name, f in figures.items() for r in table(name, f)]
    common.write("resident", models, rounds, settings, figures, rows, charts(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
