"""The README's table of results, from tests/bench/results: python -m tests.bench.table [--write README.md]

Without --write the Markdown goes to the standard output; with it, it replaces what stands between the markers
<!-- results --> and <!-- /results --> of that file.
"""
from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tests.bench.common import RESULTS, Json

BEGIN, END = "<!-- results -->", "<!-- /results -->"


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def heading(r: Json) -> list[str]:
    """Where and of what the figures below are."""
    m, load = r["machine"], r["other_cores"]
    files = ", ".join(f"{name} ({size / 1e9:.2f} GB)" for name, size in r["models"].items())
    memory, ahead = m["memory_bytes"] / 2**30, m["read_ahead_kb"]
    where = f"{m['cpu']}, {m['threads']} threads ({m['tier']}), {memory:.0f} GiB, read-ahead {ahead} KiB"
    group = r["settings"].get("group_bytes")
    limit = f" in a memory control group of {group / 1e9:.2f} GB" if group else ""
    return [f"`{r['command']}`: {files}{limit}; {where}; commit {r['commit']}, {r['taken'][:10]}; {len(r['rounds'])} rounds, "
            f"other programs used up to {max(load['values']):.2f} cores.", ""]


def section(r: Json) -> list[str]:
    marks = {None: "", True: " ✓", False: " (missed)"}
    lines = [*heading(r), "| what | measured | asked |", "|---|---|---|"]
    return [*lines, *(f"| {cell(x['what'])} | {cell(x['text'])} | {cell(x['goal'])}{marks[x['met']]} |" for x in r["rows"]), ""]


def render(folder: Path) -> str:
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return "\n".join(line for r in results for line in section(r)).rstrip() + "\n"


def replace(text: str, table: str) -> str:
    """The text with what lies between the markers replaced; ValueError without exactly one pair of them, in order."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"one {BEGIN} with one {END} after it is needed")
    return text[: text.index(BEGIN) + len(BEGIN)] + "\n" + table + text[text.index(END):]


def main() -> int:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--write", type=Path, metavar="FILE", help="put it between the markers of this file")
    options = ap.parse_args()
    table = render(RESULTS)
    if not options.write:
        print(table, end="")
        return 0
    try:
        options.write.write_text(replace(options.write.read_text(), table))
    except ValueError as error:
        print(f"{options.write}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
