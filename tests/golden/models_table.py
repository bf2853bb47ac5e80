"""Measures the columns of docs/models.md: of each architecture the golden models, the worst error of our logits, and how many greedy tokens
are transformers'; of encoders, the worst error of our hidden states.

    python tests/golden/models_table.py         rewrites the rows between the marks; names of models and classes stay
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import encoder_families
import numpy as np
from families import VARIANTS

from airpy import AutoModel, _core

FOLDER = Path(__file__).parent
PAGE = FOLDER.parents[1] / "docs" / "models.md"
ROWS = re.compile(r"(?<=<!-- models -->\n)(.*\n)(.*\n)((?:.*\n)*?)(?=<!-- /models -->)")
ENCODERS = re.compile(r"(?<=<!-- encoders -->\n)(.*\n)(.*\n)((?:.*\n)*?)(?=<!-- /encoders -->)")


def measure(name: str) -> tuple[float, int]:
    """Of one golden model: squared error over squared logits, greedy tokens that are the same."""
    data = np.load(FOLDER / f"{name}.npz")
    prompt, want = data["input_ids"].tolist(), data["greedy_ids"].tolist()
    with AutoModel.from_pretrained(FOLDER / "models" / f"{name}.gguf", kv_dtype="f32", progress=False) as model:
        logits = model([prompt]).logits[0].astype(np.float64)
        tokens = model.generate([prompt], max_new_tokens=len(want), eos_token_id=[])[0].tolist()[len(prompt) :]
    error = np.square(logits - data["logits"]).sum() / np.square(data["logits"].astype(np.float64)).sum()
    return float(error), sum(a == b for a, b in zip(tokens, want, strict=True))


def measure_encoder(name: str) -> float:
    """Squared error over squared states."""
    data = np.load(FOLDER / "encoders" / f"{name}.npz")
    texts = np.split(data["input_ids"], np.cumsum(data["lengths"])[:-1])
    engine = _core.Engine(_core.GGUF(str(FOLDER / "encoders" / f"{name}.gguf")), kv_dtype="f32")
    items = [(engine.sequence(), ids, len(ids), None, 0, first) for ids, first in zip(texts, data["firsts"].tolist(), strict=True)]
    states = np.array(engine.run(items, hidden=True).hidden, dtype=np.float64)
    engine.close()
    return float(np.square(states - data["hidden"]).sum() / np.square(data["hidden"].astype(np.float64)).sum())


def write_encoders() -> None:
    page = PAGE.read_text()
    found = ENCODERS.search(page)
    assert found
    rows = []
    for line in found[3].splitlines():
        arch, models, classes = (cell.strip() for cell in line.strip("|").split("|")[:3])
        names = [name for name, variant in encoder_families.VARIANTS.items() if variant.arch == arch]
        rows.append(f"| {arch} | {models} | {classes} | {', '.join(names)} | {max(map(measure_encoder, names)):.0e} |\n")
    PAGE.write_text(ENCODERS.sub(found[1] + found[2] + "".join(rows), page))


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
    write_encoders()


if __name__ == "__main__":
    main()
