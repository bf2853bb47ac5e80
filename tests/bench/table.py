"""The tables of results, from tests/bench/results: python -m tests.bench.table [--write]

The README shows the telling rows of every benchmark, docs/results.md all of them and what plot.py drew. Without --write the latter go
to the standard output; with it, both replace what stands between the markers <!-- results --> and <!-- /results --> of their files.
"""
from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tests.bench.common import RESULTS, ROOT, Json

BEGIN, END = "<!-- results -->", "<!-- /results -->"
HEAD = ["| what | measured | asked |", "|---|---|---|"]


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def line(r: Json) -> str:
    marks = {None: "", True: " ✓", False: " (missed)"}
    return f"| {cell(r['what'])} | {cell(r['text'])} | {cell(r['goal'])}{marks[r['met']]} |"


def where(r: Json) -> str:
    m = r["machine"]
    return f"{m['cpu']}, {m['threads']} threads ({m['tier']}), {m['memory_bytes'] / 2**30:.0f} GiB"


def heading(r: Json) -> str:
    """Where and of what the figures below are."""
    files = ", ".join(f"{name} ({size / 1e9:.2f} GB)" for name, size in r["models"].items())
    ahead, rounds, load = r["machine"]["read_ahead_kb"], len(r["rounds"]), max(r["other_cores"]["values"])
    return (f"`{r['command']}`{': ' if files else ''}{files}; {where(r)}, read-ahead {ahead} KiB; commit {r['commit']}, "
            f"{r['taken'][:10]}; {rounds} round{'s' if rounds != 1 else ''}, other programs used up to {load:.2f} cores.")


def full(results: list[Json], pictures: str) -> str:
    """Everything; pictures: the way from the page to the folder of the results."""
    lines = []
    for r in results:
        drawn = [f"![{r['name']}]({pictures}/{r['name']}.svg)", ""] if r.get("charts") else []
        lines += [f"## {r['name']}", "", heading(r), "", *drawn, *HEAD, *map(line, r["rows"]), ""]
    return "\n".join(lines).rstrip() + "\n"


def short(results: list[Json]) -> str:
    """What the README shows: the headlines, and where they were measured."""
    rows = [line(x) for r in results for x in r["rows"] if x.get("headline")]
    places = dict.fromkeys(where(r) for r in results if any(x.get("headline") for x in r["rows"]))
    return "\n".join([f"{'; '.join(places)}.", "", *HEAD, *rows]) + "\n"


def replace(text: str, table: str) -> str:
    """The text with what lies between the markers replaced; ValueError without exactly one pair of them, in order."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"one {BEGIN} with one {END} after it is needed")
    return text[: text.index(BEGIN) + len(BEGIN)] + "\n" + table + text[text.index(END):]


def pages(root: Path, folder: Path) -> dict[Path, str]:
    """What each page should say."""
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    tables = {root / "README.md": short(results), root / "docs" / "results.md": full(results, "../tests/bench/results")}
    return {page: replace(page.read_text(), table) for page, table in tables.items()}


def main() -> int:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--write", action="store_true", help="put them into README.md and docs/results.md")
    options = ap.parse_args()
    try:
        found = pages(ROOT, RESULTS)
    except ValueError as error:
        print(f"table: {error}", file=sys.stderr)
        return 1
    for page, text in found.items():
        if options.write:
            page.write_text(text)
    if not options.write:
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
