"""Decoding a model larger than its memory, beside llama.cpp: python -m tests.bench.beyond_ram --peer-python PYTHON

Every process runs in a memory control group of a share of the file's size (making one needs root). airpy reads past the page cache
under a budget a little smaller than the group; llama.cpp maps the file, its weights as they are in the file. The speed is held
against what the plan predicts from bandwidths probed in the same process, before the model opens and after its last pass.

llama.cpp depends on how far the kernel reads ahead of a page fault: --read-ahead KIB … runs it under each (needs root; what
was set comes back at the end).
"""
from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import mean

from tests.bench import cgroup, common
from tests.bench.common import Json, Round, percent, row

MIB = 1 << 20
BESIDE = 160 * MIB                  # of the group: Python, the promise's tolerance, some page cache
SLACK, SLACK_LEAST = 0.02, 16 * MIB  # the promise: budget + max(2 %, 16 MiB)


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


# ---- figures ---------------------------------------------------------------------------------------------------------------------


def predicted(run: Json, passes: Json) -> float:
    """Seconds of a pass by the plan, with the disk's bandwidth taken as the mean of the two probes. The plan had the first."""
    before, after = run["probe_before"]["disk"], run["probe_after"]["disk"]
    disk_bound = run["plan"]["bound"] == "disk"
    seconds: float = mean(passes["predicted_s"])
    return seconds * (before / mean((before, after)) if disk_bound else 1.0)


def speed(runs: list[Json]) -> Json:
    one = [r["one"] for r in runs]
    return {
        "tok_s": common.summary([1 / p["median_s"] for p in one]),
        "of_predicted": common.summary([predicted(r, p) / p["median_s"] for r, p in zip(runs, one, strict=True)]),
        "disk_rate": common.summary([mean(p["disk_bytes"]) / p["median_s"] for p in one]),
        "probed_disk": common.summary([mean((r["probe_before"]["disk"], r["probe_after"]["disk"])) for r in runs]),
        "bytes_per_token": common.summary([mean(p["disk_bytes"]) for p in one]),
        "stall_share": common.summary([sum(p["stall_s"]) / sum(p["seconds"]) for p in one]),
    }


def memory(runs: list[Json]) -> Json:
    """Peak of the group above its use when the engine opened, against the promise."""
    budget = runs[0]["plan"]["budget"]
    above = max(r["peak"] - r["usage_at_open"] for r in runs)
    promise = budget + max(SLACK_LEAST, int(SLACK * budget))
    return {"peak": above, "budget": budget, "promise": promise, "kills": sum(r["kills"] for r in runs)}


def extras(run: Json) -> Json:
    """From the one run that did them: eight texts together, and the bytes of a long prompt."""
    prompt, batch = run["long_prompt"], run["batch"]
    streamed = prompt["passes"] * (run["plan"]["weight_bytes"] - prompt["pinned_bytes"])
    return {
        "batch_over_one": batch["median_s"] / run["one"]["median_s"], "batch_s": batch["median_s"],
        "prompt_bytes": prompt["disk_bytes"], "prompt_streamed": streamed, "prompt_over_streamed": prompt["disk_bytes"] / streamed,
        "prompt_s": prompt["seconds"], "prompt_predicted_s": prompt["predicted_s"], "prompt_passes": prompt["passes"],
    }  # fmt: skip


def versus(name: str, rounds: list[Round]) -> Json:
    them = [1 / r.results[name]["pass_s_median"] for r in rounds]
    us = [1 / r.results["airpy"]["one"]["median_s"] for r in rounds]
    first = rounds[0].results[name]
    return {"peer": first["peer"], "repack": first["repack"], "tok_s": common.summary(them), "ratio": common.ratios(us, them)}


def table(figures: Json, options: argparse.Namespace) -> list[Json]:
    s, m, e = figures["speed"], figures["memory"], figures["extras"]
    tok, of_predicted, read = s["tok_s"], s["of_predicted"]["median"], s["bytes_per_token"]["median"] / 1e9
    rate, probed = s["disk_rate"]["median"] / 1e9, s["probed_disk"]["median"] / 1e9
    rows = [
        row("decode, tokens/s", f"{tok['median']:.2f} (spread {percent(tok['spread'])})"),
        row("share of the plan's predicted speed", percent(of_predicted), "≥ 85 %", of_predicted >= 0.85),
        row("read per token; disk rate (probed)", f"{read:.2f} GB; {rate:.2f} ({probed:.2f}) GB/s"),
        row("peak of the group over its start", f"{m['peak'] / MIB:.0f} MiB", f"≤ {m['promise'] / MIB:.0f} MiB",
            m["peak"] <= m["promise"] and not m["kills"]),
        row(f"bytes read by a {options.long_prompt}-token prompt / streamed share", f"{e['prompt_over_streamed']:.3f}", "≤ 1.05",
            e["prompt_over_streamed"] <= 1.05),
        row(f"a pass of {options.batch} texts / of one", f"{e['batch_over_one']:.2f}", "≤ 1.3", e["batch_over_one"] <= 1.3),
    ]  # fmt: skip
    for name, v in figures["peers"].items():
        ratio, spread = v["ratio"]["median"], percent(v["ratio"]["spread"])
        text = f"{v['tok_s']['median']:.2f}; airpy {ratio:.2f} times that (spread {spread})"
        rows.append(row(f"{name} in the same group, tokens/s", text, "airpy faster", ratio > 1))
    return rows


# ---- the run ---------------------------------------------------------------------------------------------------------------------


def our_settings(limit: int, options: argparse.Namespace) -> Json:
    same = {"threads": options.threads, "prompt": options.prompt}
    return {**same, "io": "direct", "max_ram": limit - BESIDE, "n_ctx": 1024, "new": options.new}


def contenders(model: Path, limit: int, options: argparse.Namespace) -> dict[str, Callable[[], Json]]:
    turns: dict[str, Callable[[], Json]] = {"airpy": partial(ours, model, limit, our_settings(limit, options))}
    if options.peer_python:
        peer = {"threads": options.threads, "prompt": options.prompt, "new": options.peer_new, "load": "mmap", "repack": "off"}
        for ahead in options.read_ahead or [None]:
            name = "llama.cpp" + (f", read-ahead {ahead} KiB" if ahead else "")
            turns[name] = partial(theirs, options.peer_python, model, limit, ahead, peer)
    return turns


def arguments() -> argparse.Namespace:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--model", type=Path, help="a GGUF file; without it, a synthetic 7b in Q4_K, kept in the cache folder")
    ap.add_argument("--share", type=float, default=2 / 3, help="of the file's size: the group's limit")
    ap.add_argument("--threads", type=int, default=common.THREADS)
    ap.add_argument("--prompt", type=int, default=16, metavar="N", help="tokens before those decoded")
    ap.add_argument("--new", type=int, default=12, metavar="N", help="passes timed in a round")
    ap.add_argument("--batch", type=int, default=8, metavar="N", help="texts decoded together")
    ap.add_argument("--long-prompt", type=int, default=512, metavar="N", help="tokens of the prompt whose bytes are counted")
    ap.add_argument("--peer-python", help="a Python that has llama-cpp-python, built with -DGGML_CPU_REPACK=OFF")
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
    limit = int(model.stat().st_size * options.share)
    turns = contenders(model, limit, options)
    rounds = common.take_turns(turns, options.rounds, options.seconds)
    more = {**our_settings(limit, options), "batch": options.batch, "long_prompt": options.long_prompt}
    rounds += common.take_turns({"airpy, more": partial(ours, model, limit, more)}, 1, 0)
    once = rounds.pop().results["airpy, more"]
    runs = [r.results["airpy"] for r in rounds]
    figures = {"speed": speed(runs), "memory": memory([*runs, once]), "extras": extras(once),
               "peers": {name: versus(name, rounds) for name in turns if name != "airpy"}, "once": once}
    settings = {"group_bytes": limit, "share": options.share, "threads": options.threads, "prompt": options.prompt,
                "new": options.new, "read_ahead_kib": options.read_ahead or "as set"}
    common.write("beyond_ram", [model], rounds, settings, figures, table(figures, options))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
