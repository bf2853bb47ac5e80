"""Decoding a mixture of experts larger than its memory, beside llama.cpp: python -m tests.bench.experts --peer-python PYTHON

Two synthetic mixtures of qwen3moe's shape (16 layers of 64 experts, 8 of them used, Q4_K): one whose routers send tokens everywhere
alike, one whose routers are biased, so that some experts are used most. Each process runs in a memory control group of a share of the
file's size (making one needs root). The tokens are drawn, the same for all: of random weights a chosen text soon repeats itself, and so
do the experts.

llama.cpp depends on how far the kernel reads ahead of a page fault: --read-ahead KIB … runs it under each, and it is held to its best.

--slow-disk GB/S: the uniform one again on a disk held to that rate, as clouds do it: bytes that it did not bring while it idled, it may
bring later. So it never idles, attention costs the bound nothing, and the disk is too busy for guesses.

The bound without lookahead is the bytes that were missed over the disk's rate, probed in the same process before the model opens and
after its last pass. Attention, routers and the output cannot be computed meanwhile: what they take, by a timeline of some more passes, is
reported, and the bound's share of the rest of the time. With lookahead, experts are read while layers before theirs are computed; the
bound stays that of what is missed without. Hits stand beside those of an optimal cache of as many slots, which knows the future, and of
others (tests/bench/routing.py), on what the routers chose in that run.
"""
from __future__ import annotations

import argparse
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple

import numpy as np

from tests.bench import cgroup, common, routing
from tests.bench.beyond_ram import BESIDE, read_ahead
from tests.bench.common import Json, Round, figure, percent, row

SKEW = 0.5
SHAPE = {"arch": "qwen3moe", "layers": 16, "experts": 64, "used": 8, "vocab": 32000}
DRAW = 7


class Case(NamedTuple):
    model: Path
    asked: float                    # of llama.cpp's tokens/s
    disk: float | None = None       # bytes a second that it is held to


def cases_of(options: argparse.Namespace) -> dict[str, Case]:
    make = partial(common.model_file, None, "moe", "Q4_K", **SHAPE)
    uniform, skewed = make(suffix="-64"), make(suffix="-64-skewed", router_skew=SKEW)
    slow = {f"uniform, disk of {options.slow_disk:g} GB/s": Case(uniform, 1.35, options.slow_disk * 1e9)} if options.slow_disk else {}
    return {"uniform": Case(uniform, 1.35), "skewed": Case(skewed, 1.8), **slow}


def in_group(case: Case, limit: int, run: Callable[[cgroup.MemoryGroup], Json]) -> Json:
    common.evict(case.model)
    with cgroup.MemoryGroup(limit, (case.model, case.disk) if case.disk else None) as group:
        found = run(group)
        return {**found, "peak": group.peak, "kills": group.kills}


def ahead_in_group(case: Case, limit: int, kib: int | None, run: Callable[[cgroup.MemoryGroup], Json]) -> Json:
    with read_ahead(case.model, kib):
        return in_group(case, limit, run)


def peers_of(options: argparse.Namespace) -> dict[str, int | None]:
    """Name and read-ahead in KiB, None as it is set."""
    if not options.peer_python:
        return {}
    return {f"llama.cpp, read-ahead {kib} KiB": kib for kib in options.read_ahead or []} or {"llama.cpp": None}


def contenders(cases: dict[str, Case], options: argparse.Namespace) -> dict[str, Callable[[], Json]]:
    turns: dict[str, Callable[[], Json]] = {}
    for name, case in cases.items():
        model = case.model
        limit = int(model.stat().st_size * options.share)
        ours = {"max_ram": limit - BESIDE, "io": "direct", "threads": options.threads, "n_ctx": 1024, "warm": options.warm,
                "new": options.new, "draw": DRAW, "probe_seconds": 1.0}
        for lookahead in (False, True):
            task = partial(common.worker, "experts", model, lookahead=lookahead, **ours)
            turns[f"{name}: {'with' if lookahead else 'without'} lookahead"] = partial(in_group, case, limit, lambda g, t=task: t(group=g))
        for peer, kib in peers_of(options).items():
            theirs = partial(common.peer, options.peer_python, model, threads=options.threads, prompt=1,
                             new=options.peer_warm + options.peer_new, load="mmap", repack="off", draw=DRAW)
            turns[f"{name}: {peer}"] = partial(ahead_in_group, case, limit, kib, lambda g, t=theirs: t(group=g))
    return turns


def disk_rate(run: Json) -> float:
    return mean((run["probe_before"]["disk"], run["probe_after"]["disk"]))


def of_bound(run: Json) -> float:
    """The time that reading what was missed takes at the disk's rate, over the time taken."""
    return float(sum(run["one"]["disk_bytes"]) / disk_rate(run) / run["one"]["seconds_in_all"])


def of_rest(run: Json) -> float:
    """The same over that time less what attention, routers and output took of it."""
    one = run["one"]
    return of_bound(run) * float(one["seconds_in_all"] / (one["seconds_in_all"] - run["beside_s"] * len(one["seconds"])))


def speed(run: Json) -> float:
    return float(len(run["one"]["seconds"]) / run["one"]["seconds_in_all"])


def hits(run: Json) -> float:
    h, m = sum(run["one"]["hits"]), sum(run["one"]["misses"])
    return h / (h + m)


def best_hits(run: Json, warm: int) -> Json:
    """What the policies make of the same choices with as many slots."""
    trace = np.array(run["trace"], np.int16)
    n_units = trace.shape[1] * run["experts"]
    slots = int(run["expert_bytes"] / (run["plan"]["expert_weight_bytes"] / n_units))
    return {"slots": slots, "of": n_units, **routing.compare(trace, run["experts"], slots, warm)}


def figures_of(name: str, rounds: list[Round], options: argparse.Namespace) -> Json:
    plain, ahead = ([r.results[f"{name}: {which} lookahead"] for r in rounds] for which in ("without", "with"))
    speeds = [speed(r) for r in ahead]
    found: Json = {
        "tok_s": common.summary(speeds), "plain_tok_s": common.summary([speed(r) for r in plain]),
        "of_bound": common.summary([of_bound(r) for r in plain]), "of_rest": common.summary([of_rest(r) for r in plain]),
        "beside_s": common.summary([r["beside_s"] for r in plain]),
        "ahead_of_bound": common.summary([of_bound(p) * speed(a) / speed(p) for p, a in zip(plain, ahead, strict=True)]),
        "ahead_over_plain": common.ratios(speeds, [speed(r) for r in plain]),
        "bytes_per_token": common.summary([mean(r["one"]["disk_bytes"]) for r in plain]),
        "ahead_bytes_per_token": common.summary([mean(r["one"]["disk_bytes"]) for r in ahead]),
        "disk_rate": common.summary([disk_rate(r) for r in plain]), "hits": common.summary([hits(r) for r in plain]),
        "guesses_right": common.summary([sum(r["one"]["guessed"]) / max(1, sum(r["one"]["guesses"])) for r in ahead]),
        "policies": best_hits(plain[0], options.warm), "predicted_hits": plain[0]["plan"]["expert_hit"],
        "kills": sum(r["kills"] for r in plain + ahead), "peak": max(r["peak"] for r in plain + ahead),
    }  # fmt: skip
    if options.peer_python:
        speeds_of = {peer: [options.peer_new / sum(r.results[f"{name}: {peer}"]["pass_s"][-options.peer_new:]) for r in rounds]
                     for peer in peers_of(options)}
        best = max(speeds_of, key=lambda peer: median(speeds_of[peer]))
        found["peers"] = {peer: common.summary(theirs) for peer, theirs in speeds_of.items()}
        found["peer"] = {"peer": best, "tok_s": common.summary(speeds_of[best]), "ratio": common.ratios(speeds, speeds_of[best]),
                         "bytes_per_token": common.summary([r.results[f"{name}: {best}"]["pass_bytes"] for r in rounds])}
    return found


def table(name: str, case: Case, f: Json) -> list[Json]:
    p, plain, ahead = f["policies"], f["plain_tok_s"], f["tok_s"]
    without = f"{figure(plain['median'])} tokens/s ({common.spread(plain)}), {percent(f['of_bound']['median'])} of the bound: " \
              f"{f['bytes_per_token']['median'] / 1e6:.0f} MB a token at {f['disk_rate']['median'] / 1e9:.2f} GB/s; " \
              f"{percent(f['of_rest']['median'])} beside {f['beside_s']['median'] * 1e3:.1f} ms of attention, routers and output"
    looking = f"{figure(ahead['median'])} tokens/s ({common.spread(ahead)}), {f['ahead_over_plain']['median']:.2f} ×, " \
              f"{percent(f['ahead_of_bound']['median'])} of the bound; {f['ahead_bytes_per_token']['median'] / 1e6:.0f} MB a token, " \
              f"{percent(f['guesses_right']['median'])} of what was guessed was used"
    looked = row(f"mixture, {name}: with lookahead", looking)
    if not case.disk:                                      # else there is nothing for a guess to fill
        looked = row(looked["what"], looking, "more", f["ahead_over_plain"]["median"] > 1, headline=True)
    rows = [
        row(f"mixture, {name}: without lookahead", without, "≥ 85 % of the bound", f["of_bound"]["median"] >= 0.85),
        looked,
        row(f"mixture, {name}: hits", f"{percent(f['hits']['median'])} with {p['slots']} of {p['of']} experts in memory; optimum "
            f"{percent(p['optimum'])}, LRU {percent(p['LRU'])}, static {percent(p['static'])}; "
            f"the plan expected {percent(f['predicted_hits'])}"),
    ]  # fmt: skip
    if "peer" in f:
        them = f["peer"]
        text = f"{them['ratio']['median']:.2f} × its {figure(them['tok_s']['median'])} tokens/s ({common.spread(them['ratio'])}); " \
               f"it read {them['bytes_per_token']['median'] / 1e6:.0f} MB a token"
        rows.append(row(f"mixture, {name}: over {them['peer']}", text, f"≥ {case.asked} ×", them["ratio"]["median"] >= case.asked,
                        headline=True))
    return rows


def arguments() -> argparse.Namespace:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--share", type=Fraction, default=Fraction(2, 3), metavar="N/M", help="of the file's size: the group's limit")
    ap.add_argument("--threads", type=int, default=common.THREADS)
    ap.add_argument("--warm", type=int, default=96, metavar="N", help="tokens that fill the memory")
    ap.add_argument("--new", type=int, default=96, metavar="N", help="tokens timed after them")
    ap.add_argument("--slow-disk", type=float, default=1, metavar="GB/S", help="0: the disk as it is only")
    ap.add_argument("--peer-python", help="a Python that has llama-cpp-python")
    ap.add_argument("--peer-warm", type=int, default=24, metavar="N")
    ap.add_argument("--peer-new", type=int, default=24, metavar="N", help="tokens of llama.cpp in a round")
    ap.add_argument("--read-ahead", type=int, nargs="+", metavar="KIB", help="run llama.cpp under each of these")
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--seconds", type=float, default=300, help="for all rounds; disturbed ones are repeated while it lasts")
    return ap.parse_args()


def main() -> int:
    options = arguments()
    if not cgroup.available():
        print("experts: this process may not make memory control groups (root may)")
        return 1
    cases = cases_of(options)
    rounds = common.take_turns(contenders(cases, options), options.rounds, options.seconds)
    figures = {name: figures_of(name, rounds, options) for name in cases}
    rows = [r for name, f in figures.items() for r in table(name, cases[name], f)]
    bars = {"airpy": [f["tok_s"]["median"] for f in figures.values()],
            "without lookahead": [f["plain_tok_s"]["median"] for f in figures.values()]}
    if options.peer_python:
        bars["llama.cpp"] = [f["peer"]["tok_s"]["median"] for f in figures.values()]
    settings = {"share": str(options.share), "threads": options.threads, "warm": options.warm, "new": options.new, "draw": DRAW,
                "slow_disk": options.slow_disk, **SHAPE}
    for r in rounds:                                     # the choices are long, and the figures say what is in them
        for found in r.results.values():
            found.pop("trace", None)
    files = list(dict.fromkeys(case.model for case in cases.values()))
    common.write("experts", files, rounds, settings, figures, rows, [common.chart("tokens/s", list(cases), **bars)])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
