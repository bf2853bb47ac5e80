"""Reading a prompt, all weights in memory, beside llama.cpp: python -m tests.bench.prefill --peer-python PYTHON

Arithmetic bounds a prompt: the rate at which products of many columns run is probed in the process of airpy, and the speed is held
against what the plan makes of it. llama.cpp runs at its best, its own order of the weights included (--peer-repack off: without).
"""
from __future__ import annotations

import argparse

from tests.bench import common
from tests.bench.common import Json, Round, percent, row


def figures_of(name: str, rounds: list[Round]) -> Json:
    runs = [r.results[name]["prompt"] for r in rounds]
    speeds = [r["tokens"] / r["median_s"] for r in runs]
    figures: Json = {
        "tokens": runs[0]["tokens"], "kernels": rounds[0].results[name]["kernels"], "tok_s": common.summary(speeds),
        "of_predicted": common.summary([r["predicted_s"] / r["median_s"] for r in runs]),
    }  # fmt: skip
    if f"{name}: llama.cpp" in rounds[0].results:
        them = [r.results[f"{name}: llama.cpp"] for r in rounds]
        peer = [t["prefill_tok_s"] for t in them]
        figures |= {"peer": them[0]["peer"], "peer_tok_s": common.summary(peer), "ratio": common.ratios(speeds, peer)}
    return figures


def table(name: str, f: Json) -> list[Json]:
    tok = f["tok_s"]
    text = f"{tok['median']:.0f} (spread {percent(tok['spread'])}), {percent(f['of_predicted']['median'])} of the plan's"
    if "peer" in f:
        ratio = f["ratio"]
        text += f"; llama.cpp {f['peer_tok_s']['median']:.0f}, airpy {ratio['median']:.2f} times that (spread {percent(ratio['spread'])})"
    return [row(f"{name}: a prompt of {f['tokens']}, tokens/s", text)]


def arguments() -> argparse.Namespace:
    ap = common.parser(__doc__, rounds=3, models="+")
    ap.add_argument("--prompt", type=int, default=512, metavar="N", help="tokens")
    ap.add_argument("--times", type=int, default=1, metavar="N", help="prompts read in a round")
    return ap.parse_args()


def main() -> int:
    options = arguments()
    models = [common.model_file(given, "1b", "Q4_K") for given in options.model or [None]]
    turns = common.side_by_side("prefill", models, options, {"n_ctx": 2 * options.prompt, "prompt": options.prompt, "times": options.times},
                                {"prompt": options.prompt, "new": 1})
    rounds = common.take_turns(turns, options.rounds, options.seconds)
    figures = {model.stem: figures_of(model.stem, rounds) for model in models}
    settings = {"threads": options.threads, "prompt": options.prompt, "times": options.times, "io": "mmap",
                "peer_repack": options.peer_repack}
    common.write("prefill", models, rounds, settings, figures, [r for name, f in figures.items() for r in table(name, f)])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
