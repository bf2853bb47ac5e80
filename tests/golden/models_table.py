"""Measures the columns of docs/models.md: of each architecture the golden models, the worst error of our logits, and how many greedy tokens
are transformers'.

    python tests/golden/models_table.py         rewrites the rows between the marks; names of models and classes stay
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import numpy as np
from families import VARIANTS

from airpy import AutoModel

FOLDER = Path(__file__).parent
PAGE = FOLDER.parents[1] / "docs" / "models.md"
ROWS = re.compile(r"(?<=<!-- models -->\n)(.*\n)(.*\n)((?:.*\n)*?)(?=<!-- /models -->)")


def measure(name: str) -> tuple[float, int]:
    """Of one golden model: squared error over squared logits, greedy tokens that are the same."""
    data = np.load(FOLDER / f"{name}.npz")
    prompt, want = data["input_ids"].tolist(), data["greedy_ids"].tolist()
    with AutoModel.from_pretrained(FOLDER / "models" / f"{name}.gguf", kv_dtype="f32", progress=False) as model:
        logits = model([prompt]).logits[0].astype(np.float64)
        tokens = model.generate([prompt], max_new_tokens=len(want), eos_token_id=[])[0].tolist()[len(prompt) :]
    error = np.square(logits - data["logits"]).sum() / np.square(data["logits"].astype(np.float64)).sum()
    return float(error), sum(a == b for a, b in zip(tokens, want, strict=True))


def main() -> None:
    of_arch = defaultdict(list)
    for name, variant in VARIANTS.items():
        of_arch[variant.arch].append(name)
    found = ROWS.search(PAGE.read_text())
    assert found
    rows = []
    for line in found[3].splitlines():
        arch, models, classes = (cell.strip() for cell in line.strip("|").split("|")[:3])
        measured = [measure(name) for name in of_arch[arch]]
        error, same = max(e for e, _ in measured), min(n for _, n in measured)
        rows.append(f"| {arch} | {models} | {classes} | {', '.join(of_arch[arch])} | {error:.0e} | {same} of 24 |\n")
    PAGE.write_text(ROWS.sub(found[1] + found[2] + "".join(rows), PAGE.read_text()))


if __name__ == "__main__":
    main()
