"""Every kernel of every tier this CPU has, against what bounds it: python -m tests.bench.kernels

One thread: the C program of the kernels' tests (cmake --build --preset release makes it) times the products of every format of
weights at 1, 4, 16 and 64 columns, from memory and from L2, and the other kernels. The bound is reading at the speed of a plain
sum, or computing at the multipliers' peak, which a loop of nothing else gave in the same run, whichever is longer.
All threads: products of one column and of many from memory, as the plan's probe measures them, with memory's speed beside each.
"""
from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

from airpy import _core
from tests.bench import common
from tests.bench.common import Json, figure, percent, row

COUNTS = (1, 4, 16, 64)
HIDDEN = ("ref",)                   # these tiers are in the file alone, not in the table


def measured(tier: str) -> Json:
    return {"lines": common.lines_of_kernels("--bench", f"{tier} ")}


def probed(tier: str, threads: int, seconds: float) -> Json:
    """Of each format: bytes per second of a plain sum, of products of one column, and bytes times columns of those of many."""
    found = {}
    for type in formats():
        one = _core.probe_compute([type], threads, tier, max_bytes=512 << 20, seconds=seconds)
        found[type] = {"memory": one["memory"], "product": one["product"][type], "product_columns": one["product_columns"][type]}
    return found


def formats() -> list[str]:
    return [name for name, _, _, _, use in _core.FORMATS if use == "matrix"]


def types_in(lines: list[Json]) -> list[str]:
    """Formats that have a product of their own, without a decoded row between."""
    return [type for type in formats() if any(x["kernel"] == type for x in lines)]


def line_of(lines: list[Json], kernel: str, n: int, source: str) -> Json:
    return next(x for x in lines if (x["kernel"], x["n"], x["from"]) == (kernel, n, source))


def product_row(tier: str, type: str, f: Json) -> Json:
    lines, all = f["lines"], f["all_threads"][type]
    one = line_of(lines, type, 1, "DRAM")
    cycles = [line_of(lines, type, n, "L2") for n in COUNTS]
    threads = f"{figure(all['product'] / 1e9)} of {figure(all['memory'] / 1e9)} GB/s ({percent(all['product'] / all['memory'])})"
    each = ", ".join(figure(c["cycles"]) for c in cycles)
    text = (f"one column from memory {figure(one['GB/s'])} GB/s ({percent(one['share'])}), all threads {threads}; cycles for 32 "
            f"multiply-adds at {', '.join(map(str, COUNTS))} columns: {each} ({percent(cycles[-1]['share'])} of the peak)")
    return row(f"{tier} {type}", text)


def function_row(line: Json) -> Json:
    rate = f"{figure(line['GB/s'])} GB/s, " + (f"{figure(line['Gop/s'])} Gop/s, " if line["Gop/s"] else "")
    unit = "32 multiply-adds" if line["Gop/s"] else "an element"
    rows = f", {line['n']:.0f} rows" if line["n"] > 1 else ""
    text = f"{rate}{figure(line['cycles'])} cycles for {unit} ({percent(line['share'])} of the bound)"
    return row(f"{line['tier']} {line['kernel']}{rows}", text)


def table(figures: Json) -> list[Json]:
    rows = []
    for tier, f in figures.items():
        if tier not in HIDDEN:
            rows += [product_row(tier, type, f) for type in types_in(f["lines"])]
            rows += [function_row(x) for x in f["lines"] if x["kernel"] not in formats()]
    return rows


def charts(tier: str, f: Json) -> list[Json]:
    types, all = types_in(f["lines"]), f["all_threads"]
    return [
        common.chart(f"{tier}: of memory's speed", types, **{
            "one thread": [line_of(f["lines"], t, 1, "DRAM")["share"] for t in types],
            "all threads": [all[t]["product"] / all[t]["memory"] for t in types]}),
        common.chart(f"{tier}: of the bound, from L2", types, **{
            f"{n} columns": [line_of(f["lines"], t, n, "L2")["share"] for t in types] for n in COUNTS}),
    ]  # fmt: skip


def arguments() -> argparse.Namespace:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--tiers", nargs="+", choices=_core.TIERS, default=_core.TIERS)
    ap.add_argument("--threads", type=int, default=common.THREADS)
    ap.add_argument("--probe-seconds", type=float, default=0.5, help="for all threads, of each format and tier")
    return ap.parse_args()


def main() -> int:
    options = arguments()
    if not common.KERNELS.exists():
        print(f"kernels: there is no {common.KERNELS}; cmake --preset release && cmake --build --preset release makes it")
        return 1
    turns: dict[str, Callable[[], Json]] = {"peak": partial(common.peak, options.threads)}
    for tier in options.tiers:
        turns |= {tier: partial(measured, tier), f"{tier}, all threads": partial(probed, tier, options.threads, options.probe_seconds)}
    rounds = common.take_turns(turns, 1, 0)
    found = rounds[0].results
    figures = {tier: {"lines": found[tier]["lines"], "all_threads": found[f"{tier}, all threads"]} for tier in options.tiers}
    best = options.tiers[-1]
    settings = {"threads": options.threads, "tiers": list(options.tiers), "peak": found["peak"]}
    common.write("kernels", [], [common.Round({}, rounds[0].other_cores)], settings, figures, table(figures), charts(best, figures[best]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
