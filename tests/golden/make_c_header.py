"""Writes tests/c/golden_logits.h from the golden .npz files, so that the C tests know what transformers computes.

python tests/golden/make_c_header.py > tests/c/golden_logits.h
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

FOLDER, KEPT = Path(__file__).parent, 8

START = """/* golden_logits.h: made by tests/golden/make_c_header.py from the .npz files there: of each golden model the
 * prompt, and the first logits after its last token as Hugging Face transformers computes them in float32. */
#ifndef AIR_TESTS_GOLDEN_LOGITS_H
#define AIR_TESTS_GOLDEN_LOGITS_H

#include <stdint.h>

enum { GOLDEN_PROMPT = 48, GOLDEN_KEPT = 8 };

static const struct { const char *name; int32_t prompt[GOLDEN_PROMPT]; float logits[GOLDEN_KEPT]; } golden_logits[] = {
"""


def row(path: Path) -> str:
    data = np.load(path)
    ids = ", ".join(map(str, data["input_ids"]))
    logits = ", ".join(f"{x:.9e}f" for x in data["logits"][-1, :KEPT])
    return f'    {{"{path.stem}",\n     {{{ids}}},\n     {{{logits}}}}},\n'


def header() -> str:
    return START + "".join(map(row, sorted(FOLDER.glob("*.npz")))) + "};\n\n#endif\n"


if __name__ == "__main__":
    print(header(), end="")
