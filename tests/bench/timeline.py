"""What a timeline costs: python -m tests.bench.timeline

Calls of generate() with a profile being taken and without, one after the other in one process, in the order on off, off on, …: what changes
over time changes for both. Of each call the CPU time of its process, on one thread so that nobody waits for anybody, and its passes' mean
by the clock; the figure is the median of the ratio within each pair. Goal: below 1 %.

The demo model is the hardest case that there is: its passes take a tenth of a millisecond.
"""
from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

from tests.bench import common

GOAL = 0.01
DEMO = common.ROOT / "airpy" / "assets" / "demo-q8_0.gguf"


def call(model: Any, tokens: int, profiled: bool) -> tuple[float, float]:
    """Seconds of CPU time, and of a pass by the clock."""
    profile = model.profile(max_events=1000 * tokens)
    if profiled:
        profile.__enter__()
    begin = time.process_time()
    model.generate([[1, 2, 3]], max_new_tokens=tokens, eos_token_id=[])
    seconds = time.process_time() - begin
    profile.end()
    if profile.dropped:
        raise RuntimeError(f"{profile.dropped} events dropped: there was no room for what is to be measured")
    return seconds, model.stats()["pass_ms"] / 1e3


def ratios(path: Path, threads: int, tokens: int, pairs: int) -> dict[str, list[float]]:
    from airpy import AutoModel

    found: dict[str, list[float]] = {"CPU time": [], "passes": []}
    with AutoModel.from_pretrained(path, device="cpu", threads=threads, n_ctx=512, progress=False) as model:
        for _ in range(3):
            call(model, tokens, False)
        for i in range(pairs):
            runs = {on: call(model, tokens, on) for on in ((True, False) if i % 2 else (False, True))}
            for name, on, off in zip(found, runs[True], runs[False], strict=True):
                found[name].append(on / off - 1)
    return found


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--pairs", type=int, default=400, help="of calls, of the demo model; of the other one an eighth")
    ap.add_argument("--model", type=Path, help="beside the demo model; default: a synthetic one of the 1b shape")
    options = ap.parse_args()
    print(f"commit {common.commit()}, {common.machine(DEMO)['cpu']}")
    print(f"{'model':<14}{'threads':>8}  {'measure':<10}{'costs':>9}{'quartiles':>19}   below {GOAL:.0%}")
    for path, tokens, pairs in ((DEMO, 64, options.pairs), (common.model_file(options.model, "1b", "Q4_K"), 4, options.pairs // 8)):
        for threads in sorted({1, common.THREADS}):
            with common.Load() as load:
                found = ratios(path, threads, tokens, pairs)
            for name, values in found.items():
                if name == "CPU time" and threads > 1:
                    continue  # of which some is spent on waiting for others
                low, median, high = statistics.quantiles(values, n=4)
                said = f"{path.stem[:13]:<14}{threads:>8}  {name:<10}{median:>9.2%}{low:>10.2%}{high:>9.2%}"
                print(f"{said}   {'yes' if median < GOAL else 'no'}; others used {load.other_cores:.2f} cores", flush=True)


if __name__ == "__main__":
    main()
