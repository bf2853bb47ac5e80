"""Holds the golden encoders against llama.cpp: the same last hidden states from the GGUF files as transformers gave, so that names, the
order of q and k, windows and norms are what other engines expect.

    pip install llama-cpp-python numpy
    python tests/golden/check_llama_cpp_encoders.py       prints one line per model; exit code 1 if one is off
"""
from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from llama_cpp_states import be_quiet, outputs

FOLDER = Path(__file__).parent / "encoders"
LIMIT = 1e-5                        # of the squared error over the squared states; GELU is the tanh form there
DIFFER = {"bert-rank": "all tokens are of the first type", "gemma-embedding": "its matrices behind the norm are for pooled states",
          "qwen3-rank": "asks for names of the labels"}


def main() -> int:
    quiet = be_quiet()
    worst = 0.0
    for path in sorted(FOLDER.glob("*.gguf")):
        if path.stem in DIFFER:
            print(f"{path.stem:16} is left out: {DIFFER[path.stem]}")
            continue
        golden = np.load(path.with_suffix(".npz"))
        got = np.concatenate([outputs(path, ids, hidden=True) for ids in np.split(golden["input_ids"], np.cumsum(golden["lengths"])[:-1])])
        nmse = float(((got - golden["hidden"]) ** 2).sum() / (golden["hidden"] ** 2).sum())
        worst = max(worst, nmse)
        print(f"{path.stem:16} NMSE {nmse:.1e}")
    del quiet
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
