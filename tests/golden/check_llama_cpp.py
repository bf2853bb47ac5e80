"""Holds the golden files against llama.cpp: the same logits from the GGUF files as transformers gave, so that names, the
order of q and k, rope's factors and scalings are what other engines expect.

    pip install llama-cpp-python numpy
    python tests/golden/check_llama_cpp.py            prints one line per model; exit code 1 if one is off
"""
from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from llama_cpp_states import be_quiet, outputs

HERE = Path(__file__).parent
LIMIT = 1e-5                        # of the squared error over the squared logits
DIFFER = {"exaone4": "no window below 64 layers", "command-r-norms": "no norms on q and k below 64 layers", "phi3": "no window",
          "phi3-longrope": "a vocabulary of its own where a name says phi3", "dots1": "no fewer heads of keys than of queries",
          "ernie4-5-moe": "asks for interleave_moe_layer_step", "olmoe": "asks for an output matrix",
          "qwen2moe": "asks for an output matrix", "deepseek2-lite": "models of other than 27 layers have a q_lora_rank",
          "deepseek2-v2": "groups by their two best", "phimoe": "a softmax over all", "llama4": "chunks of 8192 alone",
          "gpt-oss": "yarn's ramp is cut to whole pairs", "lfm2moe": "asks for expert_gating_func",
          "afmoe": "normalises no weights unless told", "exaone-moe": "asks for expert_gating_func", "qwen35": "values as wide as keys",
          "nemotron-h-moe": "normalises no weights unless told",
          "bailingmoe2": "heads as wide as embedding and their number say"}


def main() -> int:
    quiet = be_quiet()
    worst = 0.0
    for path in sorted((HERE / "models").glob("*.gguf")):
        if path.stem in DIFFER:
            print(f"{path.stem:16} is left out: {DIFFER[path.stem]}")
            continue
        golden = np.load(HERE / f"{path.stem}.npz")
        ids = np.concatenate((golden["input_ids"], golden["greedy_ids"]))
        got = outputs(path, ids)
        want = golden["logits"]
        n = len(golden["input_ids"])
        nmse = float(((got[:n] - want) ** 2).sum() / (want ** 2).sum())
        same = int((got[n - 1:-1].argmax(1) == golden["greedy_ids"]).sum())
        worst = max(worst, nmse, 1.0 if same < len(golden["greedy_ids"]) else 0.0)
        print(f"{path.stem:16} NMSE {nmse:.1e}, {same} of {len(golden['greedy_ids'])} greedy tokens")
    del quiet
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
