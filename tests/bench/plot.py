"""Draws what the results say: python -m tests.bench.plot [tests/bench/results/NAME.json …] → NAME.svg beside each.

The same results give the same bytes. Needs matplotlib (pip install 'airpy[bench]'); without it a line says so and nothing is drawn.
"""
from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench.common import RESULTS, Json

STYLE = {"svg.hashsalt": "airpy", "svg.fonttype": "none", "font.size": 8, "axes.spines.top": False, "axes.spines.right": False}
WIDTH, HEIGHT = 8.0, 2.4            # inches, of each chart


def bars(axes: Any, chart: Json) -> None:
    groups, series = chart["groups"], chart["series"]
    width = 0.8 / len(series)
    for i, (name, values) in enumerate(series.items()):
        places = [g + (i + 0.5) * width - 0.4 for g in range(len(groups))]
        axes.bar(places, values, width * 0.9, label=name)
    axes.set_xticks(range(len(groups)), groups, rotation=90 if len(groups) > 12 else 0)
    axes.set_ylabel(chart["unit"])
    axes.legend(frameon=False)


def draw(path: Path) -> None:
    """The charts of one file of results, below each other."""
    charts: Sequence[Json] = json.loads(path.read_text()).get("charts", [])
    if not charts:
        return
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        print(f"{path.stem}: not drawn, there is no matplotlib", file=sys.stderr)
        return
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT * len(charts)), layout="constrained")
        for axes, chart in zip(figure.subplots(len(charts), squeeze=False)[:, 0], charts, strict=True):
            bars(axes, chart)
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


def main() -> int:
    for path in map(Path, sys.argv[1:] or sorted(RESULTS.glob("*.json"))):
        draw(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
