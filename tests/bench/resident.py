"""Decoding a model that is all in memory, beside llama.cpp: python -m tests.bench.resident --peer-python PYTHON

Both read every weight once for a token, so the bound is the speed of memory: it is probed in the process of airpy, before the model
opens and after its last pass. llama.cpp runs at its best, its own order of the weights included (--peer-repack off: without).
"""
from __future__ import annotations

import argparse
from statistics import mean

from tests.bench import common
from tests.bench.common import Json, Round, percent, row


def figures_of(name: str, rounds: list[Round]) -> Json:
    """Of one model: speeds in tokens/s and bytes/s, the share of the memory's speed, and the same of llama.cpp."""
    runs = [r.results[name] for r in rounds]
    weights = runs[0]["plan"]["weight_bytes"]
    rates = [weights / r["one"]["median_s"] for r in runs]
    probed = [mean((r["probe_before"]["memory"], r["probe_after"]["memory"])) for r in runs]
    predicted = [mean(r["one"]["predicted_s"]) for r in runs]
    figures: Json = {
        "weight_bytes": weights, "kernels": runs[0]["kernels"],
        "tok_s": common.summary([1 / r["one"]["median_s"] for r in runs]), "bytes_s": common.summary(rates),
        "probed": common.summary(probed), "of_probed": common.ratios(rates, probed),
        "of_predicted": common.summary([p / r["one"]["median_s"] for p, r in zip(predicted, runs, strict=True)]),
    }  # fmt: skip
    if f"{name}: llama.cpp" in rounds[0].results:
        them = [r.results[f"{name}: llama.cpp"] for r in rounds]
        speeds = [1 / t["pass_s_median"] for t in them]
        figures |= {"peer": them[0]["peer"], "repack": them[0]["repack"], "peer_tok_s": common.summary(speeds),
                    "ratio": common.ratios([1 / r["one"]["median_s"] for r in runs], speeds)}
    return figures


def table(name: str, f: Json) -> list[Json]:
    tok, share = f["tok_s"], f["of_probed"]["median"]
    rows = [
        row(f"{name}: decode, tokens/s", f"{tok['median']:.1f} (spread {percent(tok['spread'])})"),
        row(f"{name}: share of the read speed probed", f"{percent(share)} ({f['bytes_s']['median'] / 1e9:.1f} of "
            f"{f['probed']['median'] / 1e9:.1f} GB/s)", "≥ 60 %", share >= 0.6),
        row(f"{name}: share of the plan's predicted speed", percent(f["of_predicted"]["median"])),
    ]  # fmt: skip
    if "peer" in f:
        ratio, spread = f["ratio"]["median"], percent(f["ratio"]["spread"])
        text = f"{f['peer_tok_s']['median']:.1f}; airpy {ratio:.2f} times that (spread {spread})"
        rows.append(row(f"{name}: llama.cpp, tokens/s", text))
    return rows


def arguments() -> argparse.Namespace:
    ap = common.parser(__doc__, rounds=5, models="+")
    ap.add_argument("--new", type=int, default=60, metavar="N", help="passes timed in a round")
    return ap.parse_args()


def main() -> int:
    options = arguments()
    models = [common.model_file(given, "1b", "Q4_K") for given in options.model or [None]]
    turns = common.side_by_side("resident", models, options, {"n_ctx": 512, "prompt": 16, "new": options.new},
                                {"prompt": 16, "new": options.new + 1})
    rounds = common.take_turns(turns, options.rounds, options.seconds)
    figures = {model.stem: figures_of(model.stem, rounds) for model in models}
    settings = {"threads": options.threads, "new": options.new, "io": "mmap", "n_ctx": 512, "peer_repack": options.peer_repack}
    common.write("resident", models, rounds, settings, figures, [r for name, f in figures.items() for r in table(name, f)])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
