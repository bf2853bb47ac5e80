"""What a long context costs, with K/V in F16 and Q8_0, beside llama.cpp: python -m tests.bench.attention --peer-python PYTHON

Decoding reads the K/V of every position once, so the bound is the speed of memory: the time of a pass at a depth, less that at an
empty context, against the time of reading so many bytes at the rate probed in the same process. A prompt's cost is that of a pass of
128 tokens at a depth; as it grows evenly with the depth, the rate over a whole prompt follows from its ends.
Contexts are filled by copies of their first 1024 tokens' state; models have two layers, of the 1b's (eight query heads for a K/V
head) and the 7b's shape (one), so that a run takes minutes.
"""
from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from statistics import mean

from tests.bench import common
from tests.bench.common import Json, Round, percent, row

DEPTHS = (0, 1024, 8192, 32768)
CHUNK = 128
KINDS = ("f16", "q8_0")
SHAPES = ("1b", "7b")
WITHIN = 1 / 1.3                # of the memory's speed, in F16 at the greatest depth


def attended(run: Json, depth: str) -> float:
    """Seconds of a decoded pass that are its context's."""
    return float(run["depths"][depth]["decode_s"] - run["depths"]["0"]["decode_s"])


def prompt_rate(run: Json, depth: str) -> float:
    """Tokens/s over a prompt as long as the depth."""
    ends = [run["depths"][d]["prompt_s"] for d in ("0", depth)]
    return CHUNK / mean(ends)


def figures_of(name: str, rounds: list[Round]) -> Json:
    """Of one model and kind of K/V."""
    runs = [r.results[name] for r in rounds]
    probed = [mean((r["probe_before"]["memory"], r["probe_after"]["memory"])) for r in runs]
    figures: Json = {"probed": common.summary(probed), "kernels": runs[0]["kernels"], "decode": {}, "prompt": {}}
    peers = [r.results[f"{name}: llama.cpp"] for r in rounds if f"{name}: llama.cpp" in r.results]
    for depth in (d for d in runs[0]["depths"] if d != "0"):
        rates = [r["depths"][depth]["bytes"] / attended(r, depth) for r in runs]
        decode = {"bytes": runs[0]["depths"][depth]["bytes"], "seconds": common.summary([attended(r, depth) for r in runs]),
                  "bytes_s": common.summary(rates), "of_probed": common.ratios(rates, probed)}
        prompt = {"tok_s": common.summary([prompt_rate(r, depth) for r in runs])}
        if peers:
            decode["ratio"] = common.ratios([attended(p, depth) for p in peers], [attended(r, depth) for r in runs])
            prompt["ratio"] = common.ratios([prompt_rate(r, depth) for r in runs], [prompt_rate(p, depth) for p in peers])
        figures["decode"][depth], figures["prompt"][depth] = decode, prompt
    return figures


def table(name: str, f: Json) -> list[Json]:
    rows = []
    for depth, d in f["decode"].items():
        share, spread = d["of_probed"]["median"], percent(d["of_probed"]["spread"])
        text = f"{d['seconds']['median'] * 1e3:.2f} ms, {percent(share)} of the read speed probed (spread {spread})"
        if "ratio" in d:
            text += f"; llama.cpp takes {d['ratio']['median']:.2f} times that"
        asked = name.endswith("f16") and int(depth) == max(DEPTHS)
        rows.append(row(f"{name}: attention of a pass at {depth}", text, "≥ 77 %" if asked else "", share >= WITHIN if asked else None))
    for depth, p in f["prompt"].items():
        text = f"{p['tok_s']['median']:.0f}"
        if "ratio" in p:
            text += f"; airpy {p['ratio']['median']:.2f} times llama.cpp"
        rows.append(row(f"{name}: a prompt of {depth}, tokens/s", text))
    return rows


def model_file(shape: str) -> Path:
    """Two layers of a shape, with a small vocabulary and room for long contexts; kept in the cache folder."""
    return common.model_file(None, shape, "Q4_K", suffix="-2-layers", layers=2, vocab=1024, ctx=2 * max(DEPTHS))


def arguments() -> argparse.Namespace:
    ap = common.parser(__doc__, rounds=3)
    ap.add_argument("--new", type=int, default=8, metavar="N", help="passes timed at each depth")
    ap.add_argument("--depths", type=int, nargs="+", default=list(DEPTHS[1:]), metavar="N", help="multiples of 1024")
    return ap.parse_args()


def main() -> int:
    options = arguments()
    models = [options.model] if options.model else [model_file(shape) for shape in SHAPES]
    depths = [0, *options.depths]
    turns = {}
    for model in models:
        for kind in KINDS:
            name = f"{model.stem} {kind}"
            turns[name] = partial(common.worker, "attention", model, io="mmap", threads=options.threads, probe_seconds=0.3, kv_dtype=kind,
                                  n_ctx=max(depths) + 2 * CHUNK, depths=depths, new=options.new, chunk=CHUNK)
            if options.peer_python:
                theirs = {"threads": options.threads, "load": "mmap"}
                repack = options.peer_repack
                if repack == "best":
                    repack = common.best_repack(options.peer_python, model, {**theirs, "prompt": 16, "new": 9, "sequences": (1,)})
                turns[f"{name}: llama.cpp"] = partial(
                    common.peer, options.peer_python, model, **theirs, repack=repack, kv=kind, new=options.new,
                    depths=",".join(map(str, depths)), chunk=CHUNK)
    rounds = common.take_turns(turns, options.rounds, options.seconds)
    names = [name for name in turns if not name.endswith("llama.cpp")]
    figures = {name: figures_of(name, rounds) for name in names}
    settings = {"threads": options.threads, "depths": depths, "new": options.new, "chunk": CHUNK, "io": "mmap",
                "peer_repack": options.peer_repack}
    common.write("attention", models, rounds, settings, figures, [r for name, f in figures.items() for r in table(name, f)])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
