"""Decoding a model larger than its memory, beside llama.cpp: python -m tests.bench.beyond_ram --peer-python PYTHON

Every process runs in a memory control group of a share of the file's size (making one needs root), under one share after the other.
airpy reads past the page cache under a budget a little smaller than the group; llama.cpp maps the file, its weights as they are in it.

The bound is the roofline: what a pass reads over the rate of walks, which are passes of the same pager with compute left out, in turns
with them. That rate is held against the best raw sweep of the file, in the same process, before the model opens and after its last
pass, and the plan's prediction, made again with it, against the passes.

llama.cpp depends on how far the kernel reads ahead of a page fault: --read-ahead KIB … runs it under each (needs root; what
was set comes back at the end).
"""
from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from statistics import mean, median

from tests.bench import cgroup, common
from tests.bench.common import Json, Round, figure, percent, row

MIB = 1 << 20
BESIDE = 112 * MIB                  # of the group: Python, some of the promise's tolerance, some page cache
SLACK, SLACK_LEAST = 0.02, 16 * MIB  # the promise: budget + max(2 %, 16 MiB)
OVERHEAD = 200 * MIB                # asked of everything but weights


@contextlib.contextmanager
def read_ahead(model: Path, kib: int | None) -> Iterator[None]:
    path = common.read_ahead_file(model)
    if kib is None or path is None:
        yield
        return
    before = path.read_text()
    path.write_text(str(kib))
    try:
        yield
    finally:
        path.write_text(before)


def ours(model: Path, limit: int, options: Json) -> Json:
    common.evict(model)
    with cgroup.MemoryGroup(limit) as group:
        found = common.worker("stream", model, group, **options)
        return {**found, "peak": group.peak, "kills": group.kills}


def theirs(python: str, model: Path, limit: int, ahead: int | None, options: Json) -> Json:
    common.evict(model)                                  # pages cached before would cost the group nothing
    with read_ahead(model, ahead), cgroup.MemoryGroup(limit) as group:
        found = common.peer(python, model, group, **options)
        return {**found, "peak": group.peak, "kills": group.kills}


# ---- figures, of one share --------------------------------------------------------------------------------------------------------


def walk_rate(run: Json) -> float:
    walks = run["one"]["walks"]
    return median(b / s for b, s in zip(walks["disk_bytes"], walks["seconds"], strict=True))


def roofline(run: Json, passes: Json) -> float:
    """Seconds: the larger of reading what the passes read at the walks' rate, and of computing."""
    return max(mean(passes["disk_bytes"]) / walk_rate(run), float(run["plan"]["compute_s"]))


def predicted(run: Json, passes: Json) -> float:
    """Seconds of a pass by the plan, were the disk's bandwidth that of the walks. The plan had what was probed before."""
    disk_bound = run["plan"]["bound"] == "disk"
    seconds: float = mean(passes["predicted_s"])
    return max(seconds * run["probe_before"]["disk"] / walk_rate(run), float(run["plan"]["compute_s"])) if disk_bound else seconds


def speed(runs: list[Json]) -> Json:
    one = [r["one"] for r in runs]
    seconds = [p["median_s"] for p in one]
    return {
        "tok_s": common.summary([1 / s for s in seconds]),
        "of_roofline": common.summary([roofline(r, p) / s for r, p, s in zip(runs, one, seconds, strict=True)]),
        "of_predicted": common.summary([predicted(r, p) / s for r, p, s in zip(runs, one, seconds, strict=True)]),
        "disk_rate": common.summary([mean(p["disk_bytes"]) / s for p, s in zip(one, seconds, strict=True)]),
        "walk_rate": common.summary([walk_rate(r) for r in runs]),
        "of_sweep": common.summary([walk_rate(r) / mean((r["probe_before"]["sweep"]["rate"], r["probe_after"]["sweep"]["rate"]))
                                    for r in runs]),
        "bytes_per_token": common.summary([mean(p["disk_bytes"]) for p in one]),
        "stall_share": common.summary([sum(p["stall_s"]) / sum(p["seconds"]) for p in one]),
    }  # fmt: skip


def memory(runs: list[Json]) -> Json:
    """Peak of the group above its use when the engine opened, against the promise; and what is not weights while one text is decoded."""
    budget = runs[0]["plan"]["budget"]
    above = max(r["peak"] - r["usage_at_open"] for r in runs)
    promise = budget + max(SLACK_LEAST, int(SLACK * budget))
    return {"peak": above, "budget": budget, "promise": promise, "kills": sum(r["kills"] for r in runs),
            "beside_weights": max(r["one"]["beside_pins"] for r in runs)}


def extras(run: Json, peak: Json, texts: int) -> Json:
    """From the one run that did them: many texts together, and the bytes of a long prompt."""
    prompt, batch = run["long_prompt"], run["batch"]
    streamed = prompt["passes"] * (run["plan"]["weight_bytes"] - prompt["pinned_bytes"])
    top = common.peak_for(run, [peak])
    return {
        "texts": texts, "batch_s": batch["median_s"], "batch_tok_over_one": texts * run["one"]["median_s"] / batch["median_s"],
        "batch_bytes": mean(batch["disk_bytes"]), "batch_arithmetic_s": common.operations(run, texts, texts) / top if top else None,
        "prompt_tokens": prompt["tokens"], "prompt_bytes": prompt["disk_bytes"], "prompt_over_streamed": prompt["disk_bytes"] / streamed,
        "prompt_s": prompt["seconds"], "prompt_passes": prompt["passes"],
    }  # fmt: skip


def versus(ours: list[Json], them: list[Json]) -> Json:
    """asked: the ratio that bytes and rates alone would make: its bytes over ours, our disk's rate over its."""
    speeds = [1 / r["one"]["median_s"] for r in ours]
    theirs = [1 / t["pass_s_median"] for t in them]
    rates = [t["pass_bytes"] / mean(t["pass_s"]) for t in them]
    asked = [t["pass_bytes"] / mean(r["one"]["disk_bytes"]) * walk_rate(r) / rate for r, t, rate in zip(ours, them, rates, strict=True)]
    return {"peer": them[0]["peer"], "repack": them[0]["repack"], "tok_s": common.summary(theirs), "ratio": common.ratios(speeds, theirs),
            "bytes_per_token": common.summary([t["pass_bytes"] for t in them]), "disk_rate": common.summary(rates),
            "asked": common.summary(asked)}


def figures_of(share: str, limit: int, rounds: list[Round], peers: list[str]) -> Json:
    runs = [r.results[f"airpy {share}"] for r in rounds]
    return {"limit": limit, "weight_bytes": runs[0]["plan"]["weight_bytes"], "speed": speed(runs), "memory": memory(runs),
            "peers": {p: versus(runs, [r.results[f"{p} {share}"] for r in rounds]) for p in peers}}


def table(share: str, f: Json) -> list[Json]:
    s, m = f["speed"], f["memory"]
    tok, near, plan, swept = s["tok_s"], s["of_roofline"]["median"], s["of_predicted"]["median"], s["of_sweep"]["median"]
    read, most = s["bytes_per_token"]["median"], (f["weight_bytes"] - f["limit"] + OVERHEAD) * 1.02
    rows = [
        row(f"{share}: decode", f"{figure(tok['median'])} tokens/s ({common.spread(tok)}), {percent(near)} of the roofline",
            "≥ 95 % of the roofline", near >= 0.95, headline=True),
        row(f"{share}: read per token", f"{read / 1e9:.2f} GB", f"≤ {most / 1e9:.2f} GB", read <= most),
        row(f"{share}: walks over the best raw sweep", f"{percent(swept)} ({s['walk_rate']['median'] / 1e9:.2f} GB/s)", "≥ 95 %",
            swept >= 0.95),
        row(f"{share}: share of the plan's speed", percent(plan), "90 to 110 %", 0.9 <= plan <= 1.1),
        row(f"{share}: peak of the group over its start", f"{m['peak'] / MIB:.0f} MiB", f"≤ {m['promise'] / MIB:.0f} MiB",
            m["peak"] <= m["promise"] and not m["kills"]),
        row(f"{share}: all but weights", f"{m['beside_weights'] / MIB:.0f} MiB", "≤ 200 MiB", m["beside_weights"] <= OVERHEAD),
    ]  # fmt: skip
    for name, v in f["peers"].items():
        ratio, asked = v["ratio"]["median"], 0.95 * v["asked"]["median"]
        text = f"{ratio:.2f} × its {figure(v['tok_s']['median'])} tokens/s ({common.spread(v['ratio'])}); it read " \
               f"{v['bytes_per_token']['median'] / 1e9:.2f} GB a token at {v['disk_rate']['median'] / 1e9:.2f} GB/s"
        rows.append(row(f"{share}: over {name}", text, f"≥ {asked:.2f} ×: its bytes and rate", ratio >= asked, headline=True))
    return rows


def table_of_extras(share: str, e: Json) -> list[Json]:
    over = e["batch_tok_over_one"]
    text = f"{over:.1f} × the tokens/s of one ({e['batch_bytes'] / 1e9:.2f} GB read"
    if e["batch_arithmetic_s"]:
        text += f"; arithmetic at the multipliers' peak takes {percent(e['batch_arithmetic_s'] / e['batch_s'])} of the pass"
    return [
        row(f"{share}: {e['texts']} texts together", text + ")", f"≥ {25 * e['texts'] / 32:.0f} ×", over >= 25 * e["texts"] / 32,
            headline=True),
        row(f"{share}: a prompt of {e['prompt_tokens']}, bytes read over the streamed share", f"{e['prompt_over_streamed']:.3f}", "≤ 1.05",
            e["prompt_over_streamed"] <= 1.05),
    ]  # fmt: skip


def charts(figures: Json) -> list[Json]:
    shares = list(figures)
    first = figures[shares[0]]
    peers = {p: [f["peers"][p]["tok_s"]["median"] for f in figures.values()] for p in first["peers"]}
    peers_read = {p: [f["peers"][p]["bytes_per_token"]["median"] / 1e9 for f in figures.values()] for p in first["peers"]}
    return [
        common.chart("tokens/s", shares, airpy=[f["speed"]["tok_s"]["median"] for f in figures.values()], **peers),
        common.chart("GB read per token", shares,
                     airpy=[f["speed"]["bytes_per_token"]["median"] / 1e9 for f in figures.values()], **peers_read),
    ]  # fmt: skip


# ---- the run ---------------------------------------------------------------------------------------------------------------------


def our_settings(limit: int, options: argparse.Namespace) -> Json:
    same = {"threads": options.threads, "prompt": options.prompt, "sweep": True}
    return {**same, "io": "direct", "max_ram": limit - BESIDE, "n_ctx": 512, "new": options.new}


def peer_names(options: argparse.Namespace) -> dict[str, int | None]:
    """And the read-ahead of each."""
    if not options.peer_python:
        return {}
    return {"llama.cpp" + (f", read-ahead {ahead} KiB" if ahead else ""): ahead for ahead in options.read_ahead or [None]}


def contenders(model: Path, limits: dict[str, int], options: argparse.Namespace) -> dict[str, Callable[[], Json]]:
    turns: dict[str, Callable[[], Json]] = {}
    theirs_too = {"threads": options.threads, "prompt": options.prompt, "new": options.peer_new, "load": "mmap", "repack": "off"}
    for share, limit in limits.items():
        turns[f"airpy {share}"] = partial(ours, model, limit, our_settings(limit, options))
        for name, ahead in peer_names(options).items():
            turns[f"{name} {share}"] = partial(theirs, options.peer_python, model, limit, ahead, theirs_too)
    return turns


def arguments() -> argparse.Namespace:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--model", type=Path, help="a GGUF file; without it, a synthetic 7b in Q4_K, kept in the cache folder")
    ap.add_argument("--shares", type=Fraction, nargs="+", default=[Fraction(2, 3), Fraction(1, 2), Fraction(9, 10)], metavar="N/M",
                    help="of the file's size: the group's limits; many texts and a long prompt run under the first")
    ap.add_argument("--threads", type=int, default=common.THREADS)
    ap.add_argument("--prompt", type=int, default=16, metavar="N", help="tokens before those decoded")
    ap.add_argument("--new", type=int, default=8, metavar="N", help="passes timed in a round, and walks between them")
    ap.add_argument("--batch", type=int, default=32, metavar="N", help="texts decoded together")
    ap.add_argument("--batch-new", type=int, default=4, metavar="N", help="passes of them timed")
    ap.add_argument("--long-prompt", type=int, default=448, metavar="N", help="tokens of the prompt whose bytes are counted")
    ap.add_argument("--peer-python", help="a Python that has llama-cpp-python")
    ap.add_argument("--peer-new", type=int, default=5, metavar="N", help="tokens of llama.cpp in a round")
    ap.add_argument("--read-ahead", type=int, nargs="+", metavar="KIB", help="run llama.cpp under each of these")
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--seconds", type=float, default=150, help="for all rounds; disturbed ones are repeated while it lasts")
    return ap.parse_args()


def main() -> int:
    options = arguments()
    if not cgroup.available():
        print("beyond_ram: this process may not make memory control groups (root may)")
        return 1
    model = common.model_file(options.model, "7b", "Q4_K")
    limits = {str(share): int(model.stat().st_size * share) for share in options.shares}
    rounds = common.take_turns(contenders(model, limits, options), options.rounds, options.seconds)
    first = next(iter(limits))
    more = {"batch": options.batch, "batch_new": options.batch_new, "long_prompt": options.long_prompt}
    turns = {"airpy": partial(ours, model, limits[first], our_settings(limits[first], options) | more),
             "peak": partial(common.peak, options.threads)}
    once = common.take_turns(turns, 1, 0)[0].results
    figures = {share: figures_of(share, limit, rounds, list(peer_names(options))) for share, limit in limits.items()}
    found = extras(once["airpy"], once["peak"], options.batch)
    rows = [r for share, f in figures.items() for r in table(share, f)] + table_of_extras(first, found)
    settings = {"limits": limits, "threads": options.threads, "prompt": options.prompt, "new": options.new, "n_ctx": 512,
                "read_ahead_kib": options.read_ahead or "as set"}
    common.write("beyond_ram", [model], rounds, settings, {**figures, "extras": found, "once": once}, rows, charts(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
