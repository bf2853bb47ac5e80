"""What the benchmarks share: the machine they ran on, what else ran there, taking turns, medians, files of results.

A benchmark runs its contenders in turns, each in a process of its own, and keeps the rounds in which other programs used the cores
least. Everything that a figure depends on is written beside it: tests/bench/results/NAME.json.
"""
from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name("results")
QUIET_CORES = 0.1                   # used by others on average; below it a round counts as undisturbed
KERNELS = ROOT / "build" / "release" / "tests" / "test_kernels"       # the C tests' program, which knows the multipliers' peak
FORMATS = ("Q4_0", "Q4_K", "Q6_K", "Q8_0", "F16")
PEERS = ("llama.cpp", "ik_llama.cpp")
THREADS = len(os.sched_getaffinity(0))
TICK = os.sysconf("SC_CLK_TCK")
Json = dict[str, Any]


# ---- machine and version ---------------------------------------------------------------------------------------------------------


def first_line(path: str, key: str) -> str:
    for line in Path(path).read_text().splitlines():
        if line.startswith(key):
            return line.split(":", 1)[1].strip()
    return ""


def block_device(path: Path) -> Path | None:
    """The /sys folder of the disk that holds path."""
    number = path.stat().st_dev
    here = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()
    for folder in (here, here.parent):                # a partition has no queue of its own
        if (folder / "queue").is_dir():
            return folder
    return None


def read_ahead_file(path: Path) -> Path | None:
    device = block_device(path)
    return device / "queue" / "read_ahead_kb" if device else None


def machine(path: Path) -> Json:
    from airpy import _core

    cpu, ahead = _core.cpu_info(), read_ahead_file(path)
    return {
        "cpu": first_line("/proc/cpuinfo", "model name"), "threads": cpu["threads"], "tier": cpu["tier"],
        "memory_bytes": _core.memory_info()["total"], "kernel": platform.release(), "python": platform.python_version(),
        "disk": ahead.parent.parent.name if ahead else "", "read_ahead_kb": int(ahead.read_text()) if ahead else None,
    }  # fmt: skip


def commit() -> str:
    """The commit measured, with a + if the tree differs from it."""
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!README.md", f":!{RESULTS.relative_to(ROOT)}")
    return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")


# ---- what else uses the cores ----------------------------------------------------------------------------------------------------


def busy_seconds() -> float:
    """CPU time of everything on the machine: not idling and waiting (fields 4, 5); guests (9, 10) are counted in user."""
    fields = [int(n) for n in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return (sum(fields[:8]) - fields[3] - fields[4]) / TICK


def own_seconds() -> float:
    return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


class Load:
    """Cores used by others while the block ran, children of ours that ended within it left out."""

    def __enter__(self) -> Load:
        self.began, self.busy, self.own = time.monotonic(), busy_seconds(), own_seconds()
        return self

    def __exit__(self, *unused: object) -> None:
        self.seconds = time.monotonic() - self.began
        others = (busy_seconds() - self.busy) - (own_seconds() - self.own)
        self.other_cores = max(0.0, others / self.seconds) if self.seconds else 0.0


# ---- turns -----------------------------------------------------------------------------------------------------------------------


@dataclass
class Round:
    results: dict[str, Json] = field(default_factory=dict)
    other_cores: float = 0.0        # of the contender that was disturbed most


def take_turns(contenders: dict[str, Callable[[], Json]], rounds: int, seconds: float) -> list[Round]:
    """Runs all contenders in every round. Disturbed rounds are repeated while `seconds` last; returns the `rounds` quietest."""
    done: list[Round] = []
    began = time.monotonic()
    while len(done) < rounds or sum(r.other_cores < QUIET_CORES for r in done) < rounds:
        now = time.monotonic() - began
        if len(done) >= rounds and now + now / len(done) > seconds:
            break
        this = Round()
        for name, run in contenders.items():
            with Load() as load:
                this.results[name] = run()
            this.other_cores = max(this.other_cores, load.other_cores)
            said = f"{name} took {load.seconds:.1f} s, others used {load.other_cores:.2f} cores"
            print(f"round {len(done) + 1}: {said}", file=sys.stderr)
        done.append(this)
    return sorted(done, key=lambda r: r.other_cores)[:rounds]


def summary(values: Sequence[float]) -> Json:
    """Median, and how far the others lie from it: (largest - smallest) / median."""
    median = statistics.median(values)
    return {"median": median, "spread": (max(values) - min(values)) / median if median else 0.0, "values": list(values)}


def spread(s: Json) -> str:
    return f"spread {percent(s['spread'])}" if len(s["values"]) > 1 else "one round"


def ratios(above: Sequence[float], below: Sequence[float]) -> Json:
    """Summary of the ratio within each round, which what changes slowly over time leaves alone."""
    return summary([a / b for a, b in zip(above, below, strict=True)])


# ---- programs run ----------------------------------------------------------------------------------------------------------------


def run_json(command: Sequence[str], group: Any = None) -> Json:
    """Runs the command, in the control group if there is one; what it prints is one JSON object."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, preexec_fn=group.enter if group else None)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    found: Json = json.loads(done.stdout)
    return found


def worker(task: str, model: Path, group: Any = None, **options: Any) -> Json:
    """One run of airpy (tests/bench/worker.py) in a process of its own."""
    return run_json([sys.executable, "-m", "tests.bench.worker", task, str(model), json.dumps(options)], group)


def peer(python: str, model: Path, group: Any = None, **options: Any) -> Json:
    """One run of llama.cpp (peer_llama_cpp.py) with the Python that has it."""
    words = []
    for key, value in options.items():
        words += [f"--{key}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    found = run_json([python, str(Path(__file__).with_name("peer_llama_cpp.py")), str(model), *words], group)
    return found


def lines_of_kernels(*words: str) -> list[Json]:
    """What the C program prints, a dict for each line under its head; numbers as such."""
    text = subprocess.run([KERNELS, *words], capture_output=True, text=True, check=True).stdout
    head, *lines = [line.split() for line in text.splitlines() if not line.startswith("#")]
    return [{k: float(v) if v[0].isdigit() else v for k, v in zip(head, line, strict=True)} for line in lines]


def peak(threads: int) -> Json:
    """Operations per second of the multipliers, of 8-bit integers (int8) and floats (f32), and cycles (clock); the best tier's.
    Empty without the C program: cmake --build --preset release makes it."""
    return lines_of_kernels("--peak", str(threads))[-1] if KERNELS.exists() else {}


def model_file(given: Path | None, shape: str, format: str, suffix: str = "", **sizes: Any) -> Path:
    """The file given, or a synthetic one of that shape, made on first use and kept in the cache folder; with other sizes than the
    shape's, under a name of its own."""
    if given:
        return given
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "airpy" / "bench"
    path = cache / f"{shape}-{format.lower()}{suffix}.gguf"
    if not path.exists():
        from tools import make_gguf

        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:        # an interrupted run leaves no half of a model
            unfinished = Path(folder) / path.name
            make_gguf.write(unfinished, shape=shape, type=format, **sizes)
            shutil.move(unfinished, path)
    return path


def evict(path: Path) -> None:
    """Takes the file out of the page cache."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# ---- models in memory, beside llama.cpp at its best ----------------------------------------------------------------------------------


def parser(doc: str | None, rounds: int, models: str | None = None) -> argparse.ArgumentParser:
    """The options that such benchmarks share; models: "+" where several files may be given."""
    ap = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--model", type=Path, nargs=models, help="without, synthetic ones of the 1b shape, kept in the cache folder")
    if models:
        ap.add_argument("--formats", nargs="+", default=FORMATS, help="of the synthetic ones")
        ap.add_argument("--ik-python", help="a Python that has ik-llama-cpp-python, a quicker fork")
    ap.add_argument("--threads", type=int, default=THREADS)
    ap.add_argument("--peer-python", help="a Python that has llama-cpp-python, best built for this machine")
    ap.add_argument("--peer-repack", choices=("on", "off", "best"), default="best", help="best: whichever a short trial finds quicker")
    ap.add_argument("--rounds", type=int, default=rounds)
    ap.add_argument("--seconds", type=float, default=150, help="for all rounds; disturbed ones are repeated while it lasts")
    return ap


def models_of(options: argparse.Namespace) -> list[Path]:
    return list(options.model or [model_file(None, "1b", format) for format in options.formats])


def peers_of(options: argparse.Namespace) -> dict[str, str]:
    """Name and Python of each peer given."""
    pythons = zip(PEERS, (options.peer_python, options.ik_python), strict=True)
    return {name: python for name, python in pythons if python}


def best_repack(python: str, model: Path, theirs: Json) -> str:
    """Whether a peer is quicker with its own order of the weights or without: on or off, by a short trial of the same; of several
    numbers of texts, with four."""
    short = {**theirs, "new": min(theirs["new"], 9), "prompt": min(theirs["prompt"], 128), "sequences": min(4, max(theirs["sequences"]))}

    def seconds(repack: str) -> float:
        found = peer(python, model, repack=repack, **short)
        return float(found["prefill_s"] if short["new"] == 1 else found["pass_s_median"])

    return min(("on", "off"), key=seconds)


def side_by_side(task: str, models: Sequence[Path], options: argparse.Namespace, ours: Json, theirs: Json) -> dict[str, Callable[[], Json]]:
    """For take_turns: each model with airpy, under its stem, the multipliers' peak, under "STEM: peak", and the peers given, under
    "STEM: llama.cpp"."""
    turns: dict[str, Callable[[], Json]] = {}
    for model in models:
        turns[model.stem] = partial(worker, task, model, io="mmap", threads=options.threads, probe_seconds=0.5, **ours)
        turns[f"{model.stem}: peak"] = partial(peak, options.threads)
        for name, python in peers_of(options).items():
            all = {"threads": options.threads, "warm": 2, "load": "mmap", "sequences": (1,), **theirs}
            repack = options.peer_repack if options.peer_repack != "best" else best_repack(python, model, all)
            turns[f"{model.stem}: {name}"] = partial(peer, python, model, repack=repack, **all)
    return turns


def versus(name: str, rounds: Sequence[Round], speeds: Sequence[float], speed: Callable[[Json], float]) -> Json:
    """Of every peer that ran beside a model: its speed, and how many times that airpy's is."""
    found = {}
    for peer_name in PEERS:
        if f"{name}: {peer_name}" not in rounds[0].results:
            continue
        them = [r.results[f"{name}: {peer_name}"] for r in rounds]
        found[peer_name] = {"peer": them[0]["peer"], "repack": them[0]["repack"], "tok_s": summary([speed(t) for t in them]),
                            "ratio": ratios(speeds, [speed(t) for t in them])}
    return found


def versus_text(peers: Json) -> str:
    """; 1.14 × llama.cpp's 28.3, …"""
    return "".join(f"; {p['ratio']['median']:.2f} × {name}'s {figure(p['tok_s']['median'])}" for name, p in peers.items())


def operations(run: Json, tokens: int, wanted: int = 1) -> float:
    """A multiply and an add for each weight of every token, the output's for those whose logits are wanted."""
    return 2.0 * (tokens * run["weights_per_token"] + wanted * run["weights_of_output"])


def peak_for(run: Json, peaks: Sequence[Json]) -> float:
    """The peak that bounds products of this model's format, the best of all measured, as others' work lowers it; 0 without any."""
    kind = "f32" if run["type"] in ("F32", "F16", "BF16") else "int8"
    return max((float(p[kind]) for p in peaks if p), default=0.0)


def peaks_in(rounds: Sequence[Round]) -> list[Json]:
    return [found for r in rounds for name, found in r.results.items() if name.endswith(": peak")]


# ---- results ---------------------------------------------------------------------------------------------------------------------


def row(what: str, text: str, goal: str = "", met: bool | None = None, headline: bool = False) -> Json:
    """A line of the table: what was measured, the figure with its unit, what was asked for and whether that is reached. A headline
    is shown in the README too."""
    return {"what": what, "text": text, "goal": goal, "met": met, "headline": headline}


def chart(unit: str, groups: Sequence[str], **series: Sequence[float]) -> Json:
    """What plot.py draws: a bar of each series in every group."""
    return {"unit": unit, "groups": list(groups), "series": {name: list(values) for name, values in series.items()}}


def figure(x: float) -> str:
    """Three digits."""
    return f"{x:.0f}" if x >= 100 else f"{x:.1f}" if x >= 10 else f"{x:.2f}"


def percent(x: float) -> str:
    return f"{100 * x:.0f} %"


def lines(found: Json) -> str:
    """As JSON, each member on a line of its own."""
    return "{\n" + ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in found.items()) + "\n}\n"


def write(name: str, models: Sequence[Path], rounds: Sequence[Round], settings: Json, figures: Json, rows: Sequence[Json],
          charts: Sequence[Json] = ()) -> None:
    """Prints the rows and writes results/NAME.json, and what plot.py draws of it."""
    from tests.bench import plot

    load = summary([r.other_cores for r in rounds])
    found = {
        "name": name, "command": f"python -m tests.bench.{name}",
        "taken": datetime.datetime.now(datetime.UTC).isoformat("T", "seconds"), "commit": commit(),
        "machine": machine(models[0] if models else ROOT), "models": {m.name: m.stat().st_size for m in models},
        "settings": settings, "other_cores": load, "undisturbed": max(load["values"]) < QUIET_CORES,
        "rows": list(rows), "charts": list(charts), "figures": figures, "rounds": [r.results for r in rounds],
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(lines(found))
    plot.draw(RESULTS / f"{name}.json")
    for r in rows:
        state = {None: "", True: "reached", False: "MISSED"}[r["met"]]
        print(f"{r['what']:<58} {r['text']:<34} {r['goal']:<14} {state}")
    print(f"others used {load['median']:.2f} cores (at most {max(load['values']):.2f}) in the {len(rounds)} rounds kept")
