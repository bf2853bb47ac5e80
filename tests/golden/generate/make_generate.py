"""What transformers' generate() gives for the cases of cases.py, of a golden model in float32.

    pip install torch transformers gguf numpy
    PYTHONPATH=. python tests/golden/generate/make_generate.py

Writes NAME.npz, beside this, with of each case
    CASE.ids      int32 [prompt + new]   sequences[0]
    CASE.scores   float32 [new, vocab]
    CASE.logits   float32 [new, vocab]   the model's, without what was done to them
Words that are never to come are of the text that greedy decoding gives, so that they would.
"""
from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from cases import CASES, MODEL, NEW, PAD, PROMPT
from families import VARIANTS
from make_golden import build

HERE = Path(__file__).parent


def main() -> None:
    data = np.load(HERE.parent / f"{MODEL}.npz")
    names = list(VARIANTS)
    model = build(VARIANTS[MODEL], names.index(MODEL))
    prompt = torch.tensor(data["input_ids"][None, :PROMPT].astype(np.int64))

    def run(**how: Any) -> Any:
        common = {"max_new_tokens": NEW, "pad_token_id": PAD, "return_dict_in_generate": True, "output_scores": True, "output_logits": True}
        with torch.no_grad():
            return model.generate(prompt, **{"do_sample": False, **common, **how})

    greedy = run().sequences[0, PROMPT:].tolist()
    found: dict[str, Any] = {}
    for name, how in {**CASES, "words": {"bad_words_ids": [greedy[:1], greedy[1:3], [3]]}}.items():
        how = dict(how)
        if "eos" in how:
            how["eos_token_id"] = greedy[how.pop("eos")]
        out = run(**how)
        found[f"{name}.ids"] = out.sequences[0].numpy().astype(np.int32)
        found[f"{name}.scores"] = torch.cat(out.scores).numpy()
        found[f"{name}.logits"] = torch.cat(out.logits).numpy()
        print(name, out.sequences[0, PROMPT:].tolist())
    np.savez_compressed(HERE / f"{MODEL}.npz", **found)


if __name__ == "__main__":
    main()
